//! `cargo xtask contract`: a running agent against the OpenAPI document it serves.
//!
//! On demand: schemathesis comes from the Python package index, into an environment of its own below target.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::packages::{self, Need};
use crate::sh::{self, say};

const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// How long the agent may take to load its programs.
const READY: Duration = Duration::from_secs(120);
/// Settings of the tool: what holds for whoever may only read. Questions the limits of clients would refuse are not
/// asked, and a question may be more than the agent can answer: that is not what is looked for.
const CHECKS: &[&str] = &[
    "--exclude-checks",
    "positive_data_acceptance",
    "--rate-limit",
    "40/s",
];

/// Asks for as long, and fails when an answer is not as the document says.
pub(crate) fn run(seconds: u32) -> Result<()> {
    packages::ensure(Need::Build)?;
    let tool = install()?;
    let agent = match std::env::var_os("NETPROBE_BIN") {
        Some(agent) => PathBuf::from(agent),
        None => build::agent()?,
    };
    let folder = sh::target().join("contract/run");
    // The history of the run before is not this one's, and would be read with it. Its files are root's.
    sh::run(sh::privileged("rm")?.arg("-rf").arg(&folder))?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (config, home) = (folder.join("netprobe.toml"), folder.display());
    fs::write(
        &config,
        format!(
            "[api]\nlisten = \"{listen}\"\nsocket = \"{home}/api.sock\"\n\
             [archive]\nurl = \"file://{home}/archive\"\nspool = \"{home}/spool\"\nseal_after = \"1s\"\n"
        ),
    )?;
    let log = fs::File::create(folder.join("log"))?;
    let mut running = sh::privileged(agent)?
        .arg("run")
        .arg("--config")
        .arg(&config)
        // It ends by itself as well: a signal may not arrive through sudo.
        .args(["--duration", &format!("{}s", seconds + 120)])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("the agent does not start")?;
    let result = wait(&mut running, listen).and_then(|()| {
        sh::run(
            sh::clean(tool)
                .arg("run")
                .arg(format!("http://{listen}/openapi.json"))
                .args(["--phases", "coverage,fuzzing", "--seed", "1"])
                .args(["--max-time", &seconds.to_string()])
                .args(CHECKS)
                .current_dir(&folder),
        )
    });
    // Nothing can be done about one that is gone already.
    let _ = running.kill();
    let _ = running.wait();
    result?;
    say!("ok: the API is as its document says");
    Ok(())
}

/// The tool, installed if it is not there yet.
fn install() -> Result<PathBuf> {
    let home = sh::target().join("contract/python");
    let tool = home.join("bin/schemathesis");
    let mark = home.join(".netprobe");
    if fs::read_to_string(&mark).is_ok_and(|known| known == SCHEMATHESIS) {
        return Ok(tool);
    }
    say!("installing {SCHEMATHESIS} into {}", home.display());
    sh::run(sh::clean("python3").args(["-m", "venv", "--clear"]).arg(&home))
        .context("python3 with its venv module is needed: on Debian, apt-get install python3-venv")?;
    sh::run(sh::clean(home.join("bin/pip")).args(["install", "--quiet", SCHEMATHESIS]))?;
    fs::write(mark, SCHEMATHESIS)?;
    Ok(tool)
}

fn wait(agent: &mut Child, listen: std::net::SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(listen).is_err() {
        if agent.try_wait()?.is_some() || begun.elapsed() > READY {
            bail!("the agent does not listen: see target/contract/run/log");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
