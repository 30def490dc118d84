//! Fan-out: numbers every event, offers it to every sink, and keeps equation (b) of the ledger.
//!
//! Everything here runs in the one pipeline thread, so a number is given and offered in one step and a number never
//! has a hole. A sink that may block has a thread and a bounded queue of its own; what it settles later it reports
//! through [`Sink::settled`]. The equation compares what the fan-out handed out with what the sink says it did
//! with it: two counts by two parties, so a lost event cannot hide.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    event::{Event, EventKind, Gap, GapScope, Nanos, Origin},
    probe_report::SinkLedger,
};

/// What became of an event at a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reached its end.
    Delivered,
    /// The sink holds it; what becomes of it is told by [`Sink::settled`].
    Queued,
    /// It is gone, and should not be.
    Lost(&'static str),
    /// It was left out on purpose.
    Suppressed(&'static str),
}

/// What became of events a sink had queued, since it began, and how many it holds. Taken in one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Reached their end.
    pub delivered: u64,
    /// Gone, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// Left out on purpose, by reason.
    pub suppressed: BTreeMap<&'static str, u64>,
    /// Still held.
    pub queued: u64,
}

/// Where events end.
pub trait Sink: Send {
    /// Name in the ledger and in metrics.
    fn name(&self) -> &'static str;

    /// Why it can lose events: each reason is counted from 0 on, so that the first loss is seen as one.
    fn loses_by(&self) -> &[&'static str] {
        &[]
    }

    /// Takes an event. Never blocks.
    fn consume(&mut self, event: &Arc<Event>) -> Outcome;

    /// Takes an event that is left out for `reason`. Only what counts all of them does something else.
    fn leave_out(&mut self, _event: &Arc<Event>, reason: &'static str) -> Outcome {
        Outcome::Suppressed(reason)
    }

    /// Whether an event offered now would be taken.
    fn has_room(&self) -> bool {
        true
    }

    /// What became of queued events. A sink that never answers [`Outcome::Queued`] has nothing to say.
    fn settled(&self) -> Settled {
        Settled::default()
    }

    /// Events held.
    fn queued(&self) -> u64 {
        self.settled().queued
    }

    /// Ends the sink: what is queued is delivered until `deadline`, and what is left then is counted as lost.
    fn shutdown(&mut self, _deadline: Instant) {}
}

/// Memory an event takes, about: its struct, its own lists, and its share of strings made for it alone. What sinks
/// that hold events bound them by.
pub fn weight(event: &Event) -> usize {
    let hops = event
        .nat
        .as_ref()
        .map_or(0, |nat| nat.hops.len() * size_of::<crate::event::Hop>());
    let id = event.connection_id.as_ref().map_or(0, |id| id.len());
    size_of::<Event>() + hops + id + 64
}

/// Losses of one sink for one reason that no gap event told yet.
struct Pending {
    count: u64,
    from_seq: u64,
    to_seq: u64,
}

struct Slot {
    sink: Box<dyn Sink>,
    offered: u64,
    delivered: u64,
    queued: u64,
    lost: BTreeMap<&'static str, u64>,
    suppressed: BTreeMap<&'static str, u64>,
    pending: BTreeMap<&'static str, Pending>,
    /// Late losses of [`Settled::lost`] that are pending or told already.
    late: BTreeMap<&'static str, u64>,
}

/// The fan-out.
pub struct Fanout {
    origin: Origin,
    clock: Box<dyn FnMut() -> Nanos + Send>,
    next_seq: u64,
    emitted: [u64; EventKind::ALL.len()],
    slots: Vec<Slot>,
    pending: bool,
}

impl Fanout {
    /// A fan-out without sinks on the system clock. The first event has number 1.
    pub fn new(origin: Origin) -> Fanout {
        Fanout::with_clock(origin, Box::new(Nanos::now))
    }

    /// The same with another clock.
    pub fn with_clock(origin: Origin, clock: Box<dyn FnMut() -> Nanos + Send>) -> Fanout {
        Fanout {
            origin,
            clock,
            next_seq: 1,
            emitted: [0; EventKind::ALL.len()],
            slots: Vec::new(),
            pending: false,
        }
    }

    /// Adds a sink; it is offered every event from now on.
    pub fn add(&mut self, sink: Box<dyn Sink>) {
        self.slots.push(Slot {
            lost: sink.loses_by().iter().map(|reason| (*reason, 0)).collect(),
            sink,
            offered: 0,
            delivered: 0,
            queued: 0,
            suppressed: BTreeMap::new(),
            pending: BTreeMap::new(),
            late: BTreeMap::new(),
        });
    }

    /// Who emits.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Number the next event will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Events emitted of a kind.
    pub fn emitted(&self, kind: EventKind) -> u64 {
        self.emitted[kind as usize]
    }

    /// Numbers an event, stamps it, and offers it to every sink. Gaps that wait for room go before it.
    pub fn emit(&mut self, event: Event) -> Arc<Event> {
        if self.pending {
            self.tell_gaps(false);
        }
        self.offer(event, None)
    }

    /// The same for one that is to be counted, but not told, for this reason.
    pub fn leave_out(&mut self, event: Event, reason: &'static str) -> Arc<Event> {
        self.offer(event, Some(reason))
    }

    /// Looks for late losses and emits the gaps that have room. To be called every now and then.
    pub fn tick(&mut self) {
        let last = self.next_seq.saturating_sub(1);
        for slot in &mut self.slots {
            for (reason, total) in slot.sink.settled().lost {
                let told = slot.late.entry(reason).or_default();
                let fresh = total.saturating_sub(*told);
                if fresh > 0 {
                    *told = total;
                    // Which of the queued numbers they had is not known: any up to the last.
                    let pending = slot.pending.entry(reason).or_insert(Pending {
                        count: 0,
                        from_seq: 0,
                        to_seq: 0,
                    });
                    pending.count += fresh;
                    pending.to_seq = last;
                    self.pending = true;
                }
            }
        }
        if self.pending {
            self.tell_gaps(false);
        }
    }

    /// Ends all sinks, one after the other, each in `time` at most: one that is stuck takes nothing from the others.
    /// Losses nobody was told of become gap events first, room or not, so that the other sinks have them.
    pub fn shutdown(&mut self, time: Duration) {
        self.tick();
        self.tell_gaps(true);
        for slot in &mut self.slots {
            slot.sink.shutdown(Instant::now() + time);
        }
    }

    /// Equation (b) of every sink.
    pub fn ledger(&self) -> Vec<SinkLedger> {
        self.slots.iter().map(Slot::ledger).collect()
    }

    /// Whether equation (b) closes for every sink; if not, the sinks for which it does not.
    pub fn check(&self) -> Result<(), Vec<SinkLedger>> {
        let open: Vec<_> = self
            .ledger()
            .into_iter()
            .filter(|ledger| !ledger.closes)
            .collect();
        if open.is_empty() { Ok(()) } else { Err(open) }
    }

    fn offer(&mut self, mut event: Event, left_out: Option<&'static str>) -> Arc<Event> {
        let seq = self.next_seq;
        self.next_seq += 1;
        event.seq = Some(seq);
        event.ts = (self.clock)();
        if event.started_at.is_some_and(|began| began > event.ts) {
            // The wall clock was set since the event was made. How long it took is known all the same.
            let took = event.elapsed_ms.unwrap_or_default() * 1e6;
            event.started_at = Some(Nanos(event.ts.0.saturating_sub(took as i64)));
        }
        self.emitted[event.kind as usize] += 1;
        let event = Arc::new(event);
        for slot in &mut self.slots {
            slot.offered += 1;
            let outcome = match left_out {
                None => slot.sink.consume(&event),
                Some(reason) => slot.sink.leave_out(&event, reason),
            };
            match outcome {
                Outcome::Delivered => slot.delivered += 1,
                Outcome::Queued => slot.queued += 1,
                Outcome::Suppressed(reason) => *slot.suppressed.entry(reason).or_default() += 1,
                Outcome::Lost(reason) => {
                    *slot.lost.entry(reason).or_default() += 1;
                    let pending = slot.pending.entry(reason).or_insert(Pending {
                        count: 0,
                        from_seq: seq,
                        to_seq: seq,
                    });
                    pending.count += 1;
                    pending.to_seq = seq;
                    self.pending = true;
                }
            }
        }
        event
    }

    fn tell_gaps(&mut self, regardless: bool) {
        let mut gaps = Vec::new();
        for slot in &mut self.slots {
            if slot.pending.is_empty() || !(regardless || slot.sink.has_room()) {
                continue;
            }
            let stage = slot.sink.name();
            gaps.extend(
                std::mem::take(&mut slot.pending)
                    .into_iter()
                    .map(|(reason, pending)| Gap {
                        stage: stage.into(),
                        reason: reason.into(),
                        count: Some(pending.count),
                        from_seq: (pending.from_seq > 0).then_some(pending.from_seq),
                        to_seq: Some(pending.to_seq),
                        scope: GapScope::Agent,
                    }),
            );
        }
        for gap in gaps {
            let gap = Event::gap(&self.origin, gap);
            self.offer(gap, None);
        }
        self.pending = self.slots.iter().any(|slot| !slot.pending.is_empty());
    }
}

impl Slot {
    fn ledger(&self) -> SinkLedger {
        let settled = self.sink.settled();
        let sum = |one: &BTreeMap<&'static str, u64>, other: &BTreeMap<&'static str, u64>| {
            let mut sum = BTreeMap::new();
            for (reason, count) in one.iter().chain(other) {
                *sum.entry((*reason).to_owned()).or_insert(0) += count;
            }
            sum
        };
        let lost = sum(&self.lost, &settled.lost);
        let suppressed = sum(&self.suppressed, &settled.suppressed);
        let delivered = self.delivered + settled.delivered;
        let accounted =
            delivered + lost.values().sum::<u64>() + suppressed.values().sum::<u64>() + settled.queued;
        let difference = i64::try_from(i128::from(self.offered) - i128::from(accounted)).unwrap_or(i64::MAX);
        SinkLedger {
            sink: self.sink.name().to_owned(),
            emitted: self.offered,
            delivered,
            lost,
            suppressed,
            queued: settled.queued,
            closes: difference == 0,
            difference,
        }
    }
}

#[cfg(test)]
mod tests;
