//! The last minutes of every service and peer: what `/metrics/network` answers with.

use serde::{Deserialize, Serialize};

use super::{
    pair::{Key, Recent},
    series::Series,
    window::{Quantiles, Scratch, Span, Window},
};
use crate::event::FlowRole;

/// A service and a peer, seen from one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PairReport {
    /// Label of the service.
    pub service: String,
    /// Label of the peer.
    pub peer: String,
    /// Side of the service.
    pub role: FlowRole,
    /// One of each length: 10 s, 1 min, 5 min.
    pub windows: Vec<WindowReport>,
}

/// What happened in a window. Rates are per second of the part of it that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WindowReport {
    /// `10s`, `1m` or `5m`.
    pub window: String,
    /// Counts and rates; `null` for the shortest, which is too short for them.
    pub traffic: Option<Traffic>,
    /// Time from the first SYN to ESTABLISHED.
    pub connect: Option<Quantiles>,
    /// Smoothed round-trip time.
    pub rtt: Option<Quantiles>,
    /// Time in the accept queue.
    pub accept_wait: Option<Quantiles>,
    /// Time from the first byte of a request to the last of its response.
    pub request: Option<Quantiles>,
}

/// Counts and rates of a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Traffic {
    /// The part of the window that is over.
    pub seconds: f64,
    /// Connections established.
    pub connects: u64,
    /// The same a second.
    pub connects_per_second: f64,
    /// Payload bytes sent a second.
    pub sent_per_second: f64,
    /// Payload bytes received a second.
    pub received_per_second: f64,
    /// Share of failures in all outcomes; `null` without an outcome.
    pub error_ratio: Option<f64>,
    /// Failures by type.
    pub errors: Errors,
    /// Connects tried again after a failed one.
    pub retries: u64,
    /// SYN segments sent again.
    pub syn_retransmits: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Requests read.
    pub requests: u64,
    /// The same a second.
    pub requests_per_second: f64,
    /// Those that were not answered well.
    pub request_errors: RequestErrors,
}

/// Requests that were not answered well, by type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RequestErrors {
    /// Answered with a client's error (HTTP 4xx).
    pub client: u64,
    /// Answered with a server's error (HTTP 5xx, a failed DNS look-up).
    pub server: u64,
    /// Not answered.
    pub unanswered: u64,
}

/// Failures by type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Errors {
    /// Connects refused.
    pub refused: u64,
    /// Connects nobody answered, or given up before an answer.
    pub unanswered: u64,
    /// Connects that failed otherwise.
    pub failed: u64,
    /// Established connections that timed out.
    pub timeouts: u64,
    /// Established connections the other side reset; not part of the ratio.
    pub resets: u64,
}

/// The last minutes as of one moment: reading quantiles takes longer than the pipeline should wait.
#[derive(Debug)]
pub(super) struct Minutes {
    now_ms: u64,
    since_ms: u64,
    pairs: Vec<(Key, FlowRole, Recent)>,
}

impl Series {
    /// The last minutes; the first observations were at `since_ms`, at the earliest.
    pub(super) fn minutes(&self, now_ms: u64, since_ms: u64) -> Minutes {
        let mut pairs = Vec::new();
        for pair in &self.pairs {
            for (role, recent) in [FlowRole::Client, FlowRole::Server].into_iter().zip(&pair.recent) {
                if let Some(recent) = recent {
                    pairs.push((pair.key.clone(), role, (**recent).clone()));
                }
            }
        }
        Minutes {
            now_ms,
            since_ms,
            pairs,
        }
    }
}

impl Minutes {
    /// One entry for each service, peer and side, in the order of their names.
    pub(super) fn report(mut self) -> Vec<PairReport> {
        self.pairs.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let mut scratch = Scratch::new();
        self.pairs
            .iter()
            .map(|((service, peer), role, recent)| PairReport {
                service: service.to_string(),
                peer: peer.to_string(),
                role: *role,
                windows: Span::ALL
                    .into_iter()
                    .map(|span| self.window(recent, span, &mut scratch))
                    .collect(),
            })
            .collect()
    }

    fn window(&self, recent: &Recent, span: Span, scratch: &mut Scratch) -> WindowReport {
        let mut quantiles = |window: &Window| window.quantiles(self.now_ms, span, scratch);
        WindowReport {
            window: span.name().to_owned(),
            traffic: (span != Span::TenSeconds).then(|| self.traffic(recent, span)),
            connect: quantiles(&recent.connect),
            rtt: quantiles(&recent.rtt),
            accept_wait: quantiles(&recent.accept_wait),
            request: quantiles(&recent.request),
        }
    }

    fn traffic(&self, recent: &Recent, span: Span) -> Traffic {
        let (counts, over) = recent.rates.sum(self.now_ms, span);
        // A young agent has not seen all of the window.
        let seconds = over.min((self.now_ms - self.since_ms) as f64 / 1e3).max(1e-3);
        let outcomes = counts.outcomes();
        Traffic {
            seconds,
            connects: counts.connects,
            connects_per_second: counts.connects as f64 / seconds,
            sent_per_second: counts.sent as f64 / seconds,
            received_per_second: counts.received as f64 / seconds,
            error_ratio: (outcomes > 0).then(|| counts.failures() as f64 / outcomes as f64),
            errors: Errors {
                refused: counts.refused,
                unanswered: counts.unanswered,
                failed: counts.failed,
                timeouts: counts.broken,
                resets: counts.resets,
            },
            retries: counts.retries,
            syn_retransmits: counts.syn_retransmits,
            retransmits: counts.retransmits,
            requests: counts.requests,
            requests_per_second: counts.requests as f64 / seconds,
            request_errors: RequestErrors {
                client: counts.client_errors,
                server: counts.server_errors,
                unanswered: counts.unanswered_requests,
            },
        }
    }
}
