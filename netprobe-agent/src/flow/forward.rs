//! Forwarded connections: conntrack entries of a gateway that no local socket sends through.

use std::collections::{HashMap, VecDeque};

use netprobe_common::{ForwardRecord, HopRecord, Role, Tuple};

use super::{
    address::ip,
    conntrack::Entry,
    events::Maker,
    nat::{self, Path},
};
use crate::event::{CloseReason, Event, Family, Flags, Flow, FlowRole, FlowState, Protocol, flow_severity};

/// conntrack's states.
pub(super) const SYN_SENT: u8 = 1;
const CLOSE: u8 = 8;
/// Packets after the end (a repeated FIN) meet the entry for so long.
const LINGER_NS: u64 = 10_000_000_000;

/// Identity while the entry lives: namespace, zone, original direction.
pub type Id = (u32, u16, Tuple);

/// A forwarded connection.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    /// First record of it.
    pub begin: ForwardRecord,
    /// Newest record of it.
    pub last: ForwardRecord,
    /// Whether `open` was told.
    pub opened: bool,
    /// Whether the last list of entries missed it.
    pub absent: bool,
    partial: bool,
}

impl Forwarded {
    /// Takes over the counters of its entry; they are not there while accounting is off.
    pub fn count(&mut self, entry: &Entry) {
        if let (Some(original), Some(reply)) = (entry.orig_count, entry.reply_count) {
            self.last.accounted = 1;
            self.last.packets = [original.packets, reply.packets];
            self.last.bytes = [original.bytes, reply.bytes];
        }
    }
}

/// What a record made of the table.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// A new connection.
    Begun(Id),
    /// An end: the final event is due.
    Ended(Id),
    /// Nothing new: a repeated packet.
    Nothing,
    /// No room for it.
    Full,
}

/// Live forwarded connections.
pub struct Forwards {
    live: HashMap<Id, Forwarded>,
    ended: HashMap<Id, u64>,
    ended_order: VecDeque<(u64, Id)>,
    max: usize,
}

impl Forwards {
    /// A table for so many connections.
    pub fn new(max: usize) -> Forwards {
        Forwards {
            live: HashMap::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            max,
        }
    }

    /// Takes a record. An ended connection stays until [`Forwards::remove`].
    pub fn add(&mut self, record: &ForwardRecord) -> Change {
        let id = (record.netns, record.zone, record.original);
        if record.state == SYN_SENT {
            return match self.live.get(&id) {
                Some(live) if live.begin.conntrack == record.conntrack => Change::Nothing, // the SYN again
                // Another entry for the same addresses: the end of the old connection was not seen.
                Some(_) => Change::Ended(id),
                None => {
                    self.ended.remove(&id);
                    self.begin(id, record, false)
                }
            };
        }
        if let Some(live) = self.live.get_mut(&id) {
            live.last = *record;
            return Change::Ended(id);
        }
        if self.ended.contains_key(&id) {
            return Change::Nothing;
        }
        // Older than the agent, or its begin was lost: it ends all the same.
        match self.begin(id, record, true) {
            Change::Begun(id) => Change::Ended(id),
            other => other,
        }
    }

    /// Adds a connection found in a list: older than the agent.
    pub fn add_older(&mut self, record: &ForwardRecord) -> Change {
        let id = (record.netns, record.zone, record.original);
        if self.live.contains_key(&id) || self.ended.contains_key(&id) {
            return Change::Nothing;
        }
        self.begin(id, record, true)
    }

    fn begin(&mut self, id: Id, record: &ForwardRecord, partial: bool) -> Change {
        if self.live.len() >= self.max {
            return Change::Full;
        }
        self.live.insert(
            id,
            Forwarded {
                begin: *record,
                last: *record,
                opened: false,
                absent: false,
                partial,
            },
        );
        Change::Begun(id)
    }

    /// Takes a connection out that ended at `now_ns`.
    pub fn remove(&mut self, id: Id, now_ns: u64) -> Option<Forwarded> {
        let flow = self.live.remove(&id)?;
        self.ended.insert(id, now_ns);
        self.ended_order.push_back((now_ns, id));
        Some(flow)
    }

    /// Forgets ended connections that no packet can meet any more. A list that is `awaited` may still have them: they
    /// are kept for it, as many as there is room for. How many that list may now bring back.
    pub fn expire(&mut self, now_ns: u64, awaited: bool) -> u64 {
        let mut forgotten = 0;
        while let Some(&(ts, id)) = self.ended_order.front() {
            if now_ns.saturating_sub(ts) <= LINGER_NS || (awaited && self.ended_order.len() <= self.max) {
                break;
            }
            self.ended_order.pop_front();
            if self.ended.get(&id) == Some(&ts) {
                self.ended.remove(&id);
                forgotten += u64::from(awaited);
            }
        }
        forgotten
    }

    /// One of the live ones.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut Forwarded> {
        self.live.get_mut(&id)
    }

    /// All live ones.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, &Forwarded)> {
        self.live.iter()
    }

    /// All live ones, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Id, &mut Forwarded)> {
        self.live.iter_mut()
    }

    /// Whether this one lives, or ended a moment ago.
    pub fn knows(&self, id: Id) -> bool {
        self.live.contains_key(&id) || self.ended.contains_key(&id)
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

/// An event about a forwarded connection. `ended`: why, for the final one.
pub fn event(
    maker: &Maker,
    flow: &Forwarded,
    state: FlowState,
    ended: Option<CloseReason>,
    now_ns: u64,
) -> Event {
    let (begin, last) = (&flow.begin, &flow.last);
    let accounted = last.accounted == 1;
    // Of a connection older than the agent only what came since is charged.
    let since = |now: [u64; 2], before: [u64; 2]| {
        let base = if flow.partial { before } else { [0; 2] };
        [now[0].saturating_sub(base[0]), now[1].saturating_sub(base[1])]
    };
    let (packets, bytes) = (since(last.packets, begin.packets), since(last.bytes, begin.bytes));
    let mut body = Flow::new(state);
    body.close_reason = ended;
    if accounted {
        body.segments_out = Some(packets[0]);
        body.segments_in = Some(packets[1]);
    }
    let severity = flow_severity(&body, false);
    // No socket, so no cookie: entry, namespace and begin make it unique.
    let id = format!(
        "{}-ct.{}.{:x}.{:x}",
        maker.origin.boot_id,
        begin.netns,
        begin.conntrack & 0xffff_ffff,
        begin.header.ts_ns
    );
    let mut event = Event::flow(&maker.origin, id.into(), severity, body);
    if flow.partial {
        event.flags.insert(Flags::PARTIAL);
    } else {
        event.started_at = Some(maker.wall.at(begin.header.ts_ns));
        event.elapsed_ms = Some(now_ns.saturating_sub(begin.header.ts_ns) as f64 / 1e6);
    }
    event.protocol = Some(Protocol::Tcp);
    let (original, reply) = (&begin.original, &begin.reply);
    event.family = Some(Family::of(ip(original.dst)));
    event.role = Some(FlowRole::Forwarded);
    event.netns = Some(u64::from(begin.netns));
    event.internal_ip = Some(ip(original.src));
    event.internal_port = Some(original.src_port);
    event.external_ip = Some(ip(reply.dst));
    event.external_port = Some(reply.dst_port);
    event.peer_ip = Some(ip(original.dst));
    event.peer_port = Some(original.dst_port);
    event.actual_peer_ip = Some(ip(reply.src));
    event.actual_peer_port = Some(reply.src_port);
    event.nat = Some(nat::shown(&own_hop(begin), maker.nat_method));
    if accounted {
        event.bytes_sent = Some(bytes[0]);
        event.bytes_received = Some(bytes[1]);
    }
    event
}

/// How the connection ended, as far as conntrack tells.
pub fn reason(flow: &Forwarded) -> (FlowState, CloseReason) {
    match flow.last.state {
        // A reset was seen; from which side, conntrack does not say.
        CLOSE => (FlowState::Closed, CloseReason::Error),
        SYN_SENT => (FlowState::Closed, CloseReason::Vanished),
        _ => (FlowState::Closed, CloseReason::Fin),
    }
}

/// The entry as a path of one hop; of none when it does not translate.
fn own_hop(record: &ForwardRecord) -> Path {
    let mirrored = record.original.src == record.reply.dst
        && record.original.dst == record.reply.src
        && record.original.src_port == record.reply.dst_port
        && record.original.dst_port == record.reply.src_port;
    let hops = if mirrored {
        Vec::new()
    } else {
        vec![HopRecord {
            header: record.header,
            conntrack: record.conntrack,
            netns: record.netns,
            zone: record.zone,
            role: Role::Unknown as u8,
            original: record.original,
            reply: record.reply,
            ..HopRecord::default()
        }]
    };
    Path {
        hops,
        ..Path::default()
    }
}
