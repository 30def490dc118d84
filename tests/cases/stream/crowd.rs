//! Clients that are many, that stand still, and that misbehave: the others do not feel it.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::wait_for;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use tungstenite::Message;

use super::super::Pair;
use super::super::metrics::{Page, comes_to};
use super::{PATIENCE, Stream};

/// Port of the connections made in thousands, and of the one that comes after them.
const FLOODED: u16 = 30_433;
const LAST: u16 = 30_432;

/// A tenth of the clients read nothing while thousands of events come. The others get each event, in order, and the agent
/// stays small; those that stood still are told what they missed, to the number, and go on with fresh events.
pub(super) fn stalled() -> Result<()> {
    const CLIENTS: usize = 20;
    const STALLED: usize = 2;
    const CONNECTIONS: usize = 3000;
    let agent = Arc::new(Agent::start(&Settings {
        // Much less than comes: a client can be left behind.
        api: "recent_events = 1000".to_owned(),
        sections: "[stream]\nping_every = \"60s\"\nmax_lag = \"60s\"".to_owned(),
        // Whatever else floods the host is not what is looked at.
        probe: format!("ports_only = [{LAST}, {FLOODED}]"),
        ..Settings::default()
    })?);
    let at = addr("127.0.0.1", LAST);
    let mut pair = Pair::over(lab::gateway()?, agent.clone(), "streamstall", "cli", "cli", at)?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Stream::open(&agent, "")?);
    }
    let well = clients.split_off(STALLED);
    for (slow, _) in &clients {
        // Or the kernel would hold all of it for the client.
        setsockopt(slow.0.get_ref(), RcvBuf, &(512 << 10))?;
    }
    let before = resident(&agent)?;
    let taken = &AtomicUsize::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = well
            .into_iter()
            .map(|(stream, hello)| scope.spawn(move || reads_all(stream, &hello, taken)))
            .collect();
        flood(CONNECTIONS, taken, CLIENTS - STALLED)?;
        let (client, server) = pair.open()?;
        pair.finish(client, server)?;
        for reader in readers {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok(())
    })?;
    let grown = resident(&agent)?.saturating_sub(before);
    ensure!(
        grown < 32 << 10,
        "{grown} KiB more with {STALLED} clients that stand still"
    );
    let mut missed = 0;
    for (stream, hello) in clients {
        missed += goes_on(stream, &hello, &mut pair)?;
    }
    comes_to(
        &agent,
        "netprobe_stream_events_total",
        &[("result", "missed")],
        missed as f64,
    )
}

/// Reads up to the last connection; every number comes, one after the other.
fn reads_all(mut stream: Stream, hello: &serde_json::Value, taken: &AtomicUsize) -> Result<()> {
    let mut last = hello["seq"].as_u64().context("no seq")?;
    loop {
        let text = stream.text().context("a client that reads")?;
        let event: Event = serde_json::from_str(&text)?;
        ensure!(event.seq == Some(last + 1), "after {last} came {text}");
        last += 1;
        if event.internal_port == Some(LAST) {
            return Ok(());
        }
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the socket held comes first, then one gap, then what is fresh. How many events the gap stands for.
fn goes_on(mut stream: Stream, hello: &serde_json::Value, pair: &mut Pair) -> Result<u64> {
    let mut next = hello["seq"].as_u64().context("no seq")? + 1;
    let (mut missed, mut fresh) = (None, None);
    while fresh.is_none_or(|fresh| next <= fresh) {
        let text = stream
            .text()
            .with_context(|| format!("{next} is next, missed {missed:?}, wanted {fresh:?}"))?;
        let event: Event = serde_json::from_str(&text)?;
        if let Some(gap) = event.gap.as_ref().filter(|gap| gap.scope == "client") {
            ensure!(missed.is_none(), "another gap of this client: {text}");
            ensure!(gap.from_seq == Some(next), "{next} was to follow: {text}");
            let count = gap.count.context("a gap without a count")?;
            (missed, next) = (Some(count), next + count);
            let (client, server) = pair.open()?;
            fresh = pair.finish(client, server)?.0.seq;
            continue;
        }
        ensure!(event.seq == Some(next), "{next} was to follow: {text}");
        next += 1;
    }
    missed.context("a client that read nothing was not told that it missed anything")
}

/// Connections in parts; each part waits until the clients that read have the events of the one before.
fn flood(connections: usize, taken: &AtomicUsize, readers: usize) -> Result<()> {
    const PART: usize = 100;
    let listener = TcpListener::bind(addr("127.0.0.1", FLOODED))?;
    for made in 1..=connections {
        let client = TcpStream::connect(listener.local_addr()?)?;
        drop(listener.accept()?);
        drop(client);
        if made % PART == 0 {
            wait_for(
                "the clients that read to have both ends' events",
                PATIENCE,
                || (taken.load(Ordering::Relaxed) >= made * 2 * readers).then_some(()),
            )?;
        }
    }
    Ok(())
}

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
    let begin = Instant::now();
    // Events may come all the while.
    while begin.elapsed() < PATIENCE {
        match bad.0.read() {
            Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => return Ok(()),
        }
    }
    bail!("is served after {PATIENCE:?}")
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
