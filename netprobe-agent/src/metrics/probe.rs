//! Families that are not counted here but read from a report at scrape time.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::probe_report::{BYTE_DISAGREEMENTS, ProbeReport};

/// A report as metrics.
#[derive(Debug)]
pub(super) struct ReportCollector(pub(super) ProbeReport);

type Series<'a, V> = Vec<(Vec<(&'static str, &'a str)>, V)>;

impl Collector for ReportCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut page = Page(encoder);
        let report = &self.0;
        page.ledger(report)?;
        page.kernel(report)?;
        page.agent(report)
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn ledger(&mut self, report: &ProbeReport) -> fmt::Result {
        let Some(ledger) = &report.ledger else {
            return Ok(());
        };
        let kernel = &ledger.kernel;
        self.counters("records_seen", "Records the hooks made", by("kind", &kernel.seen))?;
        self.counters(
            "records_drained",
            "Records the agent read",
            by("kind", &kernel.drained),
        )?;
        let lost = kernel.lost.iter();
        self.counters(
            "records_lost",
            "Records lost between the hooks and the agent",
            lost.map(|loss| {
                (
                    vec![("stage", loss.stage.as_str()), ("reason", loss.reason.as_str())],
                    loss.count,
                )
            })
            .collect(),
        )?;
        self.counters(
            "lost_bytes",
            "Payload of connections whose final record was lost",
            by("direction", &kernel.lost_bytes),
        )?;
        self.counters(
            "records_rejected",
            "Records the agent read and found not valid",
            by("reason", &kernel.rejected),
        )?;
        self.counters(
            "records_suppressed",
            "Connections the hooks left out on purpose",
            by("reason", &kernel.suppressed),
        )?;
        self.counters("events_emitted", "Events numbered", by("kind", &ledger.emitted))?;
        let sinks = &ledger.sinks;
        self.counters(
            "events_delivered",
            "Events that reached their end",
            sinks
                .iter()
                .map(|sink| (vec![("sink", sink.sink.as_str())], sink.delivered))
                .collect(),
        )?;
        self.counters(
            "events_lost",
            "Events a sink lost",
            sinks
                .iter()
                .flat_map(|sink| by_sink(&sink.sink, &sink.lost))
                .collect(),
        )?;
        self.counters(
            "events_suppressed",
            "Events a sink left out on purpose",
            sinks
                .iter()
                .flat_map(|sink| by_sink(&sink.sink, &sink.suppressed))
                .collect(),
        )?;
        self.gauges(
            "events_queued",
            "Events a sink holds",
            sinks
                .iter()
                .map(|sink| (vec![("sink", sink.sink.as_str())], sink.queued))
                .collect(),
        )
    }

    fn kernel(&mut self, report: &ProbeReport) -> fmt::Result {
        self.gauges(
            "probe_attached",
            "1: the fact is measured by the method; 0: it is not measured",
            report
                .facts
                .iter()
                .map(|fact| {
                    let method = fact.method.as_deref();
                    let labels = vec![("fact", fact.fact.as_str()), ("method", method.unwrap_or("none"))];
                    (labels, u64::from(method.is_some()))
                })
                .collect(),
        )?;
        let programs = &report.programs;
        let of_programs = |value: fn(&crate::probe_report::ProgramReport) -> Option<u64>| {
            programs
                .iter()
                .filter_map(|program| Some((vec![("program", program.name.as_str())], value(program)?)))
                .collect::<Series<'_, u64>>()
        };
        let seconds = of_programs(|program| program.run_ns)
            .into_iter()
            .map(|(labels, nanos)| (labels, nanos as f64 / 1e9))
            .collect();
        self.counters("bpf_program_run_seconds", "Time in a BPF program", seconds)?;
        self.counters(
            "bpf_program_runs",
            "Runs of a BPF program",
            of_programs(|program| program.runs),
        )?;
        self.counters(
            "bpf_program_recursion_misses",
            "Runs of a BPF program skipped because it had interrupted itself",
            of_programs(|program| program.recursion_misses),
        )?;
        let maps = &report.maps;
        self.gauges(
            "bpf_map_entries",
            "Entries of a BPF map in use",
            maps.iter()
                .filter_map(|map| Some((vec![("map", map.name.as_str())], map.entries?)))
                .collect(),
        )?;
        self.gauges(
            "bpf_map_capacity",
            "Room for entries in a BPF map",
            maps.iter()
                .map(|map| (vec![("map", map.name.as_str())], map.capacity))
                .collect(),
        )?;
        let stream = report.stream.iter();
        self.gauges(
            "stream_clients",
            "Clients of the event stream",
            stream.clone().map(|stream| (vec![], stream.clients)).collect(),
        )?;
        self.counters(
            "stream_events",
            "Events of the stream by what became of them, over all clients",
            stream
                .clone()
                .flat_map(|stream| {
                    [
                        ("sent", stream.sent),
                        ("filtered", stream.filtered),
                        ("missed", stream.missed),
                    ]
                    .map(|(result, count)| (vec![("result", result)], count))
                })
                .collect(),
        )?;
        self.counters(
            "stream_clients_ended",
            "Clients of the stream turned away or given up, by reason",
            stream
                .flat_map(|stream| {
                    [
                        ("refused", stream.clients_refused),
                        ("stalled", stream.clients_stalled),
                    ]
                    .map(|(reason, count)| (vec![("reason", reason)], count))
                })
                .collect(),
        )?;
        let fill = report.ring.iter().map(|ring| (vec![], ring.fill)).collect();
        self.gauges("ring_fill_ratio", "Share of the ring buffer in use, 0 to 1", fill)?;
        let disagreements = report.counters.get(BYTE_DISAGREEMENTS);
        self.counters(
            "byte_disagreement",
            "Flows whose sum of calls and kernel counters differ beyond what is explained",
            disagreements.into_iter().map(|count| (vec![], *count)).collect(),
        )?;
        let others = report
            .counters
            .iter()
            .filter(|(name, _)| name.as_str() != BYTE_DISAGREEMENTS);
        self.counters(
            "probe_counters",
            "What else the hooks and the agent count, by name",
            others
                .map(|(name, count)| (vec![("counter", name.as_str())], *count))
                .collect(),
        )?;
        self.counters(
            "listen_overflows",
            "Connections dropped because an accept queue was full",
            by("netns", &report.listen_overflows),
        )
    }

    fn agent(&mut self, report: &ProbeReport) -> fmt::Result {
        let cost = report.cost.as_ref();
        self.counters(
            "agent_cpu_seconds",
            "CPU time of the agent",
            cost.iter().map(|cost| (vec![], cost.cpu_seconds)).collect(),
        )?;
        self.gauges(
            "agent_memory_bytes",
            "Resident memory of the agent",
            cost.iter().map(|cost| (vec![], cost.memory_bytes)).collect(),
        )?;
        let labels = [
            ("version", report.agent_version.as_str()),
            ("kernel", report.kernel.release.as_str()),
        ];
        self.0
            .encode_descriptor(
                "build",
                "Version of the agent and the kernel below",
                None,
                MetricType::Info,
            )?
            .encode_info(&labels)
    }

    fn counters<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        series: Series<'_, V>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, series, |value, metric| {
            ConstCounter::new(value).encode(metric)
        })
    }

    fn gauges<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, series: Series<'_, V>) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, series, |value, metric| {
            ConstGauge::new(value).encode(metric)
        })
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        series: Series<'_, V>,
        encode: impl Fn(V, prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        if series.is_empty() {
            return Ok(());
        }
        let help = format!("{help}.");
        let mut family = self.0.encode_descriptor(name, &help, None, kind)?;
        for (labels, value) in series {
            if labels.is_empty() {
                // A family without labels has one series.
                return encode(value, family);
            }
            encode(value, family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn by<'a>(label: &'static str, counts: &'a BTreeMap<String, u64>) -> Series<'a, u64> {
    counts
        .iter()
        .map(|(value, count)| (vec![(label, value.as_str())], *count))
        .collect()
}

fn by_sink<'a>(sink: &'a str, counts: &'a BTreeMap<String, u64>) -> Series<'a, u64> {
    counts
        .iter()
        .map(|(reason, count)| (vec![("sink", sink), ("reason", reason.as_str())], *count))
        .collect()
}
