//! The sink: takes events into a bounded queue. Never waits for the disk.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Workers,
    state::{DEADLINE, LOSES_BY, NO_SPOOL, QUEUE_FULL, Refuses, SPOOL_FULL, Shared, State},
};
use crate::{
    event::{Event, FlowState, must_keep},
    fanout::{Outcome, Settled, Sink, weight},
};

/// Why updates are left out.
pub(super) const UPDATE: &str = "update";

/// Name of the sink in the ledger.
pub const NAME: &str = "archive";

/// Memory of the events that wait for the disk at most, bytes: seconds of a busy host.
pub(super) const ROOM: usize = 32 << 20;
/// From here on only what must be kept is taken.
const ROOM_FOR_OTHERS: usize = ROOM / 2;

/// The archive as a sink.
#[derive(Debug)]
pub struct ArchiveSink {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Workers,
    pub(super) updates: bool,
    /// Events in one commit: reaching it ends the wait for more.
    pub(super) batch: usize,
}

impl ArchiveSink {
    fn take(&self, state: &mut State, event: &Arc<Event>) -> Outcome {
        let seq = event.seq.unwrap_or(0);
        let update = event
            .flow
            .as_ref()
            .is_some_and(|flow| flow.state == FlowState::Update);
        let keep = must_keep(event);
        state.offered = seq;
        if update && !keep && !self.updates {
            if state.idle() {
                state.reach(seq);
            }
            return Outcome::Suppressed(UPDATE);
        }
        let room = if keep { ROOM } else { ROOM_FOR_OTHERS };
        let refused = match state.refuses {
            _ if state.ended.is_some() => state.ended,
            Refuses::Everything => Some(Outcome::Lost(SPOOL_FULL)),
            Refuses::Others if !keep => Some(Outcome::Lost(SPOOL_FULL)),
            _ if state.queued_bytes >= room => Some(Outcome::Lost(QUEUE_FULL)),
            _ => None,
        };
        if let Some(outcome) = refused {
            state.lose(seq);
            return outcome;
        }
        if let Some(gap) = &event.gap
            && gap.stage == NAME
        {
            state.tell(gap.to_seq.unwrap_or(seq), seq);
        }
        if state.queue.is_empty() {
            state.queued_since = Some(Instant::now());
        }
        state.queued_bytes += weight(event);
        state.queue.push_back(event.clone());
        // The writer waits for the first, and then for enough.
        if state.queue.len() == 1 || state.queue.len() == self.batch {
            self.shared.to_write.notify_one();
        }
        Outcome::Queued
    }
}

impl Sink for ArchiveSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn loses_by(&self) -> &'static [&'static str] {
        LOSES_BY
    }

    fn consume(&mut self, event: &Arc<Event>) -> Outcome {
        let mut state = self.shared.lock();
        let outcome = self.take(&mut state, event);
        state.outcome = Some(outcome);
        outcome
    }

    fn has_room(&self) -> bool {
        self.shared.lock().has_room()
    }

    fn settled(&self) -> Settled {
        let state = self.shared.lock();
        let mut settled = state.settled.clone();
        settled.queued = state.queue.len() as u64 + state.in_hand + state.spooled;
        settled
    }

    /// Writes and seals everything and uploads what the archive takes in time. What is in the spool then stays queued:
    /// the next run goes on with it. What is not even there is lost.
    fn shutdown(&mut self, deadline: Instant) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.to_write.notify_all();
        self.shared.further.notify_all();
        loop {
            if state.uploaded_all {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = Shared::wait(&self.shared.further, state, left.min(Duration::from_millis(100)));
        }
        let stuck = !state.uploaded_all;
        let held = state.queue.len() as u64 + state.in_hand;
        state.queue.clear();
        state.queued_bytes = 0;
        state.in_hand = 0;
        state.lost(DEADLINE, held);
        state.ended = Some(Outcome::Lost(DEADLINE));
        let spooled = state.spooled;
        self.shared.to_write.notify_all();
        self.shared.further.notify_all();
        drop(state);
        if spooled > 0 {
            tracing::info!(events = spooled, "events stay in the spool for the next run");
        }
        if !stuck {
            self.workers.join();
        }
    }
}

/// Stands in when the spool cannot be used: the agent runs, and every event it cannot archive is counted.
#[derive(Debug)]
pub struct NoSpool {
    /// Name of the sink it stands in for.
    pub name: &'static str,
    /// Whether updates would be archived.
    pub updates: bool,
}

impl Sink for NoSpool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn loses_by(&self) -> &'static [&'static str] {
        &[NO_SPOOL]
    }

    fn consume(&mut self, event: &Arc<Event>) -> Outcome {
        let update = event
            .flow
            .as_ref()
            .is_some_and(|flow| flow.state == FlowState::Update);
        if update && !must_keep(event) && !self.updates {
            Outcome::Suppressed(UPDATE)
        } else {
            Outcome::Lost(NO_SPOOL)
        }
    }

    /// It never will: the others are told once, at the end.
    fn has_room(&self) -> bool {
        false
    }
}
