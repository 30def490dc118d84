//! What an agent under test is started with.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tools;

/// Settings of one agent.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Lines for `[probe]`.
    pub probe: String,
    /// Lines for `[flow]`.
    pub flow: String,
    /// Lines for `[api]` beside address and socket.
    pub api: String,
    /// Lines for `[archive]` beside `spool` and, unless one of them says it, `url`: both are in the agent's own folder.
    pub archive: String,
    /// Where archive and spool are, instead of the agent's own folder.
    pub archive_in: Option<PathBuf>,
    /// More sections.
    pub sections: String,
    /// A wrapper command (`setpriv …`) that runs the arguments added to it in its place.
    pub through: Vec<String>,
    /// More arguments for `run`.
    pub args: Vec<String>,
    /// Do not ask for events on stdout.
    pub silent: bool,
}

impl Settings {
    /// The binary under test, behind its wrapper.
    pub(super) fn command(&self) -> Result<Command> {
        let Some((wrapper, args)) = self.through.split_first() else {
            return Ok(Command::new(binary()?));
        };
        let program = tools::find(wrapper).with_context(|| format!("{wrapper} is not installed"))?;
        let mut command = Command::new(program);
        command.args(args).arg(binary()?);
        Ok(command)
    }
}

/// The binary under test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NETPROBE_BIN") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["release/netprobe", "debug/netprobe"]
        .iter()
        .map(|name| target.join(name))
        .find(|path| path.exists())
        .context(
            "no netprobe binary: build it (`cargo build --release -p netprobe-agent`) or set NETPROBE_BIN",
        )
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Writes a configuration into `folder`; its path and the API's address.
pub fn write_config(folder: &Path, settings: &Settings) -> Result<(PathBuf, SocketAddr)> {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let path = folder.join("netprobe.toml");
    // An event is queued until the archive has it: a ledger at rest waits for a seal.
    let archive = match settings.archive.as_str() {
        "" => "seal_after = \"500ms\"",
        lines => lines,
    };
    let home = settings.archive_in.as_deref().unwrap_or(folder).display();
    let url = if archive.contains("url = ") {
        String::new()
    } else {
        format!("url = \"file://{home}/archive\"")
    };
    // Cases wait for updates of their own flows.
    let share = if settings.flow.contains("update_share") {
        ""
    } else {
        "update_share = 1.0"
    };
    // On a slow machine an agent that is not optimised may spend more than an operator would grant, and shed what a
    // case waits for. The budget has a case of its own.
    let budget = if settings.probe.contains("cpu_budget") {
        ""
    } else {
        "cpu_budget = 0.0"
    };
    // Off by default for its price; here it is to be seen beside everything else.
    let requests = if settings.sections.contains("[requests]") {
        ""
    } else {
        "[requests]\ntls = true"
    };
    let text = format!(
        "[probe]\n{budget}\n{}\n[flow]\n{share}\n{}\n[api]\nlisten = \"{listen}\"\nsocket = \"{}\"\n{}\n\
         [archive]\n{url}\nspool = \"{home}/spool\"\n{archive}\n{requests}\n{}\n",
        settings.probe,
        settings.flow,
        folder.join("api.sock").display(),
        settings.api,
        settings.sections,
    );
    std::fs::write(&path, text)?;
    Ok((path, listen))
}
