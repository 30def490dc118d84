//! Clients that are many, and that misbehave: the others do not feel it.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::lab::{self, addr};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tungstenite::Message;

use super::super::Pair;
use super::super::metrics::{Page, comes_to};
use super::{PATIENCE, Stream};

/// What a client must not send: no WebSocket at all, a frame without mask, one that announces more than there is
/// memory for, a message of a megabyte.
pub(super) fn bad_clients() -> Result<()> {
    const ROUNDS: usize = 25;
    let mut pair = Pair::local("streambad")?;
    let query = format!("port={}&filter=flow.state==closed,role==client", pair.addr.port());
    let (mut well, _) = Stream::open(&pair.agent, &query)?;
    let before = resident(&pair.agent)?;
    let mut giant = vec![0x82, 0xff];
    giant.extend(u64::MAX.to_be_bytes());
    giant.extend([0; 1000]);
    let mut long = vec![0x82, 0xff];
    long.extend((1_u64 << 20).to_be_bytes());
    long.extend(vec![0; 1 << 20]);
    for (what, bytes) in [
        ("no WebSocket", vec![0xff; 4096]),
        ("a frame without mask", vec![0x81, 0x01, b'x']),
        ("a frame of 2^64 bytes", giant),
        ("a message of a megabyte", long),
        ("a message", vec![0x81, 0x81, 0, 0, 0, 0, b'x']),
    ] {
        for _ in 0..ROUNDS {
            let (bad, _) = Stream::open(&pair.agent, "")?;
            // It may be closed before all of it was sent.
            let _ = bad.0.get_ref().write_all(&bytes);
            ends(bad).with_context(|| format!("a client that sends {what}"))?;
        }
    }
    let (client, server) = pair.open()?;
    let (wanted, _) = pair.finish(client, server)?;
    well.numbered(wanted.seq.context("no seq")?)?;
    let grown = resident(&pair.agent)?.saturating_sub(before);
    ensure!(grown < 64 << 10, "{grown} KiB more after {ROUNDS} rounds");
    Ok(())
}

/// The agent closes this stream.
fn ends(mut bad: Stream) -> Result<()> {
    loop {
        match bad.0.read() {
            Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("is served after {PATIENCE:?}")
            }
            Err(_) => return Ok(()),
        }
    }
}

/// A thousand clients, a hundred of them reading nothing: the others get everything, and the agent stays small.
pub(super) fn thousand() -> Result<()> {
    const CLIENTS: usize = 1000;
    const STALLED: usize = 100;
    const EVENTS: usize = 20;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(1 << 14)), hard)?;
    let agent = Arc::new(Agent::start(&Settings {
        sections: "[stream]\nping_every = \"60s\"".to_owned(),
        ..Settings::default()
    })?);
    let at = addr("127.0.0.1", 30_434);
    let mut pair = Pair::over(lab::gateway()?, agent.clone(), "streamcrowd", "cli", "cli", at)?;
    let before = resident(&agent)?;
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        match Stream::open(&agent, "port=30434&filter=role==client,flow.state==closed") {
            Ok((stream, _)) => clients.push(stream),
            // As fast as one address may ask, and no faster.
            Err(error) if format!("{error}").contains("429") => {
                std::thread::sleep(Duration::from_millis(100))
            }
            Err(error) => return Err(error.context(format!("client {}", clients.len() + 1))),
        }
    }
    comes_to(&agent, "netprobe_stream_clients", &[], CLIENTS as f64)?;
    let mut wanted = Vec::new();
    for _ in 0..EVENTS {
        let (client, server) = pair.open()?;
        wanted.push(pair.finish(client, server)?.0.seq.context("no seq")?);
    }
    for stream in &mut clients[STALLED..] {
        for seq in &wanted {
            stream.numbered(*seq)?;
        }
    }
    let grown = resident(&agent)?.saturating_sub(before);
    ensure!(grown < CLIENTS as u64 * 64, "{grown} KiB for {CLIENTS} clients");
    ensure!(
        Page::scrape(&agent)?.sum("netprobe_stream_events_total", &[("result", "missed")]) == Some(0.0),
        "missed by clients that keep up"
    );
    drop(clients);
    comes_to(&agent, "netprobe_stream_clients", &[], 0.0)
}

/// Resident memory of the agent, KiB.
fn resident(agent: &Agent) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
