//! Prometheus metrics: counted in place by the pipeline thread, written by whoever scrapes.
//!
//! A flow event carries totals since the start of its connection, so counters are not fed from events: the flow
//! table hands in what was added since it last did ([`Metrics::observe_flow`]), and each byte is counted once. What
//! happens once to a connection (how it ended, whether its addresses were resolved) is counted from its final
//! event, of which there is exactly one ([`Metrics::consume`]). Kernel and ledger figures are taken from a
//! [`ProbeReport`] made for the scrape.

mod accept;
mod archive;
mod count;
mod histogram;
mod labels;
mod names;
mod network;
mod page;
mod pair;
mod probe;
mod proto;
mod rates;
mod requests;
mod resilience;
mod series;
mod show;
mod text;
mod window;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

pub use accept::Format;
pub use histogram::BUCKETS;
pub use labels::{OTHER, UNKNOWN};
pub use network::{Errors, PairReport, RequestErrors, Traffic, WindowReport};
pub use resilience::{Destination, Evidence, State};
pub use window::{Quantiles, Span};

use crate::{
    config::MetricsConfig,
    event::{Event, FlowRole},
    fanout::{Outcome, Sink},
    flow::delta::{FlowDelta, Observer},
    probe_report::ProbeReport,
};

/// Every name begins with it.
const PREFIX: &str = "netprobe_";

/// All metrics of the agent. Shared: the pipeline counts, the API writes.
#[derive(Debug)]
pub struct Metrics {
    boot_id: Arc<str>,
    /// When it began, on the clock of [`now_ms`].
    since_ms: u64,
    series: Mutex<series::Series>,
    /// Whether a destination is failing; most of the time none is, and nobody need look.
    incident: AtomicBool,
}

impl Metrics {
    /// Metrics without a single series yet. The boot id is the kernel's: with it, exemplars have the traces of events.
    pub fn new(config: &MetricsConfig, boot_id: Arc<str>) -> Arc<Metrics> {
        Arc::new(Metrics {
            boot_id,
            since_ms: now_ms(),
            series: Mutex::new(series::Series::new(config)),
            incident: AtomicBool::new(false),
        })
    }

    /// Counts what a final event of a flow, or that of a request, says once and for all.
    pub fn consume(&self, event: &Event) {
        self.series().consume(event, true, now_ms());
    }

    /// The same of an event that is not told: no exemplar leads to it.
    pub fn count(&self, event: &Event) {
        self.series().consume(event, false, now_ms());
    }

    /// The page of a scrape. Without a report only what is counted here is on it.
    pub fn render(&self, report: Option<&ProbeReport>, format: Format) -> Vec<u8> {
        let snapshot = self.series().snapshot(now_ms());
        let write = |page: &mut dyn page::Page| {
            snapshot.write(page);
            if let Some(report) = report {
                probe::write(report, page);
            }
        };
        match format {
            Format::Protobuf => {
                let mut page = proto::ProtoPage::new();
                write(&mut page);
                page.finish()
            }
            Format::Text | Format::OpenMetrics => {
                let mut page = text::TextPage::new(format == Format::OpenMetrics);
                write(&mut page);
                page.finish().into_bytes()
            }
        }
    }

    /// The last minutes of every service and peer.
    pub fn network(&self) -> Vec<PairReport> {
        let minutes = self.series().minutes(now_ms(), self.since_ms);
        minutes.report()
    }

    /// Every destination of the last five minutes with its state, the worst first.
    pub fn destinations(&self) -> Vec<Destination> {
        self.series().destinations(now_ms())
    }

    fn series(&self) -> std::sync::MutexGuard<'_, series::Series> {
        // They are whole after every step, so a panic elsewhere does not make them wrong.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds of the monotonic clock; its coarse reading costs a few nanoseconds and is some milliseconds old.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

impl Observer for Metrics {
    fn observe_flow(&self, delta: &FlowDelta<'_>) {
        self.series().observe(delta, now_ms(), &self.boot_id);
    }

    fn move_active(&self, from: Option<(Option<&str>, FlowRole)>, to: Option<(Option<&str>, FlowRole)>) {
        self.series().move_flow(from, to);
    }

    fn keep_detail(&self, keep: bool) {
        self.series().keep_detail(keep);
    }

    fn named(&self, address: IpAddr, name: &Arc<str>, ttl: Duration) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.series().named(address, name, ttl_ms, now_ms());
    }

    fn tick(&self) {
        let now_ms = now_ms();
        let mut series = self.series();
        series.sweep(now_ms);
        self.incident
            .store(series.note_incidents(now_ms), Ordering::Relaxed);
    }

    fn is_incident(&self, service: Option<&str>, peer: Option<(IpAddr, u16)>) -> bool {
        self.incident.load(Ordering::Relaxed) && self.series().is_failing(service, peer)
    }
}

/// The metrics as a sink: synchronous, loses nothing.
#[derive(Debug)]
pub struct MetricsSink(pub Arc<Metrics>);

impl Sink for MetricsSink {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn consume(&mut self, event: &Arc<Event>) -> Outcome {
        self.0.consume(event);
        Outcome::Delivered
    }

    fn leave_out(&mut self, event: &Arc<Event>, _reason: &'static str) -> Outcome {
        self.0.count(event);
        Outcome::Delivered
    }
}

#[cfg(test)]
mod tests;
