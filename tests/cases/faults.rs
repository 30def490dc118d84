//! Wrong use and bad surroundings: one clear sentence, and an exit code of its own.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{self, Agent, Settings, binary};
use netprobe_tests::{tools, wait_for};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Case, Need};

pub(crate) const CASES: &[Case] = &[
    Case::new("fault_no_privilege", no_privilege),
    Case::new("fault_busy_port", busy_port),
    Case::new("fault_busy_socket", busy_socket),
    Case::new("fault_unwritable_output", unwritable_output),
    Case::new("fault_disk_full_while_it_runs", disk_full),
    Case::new("fault_no_type_information", no_type_information),
    Case::new("fault_kernel_too_old", kernel_too_old),
    Case::new("fault_bad_configuration", bad_configuration),
    Case::new("fault_reader_gone", reader_gone),
    Case::new("doctor_names_a_method_for_every_required_fact", doctor),
    Case::new("metrics_pass_promtool", promtool).needs(&[Need::Program("promtool")]),
    Case::new("health_and_ledger_over_both_listeners", health),
];

/// Runs the agent until it ends by itself; exit code and stderr.
fn ends(command: &mut Command) -> Result<(Option<i32>, String)> {
    let log = tempfile::NamedTempFile::new()?;
    let mut child = command.stderr(log.reopen()?).spawn()?;
    let status = wait_for("the agent to end", Duration::from_secs(30), || {
        child.try_wait().ok().flatten()
    });
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let said = std::fs::read_to_string(log.path())?;
    Ok((status.with_context(|| said.clone())?.code(), said))
}

/// A configuration in a folder of its own.
fn configured(settings: &Settings) -> Result<(tempfile::TempDir, Command, std::net::SocketAddr)> {
    let folder = tempfile::tempdir()?;
    let (config, listen) = agent::write_config(folder.path(), settings)?;
    let mut command = Command::new(binary()?);
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdout(Stdio::null());
    Ok((folder, command, listen))
}

/// The exit code, and a message that is short and says this.
fn expect(ended: (Option<i32>, String), code: i32, word: &str) -> Result<()> {
    let (got, said) = ended;
    ensure!(got == Some(code), "exit code {got:?}, not {code}: {said}");
    ensure!(
        said.to_lowercase().contains(word),
        "the message does not name {word:?}: {said}"
    );
    ensure!(!said.contains("panicked"), "a panic: {said}");
    Ok(())
}

fn no_privilege() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // A copy where anybody may run it.
    let copy = folder.path().join("netprobe");
    std::fs::copy(binary()?, &copy)?;
    let (config, _) = agent::write_config(folder.path(), &Settings::default())?;
    for path in [folder.path(), &copy, &config] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let mut command = Command::new(&copy);
    command
        .args(["run", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .uid(65_534)
        .gid(65_534);
    expect(ends(&mut command)?, 3, "root")
}

fn busy_port() -> Result<()> {
    let (_folder, mut command, listen) = configured(&Settings::default())?;
    let _busy = std::net::TcpListener::bind(listen)?;
    expect(ends(&mut command)?, 7, &listen.port().to_string())
}

fn busy_socket() -> Result<()> {
    let first = Agent::start(&Settings::default())?;
    let folder = tempfile::tempdir()?;
    let (config, _) = agent::write_config(folder.path(), &Settings::default())?;
    let text = std::fs::read_to_string(&config)?;
    let own = folder.path().join("api.sock").display().to_string();
    std::fs::write(&config, text.replace(&own, &first.socket().display().to_string()))?;
    let mut command = Command::new(binary()?);
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdout(Stdio::null());
    expect(ends(&mut command)?, 7, "api.sock")?;
    ensure!(
        netprobe_tests::http::get_unix(&first.socket(), "/health/live")?.0 == 200,
        "the first goes on"
    );
    Ok(())
}

fn unwritable_output() -> Result<()> {
    let (_folder, mut command, _) = configured(&Settings::default())?;
    command
        .args(["--output", "jsonl"])
        .stdout(File::options().write(true).open("/dev/full")?);
    expect(ends(&mut command)?, 8, "output")
}

/// Runs `f` in a thread with mounts of its own, which the programs it starts inherit.
fn with_own_mounts<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            f()
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })
}

/// The disk fills up under the events: the run ends in order, and says so.
fn disk_full() -> Result<()> {
    let disk = tempfile::tempdir()?;
    let ended = with_own_mounts(|| {
        mount(
            Some("tmpfs"),
            disk.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=16k"),
        )?;
        let (_folder, mut command, _) = configured(&Settings::default())?;
        command
            .args(["--output", "jsonl"])
            .stdout(File::create(disk.path().join("events"))?);
        let log = tempfile::NamedTempFile::new()?;
        let mut child = command.stderr(log.reopen()?).spawn()?;
        let status = wait_for("the agent to end", Duration::from_secs(60), || {
            drop(std::net::TcpStream::connect("127.0.0.1:1"));
            child.try_wait().ok().flatten()
        });
        child.kill()?;
        child.wait()?;
        let said = std::fs::read_to_string(log.path())?;
        Ok((status.with_context(|| said.clone())?.code(), said))
    })?;
    ensure!(
        ended.1.contains("ledger at the end") && ended.1.contains("write_failed"),
        "the pipeline did not end in order: {}",
        ended.1
    );
    expect(ended, 8, "standard output")
}

/// Without the kernel's type information no offset is known.
fn no_type_information() -> Result<()> {
    let ended = with_own_mounts(|| {
        mount(
            Some("tmpfs"),
            "/sys/kernel/btf",
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        let (_folder, mut command, _) = configured(&Settings::default())?;
        ends(&mut command)
    })?;
    expect(ended, 4, "/sys/kernel/btf/vmlinux")
}

/// A kernel below every floor is refused by its number, before anything is loaded.
fn kernel_too_old() -> Result<()> {
    let ended = with_own_mounts(|| {
        let mut release = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut release, b"4.19.0-test\n")?;
        let path = Some(release.path());
        mount(
            path,
            "/proc/sys/kernel/osrelease",
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        let (_folder, mut command, _) = configured(&Settings::default())?;
        ends(&mut command)
    })?;
    expect(ended, 5, "4.19.0-test")
}

fn bad_configuration() -> Result<()> {
    for (settings, word) in [
        (
            Settings {
                probe: "ringbytes = 5".to_owned(),
                ..Default::default()
            },
            "ringbytes",
        ),
        (
            Settings {
                probe: "ring_bytes = 5".to_owned(),
                ..Default::default()
            },
            "ring_bytes",
        ),
        (
            Settings {
                flow: "open_after = \"soon\"".to_owned(),
                ..Default::default()
            },
            "soon",
        ),
    ] {
        let (_folder, mut command, _) = configured(&settings)?;
        expect(ends(&mut command)?, 2, word)?;
    }
    let mut command = Command::new(binary()?);
    command.args(["run", "--no-such-flag"]).stdout(Stdio::null());
    expect(ends(&mut command)?, 2, "no-such-flag")?;
    let mut command = Command::new(binary()?);
    command
        .args(["run", "--config", "/nowhere/netprobe.toml"])
        .stdout(Stdio::null());
    expect(ends(&mut command)?, 2, "/nowhere/netprobe.toml")
}

/// The reader of stdout goes away: that is success, not a fault.
fn reader_gone() -> Result<()> {
    let (_folder, mut command, listen) = configured(&Settings::default())?;
    command.args(["--output", "jsonl"]).stdout(Stdio::piped());
    let log = tempfile::NamedTempFile::new()?;
    let mut child = command.stderr(log.reopen()?).spawn()?;
    drop(child.stdout.take());
    let ended = wait_for("the agent to end", Duration::from_secs(30), || {
        // Traffic, so that it notices.
        drop(std::net::TcpStream::connect(listen));
        drop(std::net::TcpStream::connect("127.0.0.1:1"));
        child.try_wait().ok().flatten()
    });
    child.kill()?;
    child.wait()?;
    let said = std::fs::read_to_string(log.path())?;
    let status = ended.with_context(|| said.clone())?;
    ensure!(
        status.code() == Some(0) && said.contains("ledger at the end"),
        "it ended with {status}: {said}"
    );
    Ok(())
}

fn doctor() -> Result<()> {
    let text = tools::run_command(Command::new(binary()?).args(["doctor", "-o", "json"]))?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let facts = report["facts"].as_array().context("no facts")?;
    ensure!(!facts.is_empty(), "no facts");
    for fact in facts {
        let required = fact["required"].as_bool().context("fact without required")?;
        ensure!(
            !required || fact["method"].is_string(),
            "a required fact without method: {fact}"
        );
        for refused in fact["refused"].as_array().context("fact without refused")? {
            ensure!(
                refused["reason"].as_str().is_some_and(|r| !r.is_empty()),
                "no reason given: {refused}"
            );
        }
    }
    let table = tools::run_command(Command::new(binary()?).arg("doctor"))?;
    for fact in facts {
        let name = fact["fact"].as_str().context("fact without name")?;
        ensure!(table.contains(name), "the table does not show {name}");
    }
    Ok(())
}

fn promtool() -> Result<()> {
    let agent = Agent::shared()?;
    let (status, body) = agent.get("/metrics")?;
    ensure!(status == 200, "/metrics answers {status}");
    ensure!(body.contains("netprobe_build_info"), "no build info");
    let program = tools::find("promtool").context("promtool is not installed")?;
    let said = tools::run_with_input(Command::new(program).args(["check", "metrics"]), &body)?;
    ensure!(said.trim().is_empty(), "promtool says: {said}");
    Ok(())
}

fn health() -> Result<()> {
    let agent = Agent::shared()?;
    for path in [
        "/health/live",
        "/health/ready",
        "/api/v1/probe",
        "/api/v1/flows",
        "/api/v1/events",
    ] {
        let (tcp, body) = agent.get(path)?;
        let (unix, _) = netprobe_tests::http::get_unix(&agent.socket(), path)?;
        ensure!(
            tcp == 200 && unix == 200,
            "{path} answers {tcp} and {unix}: {body}"
        );
        let json: serde_json::Value = serde_json::from_str(&body)?;
        ensure!(json.get("api_version").is_some(), "{path} without api_version");
    }
    ensure!(
        agent.get("/no/such/path")?.0 == 404,
        "unknown paths are not found"
    );
    Ok(())
}
