//! Final events, kept small: a million of them are held against the log.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::agent::LineSink;

/// What the final event of one socket said.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Final events of this socket; must be one.
    pub(super) count: u32,
    pub(super) role: String,
    pub(super) failed: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) nat: String,
    /// Internal, external, peer, actual peer.
    pub(super) addresses: [Option<SocketAddr>; 4],
}

/// Everything that came since it was last taken.
#[derive(Default)]
pub(super) struct Collected {
    /// By socket cookie.
    pub(super) ends: HashMap<u64, Ends>,
    /// Final forwarded events by namespace.
    forwarded: HashMap<u64, u64>,
    /// Lines that could not be read, gaps of the agent's own output.
    pub(super) faults: Vec<String>,
}

#[derive(Deserialize)]
struct Light<'a> {
    kind: &'a str,
    connection_id: Option<&'a str>,
    role: Option<&'a str>,
    netns: Option<u64>,
    internal_ip: Option<IpAddr>,
    internal_port: Option<u16>,
    external_ip: Option<IpAddr>,
    external_port: Option<u16>,
    peer_ip: Option<IpAddr>,
    peer_port: Option<u16>,
    actual_peer_ip: Option<IpAddr>,
    actual_peer_port: Option<u16>,
    nat: Option<LightNat<'a>>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    flow: Option<LightFlow<'a>>,
    gap: Option<LightGap<'a>>,
}

#[derive(Deserialize)]
struct LightNat<'a> {
    status: &'a str,
}

#[derive(Deserialize)]
struct LightFlow<'a> {
    state: &'a str,
}

#[derive(Deserialize)]
struct LightGap<'a> {
    stage: &'a str,
    reason: &'a str,
    count: Option<u64>,
}

impl Collected {
    pub(super) fn shared() -> Arc<Mutex<Self>> {
        Arc::default()
    }

    /// What reads the agent's lines into `shared`.
    pub(super) fn sink(shared: &Arc<Mutex<Self>>) -> LineSink {
        let shared = shared.clone();
        Box::new(move |line| shared.lock().unwrap_or_else(PoisonError::into_inner).take(line))
    }

    pub(super) fn forwarded(&self, netns: u64) -> u64 {
        self.forwarded.get(&netns).copied().unwrap_or(0)
    }

    fn take(&mut self, line: &str) {
        let event: Light<'_> = match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) => {
                return self
                    .faults
                    .push(format!("a line that is no event: {error}: {line}"));
            }
        };
        if let Some(gap) = &event.gap {
            // Losses in the kernel are what some phases are about; a loss after it is not.
            if !matches!(gap.stage, "kernel" | "ring") {
                self.faults
                    .push(format!("a gap: {} {} {:?}", gap.stage, gap.reason, gap.count));
            }
            return;
        }
        let Some(state) = event.flow.as_ref().map(|flow| flow.state) else {
            return;
        };
        if event.kind != "flow" || !matches!(state, "closed" | "failed") {
            return;
        }
        if event.role == Some("forwarded") {
            *self.forwarded.entry(event.netns.unwrap_or(0)).or_default() += 1;
            return;
        }
        let cookie = event
            .connection_id
            .and_then(|id| id.rsplit('-').next()?.parse().ok());
        // A connect that failed before its socket had a cookie: none of ours do.
        let Some(cookie) = cookie else { return };
        let ends = self.ends.entry(cookie).or_default();
        ends.count += 1;
        event.role.unwrap_or_default().clone_into(&mut ends.role);
        ends.failed = state == "failed";
        ends.sent = event.bytes_sent.unwrap_or(0);
        ends.received = event.bytes_received.unwrap_or(0);
        event.nat.map_or("", |nat| nat.status).clone_into(&mut ends.nat);
        let pair = |ip: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(ip?, port?));
        ends.addresses = [
            pair(event.internal_ip, event.internal_port),
            pair(event.external_ip, event.external_port),
            pair(event.peer_ip, event.peer_port),
            pair(event.actual_peer_ip, event.actual_peer_port),
        ];
    }
}
