//! The agent as a process: reload, privileges, and a log nobody can write. Needs root and a kernel that takes the
//! programs, as the agent does.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use netprobe_agent::privileges;
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::CapabilitySet,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Agent {
    /// Starts one with this configuration besides its addresses, and waits until it answers.
    fn start(name: &str, config: &str, log: Option<&Path>) -> Agent {
        let folder = std::env::temp_dir().join(format!("np-agent-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let log = log.map_or_else(|| folder.join("log"), Path::to_owned);
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log");
        let agent = Agent {
            child: Command::new(env!("CARGO_BIN_EXE_netprobe"))
                .args(["run", "--config", "np.toml"])
                .env_clear()
                .current_dir(&folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn_with(&folder, config),
            folder,
        };
        agent.until("it answers", |agent| agent.ask("GET /health/live", "").is_some());
        agent
    }

    fn configure(&self, config: &str) {
        write_config(&self.folder, config);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("the log")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the agent lives");
    }

    fn ask(&self, line: &str, body: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.folder.join("api.sock")).ok()?;
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn until(&self, what: &str, mut done: impl FnMut(&Agent) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

trait SpawnWith {
    fn spawn_with(&mut self, folder: &Path, config: &str) -> Child;
}

impl SpawnWith for Command {
    fn spawn_with(&mut self, folder: &Path, config: &str) -> Child {
        write_config(folder, config);
        self.spawn().expect("the agent starts")
    }
}

fn write_config(folder: &Path, config: &str) {
    let text = format!("[api]\nlisten = \"127.0.0.1:0\"\nsocket = \"api.sock\"\n{config}");
    fs::write(folder.join("np.toml"), text).expect("a configuration");
}

#[test]
fn sighup_takes_a_good_configuration_and_leaves_a_bad_one() {
    let agent = Agent::start("reload", "", None);
    let level = |agent: &Agent| agent.ask("GET /api/v1/log", "").expect("an answer");
    assert!(level(&agent).contains(r#""level":"info""#));

    agent.configure("\n[log]\nlevel = \"loud\"\n");
    agent.signal(Signal::HUP);
    agent.until("the error is told", |agent| {
        agent.log().contains(
            "the configuration was not reloaded, the old one stays: np.toml, line 6, log.level: unknown variant `loud`, \
             expected one of `error`, `warn`, `info`, `debug`, `trace`",
        )
    });
    assert!(level(&agent).contains(r#""level":"info""#));

    // A token of the new configuration is known, the one with an error is not half taken.
    let hash = format!("reader:{}", "0".repeat(64));
    agent.configure(&format!(
        "tokens = {{ x = \"{hash}\" }}\ntls_cert = \"none.pem\"\ntls_key = \"none.key\"\n"
    ));
    agent.signal(Signal::HUP);
    agent.until("the error is told", |agent| {
        agent.log().contains("api.tls_cert: no certificate can be read")
    });

    agent.configure("anonymous = \"none\"\n[log]\nlevel = \"debug\"\n[flow]\nmax_flows = 7\n");
    agent.signal(Signal::HUP);
    agent.until("the level changes", |agent| {
        level(agent).contains(r#""level":"debug""#)
    });
    let log = agent.log();
    assert!(
        log.contains(r#""changed":"[\"api.anonymous\", \"log.level\"]""#),
        "{log}"
    );
    assert!(
        log.contains(
            r#""message":"changed keys wait for a restart of the agent","keys":"[\"flow.max_flows\"]""#
        ),
        "{log}"
    );

    // Signals move the level between debug and the configuration's.
    agent.configure("");
    agent.signal(Signal::HUP);
    agent.until("the level is back", |agent| {
        level(agent).contains(r#""level":"info""#)
    });
    agent.signal(Signal::USR1);
    agent.until("more is told", |agent| {
        level(agent).contains(r#""level":"debug""#)
    });
    agent.signal(Signal::USR2);
    agent.until("less is told", |agent| level(agent).contains(r#""level":"info""#));
}

/// What a thread has and should not have; `None`: nothing.
fn excess(status: &str) -> Option<String> {
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).expect("a value").to_owned()
    };
    let set = |name| u64::from_str_radix(&value(name), 16).expect("a mask");
    let allowed = match value("Name:").as_str() {
        "api" => 0,
        // Files in a folder of another user.
        archive if archive.starts_with("archive-") => CapabilitySet::DAC_OVERRIDE.bits(),
        // Of the main thread, or of the one that uploads.
        "tokio-rt-worker" => (privileges::RUNNING | CapabilitySet::DAC_OVERRIDE).bits(),
        _ => privileges::RUNNING.bits(),
    };
    let held = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].into_iter();
    let sets = held.map(|name| (name, allowed));
    // Emptying this one takes a capability that the thread no longer has.
    let bounding = ("CapBnd:", privileges::RUNNING.bits() | allowed);
    let too_much = sets
        .chain([bounding])
        .find(|(name, allowed)| set(name) & !allowed != 0);
    match too_much {
        Some((name, _)) => Some(format!("{name}\n{status}")),
        None if value("NoNewPrivs:") != "1" => Some(format!("new privileges\n{status}")),
        None => None,
    }
}

#[test]
fn privileges_that_are_not_needed_are_gone() {
    let agent = Agent::start("privileges", "", None);
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", agent.child.id())).expect("tasks") {
        let path = task.expect("a task").path().join("status");
        // A thread gives up what it was born with as its first act, which may be yet to come.
        let begun = Instant::now();
        loop {
            let status = fs::read_to_string(&path).expect("a status");
            match excess(&status) {
                None => break,
                Some(excess) => assert!(begun.elapsed() < Duration::from_secs(5), "{excess}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        threads += 1;
    }
    assert!(threads >= 3, "main, pipeline and api, not {threads}");
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_the_agent() {
    let agent = Agent::start(
        "full",
        "\n[log]\nlevel = \"trace\"\n",
        Some(Path::new("/dev/full")),
    );
    for _ in 0..20 {
        let answer = agent.ask("GET /api/v1/probe", "").expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
