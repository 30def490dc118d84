//! What an agent under test is started with.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Settings of one agent.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Lines for `[probe]`.
    pub probe: String,
    /// Lines for `[flow]`.
    pub flow: String,
    /// Lines for `[archive]` beside `spool` and, unless one of them says it, `url`: both are in the agent's own folder.
    pub archive: String,
    /// Where archive and spool are, instead of the agent's own folder.
    pub archive_in: Option<PathBuf>,
    /// More sections.
    pub sections: String,
    /// More arguments for `run`.
    pub args: Vec<String>,
    /// Do not ask for events on stdout.
    pub silent: bool,
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
    let text = format!(
        "[probe]\n{}\n[flow]\n{}\n[api]\nlisten = \"{listen}\"\nsocket = \"{}\"\n\
         [archive]\n{url}\nspool = \"{home}/spool\"\n{archive}\n{}\n",
        settings.probe,
        settings.flow,
        folder.join("api.sock").display(),
        settings.sections,
    );
    std::fs::write(&path, text)?;
    Ok((path, listen))
}
