//! The agent under test: started with settings of its own, its events collected, its ledger read.

mod ledger;
mod settings;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::event::{Event, plain, schema_fault};
use crate::traffic::Connection;
use crate::{http, wait_for};

pub use ledger::Ledger;
pub use settings::{Settings, binary, free_port, write_config};

/// How long a case waits for an event. Generous: a passing case does not pay it, an emulated machine needs it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often that, while events are still waiting to be read.
const ROUNDS: usize = 10;

/// How long an agent may take to start: an emulated machine beside others verifies the programs for minutes.
const READY: Duration = Duration::from_secs(300);

/// Takes lines of the agent's stdout.
pub type LineSink = Box<dyn FnMut(&str) + Send>;

/// A running agent.
pub struct Agent {
    child: Mutex<Child>,
    pid: Pid,
    folder: tempfile::TempDir,
    listen: SocketAddr,
    collected: Arc<Collected>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

/// What came out of an agent.
#[derive(Default)]
struct Collected {
    events: Mutex<Vec<Arc<Event>>>,
    faults: Mutex<Vec<String>>,
}

/// An agent's end.
pub struct Stopped {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it said on stdout.
    pub events: Vec<Arc<Event>>,
    /// What it said on stderr.
    pub log: String,
}

impl Agent {
    /// The agent most cases share; started when first asked for.
    pub fn shared() -> Result<Arc<Agent>> {
        let slot = shared_slot();
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(Ok(agent)) => Ok(agent.clone()),
            Some(Err(why)) => bail!("the shared agent did not start: {why}"),
            None => {
                let started = Agent::start(&Settings {
                    // Names connections whose bytes do not add up.
                    probe: "kernel_log = true".to_owned(),
                    flow: "update_every = \"1s\"\nopen_after = \"200ms\"\nudp_idle = \"2s\"".to_owned(),
                    ..Settings::default()
                });
                match started {
                    Ok(agent) => {
                        let agent = Arc::new(agent);
                        *slot = Some(Ok(agent.clone()));
                        Ok(agent)
                    }
                    Err(error) => {
                        *slot = Some(Err(format!("{error:#}")));
                        Err(error)
                    }
                }
            }
        }
    }

    /// Takes the shared agent away, to stop it; `None` when no case asked for it.
    pub fn take_shared() -> Option<Arc<Agent>> {
        shared_slot()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?
            .ok()
    }

    /// Starts an agent that collects its events, and waits until it is ready.
    pub fn start(settings: &Settings) -> Result<Agent> {
        let collected = Arc::new(Collected::default());
        let keep = collected.clone();
        let sink: LineSink = Box::new(move |line| keep.take(line));
        Agent::start_with(settings, collected, sink)
    }

    /// Starts an agent whose lines go to `sink`.
    pub fn start_into(settings: &Settings, sink: LineSink) -> Result<Agent> {
        Agent::start_with(settings, Arc::default(), sink)
    }

    fn start_with(settings: &Settings, collected: Arc<Collected>, mut sink: LineSink) -> Result<Agent> {
        let folder = tempfile::tempdir()?;
        let (config, listen) = write_config(folder.path(), settings)?;
        let log = std::fs::File::create(folder.path().join("stderr"))?;
        let mut command = settings.command()?;
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .args(&settings.args)
            .current_dir(folder.path());
        if settings.silent {
            command.stdout(Stdio::null());
        } else {
            command.args(["--output", "jsonl"]).stdout(Stdio::piped());
        }
        let mut child = command.stderr(log).spawn().context("netprobe does not start")?;
        let pid = Pid::from_raw(child.id() as i32);
        let reader = child.stdout.take().map(|stdout| {
            std::thread::spawn(move || {
                let mut stdout = BufReader::with_capacity(1 << 20, stdout);
                let mut line = String::new();
                while stdout.read_line(&mut line).is_ok_and(|n| n > 0) {
                    sink(line.trim_end());
                    line.clear();
                }
            })
        });
        let agent = Agent {
            child: Mutex::new(child),
            pid,
            folder,
            listen,
            collected,
            reader: Mutex::new(reader),
        };
        agent.wait_ready()?;
        Ok(agent)
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = wait_for("the agent to be ready", READY, || {
            if self.child().try_wait().is_ok_and(|status| status.is_some()) {
                return Some(false);
            }
            matches!(http::get(self.listen, "/health/ready"), Ok((200, _))).then_some(true)
        });
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the agent ended at once: {}", self.log()),
            Err(error) => bail!("{error}: {}", self.log()),
        }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Address of its API.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// Counters of its report that are not zero, as text: what may explain something that is not as it should be.
    pub fn counters(&self) -> String {
        let told = |counters: &Value| -> String {
            let counted = |(name, count): (&String, &Value)| (count != 0).then(|| format!("{name} {count}"));
            counters
                .as_object()
                .map(|all| all.iter().filter_map(counted).collect::<Vec<_>>().join(", "))
                .unwrap_or_default()
        };
        match self.probe() {
            Ok(report) => [
                told(&report["counters"]),
                told(&report["ledger"]["kernel"]["rejected"]),
            ]
            .join("; rejected: "),
            Err(error) => format!("not known: {error:#}"),
        }
    }

    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid, signal)?)
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Arc<Event>> {
        self.collected
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lines that were no proper events.
    pub fn faults(&self) -> Vec<String> {
        self.collected
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for the first event that `wanted` accepts.
    pub fn wait_event(&self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Result<Arc<Event>> {
        let mut looked = 0;
        let mut rounds = 0;
        loop {
            rounds += 1;
            let found = wait_for(what, PATIENCE, || {
                let events = self
                    .collected
                    .events
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let found = events[looked..].iter().find(|event| wanted(event)).cloned();
                looked = events.len();
                found
            });
            match found {
                Ok(event) => return Ok(event),
                // On an emulated machine with much going on it is us who do not keep up.
                Err(_) if rounds < ROUNDS && self.has_more_to_say() => {}
                Err(error) => return Err(anyhow!("{error}; {}", self.condition())),
            }
        }
    }

    /// Whether events wait for us to read them.
    fn has_more_to_say(&self) -> bool {
        let Ok(report) = self.probe() else { return false };
        let sinks = report["ledger"]["sinks"].as_array();
        let output = sinks.and_then(|sinks| sinks.iter().find(|sink| sink["sink"] == "output"));
        output.is_some_and(|output| output["queued"].as_u64() > Some(0))
    }

    /// What tells a loss from a delay, of an agent whose event did not come.
    fn condition(&self) -> String {
        let events = self.events();
        let near: Vec<String> = events
            .iter()
            .rev()
            .take(5)
            .filter_map(|event| serde_json::to_string(&**event).ok())
            .collect();
        let probe = self
            .probe()
            .map_or_else(|error| format!("{error:#}"), |report| report.to_string());
        let log = self.log();
        let log: Vec<_> = log.lines().rev().take(10).collect();
        format!(
            "it is {:?}; {} events, the last of them:\n{}\nits report:\n{probe}\nits log, last line first:\n{}",
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH),
            events.len(),
            near.join("\n"),
            log.join("\n")
        )
    }

    /// Waits for the final event of a socket's connection, by its addresses and its cookie.
    pub fn wait_final(&self, role: &str, netns: u64, connection: &Connection) -> Result<Arc<Event>> {
        let (local, remote) = (plain(connection.local), plain(connection.remote));
        self.wait_event(
            &format!("the final {role} event of {local} {remote} in {netns}"),
            |event| {
                event.is_final()
                    && event.role.as_deref() == Some(role)
                    && event.netns == Some(netns)
                    && event.internal() == Some(local)
                    && event.peer() == Some(remote)
                    && event.cookie() == Some(connection.cookie)
            },
        )
    }

    /// Waits for the final event of a forwarded connection.
    pub fn wait_forwarded(&self, netns: u64, from: SocketAddr, to: SocketAddr) -> Result<Arc<Event>> {
        self.wait_event(
            &format!("the final forwarded event of {from} {to} in {netns}"),
            |event| {
                event.is_final()
                    && event.role.as_deref() == Some("forwarded")
                    && event.netns == Some(netns)
                    && event.internal() == Some(plain(from))
                    && event.peer() == Some(plain(to))
            },
        )
    }

    /// GET on its API.
    pub fn get(&self, path: &str) -> Result<http::Answer> {
        http::get(self.listen, path)
    }

    /// `/api/v1/probe`, over the Unix socket: a TCP connection would itself be a record on its way.
    pub fn probe(&self) -> Result<Value> {
        let (status, body) = http::get_unix(&self.socket(), "/api/v1/probe")?;
        if status != 200 {
            bail!("/api/v1/probe answered {status}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// Waits until both equations of the ledger close with nothing queued, twice in a row; the ledger.
    pub fn ledger_at_rest(&self, limit: Duration) -> Result<Ledger> {
        let mut rested = false;
        let mut last = String::new();
        wait_for("the ledger to come to rest", limit, || {
            std::thread::sleep(Duration::from_millis(200));
            match self.probe().and_then(|probe| Ledger::read(&probe)) {
                Ok(ledger) => {
                    last = format!("{:?} {ledger:?}", ledger.faults());
                    let again =
                        std::mem::replace(&mut rested, ledger.faults().is_empty() && ledger.queued == 0);
                    (again && rested).then_some(ledger)
                }
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            }
        })
        .with_context(|| format!("last ledger: {last}"))
    }

    /// Asks it to stop (SIGTERM), waits, and gives all it said.
    pub fn stop(&self) -> Result<Stopped> {
        self.signal(Signal::SIGTERM)?;
        let status = wait_for("the agent to end", Duration::from_secs(30), || {
            self.child().try_wait().ok().flatten()
        })?;
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader
                .join()
                .map_err(|_| anyhow!("the reader of the agent's output panicked"))?;
        }
        Ok(Stopped {
            status,
            events: self.events(),
            log: self.log(),
        })
    }

    /// The same, and it ends in order.
    pub fn stop_well(&self) -> Result<Stopped> {
        let stopped = self.stop()?;
        let (status, log) = (stopped.status, &stopped.log);
        ensure!(status.success(), "it ended with {status}: {log}");
        Ok(stopped)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Started, or why not; `None`: nobody has asked yet.
type Shared = Option<Result<Arc<Agent>, String>>;

fn shared_slot() -> &'static Mutex<Shared> {
    static SHARED: Mutex<Shared> = Mutex::new(None);
    &SHARED
}

impl Collected {
    fn take(&self, line: &str) {
        if let Some(fault) = schema_fault(line) {
            self.faults
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("{fault}: {line}"));
        }
        if let Ok(event) = serde_json::from_str(line) {
            self.events
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::new(event));
        }
    }
}
