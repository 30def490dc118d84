//! Clients of the stream, and the traffic they are told of.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use tungstenite::{Message, WebSocket, client};

/// Clients, as fast as the agent lets one address ask.
pub(super) fn crowd(listen: SocketAddr, clients: usize) -> Result<Vec<(WebSocket<TcpStream>, u64)>> {
    let mut all = Vec::new();
    while all.len() < clients {
        match connect(listen) {
            Ok(client) => all.push(client),
            Err(error) if error.to_string().contains("429") => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(error.context(format!("client {}", all.len() + 1))),
        }
    }
    Ok(all)
}

/// A client, and the number of the last event before it came.
fn connect(listen: SocketAddr) -> Result<(WebSocket<TcpStream>, u64)> {
    let socket = TcpStream::connect(listen)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut socket, _) = client(format!("ws://{listen}/api/v1/stream"), socket)
        .map_err(|error| anyhow!("no stream: {error}"))?;
    let Message::Text(hello) = socket.read()? else {
        bail!("no greeting");
    };
    let hello: Value = serde_json::from_str(&hello)?;
    let newest = hello["seq"].as_u64().context("a greeting without a number")?;
    // From now on a reader looks up often, to see whether it is over.
    socket
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok((socket, newest))
}

/// Addresses of the traffic: nobody else's.
pub(super) const NET: [u8; 2] = [127, 79];

/// Connections at this rate; how many.
pub(super) fn traffic(rate: u64, length: Duration) -> Result<u64> {
    let listeners = (1..=16)
        .map(|last| TcpListener::bind(SocketAddr::from(([NET[0], NET[1], 1, last], 0))))
        .collect::<Result<Vec<_>, _>>()?;
    let (begun, mut made) = (Instant::now(), 0);
    while begun.elapsed() < length {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while made < due {
            let listener = &listeners[made as usize % listeners.len()];
            let connection = TcpStream::connect(listener.local_addr()?)?;
            drop(listener.accept()?);
            drop(connection);
            made += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(made)
}

/// What a timed client took.
#[derive(Default)]
pub(super) struct Taken {
    /// Milliseconds from the end of each connection of ours to its event here.
    pub(super) latencies: Vec<f64>,
    /// Numbers that neither came nor were told as missed.
    pub(super) silent: u64,
}

pub(super) fn read(mut socket: WebSocket<TcpStream>, mut newest: u64, over: &AtomicBool) -> Result<Taken> {
    let mut taken = Taken::default();
    while !over.load(Ordering::Relaxed) {
        let text = match socket.read() {
            Ok(Message::Text(text)) => text,
            Ok(_) => continue,
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let event: Value = serde_json::from_str(&text)?;
        // A gap of this client's own has no number, and says which do not come.
        let (from, to) = match event["seq"].as_u64() {
            Some(seq) => (seq, seq),
            None => (
                event["gap"]["from_seq"]
                    .as_u64()
                    .context("a gap without numbers")?,
                event["gap"]["to_seq"].as_u64().context("a gap without numbers")?,
            ),
        };
        taken.silent += from.abs_diff(newest + 1);
        newest = to;
        taken
            .latencies
            .extend(ended(&event).map(|ended| (now - ended) * 1e3));
    }
    Ok(taken)
}

/// When the connection of an event of ours ended, seconds since 1970; `None`: it is another event.
fn ended(event: &Value) -> Option<f64> {
    let ours = event["peer_ip"]
        .as_str()?
        .starts_with(&format!("{}.{}.", NET[0], NET[1]))
        || event["internal_ip"]
            .as_str()?
            .starts_with(&format!("{}.{}.", NET[0], NET[1]));
    if !ours || event["flow"]["state"] != "closed" {
        return None;
    }
    let began = event["started_at"].as_str()?;
    let (_, clock) = began.split_once('T')?;
    let mut parts = clock.trim_end_matches('Z').split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let today = hours * 3600.0 + minutes * 60.0 + seconds + event["elapsed_ms"].as_f64()? / 1e3;
    // Only the time of day is read: a run does not cross midnight.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some((now - now % 86_400) as f64 + today)
}

/// Takes whatever comes on all of them, and throws it away.
pub(super) fn take(sockets: &[TcpStream], over: &AtomicBool) -> Result<()> {
    for socket in sockets {
        socket.set_nonblocking(true)?;
    }
    let mut buffer = vec![0; 1 << 18];
    while !over.load(Ordering::Relaxed) {
        let mut waiting: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut waiting, PollTimeout::from(100u16))?;
        let ready: Vec<bool> = waiting.iter().map(|of| of.any().unwrap_or(false)).collect();
        for (mut socket, _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
            match socket.read(&mut buffer) {
                Ok(0) => return Err(anyhow!("the agent closed a client that takes everything")),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a client of the stream"),
            }
        }
    }
    Ok(())
}
