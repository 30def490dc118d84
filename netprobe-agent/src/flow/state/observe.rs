//! What connections do, told to the observer as it happens.

use netprobe_common::Role;

use super::{
    super::{
        address::ip,
        delta::FlowDelta,
        live::{Live, Totals},
    },
    State,
};
use crate::event::{FlowRole, Protocol};

impl State {
    /// Counts the connection as established, once.
    pub(super) fn announce(&mut self, live: &mut Live) {
        if live.announced || live.flags.contains(crate::event::Flags::PARTIAL) {
            return;
        }
        live.announced = true;
        let mut delta = delta_of(live);
        delta.established = true;
        delta.started_at = Some(self.maker.wall.at(live.started_ns));
        if live.role == Role::Client && live.established_ns >= live.started_ns {
            delta.connect_seconds = Some((live.established_ns - live.started_ns) as f64 / 1e9);
        }
        if live.role == Role::Server {
            delta.accept_wait_seconds = live.accept_wait_ns().map(|wait| wait as f64 / 1e9);
        }
        delta.syn_retransmits = u64::from(live.syn_retransmits);
        self.observer.observe_flow(&delta);
    }

    pub(super) fn observe(&self, live: &Live, since: Totals) {
        if since == Totals::default() {
            return;
        }
        let mut delta = delta_of(live);
        delta.bytes_sent = since.sent;
        delta.bytes_received = since.received;
        delta.retransmits = u64::from(since.retransmits);
        delta.rtt_seconds = (live.srtt_us != 0).then(|| f64::from(live.srtt_us) / 8e6);
        self.observer.observe_flow(&delta);
    }
}

pub(super) fn delta_of(live: &Live) -> FlowDelta<'_> {
    let mut delta = FlowDelta::new(Protocol::Tcp, metric_role(live.role));
    delta.service = service(live);
    delta.peer = Some((ip(live.key.remote_addr), live.key.remote_port));
    delta.cookie = Some(live.cookie);
    delta
}

pub(super) fn service(live: &Live) -> Option<&str> {
    live.service().map(|name| &**name)
}

/// Metrics know two sides. A connection of unknown side is older than the agent and was not in its dump.
pub(super) const fn metric_role(role: Role) -> FlowRole {
    match role {
        Role::Server => FlowRole::Server,
        Role::Client | Role::Unknown => FlowRole::Client,
    }
}
