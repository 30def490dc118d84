//! What is counted of one pair of `service` and `peer`: totals since the agent began, and the last minutes.

use std::sync::Arc;

use super::{
    histogram::{Exemplar, Histogram},
    rates::Rates,
    requests::Routes,
    window::Window,
};
use crate::event::{FlowRole, Nanos, TraceId};

/// A connect counts as tried again when it began so long after a failed one, at most.
const RETRY_NS: i64 = 60_000_000_000;
/// Event times come from clocks that are compared once a second.
const CLOCKS_NS: i64 = 1_000_000;

/// Name of a pair: `service` and `peer`.
pub(super) type Key = (Arc<str>, Arc<str>);

/// The series of one pair.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Key,
    /// When it was last counted in.
    pub(super) seen_ms: u64,
    pub(super) totals: Totals,
    /// Of clients and of servers; not kept while detail is shed.
    pub(super) recent: [Option<Box<Recent>>; 2],
    /// Failed connects nobody has tried again yet, and when the last of them ended.
    failed: u64,
    failed_at: Nanos,
}

/// What is on the page. Zeros are not: nothing was counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Of clients and of servers.
    pub(super) sides: [Side; 2],
    /// Sent and received, as everywhere below.
    pub(super) tcp_bytes: [u64; 2],
    pub(super) udp_bytes: [u64; 2],
    pub(super) udp_datagrams: [u64; 2],
    pub(super) rtt: Option<Box<Histogram>>,
    pub(super) retransmits: u64,
    pub(super) timeouts: u64,
    pub(super) retries: u64,
    pub(super) requests: Routes,
}

impl Totals {
    /// Whether connections were counted, not datagrams alone.
    pub(super) fn has_tcp(&self) -> bool {
        let tried = |of: &Side| of.connects > 0 || !of.failed.is_empty();
        self.sides.iter().any(tried) || self.tcp_bytes != [0; 2] || self.rtt.is_some()
    }
}

/// What tells clients and servers apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) connects: u64,
    /// Failed connects by error, with the last one.
    pub(super) failed: Vec<(Arc<str>, u64, Exemplar)>,
    pub(super) connect_duration: Option<Box<Histogram>>,
}

/// The last five minutes of one side.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    pub(super) rates: Rates,
    pub(super) connect: Window,
    pub(super) rtt: Window,
    pub(super) accept_wait: Window,
    pub(super) request: Window,
}

/// Index of what tells clients and servers apart. Forwarded connections have no such series.
pub(super) const fn side(role: FlowRole) -> usize {
    matches!(role, FlowRole::Server) as usize
}

impl Pair {
    pub(super) fn new(key: Key, totals: Totals) -> Pair {
        Pair {
            key,
            seen_ms: 0,
            totals,
            recent: Default::default(),
            failed: 0,
            failed_at: Nanos(0),
        }
    }

    /// Whether a connect that began then is a failed one tried again. Each failed one counts once.
    pub(super) fn is_retry(&mut self, started_at: Nanos) -> bool {
        if self.failed == 0 {
            return false;
        }
        let since = started_at.0 - self.failed_at.0;
        if since > RETRY_NS {
            self.failed = 0;
        }
        let again = (-CLOCKS_NS..=RETRY_NS).contains(&since);
        self.failed -= u64::from(again);
        again
    }

    /// A connect failed, and may be tried again.
    pub(super) fn connect_failed(&mut self, at: Nanos) {
        self.failed += 1;
        self.failed_at = at;
    }

    /// Drops what no window reaches any more.
    pub(super) fn forget(&mut self, now_ms: u64) {
        for side in &mut self.recent {
            if side.as_mut().is_some_and(|recent| !recent.forget(now_ms)) {
                *side = None;
            }
        }
    }
}

impl Recent {
    fn forget(&mut self, now_ms: u64) -> bool {
        let windows = [
            &mut self.connect,
            &mut self.rtt,
            &mut self.accept_wait,
            &mut self.request,
        ];
        let windows = windows.map(|window| window.forget(now_ms));
        self.rates.forget(now_ms) || windows.contains(&true)
    }
}

impl Side {
    pub(super) fn count_failed(&mut self, error: Arc<str>, trace: TraceId, now_ms: u64) {
        match self.failed.iter_mut().find(|(known, ..)| *known == error) {
            Some((_, count, exemplar)) => {
                *count += 1;
                if Exemplar::is_due(Some(exemplar), now_ms) {
                    *exemplar = Exemplar::new(trace, 1.0, now_ms);
                }
            }
            None => self.failed.push((error, 1, Exemplar::new(trace, 1.0, now_ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connect_is_tried_again_once() {
        let second = 1_000_000_000;
        let mut pair = Pair::new(("a".into(), "b".into()), Totals::default());
        assert!(!pair.is_retry(Nanos(0)));
        pair.connect_failed(Nanos(10 * second));
        // Begun before the other failed: side by side, not again.
        assert!(!pair.is_retry(Nanos(9 * second)));
        assert!(pair.is_retry(Nanos(10 * second)));
        assert!(!pair.is_retry(Nanos(11 * second)));
        pair.connect_failed(Nanos(20 * second));
        assert!(!pair.is_retry(Nanos(81 * second)));
        assert!(!pair.is_retry(Nanos(21 * second)));
    }
}
