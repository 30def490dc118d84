//! UDP flows: one socket and one peer. The kernel counts in a map; this reads it, tells, and removes what is idle.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use netprobe_common::{Role, UdpCounters, UdpKey, UdpRecord};

use super::{
    address::{ip, outgoing},
    events::Maker,
    live::role,
    nat::{self, Path},
    process::Identity,
    translations::{self, Translations},
};
use crate::event::{CloseReason, Event, Family, Flow, FlowRole, FlowState, Protocol, flow_severity};

/// How much longer an ended flow waits for its translation.
const TRANSLATION_NS: u64 = 15_000_000_000;
/// As many as the kernel side's map holds: more can only come when that lost entries unseen.
pub const MAX_FLOWS: usize = 65_536;
const KEY: usize = size_of::<UdpKey>();
const VALUE: usize = size_of::<UdpCounters>();

/// The kernel side's map of counters.
pub struct UdpMap(BpfHashMap<MapData, [u8; KEY], [u8; VALUE]>);

impl UdpMap {
    /// Wraps the map of the loaded object.
    pub const fn new(map: BpfHashMap<MapData, [u8; KEY], [u8; VALUE]>) -> UdpMap {
        UdpMap(map)
    }

    fn read(&self, key: &UdpKey) -> Result<Option<UdpCounters>, MapError> {
        match self.0.get(&encode(key), 0) {
            Ok(value) => Ok(Some(decode(&value))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remove(&mut self, key: &UdpKey) -> Result<(), MapError> {
        match self.0.remove(&encode(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn encode(key: &UdpKey) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    bytes[..8].copy_from_slice(&key.cookie.to_ne_bytes());
    bytes[8..24].copy_from_slice(&key.remote_addr);
    bytes[24..26].copy_from_slice(&key.remote_port.to_ne_bytes());
    bytes
}

fn decode(bytes: &[u8; VALUE]) -> UdpCounters {
    let word = |index: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_ne_bytes(word)
    };
    UdpCounters {
        started_ns: word(0),
        last_ns: word(1),
        sent_bytes: word(2),
        received_bytes: word(3),
        sent: word(4),
        received: word(5),
    }
}

/// A live UDP flow.
#[derive(Clone, Debug)]
pub struct UdpLive {
    /// What began it.
    pub record: UdpRecord,
    /// Who.
    pub process: Option<Identity>,
    /// Counters as of the last look.
    pub counters: UdpCounters,
    /// Whether `open` was told.
    pub opened: bool,
    /// When the next event is due.
    pub due_ns: u64,
    /// Translation; not known until it was looked up.
    pub path: Option<Path>,
}

impl UdpLive {
    /// Service of its process.
    pub fn service(&self) -> Option<&str> {
        self.process.as_ref().map(|identity| &*identity.service)
    }

    /// Which side it is: by the direction of the first datagram.
    pub const fn role(&self) -> FlowRole {
        match role(self.record.role) {
            Role::Server => FlowRole::Server,
            _ => FlowRole::Client,
        }
    }
}

/// What a look at a flow found.
#[derive(Debug)]
pub enum Look {
    /// Counters that grew since the last look.
    Moved(UdpCounters),
    /// Silent for too long: ended, with what came since the last look.
    Idle(UdpCounters),
}

/// All live UDP flows.
#[derive(Default)]
pub struct UdpTable {
    /// By the kernel side's key.
    pub live: HashMap<UdpKey, UdpLive>,
    /// Those whose translation was not looked up yet.
    untranslated: HashSet<UdpKey>,
    /// Flows there was no room for.
    pub refused: u64,
}

impl UdpTable {
    /// Adds a flow, unless it is there: two first datagrams at once may both tell.
    pub fn begin(&mut self, live: UdpLive) {
        let key = live.record.udp;
        if self.live.len() >= MAX_FLOWS && !self.live.contains_key(&key) {
            self.refused += 1;
            return;
        }
        if let Entry::Vacant(vacant) = self.live.entry(key) {
            vacant.insert(live);
            self.untranslated.insert(key);
        }
    }

    /// How many flows wait for their translation.
    pub fn untranslated(&self) -> usize {
        self.untranslated.len()
    }

    /// Looks the translation up of the flows that wait for it and began before `since_ns`. Returns how many it looked at.
    pub fn translate(&mut self, translations: &Translations, since_ns: u64) -> usize {
        let looked_at = self.untranslated.len();
        let live = &mut self.live;
        self.untranslated.retain(|key| {
            let Some(flow) = live.get_mut(key) else {
                return false;
            };
            let younger = flow.record.header.ts_ns >= since_ns;
            if !younger {
                flow.path = Some(translate(flow, translations));
            }
            younger
        });
        looked_at
    }

    /// Reads all counters; calls `look` for each flow that moved or ended. Ended ones are removed after it.
    pub fn poll(
        &mut self,
        map: &mut UdpMap,
        now_ns: u64,
        idle_ns: u64,
        mut look: impl FnMut(&mut UdpLive, Look),
    ) -> Result<(), MapError> {
        let mut ended = Vec::new();
        for (key, flow) in &mut self.live {
            // Not there: the entry follows its record in a moment, or someone else removed it.
            let counters = map.read(key)?.unwrap_or(flow.counters);
            let since = difference(&counters, &flow.counters);
            let last = counters.last_ns.max(flow.record.header.ts_ns);
            flow.counters = counters;
            // Its translation comes from a list that is made about once a second: wait for that a little.
            let silent = now_ns.saturating_sub(last);
            if silent > idle_ns && (flow.path.is_some() || silent > idle_ns + TRANSLATION_NS) {
                look(flow, Look::Idle(since));
                ended.push(*key);
            } else if since.sent + since.received > 0 {
                look(flow, Look::Moved(since));
            }
        }
        for key in ended {
            self.live.remove(&key);
            self.untranslated.remove(&key);
            map.remove(&key)?;
        }
        Ok(())
    }
}

fn difference(now: &UdpCounters, before: &UdpCounters) -> UdpCounters {
    UdpCounters {
        started_ns: now.started_ns,
        last_ns: now.last_ns,
        sent_bytes: now.sent_bytes.saturating_sub(before.sent_bytes),
        received_bytes: now.received_bytes.saturating_sub(before.received_bytes),
        sent: now.sent.saturating_sub(before.sent),
        received: now.received.saturating_sub(before.received),
    }
}

/// An event about a UDP flow.
pub fn event(maker: &Maker, live: &UdpLive, state: FlowState, now_ns: u64) -> Event {
    let (record, counters) = (&live.record, &live.counters);
    let mut flow = Flow::new(state);
    let ended = state.is_final();
    flow.close_reason = ended.then_some(CloseReason::Idle);
    flow.segments_out = Some(counters.sent);
    flow.segments_in = Some(counters.received);
    let severity = flow_severity(&flow, false);
    let mut event = Event::flow(&maker.origin, connection_id(maker, live), severity, flow);
    let until = if ended { counters.last_ns } else { now_ns };
    event.started_at = Some(maker.wall.at(record.header.ts_ns));
    event.elapsed_ms = Some(until.saturating_sub(record.header.ts_ns) as f64 / 1e6);
    about(&mut event, live);
    event.bytes_sent = Some(counters.sent_bytes);
    event.bytes_received = Some(counters.received_bytes);
    event
}

/// The flow's name. One socket has many flows, one after another too: the begin tells them apart.
pub fn connection_id(maker: &Maker, live: &UdpLive) -> Arc<str> {
    let record = &live.record;
    format!(
        "{}-{}.{:x}",
        maker.origin.boot_id, record.udp.cookie, record.header.ts_ns
    )
    .into()
}

/// What every event about a UDP flow says of it: where it is, and whose.
pub fn about(event: &mut Event, live: &UdpLive) {
    let record = &live.record;
    event.protocol = Some(Protocol::Udp);
    event.role = Some(live.role());
    event.netns = Some(u64::from(record.key.netns));
    let (local, remote) = (ip(record.key.local_addr), ip(record.key.remote_addr));
    // A socket bound to no address sends from whichever the route gives: not known here.
    if !local.is_unspecified() {
        event.internal_ip = Some(local);
    }
    event.internal_port = (record.key.local_port != 0).then_some(record.key.local_port);
    event.family = Some(Family::of(if remote.is_unspecified() { local } else { remote }));
    if record.key.remote_port != 0 {
        event.peer_ip = Some(remote);
        event.peer_port = Some(record.key.remote_port);
    }
    match &live.path {
        Some(path) => place(event, live, path),
        // No list was made in its time.
        None => {
            event.nat = Some(nat::shown(
                &Path {
                    ambiguous: true,
                    ..Path::default()
                },
                Some("ctnetlink"),
            ))
        }
    }
    event.service = live.process.as_ref().map(|identity| identity.service.clone());
    event.process = live.process.as_ref().map(|identity| identity.process.clone());
}

/// Addresses after translation, once the translation is known.
fn place(event: &mut Event, live: &UdpLive, path: &Path) {
    event.nat = Some(nat::shown(path, Some("ctnetlink")));
    if path.ambiguous {
        return;
    }
    let (external, actual) = match (live.role(), path.hops.first(), path.hops.last()) {
        (FlowRole::Server, Some(first), _) => (
            (first.original.dst, first.original.dst_port),
            (first.original.src, first.original.src_port),
        ),
        (_, _, Some(last)) => (
            (last.reply.dst, last.reply.dst_port),
            (last.reply.src, last.reply.src_port),
        ),
        _ => {
            event.external_ip = event.internal_ip;
            event.external_port = event.internal_port;
            event.actual_peer_ip = event.peer_ip;
            event.actual_peer_port = event.peer_port;
            return;
        }
    };
    event.external_ip = Some(ip(external.0));
    event.external_port = Some(external.1);
    event.actual_peer_ip = Some(ip(actual.0));
    event.actual_peer_port = Some(actual.1);
}

/// The translation of a flow, from conntrack's tables.
pub fn translate(live: &UdpLive, translations: &Translations) -> Path {
    let key = &live.record.key;
    if key.remote_port == 0 {
        return Path::default();
    }
    let role = role(live.record.role);
    if ip(key.local_addr).is_unspecified() && role == Role::Client {
        return translations.resolve_from_port(key.local_port, key.remote_addr, key.remote_port);
    }
    translations.resolve(translations::UDP, &outgoing(key), role)
}
