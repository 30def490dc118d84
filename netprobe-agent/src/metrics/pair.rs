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
    /// Failed connects.
    pub(super) connects: Failed,
}

/// Failures that nobody has tried again yet, and when the last of them ended.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    count: u64,
    at: Nanos,
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
    pub(super) request_retries: u64,
    pub(super) requests: Routes,
}

impl Totals {
    /// Whether requests were counted at the client.
    pub(super) fn asks(&self) -> bool {
        self.requests.keys().any(|(of, _)| *of == side(FlowRole::Client))
    }

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
            connects: Failed::default(),
        }
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

impl Default for Failed {
    fn default() -> Failed {
        Failed {
            count: 0,
            at: Nanos(0),
        }
    }
}

impl Failed {
    /// Whether what began then is a failed one tried again. Each failed one counts once.
    pub(super) fn is_retry(&mut self, started_at: Nanos) -> bool {
        if self.count == 0 {
            return false;
        }
        let since = started_at.0 - self.at.0;
        if since > RETRY_NS {
            self.count = 0;
        }
        let again = (-CLOCKS_NS..=RETRY_NS).contains(&since);
        self.count -= u64::from(again);
        again
    }

    /// One more failed, and may be tried again.
    pub(super) fn add(&mut self, at: Nanos) {
        self.count += 1;
        self.at = at;
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
    fn what_failed_is_tried_again_once() {
        let second = 1_000_000_000;
        let mut failed = Failed::default();
        assert!(!failed.is_retry(Nanos(0)));
        failed.add(Nanos(10 * second));
        // Begun before the other failed: side by side, not again.
        assert!(!failed.is_retry(Nanos(9 * second)));
        assert!(failed.is_retry(Nanos(10 * second)));
        assert!(!failed.is_retry(Nanos(11 * second)));
        failed.add(Nanos(20 * second));
        assert!(!failed.is_retry(Nanos(81 * second)));
        assert!(!failed.is_retry(Nanos(21 * second)));
    }
}
