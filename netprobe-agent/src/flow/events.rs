//! Making events out of connections.

use netprobe_common::{ConnectFailedRecord, FlowRecord, Role};

use super::{
    address::ip,
    clock::WallClock,
    ending::{self, Ending},
    errno,
    live::Live,
    nat::{self, Path},
    process::Identity,
};
use crate::event::{
    Event, Family, Flags, Flow, FlowRole, FlowState, Origin, Protocol, connection_id, flow_severity,
};

/// What all flow events of a run share.
pub struct Maker {
    /// Who emits.
    pub origin: Origin,
    /// Clock of this moment.
    pub wall: WallClock,
    /// Method that serves the NAT fact; `None`: none does.
    pub nat_method: Option<&'static str>,
    /// Whether every accept is seen.
    pub accepts_seen: bool,
}

impl Maker {
    /// An event about a live connection: `open`, `update`, or a line of the listing.
    pub fn live(&self, live: &Live, state: FlowState, now_ns: u64) -> Event {
        let flow = self.body(live, state);
        self.event(live, flow, false, now_ns)
    }

    /// The final event of a connection. `accept_known`: no accept of it was lost.
    pub fn closed(&self, live: &Live, record: &FlowRecord, accept_known: bool) -> Event {
        let ending = ending::of(record, live, self.accepts_seen && accept_known);
        self.ended(live, ending, record.closed_ns)
    }

    /// A final event by an ending found otherwise.
    pub fn ended(&self, live: &Live, ending: Ending, closed_ns: u64) -> Event {
        let mut flow = self.body(live, ending.state);
        flow.close_reason = Some(ending.reason);
        flow.error = (ending.errno != 0).then(|| errno::name(ending.errno));
        self.event(live, flow, ending.data_lost, closed_ns)
    }

    /// The event of a connect that failed before its SYN.
    pub fn connect_failed(&self, record: &ConnectFailedRecord, process: Option<Identity>) -> Event {
        let mut flow = Flow::new(FlowState::Failed);
        flow.close_reason = Some(ending::failed(record.error));
        flow.error = Some(errno::name(record.error));
        flow.syn_retransmits = Some(0);
        let severity = flow_severity(&flow, false);
        // The same socket may fail again and again, and may have no cookie yet: the time of the attempt tells them apart.
        let id = format!(
            "{}-{}.{:x}",
            self.origin.boot_id, record.cookie, record.header.ts_ns
        )
        .into();
        let mut event = Event::flow(&self.origin, id, severity, flow);
        event.started_at = Some(self.wall.at(record.header.ts_ns));
        event.elapsed_ms = Some(0.0);
        event.protocol = Some(Protocol::Tcp);
        let (local, remote) = (ip(record.key.local_addr), ip(record.key.remote_addr));
        event.family = Some(Family::of(remote));
        event.role = Some(FlowRole::Client);
        event.netns = Some(u64::from(record.key.netns));
        // Not bound yet: no address of ours is known.
        if !local.is_unspecified() {
            event.internal_ip = Some(local);
        }
        if record.key.local_port != 0 {
            event.internal_port = Some(record.key.local_port);
        }
        event.peer_ip = Some(remote);
        event.peer_port = Some(record.key.remote_port);
        event.nat = Some(nat::shown(&Path::default(), self.nat_method));
        event.bytes_sent = Some(0);
        event.bytes_received = Some(0);
        event.service = process.as_ref().map(|identity| identity.service.clone());
        event.process = process.map(|identity| identity.process);
        event
    }

    fn body(&self, live: &Live, state: FlowState) -> Flow {
        let totals = live.charged();
        let mut flow = Flow::new(state);
        if live.role == Role::Client {
            flow.connect_ms = between_ms(live.started_ns, live.established_ns);
            flow.syn_retransmits = Some(u64::from(live.syn_retransmits));
        }
        if live.role == Role::Server {
            flow.accept_wait_ms = live.accept_wait_ns().map(|wait| wait as f64 / 1e6);
        }
        // The kernel counts in eighths and quarters of a microsecond; 0: nothing measured yet.
        flow.rtt_ms = (live.srtt_us != 0).then(|| f64::from(live.srtt_us) / 8e3);
        flow.rtt_var_ms = (live.srtt_us != 0).then(|| f64::from(live.mdev_us) / 4e3);
        flow.retransmits = Some(u64::from(totals.retransmits.saturating_sub(live.syn_retransmits)));
        flow.segments_out = Some(u64::from(totals.segments_out));
        flow.segments_in = Some(u64::from(totals.segments_in));
        flow
    }

    fn event(&self, live: &Live, flow: Flow, data_lost: bool, until_ns: u64) -> Event {
        let severity = flow_severity(&flow, data_lost);
        let mut event = Event::flow(
            &self.origin,
            connection_id(&self.origin.boot_id, live.cookie),
            severity,
            flow,
        );
        // When one that is older than the agent began was not seen.
        if !live.flags.contains(Flags::PARTIAL) {
            event.started_at = Some(self.wall.at(live.started_ns));
            event.elapsed_ms = Some(until_ns.saturating_sub(live.started_ns) as f64 / 1e6);
        }
        event.flags = live.flags;
        self.about(&mut event, live);
        let totals = live.charged();
        event.bytes_sent = Some(totals.sent);
        event.bytes_received = Some(totals.received);
        event
    }

    /// What every event about a TCP connection says of it: where it is, and whose.
    pub fn about(&self, event: &mut Event, live: &Live) {
        event.protocol = Some(Protocol::Tcp);
        self.place(event, live);
        self.who(event, live);
    }

    /// Addresses before and after translation.
    fn place(&self, event: &mut Event, live: &Live) {
        let key = &live.key;
        let (local, remote) = (ip(key.local_addr), ip(key.remote_addr));
        event.family = Some(Family::of(remote));
        event.netns = Some(u64::from(key.netns));
        event.internal_ip = Some(local);
        event.internal_port = Some(key.local_port);
        event.peer_ip = Some(remote);
        event.peer_port = Some(key.remote_port);
        event.role = match live.role {
            Role::Client => Some(FlowRole::Client),
            Role::Server => Some(FlowRole::Server),
            Role::Unknown => None,
        };
        let nothing = Path::default();
        let path = live.path.as_deref().unwrap_or(&nothing);
        event.nat = Some(nat::shown(path, self.nat_method));
        if self.nat_method.is_none() || path.ambiguous {
            return;
        }
        // What the far end has to do with: the hop nearest to it decides.
        let (external, actual) = match (live.role, path.hops.first(), path.hops.last()) {
            (Role::Server, Some(first), _) => (
                (first.original.dst, first.original.dst_port),
                (first.original.src, first.original.src_port),
            ),
            (_, _, Some(last)) => (
                (last.reply.dst, last.reply.dst_port),
                (last.reply.src, last.reply.src_port),
            ),
            _ => (
                (key.local_addr, key.local_port),
                (key.remote_addr, key.remote_port),
            ),
        };
        event.external_ip = Some(ip(external.0));
        event.external_port = Some(external.1);
        event.actual_peer_ip = Some(ip(actual.0));
        event.actual_peer_port = Some(actual.1);
    }

    fn who(&self, event: &mut Event, live: &Live) {
        event.service = live.service().cloned();
        match (&live.process, &live.io_process) {
            (Some(owner), io) => {
                event.process = Some(owner.process.clone());
                event.io_process = io
                    .as_ref()
                    .filter(|io| io.process.pid != owner.process.pid)
                    .map(|io| io.process.clone());
            }
            // Accepted where no method saw it: who moved data first stands for the acceptor.
            (None, Some(io)) => {
                event.process = Some(io.process.clone());
                event.flags.insert(Flags::UPPER_BOUND);
            }
            (None, None) => {}
        }
    }
}

/// Milliseconds between two instants; `None` when one was not seen.
fn between_ms(from_ns: u64, to_ns: u64) -> Option<f64> {
    (from_ns != 0 && to_ns >= from_ns).then(|| (to_ns - from_ns) as f64 / 1e6)
}
