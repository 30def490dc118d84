//! What the sink and its three threads share, under one lock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    follow::Follow,
    spool::{Head, Rolled, Sealed},
};
use crate::{
    event::{Event, Nanos},
    fanout::{Outcome, Settled},
    probe_report::{ArchiveReport, ChainHead, Circuit},
};

/// Why whoever reads the spool can lose events.
pub(super) const LOSES_BY: &[&str] = &[
    QUEUE_FULL,
    SPOOL_FULL,
    SPOOL_CORRUPT,
    UNWRITABLE,
    EXPIRED,
    DEADLINE,
];
/// Why an event was lost because too many waited for the disk.
pub(super) const QUEUE_FULL: &str = "queue_full";
/// Why an event was lost because the spool has as much as it may have.
pub(super) const SPOOL_FULL: &str = "spool_full";
/// Why an event was lost because the spool cannot be used at all.
pub(super) const NO_SPOOL: &str = "no_spool";
/// Why an event was lost because time ran out at shutdown.
pub(super) const DEADLINE: &str = "deadline";
/// Why an event was lost because it has no form as JSON.
pub(super) const UNWRITABLE: &str = "unwritable";
/// Why an event was lost that had been in the spool.
pub(super) const SPOOL_CORRUPT: &str = "spool_corrupt";
/// Why an event was lost because the archive did not take it for too long.
pub(super) const EXPIRED: &str = "expired";
/// What becomes of segments, and tries that failed: each is shown from 0 on.
const FATES: [&str; 5] = ["sealed", "archived", "dropped", "seal_failed", "failed"];

/// Events lost that no gap event told of yet, or whose gap event is not durable yet.
#[derive(Clone, Copy, Debug)]
struct Untold {
    from: u64,
    to: u64,
}

/// The state.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Arc<Event>>,
    /// Memory of the queue.
    pub(super) queued_bytes: usize,
    /// When the oldest of the queue came.
    pub(super) queued_since: Option<Instant>,
    /// Taken from the queue and not on disk yet.
    pub(super) in_hand: u64,
    /// On disk, of this run, and not in the archive yet.
    pub(super) spooled: u64,
    /// Of this run: ever put on disk.
    pub(super) written: u64,
    pub(super) settled: Settled,
    /// What became of the event offered last.
    pub(super) outcome: Option<Outcome>,
    /// Another sink that goes by the spool, if there is one.
    pub(super) follow: Option<Follow>,
    /// How much the spool refuses.
    pub(super) refuses: Refuses,
    /// Last number offered.
    pub(super) offered: u64,
    /// Everything offered up to this number is on disk, suppressed or lost.
    reached: u64,
    untold: Option<Untold>,
    /// Losses with the number of the gap event that tells of them.
    told: Option<(Untold, u64)>,

    pub(super) rolled: VecDeque<Rolled>,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) closing: bool,
    pub(super) written_all: bool,
    pub(super) sealed_all: bool,
    pub(super) uploaded_all: bool,
    /// Set when nothing is taken any more: what becomes of what comes.
    pub(super) ended: Option<Outcome>,

    pub(super) spool_bytes: u64,
    /// The segment being written: its name, and the bytes of it that are synced.
    pub(super) writing: Option<(String, u64)>,
    /// `ts` of the first event of the segment being written.
    pub(super) writing_since: Option<Nanos>,
    pub(super) head: Option<Head>,
    pub(super) circuit: Circuit,
    pub(super) failures: u64,
    pub(super) last_success: Option<Nanos>,
    pub(super) last_error: Option<String>,
    /// What keeps the spool from writing or sealing.
    pub(super) disk_error: Option<String>,
    pub(super) segments: BTreeMap<&'static str, u64>,
    pub(super) archived_bytes: u64,
    pub(super) quarantined: u64,
}

/// What a spool that is full or nearly so refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Refuses {
    #[default]
    Nothing,
    /// Events that need not be kept.
    Others,
    Everything,
}

impl State {
    /// The number up to which everything must-keep is on disk for good, or told to be lost by an event that is.
    pub(super) fn durable_seq(&self) -> u64 {
        let told = self.told.map(|(untold, _)| untold.from);
        let first = [self.untold.map(|untold| untold.from), told];
        first
            .into_iter()
            .flatten()
            .fold(self.reached, |least, from| least.min(from.saturating_sub(1)))
    }

    /// An event was lost before it was on disk.
    pub(super) fn lose(&mut self, seq: u64) {
        let untold = self.untold.get_or_insert(Untold { from: seq, to: seq });
        untold.from = untold.from.min(seq);
        untold.to = untold.to.max(seq);
    }

    /// A gap event was taken that tells of losses up to a number.
    pub(super) fn tell(&mut self, to: u64, gap_seq: u64) {
        let Some(untold) = self.untold.take_if(|untold| untold.to <= to) else {
            return;
        };
        let from = self
            .told
            .map_or(untold.from, |(told, _)| told.from.min(untold.from));
        self.told = Some((Untold { from, ..untold }, gap_seq));
    }

    /// Everything up to a number is dealt with.
    pub(super) fn reach(&mut self, seq: u64) {
        self.reached = self.reached.max(seq);
        self.told.take_if(|(_, gap_seq)| *gap_seq <= seq);
    }

    /// Whether nothing waits to be written.
    pub(super) fn idle(&self) -> bool {
        self.queue.is_empty() && self.in_hand == 0
    }

    /// Segments that nobody writes to any more.
    pub(super) fn roll(&mut self, rolled: impl IntoIterator<Item = Rolled>) {
        for rolled in rolled {
            if let (Some(follow), Some(content)) = (&mut self.follow, &rolled.content) {
                follow.end(content);
            }
            self.rolled.push_back(rolled);
        }
    }

    /// Where the chain ends.
    pub(super) fn chain_head(&self) -> Option<ChainHead> {
        let head = self.head.as_ref()?;
        Some(ChainHead {
            chain_id: head.chain_id.clone(),
            index: head.next.checked_sub(1)?,
            hash: head.hash.clone()?,
        })
    }

    pub(super) fn count_segment(&mut self, result: &'static str) {
        *self.segments.entry(result).or_default() += 1;
    }

    pub(super) fn lost(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.settled.lost.entry(reason).or_default() += count;
        }
    }
}

/// The state, and who waits for it to change.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is something to write, or it is time to end.
    pub(super) to_write: Condvar,
    /// There is something to seal or to upload, or somebody ended.
    pub(super) further: Condvar,
    /// There is more on disk.
    pub(super) synced: Condvar,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every step leaves the state whole, so a panic elsewhere does not make it wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(
        condvar: &Condvar,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        match condvar.wait_timeout(state, most) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

impl State {
    pub(super) fn status(&self, run: &Arc<str>, url: &str) -> ArchiveReport {
        let oldest = [
            self.sealed.front().map(|sealed| sealed.manifest.content.ts_min),
            self.rolled.front().and_then(|rolled| rolled.since),
            self.writing_since,
        ];
        let oldest = oldest.into_iter().flatten().min();
        let age = oldest.map_or(0, |oldest| Nanos::now().0.saturating_sub(oldest.0).max(0));
        ArchiveReport {
            run: run.clone(),
            url: url.to_owned(),
            durable_seq: self.durable_seq(),
            waiting: self.queue.len() as u64 + self.in_hand,
            spooled: self.spooled,
            spool_bytes: self.spool_bytes,
            spool_oldest_seconds: age as f64 / 1e9,
            segments_waiting: (self.sealed.len() + self.rolled.len()) as u64,
            segments: FATES
                .map(|fate| (fate.to_owned(), self.segments.get(fate).copied().unwrap_or(0)))
                .into(),
            archived_bytes: self.archived_bytes,
            quarantined: self.quarantined,
            circuit: self.circuit,
            failures: self.failures,
            last_success: self.last_success,
            last_error: self.last_error.clone(),
            disk_error: self.disk_error.clone(),
            head: self.chain_head(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_holds_the_promise_back_until_its_gap_is_durable() {
        let mut state = State::default();
        state.reach(10);
        assert_eq!(state.durable_seq(), 10);
        state.lose(12);
        state.lose(14);
        state.reach(15);
        assert_eq!(state.durable_seq(), 11);
        state.tell(14, 16);
        state.lose(18);
        assert_eq!(state.durable_seq(), 11, "told, and not durable yet");
        state.reach(16);
        assert_eq!(state.durable_seq(), 16);
        state.reach(20);
        assert_eq!(state.durable_seq(), 17);
        state.tell(17, 21);
        state.reach(21);
        assert_eq!(state.durable_seq(), 17, "that gap told of others");
        state.tell(18, 22);
        state.reach(22);
        assert_eq!(state.durable_seq(), 22);
    }
}
