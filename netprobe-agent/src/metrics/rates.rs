//! What happened in the last minutes between a service and a peer, counted in sub-windows of 10 s.

use super::window::{COARSE, COARSE_MS, Ring, Span};

/// What happened in a sub-window of 10 s between a service and a peer, from one side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Connections established.
    pub(super) connects: u64,
    /// Connects the other side refused.
    pub(super) refused: u64,
    /// Connects nobody answered.
    pub(super) unanswered: u64,
    /// Connects that failed otherwise.
    pub(super) failed: u64,
    /// Connects tried again after a failed one.
    pub(super) retries: u64,
    /// Established connections that timed out.
    pub(super) broken: u64,
    /// Established connections reset by the other side.
    pub(super) resets: u64,
    /// Connections with a burst of retransmits.
    pub(super) bursts: u64,
    pub(super) syn_retransmits: u64,
    pub(super) retransmits: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Requests read.
    pub(super) requests: u64,
    /// Of them, answered with a client's error (HTTP 4xx).
    pub(super) client_errors: u64,
    /// Answered with a server's error (HTTP 5xx, a failed DNS look-up).
    pub(super) server_errors: u64,
    /// Not answered.
    pub(super) unanswered_requests: u64,
}

impl Counts {
    /// Connects that ended one way or the other.
    pub(super) const fn attempts(&self) -> u64 {
        self.connects + self.refused + self.unanswered + self.failed
    }

    /// What the destination failed to do: accept, answer, keep a connection.
    pub(super) const fn failures(&self) -> u64 {
        self.refused + self.unanswered + self.failed + self.broken
    }

    /// All that tells how the destination does.
    pub(super) const fn outcomes(&self) -> u64 {
        self.attempts() + self.broken
    }

    /// Adds another sub-window.
    pub(super) fn add(&mut self, other: &Counts) {
        let Counts {
            connects,
            refused,
            unanswered,
            failed,
            retries,
            broken,
            resets,
            bursts,
            syn_retransmits,
            retransmits,
            sent,
            received,
            requests,
            client_errors,
            server_errors,
            unanswered_requests,
        } = other;
        self.connects += connects;
        self.refused += refused;
        self.unanswered += unanswered;
        self.failed += failed;
        self.retries += retries;
        self.broken += broken;
        self.resets += resets;
        self.bursts += bursts;
        self.syn_retransmits += syn_retransmits;
        self.retransmits += retransmits;
        self.sent += sent;
        self.received += received;
        self.requests += requests;
        self.client_errors += client_errors;
        self.server_errors += server_errors;
        self.unanswered_requests += unanswered_requests;
    }
}

/// Sub-windows of counts.
pub(super) type Rates = Ring<Counts, COARSE_MS, COARSE>;

impl Rates {
    /// The sum of a window, and how much of it is over: the sub-window of this moment is not.
    pub(super) fn sum(&self, now_ms: u64, span: Span) -> (Counts, f64) {
        let mut sum = Counts::default();
        for (_, counts) in self.back_from(Self::slot(now_ms), span.coarse()) {
            sum.add(counts);
        }
        let over_ms = u64::from(span.coarse() - 1) * COARSE_MS + now_ms % COARSE_MS;
        (sum, over_ms as f64 / 1e3)
    }

    /// Adds every sub-window within reach to its place in `line`, oldest first, that of this moment last.
    pub(super) fn lay_out(&self, now_ms: u64, line: &mut Line) {
        let now = Self::slot(now_ms);
        for (slot, counts) in self.back_from(now, COARSE) {
            line[(COARSE - 1 - (now - slot)) as usize].add(counts);
        }
    }
}

/// Five minutes of sub-windows, oldest first.
pub(super) type Line = [Counts; COARSE as usize];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_slide() {
        let mut rates = Rates::default();
        for now_ms in [0, 15_000, 100_000] {
            rates.current(now_ms).connects += 1;
        }
        let sums = |now_ms| Span::ALL.map(|span| rates.sum(now_ms, span).0.attempts());
        assert_eq!(sums(100_000), [1, 1, 3]);
        assert_eq!(sums(15_000), [1, 2, 2]);
        assert_eq!(sums(400_000), [0, 0, 0]);
    }
}
