//! The flow table and what records do to it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

use aya::maps::MapError;
use netprobe_common::{
    AcceptRecord, ConnectFailedRecord, FlowRecord, ForwardRecord, HopRecord, Process, Role, UdpCounters,
    UdpRecord, flow_flags,
};

use super::{
    address::{ip, outgoing},
    baseline::totals,
    delta::{FlowDelta, Observer},
    ending::Ending,
    events::Maker,
    forward::{self, Change, Forwards},
    live::{Live, Totals},
    nat::NatTable,
    process::{Identity, ProcessCache},
    sockets::SocketInfo,
    takeover::{Parked, Takeover},
    timers::{Due, Timers},
    translations::{self, Translations},
    udp::{self, Look, UdpLive, UdpMap, UdpTable},
};
use crate::{
    config::FlowConfig,
    decode::{Record, Reject, decode},
    event::{CloseReason, Event, FlowRole, FlowState, Protocol},
    fanout::Fanout,
};

/// Name of the last method of the NAT fact.
const CTNETLINK: &str = "ctnetlink";
/// Accepts that wait for the record of their connection at most.
const MAX_PENDING_ACCEPTS: usize = 16_384;

/// Counts of this stage.
#[derive(Clone, Debug, Default)]
pub struct StageCounters {
    /// Records that were not valid, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Connections that found the table full: their final event comes, no `open`, `update` or listing.
    pub table_full: u64,
    /// Forwarded connections that found the table full.
    pub forwards_full: u64,
    /// Accepts whose connection never showed up.
    pub accepts_expired: u64,
    /// Connections found gone at reconciliation.
    pub vanished: u64,
}

/// The flow table.
pub struct State {
    /// Live connections by cookie.
    pub table: HashMap<u64, Box<Live>>,
    /// Live forwarded connections.
    pub forwards: Forwards,
    /// Live UDP flows.
    pub udp: UdpTable,
    /// Hops that wait.
    pub nat: NatTable,
    /// Who is who.
    pub processes: ProcessCache,
    /// Makes events.
    pub maker: Maker,
    /// Where events go.
    pub fanout: Fanout,
    /// Counts of this stage.
    pub counters: StageCounters,
    observer: Arc<dyn Observer>,
    timers: Timers,
    accepts: HashMap<u64, AcceptRecord>,
    /// While older connections are being listed.
    takeover: Option<Takeover>,
    config: FlowConfig,
}

impl State {
    /// An empty table.
    pub fn new(config: &FlowConfig, maker: Maker, fanout: Fanout, observer: Arc<dyn Observer>) -> State {
        let processes = NonZeroUsize::new(config.max_processes).unwrap_or(NonZeroUsize::MIN);
        State {
            table: HashMap::new(),
            forwards: Forwards::new(config.max_flows),
            udp: UdpTable::default(),
            nat: NatTable::default(),
            processes: ProcessCache::new(processes),
            maker,
            fanout,
            counters: StageCounters::default(),
            observer,
            timers: Timers::default(),
            accepts: HashMap::new(),
            takeover: None,
            config: config.clone(),
        }
    }

    /// Takes the bytes of one record.
    pub fn take(&mut self, bytes: &[u8]) {
        match decode(bytes) {
            Ok(Record::Established(record)) => self.established(record),
            Ok(Record::Sample(record)) => self.sampled(record),
            Ok(Record::Closed(record)) => self.closed(record),
            Ok(Record::Accept(record)) => self.accepted(record),
            Ok(Record::ConnectFailed(record)) => self.connect_failed(record),
            Ok(Record::Hop(record)) => self.hop(record),
            Ok(Record::Forward(record)) => self.forwarded(record),
            Ok(Record::Udp(record)) => self.udp_begun(record),
            Err(reject) => self.reject(bytes, reject),
        }
    }

    fn reject(&mut self, bytes: &[u8], reject: Reject) {
        *self.counters.rejected.entry(reject.name()).or_default() += 1;
        tracing::warn!(
            kind = bytes.get(1).copied(),
            length = bytes.len(),
            reason = reject.name(),
            "rejected a record; the stream goes on"
        );
    }

    /// Begins to take over connections older than the agent. Until [`State::finish_takeover`] what records say of
    /// them waits.
    pub fn begin_takeover(&mut self) {
        self.takeover = Some(Takeover::new(self.config.max_flows));
    }

    /// Whether older connections are still being taken over.
    pub const fn is_taking_over(&self) -> bool {
        self.takeover.is_some()
    }

    /// Adds a connection older than the agent, unless records said more of it since it was listed.
    pub fn baseline(&mut self, mut live: Live) {
        let ended = self.takeover.as_ref().is_some_and(|t| !t.lives(live.cookie));
        if ended || self.table.contains_key(&live.cookie) {
            return;
        }
        if let Some(accept) = self.accepts.remove(&live.cookie) {
            self.accept(&mut live, &accept);
        }
        self.observer
            .move_active(None, Some((service(&live), metric_role(live.role))));
        self.watch(live);
    }

    /// All older connections are taken over that will be: takes what waited for them.
    pub fn finish_takeover(&mut self) {
        let Some(takeover) = self.takeover.take() else {
            return;
        };
        let (flows, forwards) = takeover.finish();
        flows.for_each(|parked| self.unparked(parked));
        forwards.for_each(|record| self.apply_forward(&record));
    }

    fn unparked(&mut self, parked: Parked) {
        match parked {
            Parked::Sample(record) => self.apply_sample(&record),
            Parked::Closed(record) => self.end(&record),
        }
    }

    fn established(&mut self, record: &FlowRecord) {
        if let Some(parked) = self.takeover.as_mut().and_then(|t| t.unpark(record.cookie)) {
            self.unparked(parked);
        }
        let mut live = Live::new(record);
        live.process = self.identity(&record.process, record.started_ns);
        self.translate(&mut live);
        let delta = live.update(record);
        if let Some(accept) = self.accepts.remove(&record.cookie) {
            self.accept(&mut live, &accept);
        }
        // A server's service is known from its accept on: say nothing before.
        if live.role == Role::Client || live.accepted_ns != 0 {
            self.announce(&mut live);
        }
        self.observe(&live, delta);
        if let Some(old) = self.table.remove(&record.cookie) {
            // Known from the dump at start and yet new: it was opened between attach and dump.
            self.observer
                .move_active(Some((service(&old), metric_role(old.role))), None);
        }
        self.observer
            .move_active(None, Some((service(&live), metric_role(live.role))));
        self.watch(live);
    }

    /// Puts a connection into the table and wants `open` for it.
    fn watch(&mut self, live: Live) {
        if self.table.len() >= self.config.max_flows {
            self.counters.table_full += 1;
            self.observer
                .move_active(Some((service(&live), metric_role(live.role))), None);
            return;
        }
        self.timers.set(
            live.started_ns + self.config.open_after.0.as_nanos() as u64,
            Due::Flow(live.cookie),
        );
        self.table.insert(live.cookie, Box::new(live));
    }

    fn sampled(&mut self, record: &FlowRecord) {
        if !self.takeover.as_mut().is_some_and(|t| t.park_sample(record)) {
            self.apply_sample(record);
        }
    }

    fn apply_sample(&mut self, record: &FlowRecord) {
        if !self.table.contains_key(&record.cookie) {
            let live = self.first_seen(record);
            self.observer
                .move_active(None, Some((service(&live), metric_role(live.role))));
            self.watch(live);
        }
        let Some(mut live) = self.table.remove(&record.cookie) else {
            return;
        };
        let before = service(&live).map(str::to_owned);
        let delta = live.update(record);
        self.io_identity(&mut live, record);
        if service(&live) != before.as_deref() {
            let role = metric_role(live.role);
            self.observer
                .move_active(Some((before.as_deref(), role)), Some((service(&live), role)));
        }
        self.observe(&live, delta);
        self.table.insert(record.cookie, live);
    }

    /// A connection whose ESTABLISHED was lost, or that is older than the agent and was not in its dump.
    fn first_seen(&mut self, record: &FlowRecord) -> Live {
        let mut live = Live::new(record);
        live.process = self.identity(&record.process, record.started_ns);
        self.translate(&mut live);
        if record.flags & flow_flags::PARTIAL != 0 {
            // What it moved before is not known: charge nothing of it.
            live.base = Some(Box::new(Totals::of(record)));
            live.totals = Totals::of(record);
        }
        live
    }

    fn closed(&mut self, record: &FlowRecord) {
        if !self.takeover.as_mut().is_some_and(|t| t.park_closed(record)) {
            self.end(record);
        }
    }

    fn end(&mut self, record: &FlowRecord) {
        let known = self.table.remove(&record.cookie);
        let active = known.is_some();
        let mut live = match known {
            Some(live) => live,
            None => Box::new(self.first_seen(record)),
        };
        let before = service(&live).map(str::to_owned);
        let delta = live.update(record);
        if live.key.local_port == 0 || !active {
            live.key = record.key;
        }
        if let Some(accept) = self.accepts.remove(&record.cookie) {
            self.accept(&mut live, &accept);
        }
        self.io_identity(&mut live, record);
        if live.established_ns != 0 {
            self.announce(&mut live);
        } else if live.syn_retransmits > 0 {
            let mut failed = delta_of(&live);
            failed.syn_retransmits = u64::from(live.syn_retransmits);
            self.observer.observe_flow(&failed);
        }
        self.observe(&live, delta);
        if active {
            self.observer
                .move_active(Some((before.as_deref(), metric_role(live.role))), None);
        }
        let event = self.maker.closed(&live, record);
        self.fanout.emit(event);
    }

    fn accepted(&mut self, record: &AcceptRecord) {
        let Some(mut live) = self.table.remove(&record.cookie) else {
            if self.accepts.len() < MAX_PENDING_ACCEPTS {
                self.accepts.insert(record.cookie, *record);
            } else {
                self.counters.accepts_expired += 1;
            }
            return;
        };
        let before = service(&live).map(str::to_owned);
        self.accept(&mut live, record);
        let role = metric_role(live.role);
        self.observer
            .move_active(Some((before.as_deref(), role)), Some((service(&live), role)));
        self.announce(&mut live);
        self.table.insert(record.cookie, live);
    }

    fn accept(&mut self, live: &mut Live, record: &AcceptRecord) {
        live.accepted_ns = record.header.ts_ns;
        live.process = self.identity(&record.process, record.header.ts_ns);
    }

    fn connect_failed(&mut self, record: &ConnectFailedRecord) {
        let process = self.identity(&record.process, record.header.ts_ns);
        let event = self.maker.connect_failed(record, process);
        self.fanout.emit(event);
    }

    fn hop(&mut self, record: &HopRecord) {
        self.nat.add(record);
    }

    fn forwarded(&mut self, record: &ForwardRecord) {
        let id = (record.netns, record.zone, record.original);
        if let Some(takeover) = &mut self.takeover {
            if !self.forwards.knows(id) && takeover.park_forward(id, record) {
                return;
            }
            if let Some(end) = takeover.unpark_forward(id) {
                self.apply_forward(&end);
            }
        }
        self.apply_forward(record);
    }

    fn apply_forward(&mut self, record: &ForwardRecord) {
        match self.forwards.add(record) {
            Change::Begun(id) => {
                let at = record.header.ts_ns + self.config.open_after.0.as_nanos() as u64;
                self.timers.set(at, Due::Forward(id));
            }
            Change::Ended(id) => {
                if let Some(flow) = self.forwards.remove(id, record.header.ts_ns) {
                    let (state, reason) = forward::reason(&flow);
                    let event = forward::event(&self.maker, &flow, state, Some(reason), record.header.ts_ns);
                    self.fanout.emit(event);
                }
                // The entry's memory went to a new connection: begin that one.
                if record.state == 1 {
                    self.apply_forward(record);
                }
            }
            Change::Full => self.counters.forwards_full += 1,
            Change::Nothing => {}
        }
    }

    fn udp_begun(&mut self, record: &UdpRecord) {
        let process = self.identity(&record.process, record.header.ts_ns);
        let live = UdpLive {
            record: *record,
            process,
            counters: UdpCounters {
                last_ns: record.header.ts_ns,
                ..UdpCounters::default()
            },
            opened: false,
            due_ns: record.header.ts_ns + self.config.open_after.0.as_nanos() as u64,
            path: None,
        };
        // The kernel side's map bounds how many there are.
        self.udp.begin(live);
    }

    /// Looks at all UDP flows: counts what moved, tells what is due, ends what is idle.
    pub fn poll_udp(&mut self, map: &mut UdpMap, now_ns: u64, idle_ns: u64) -> Result<(), MapError> {
        let State {
            udp,
            observer,
            maker,
            fanout,
            config,
            ..
        } = self;
        let every = config.update_every.0.as_nanos() as u64;
        let result = udp.poll(map, now_ns, idle_ns, |live, look| {
            let (since, ended) = match look {
                Look::Moved(since) => (since, false),
                Look::Idle(since) => (since, true),
            };
            let mut delta = FlowDelta::new(Protocol::Udp, live.role());
            delta.service = live.service();
            let key = &live.record.key;
            delta.peer = (key.remote_port != 0).then(|| (ip(key.remote_addr), key.remote_port));
            delta.bytes_sent = since.sent_bytes;
            delta.bytes_received = since.received_bytes;
            delta.datagrams_sent = since.sent;
            delta.datagrams_received = since.received;
            observer.observe_flow(&delta);
            if ended {
                fanout.emit(udp::event(maker, live, FlowState::Closed, now_ns));
            }
        });
        for live in udp.live.values_mut().filter(|live| live.due_ns <= now_ns) {
            let state = if live.opened {
                FlowState::Update
            } else {
                FlowState::Open
            };
            live.opened = true;
            live.due_ns = now_ns + every;
            fanout.emit(udp::event(maker, live, state, now_ns));
        }
        result
    }

    /// Emits what is due: `open` and `update` events.
    pub fn tick(&mut self, now_ns: u64) {
        for due in self.timers.take(now_ns) {
            let next = now_ns + self.config.update_every.0.as_nanos() as u64;
            let event = match due {
                Due::Flow(cookie) => {
                    let Some(live) = self.table.get_mut(&cookie) else {
                        continue;
                    };
                    let state = if live.opened {
                        FlowState::Update
                    } else {
                        FlowState::Open
                    };
                    live.opened = true;
                    self.maker.live(live, state, now_ns)
                }
                Due::Forward(id) => {
                    let Some(flow) = self.forwards.get_mut(id) else {
                        continue;
                    };
                    let state = if flow.opened {
                        FlowState::Update
                    } else {
                        FlowState::Open
                    };
                    flow.opened = true;
                    forward::event(&self.maker, flow, state, None, now_ns)
                }
            };
            self.fanout.emit(event);
            self.timers.set(next, due);
        }
    }

    /// Forgets what waited too long.
    pub fn expire(&mut self, now_ns: u64) {
        const ACCEPT_NS: u64 = 60_000_000_000;
        self.nat.expire(now_ns);
        // A list under way may still have what ended since: remember that as long.
        if self.takeover.is_none() {
            self.forwards.expire(now_ns);
        }
        let before = self.accepts.len();
        self.accepts
            .retain(|_, accept| now_ns.saturating_sub(accept.header.ts_ns) < ACCEPT_NS);
        self.counters.accepts_expired += (before - self.accepts.len()) as u64;
    }

    /// Ends connections that no longer have a socket. `sockets`: cookies of the namespaces in `listed`, all
    /// taken after `since_ns`.
    pub fn reconcile(&mut self, sockets: &HashSet<u64>, listed: &HashSet<u64>, since_ns: u64) {
        // One list may miss a live socket whose hash chain changes meanwhile: it takes two in a row.
        let mut gone = Vec::new();
        for live in self.table.values_mut() {
            let absent = live.started_ns < since_ns
                && live.touched_ns < since_ns
                && listed.contains(&u64::from(live.key.netns))
                && !sockets.contains(&live.cookie);
            if absent && live.absent {
                gone.push(live.cookie);
            }
            live.absent = absent;
        }
        for cookie in gone {
            let Some(mut live) = self.table.remove(&cookie) else {
                continue;
            };
            self.counters.vanished += 1;
            self.announce(&mut live);
            self.observer
                .move_active(Some((service(&live), metric_role(live.role))), None);
            let ending = Ending {
                state: FlowState::Closed,
                reason: CloseReason::Vanished,
                errno: 0,
                data_lost: false,
            };
            let event = self.maker.ended(&live, ending, since_ns);
            self.fanout.emit(event);
        }
    }

    /// Adds a forwarded connection older than the agent.
    pub fn older_forward(&mut self, record: &ForwardRecord) {
        match self.forwards.add_older(record) {
            Change::Begun(id) => {
                let at = record.header.ts_ns + self.config.open_after.0.as_nanos() as u64;
                self.timers.set(at, Due::Forward(id));
            }
            Change::Full => self.counters.forwards_full += 1,
            Change::Ended(_) | Change::Nothing => {}
        }
    }

    /// Whether flows wait for a list of conntrack's tables: UDP always does, TCP where nothing better serves.
    pub fn wants_translations(&self) -> bool {
        self.udp.untranslated() > 0 || (self.maker.nat_method == Some(CTNETLINK) && !self.table.is_empty())
    }

    /// Translates what waits from conntrack's tables.
    /// `since_ns`: when the lists were begun; a flow younger than that may be in none of them.
    pub fn translate_from(&mut self, translations: &Translations, since_ns: u64) {
        self.udp.translate(translations, since_ns);
        if self.maker.nat_method == Some(CTNETLINK) {
            for live in self.table.values_mut().filter(|live| live.path.is_none()) {
                let path = translations.resolve(translations::TCP, &outgoing(&live.key), live.role);
                if path.ambiguous || !path.hops.is_empty() {
                    live.path = Some(Box::new(path));
                }
            }
        }
    }

    /// Ends forwarded connections whose entry is gone, and takes over the counters of the others.
    pub fn reconcile_forwards(&mut self, translations: &Translations, since_ns: u64) {
        let mut gone = Vec::new();
        for (id, flow) in self.forwards.iter_mut() {
            match translations.connection(id) {
                Some(entry) => flow.count(entry),
                None if translations.listed.contains(&id.0) && flow.last.header.ts_ns < since_ns => {
                    gone.push(*id);
                }
                None => {}
            }
        }
        for id in gone {
            if let Some(flow) = self.forwards.remove(id, since_ns) {
                let reason = Some(CloseReason::Vanished);
                let event = forward::event(&self.maker, &flow, FlowState::Closed, reason, since_ns);
                self.fanout.emit(event);
            }
        }
    }

    /// Brings counters of live connections up to date from a list of sockets.
    pub fn refresh(&mut self, sockets: &[SocketInfo], at_ns: u64) {
        for socket in sockets {
            let Some(mut live) = self.table.remove(&socket.cookie) else {
                continue;
            };
            // A newer sample may have come while the list was made: never back.
            let totals = totals(socket).max(live.totals);
            let since = totals.since(live.totals);
            live.totals = totals;
            live.touched_ns = at_ns;
            self.observe(&live, since);
            self.table.insert(socket.cookie, live);
        }
    }

    /// Tells live connections that the agent stops.
    pub fn stop(&mut self, now_ns: u64) {
        let mut events: Vec<Event> = self
            .table
            .values()
            .map(|live| self.maker.live(live, FlowState::Update, now_ns))
            .collect();
        events.extend(
            self.forwards
                .iter()
                .map(|(_, flow)| forward::event(&self.maker, flow, FlowState::Update, None, now_ns)),
        );
        events.extend(
            self.udp
                .live
                .values()
                .map(|live| udp::event(&self.maker, live, FlowState::Update, now_ns)),
        );
        for mut event in events {
            event.flags.insert(crate::event::Flags::AGENT_STOP);
            self.fanout.emit(event);
        }
    }

    /// Capacity of the table.
    pub const fn max_flows(&self) -> usize {
        self.config.max_flows
    }

    /// Emits an event of another stage.
    pub fn emit(&mut self, event: Event) {
        self.fanout.emit(event);
    }

    fn identity(&mut self, process: &Process, ts_ns: u64) -> Option<Identity> {
        self.processes.lookup(process, ts_ns)
    }

    fn io_identity(&mut self, live: &mut Live, record: &FlowRecord) {
        if live.io_process.is_none() && record.io_process.tgid != 0 {
            let owner = live.process.as_ref().map(|identity| identity.process.pid);
            // The owner itself is by far the usual case, and known already.
            live.io_process = if owner == Some(record.io_process.tgid) {
                live.process.clone()
            } else {
                self.identity(&record.io_process, record.header.ts_ns)
            };
        }
    }

    fn translate(&mut self, live: &mut Live) {
        let begin = if live.role == Role::Server {
            live.established_ns
        } else {
            live.started_ns
        };
        let path = self.nat.resolve(live.cookie, &live.key, live.role, begin);
        if path.ambiguous || !path.hops.is_empty() {
            live.path = Some(Box::new(path));
        }
    }

    /// Counts the connection as established, once.
    fn announce(&mut self, live: &mut Live) {
        if live.announced || live.flags.contains(crate::event::Flags::PARTIAL) {
            return;
        }
        live.announced = true;
        let mut delta = delta_of(live);
        delta.established = true;
        if live.role == Role::Client && live.established_ns >= live.started_ns {
            delta.connect_seconds = Some((live.established_ns - live.started_ns) as f64 / 1e9);
        }
        if live.role == Role::Server {
            delta.accept_wait_seconds = live.accept_wait_ns().map(|wait| wait as f64 / 1e9);
        }
        delta.syn_retransmits = u64::from(live.syn_retransmits);
        self.observer.observe_flow(&delta);
    }

    fn observe(&self, live: &Live, since: Totals) {
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

fn delta_of(live: &Live) -> FlowDelta<'_> {
    let mut delta = FlowDelta::new(Protocol::Tcp, metric_role(live.role));
    delta.service = service(live);
    delta.peer = Some((ip(live.key.remote_addr), live.key.remote_port));
    delta
}

fn service(live: &Live) -> Option<&str> {
    live.service().map(|name| &**name)
}

/// Metrics know two sides. A connection of unknown side is older than the agent and was not in its dump.
const fn metric_role(role: Role) -> FlowRole {
    match role {
        Role::Server => FlowRole::Server,
        Role::Client | Role::Unknown => FlowRole::Client,
    }
}
