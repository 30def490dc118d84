//! Prometheus metrics: counted in place by the pipeline thread, rendered by whoever scrapes.
//!
//! A flow event carries totals since the start of its connection, so counters are not fed from events: the flow
//! table hands in what was added since it last did ([`Metrics::observe_flow`]), and each byte is counted once. What
//! happens once to a connection (how it ended, whether its addresses were resolved) is counted from its final
//! event, of which there is exactly one ([`Metrics::consume`]). Kernel and ledger figures are taken from a
//! [`ProbeReport`] made for the scrape.

mod flows;
mod labels;
mod probe;
mod series;
mod text;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    registry::Registry,
};

pub use flows::CONNECT_BUCKETS;
pub use labels::{OTHER, UNKNOWN};
pub use text::Format;

use crate::{
    config::MetricsConfig,
    event::{Event, FlowRole},
    fanout::{Outcome, Sink},
    flow::delta::{FlowDelta, Observer},
    probe_report::ProbeReport,
};

/// All metrics of the agent. Shared: the pipeline counts, the API renders.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: flows::Families,
    series: Mutex<series::Series>,
}

impl Metrics {
    /// Metrics without a single series yet.
    pub fn new(config: &MetricsConfig) -> Arc<Metrics> {
        let mut registry = Registry::with_prefix("netprobe");
        let families = flows::Families::register(&mut registry);
        let series = series::Series::new(labels::Labels::new(config), families.label_overflow.clone());
        Arc::new(Metrics {
            registry,
            families,
            series: Mutex::new(series),
        })
    }

    /// Counts what a final flow event says once and for all.
    pub fn consume(&self, event: &Event) {
        self.families.consume(event, &mut self.series());
    }

    /// The page of a scrape. Without a report only what is counted here is on it.
    pub fn render(&self, report: Option<ProbeReport>, format: Format) -> Result<String, fmt::Error> {
        let mut page = String::new();
        encode_registry(&mut page, &self.registry)?;
        if let Some(report) = report {
            let mut registry = Registry::with_prefix("netprobe");
            registry.register_collector(Box::new(probe::ReportCollector(report)));
            encode_registry(&mut page, &registry)?;
        }
        match format {
            Format::OpenMetrics => {
                encode_eof(&mut page)?;
                Ok(page)
            }
            Format::Text => Ok(text::classic(&page)),
        }
    }

    fn series(&self) -> std::sync::MutexGuard<'_, series::Series> {
        // They are whole after every step, so a panic elsewhere does not make them wrong.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Metrics {
    fn observe_flow(&self, delta: &FlowDelta<'_>) {
        self.families.observe(delta, &mut self.series());
    }

    fn move_active(&self, from: Option<(Option<&str>, FlowRole)>, to: Option<(Option<&str>, FlowRole)>) {
        self.families.move_active(from, to, &mut self.series());
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
}

#[cfg(test)]
mod tests;
