//! The flow table and what records do to it.

mod connections;
mod datagrams;
mod detail;
mod forwarded;
mod observe;
mod older;
mod payloads;
mod reconcile;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
};

use netprobe_common::AcceptRecord;

use detail::Tells;

use super::{
    delta::Observer,
    ended::Ended,
    events::Maker,
    forward::{self, Forwards},
    governor::STEPS,
    live::Live,
    losses::Losses,
    nat::NatTable,
    payload::{Reader, Sampling},
    process::ProcessCache,
    share::Share,
    takeover::Takeover,
    timers::{Due, Timers},
    udp::{self, UdpTable},
};
use crate::{
    config::FlowConfig,
    decode::{Record, Reject, decode},
    event::{Event, FlowState},
    fanout::Fanout,
    probe_report::LossReport,
};

/// Name of the last method of the NAT fact.
const CTNETLINK: &str = "ctnetlink";
/// Accepts that wait for the record of their connection at most.
const MAX_PENDING_ACCEPTS: usize = 16_384;
/// `open` and `update` events made in one turn: a hundred thousand at once would fill the queues of the sinks, or
/// have them lose what there is no hurry with.
const TOLD_AT_ONCE: usize = 2_000;

/// Counts of this stage.
#[derive(Clone, Debug, Default)]
pub struct StageCounters {
    /// Records that were not valid, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Connections that found the table full: their final event comes, no `open`, `update` or listing.
    pub table_full: u64,
    /// Forwarded connections that found the table full.
    pub forwards_full: u64,
    /// Ends of forwarded connections there was no room to remember until the older ones were listed.
    pub forward_ends_forgotten: u64,
    /// Accepts whose connection never showed up.
    pub accepts_expired: u64,
    /// Connections found gone at reconciliation.
    pub vanished: u64,
    /// Records of connections that had ended.
    pub late_records: u64,
    /// `open` and `update` events left out to stay within the budget.
    pub events_shed: u64,
    /// `update` events left out because their flows are not of the share that is told.
    pub updates_sampled_out: u64,
    /// Samples left out to stay within the budget.
    pub samples_shed: u64,
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
    /// Reads requests; `None`: they are not read.
    reader: Option<Box<dyn Reader>>,
    timers: Timers,
    accepts: HashMap<u64, AcceptRecord>,
    /// When accept records were lost.
    accept_losses: Losses,
    /// Accepts of connections that had not come were given up, up to this time.
    accepts_given_up_ns: u64,
    ended: Ended,
    /// While older connections are being listed.
    takeover: Option<Takeover>,
    /// Which requests are told.
    sampling: Sampling,
    /// Steps the governor has taken, see [`STEPS`].
    shed: usize,
    /// Flows whose updates are told without a reason.
    share: Share,
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
            reader: None,
            timers: Timers::default(),
            accepts: HashMap::new(),
            accept_losses: Losses::default(),
            accepts_given_up_ns: 0,
            ended: Ended::default(),
            takeover: None,
            sampling: Sampling::all(),
            shed: 0,
            share: Share::new(config.update_share),
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
            Ok(Record::Payload(record, payload)) => {
                self.with_reader(None, |reader, flows| reader.packet(record, payload, flows));
            }
            Ok(Record::Datagram(record, payload)) => {
                self.with_reader(None, |reader, flows| reader.datagram(record, payload, flows));
            }
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

    /// Takes the numbers of hop, accept and payload records lost so far. To be told before any record is taken that was
    /// made after one of them was lost.
    pub fn lost(&mut self, hops: u64, accepts: u64, payloads: u64, now_ns: u64) {
        self.nat.losses.read(hops, now_ns);
        self.accept_losses.read(accepts, now_ns);
        self.with_reader(None, |reader, _| reader.lost(payloads, now_ns));
    }

    /// Leaves out what the first `steps` of [`STEPS`] name.
    pub fn shed(&mut self, steps: usize) {
        self.shed = steps;
        self.observer.keep_detail(!self.sheds("windows"));
    }

    /// Whether a step was taken.
    fn sheds(&self, step: &str) -> bool {
        STEPS[..self.shed].iter().any(|(name, _)| *name == step)
    }

    /// What of live flows is told now.
    fn tells(&self) -> Tells {
        Tells {
            opens: !self.sheds("opens"),
            updates: !self.sheds("updates"),
            share: self.share,
        }
    }

    /// Emits what is due: `open` and `update` events.
    pub fn tick(&mut self, now_ns: u64) {
        let tells = self.tells();
        for due in self.timers.take(now_ns, TOLD_AT_ONCE) {
            let next = now_ns + self.config.update_every.0.as_nanos() as u64;
            let event = match &due {
                &Due::Flow(cookie, started_ns) => {
                    let Some(live) = self
                        .table
                        .get_mut(&cookie)
                        .filter(|live| live.started_ns == started_ns)
                    else {
                        continue;
                    };
                    let incident = || detail::is_incident(&*self.observer, live);
                    tells.next(live.opened, cookie, incident).map(|state| {
                        live.opened = true;
                        self.maker.live(live, state, now_ns)
                    })
                }
                Due::Forward(forward) => {
                    let (id, begun_ns) = **forward;
                    let Some(flow) = self
                        .forwards
                        .get_mut(id)
                        .filter(|flow| flow.begin.header.ts_ns == begun_ns)
                    else {
                        continue;
                    };
                    tells.next(flow.opened, begun_ns, || false).map(|state| {
                        flow.opened = true;
                        forward::event(&self.maker, flow, state, None, now_ns)
                    })
                }
            };
            match event {
                Ok(event) => drop(self.fanout.emit(event)),
                Err(left_out) => self.counters.leave_out(left_out),
            }
            self.timers.set(next, due);
        }
    }

    /// Forgets what waited too long.
    pub fn expire(&mut self, now_ns: u64) {
        const ACCEPT_NS: u64 = 60_000_000_000;
        // Nobody waits in an accept queue for longer and is closed then.
        const LOSSES_NS: u64 = 3_600_000_000_000;
        self.observer.tick();
        self.nat.expire(now_ns);
        self.with_reader(None, |reader, flows| reader.tick(now_ns, flows));
        self.counters.forward_ends_forgotten += self.forwards.expire(now_ns, self.takeover.is_some());
        self.accept_losses.forget(now_ns.saturating_sub(LOSSES_NS));
        let (before, given_up_ns) = (self.accepts.len(), &mut self.accepts_given_up_ns);
        self.accepts.retain(|_, accept| {
            let keep = now_ns.saturating_sub(accept.header.ts_ns) < ACCEPT_NS;
            if !keep {
                *given_up_ns = accept.header.ts_ns.max(*given_up_ns);
            }
            keep
        });
        self.counters.accepts_expired += (before - self.accepts.len()) as u64;
    }

    /// Tells live connections that the agent stops.
    pub fn stop(&mut self, now_ns: u64) {
        self.with_reader(None, |reader, flows| reader.stop(now_ns, flows));
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

    /// Flows this stage had no room for, and records that could not be read: no event tells of either.
    pub fn refused(&self) -> Vec<LossReport> {
        let tables = [
            ("flow", "forward_table_full", self.counters.forwards_full),
            ("flow", "udp_table_full", self.udp.refused),
        ];
        let records = self.counters.rejected.iter();
        let records = records.map(|(&reason, &count)| ("decode", reason, count));
        tables
            .into_iter()
            .chain(records)
            .map(|(stage, reason, count)| LossReport {
                stage: stage.to_owned(),
                reason: reason.to_owned(),
                count,
            })
            .collect()
    }

    /// Emits an event of another stage.
    pub fn emit(&mut self, event: Event) {
        self.fanout.emit(event);
    }
}

#[cfg(test)]
mod tests;
