//! Families that are not counted here but read from a report at scrape time.

use std::collections::BTreeMap;

use super::page::{Kind, Page, Value};
use crate::probe_report::{BYTE_DISAGREEMENTS, OPAQUE_TLS, ProbeReport};

pub(super) type Series<'a, V> = Vec<(Vec<(&'static str, &'a str)>, V)>;

/// Writes the families of a report.
pub(super) fn write(report: &ProbeReport, page: &mut dyn Page) {
    let mut to = Writer(page);
    to.ledger(report);
    to.kernel(report);
    to.archive(report);
    to.kafka(report);
    to.circuits(report);
    to.agent(report);
}

pub(super) struct Writer<'a>(&'a mut dyn Page);

impl Writer<'_> {
    fn ledger(&mut self, report: &ProbeReport) {
        let Some(ledger) = &report.ledger else {
            return;
        };
        let kernel = &ledger.kernel;
        self.counters("records_seen", "Records the hooks made", by("kind", &kernel.seen));
        self.counters(
            "records_drained",
            "Records the agent read",
            by("kind", &kernel.drained),
        );
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
        );
        self.counters(
            "lost_bytes",
            "Payload of connections whose final record was lost",
            by("direction", &kernel.lost_bytes),
        );
        self.counters(
            "records_rejected",
            "Records the agent read and found not valid",
            by("reason", &kernel.rejected),
        );
        self.counters(
            "records_suppressed",
            "Connections the hooks left out on purpose",
            by("reason", &kernel.suppressed),
        );
        self.counters("events_emitted", "Events numbered", by("kind", &ledger.emitted));
        let sinks = &ledger.sinks;
        self.counters(
            "events_delivered",
            "Events that reached their end",
            sinks
                .iter()
                .map(|sink| (vec![("sink", sink.sink.as_str())], sink.delivered))
                .collect(),
        );
        self.counters(
            "events_lost",
            "Events a sink lost",
            sinks
                .iter()
                .flat_map(|sink| by_sink(&sink.sink, &sink.lost))
                .collect(),
        );
        self.counters(
            "events_suppressed",
            "Events a sink left out on purpose",
            sinks
                .iter()
                .flat_map(|sink| by_sink(&sink.sink, &sink.suppressed))
                .collect(),
        );
        self.gauges(
            "events_queued",
            "Events a sink holds",
            sinks
                .iter()
                .map(|sink| (vec![("sink", sink.sink.as_str())], sink.queued))
                .collect(),
        )
    }

    fn kernel(&mut self, report: &ProbeReport) {
        self.gauges(
            "probe_attached",
            "1: the fact is measured by the method; 0: no method works (none), or it is switched off (off)",
            report
                .facts
                .iter()
                .map(|fact| {
                    let labels = vec![("fact", fact.fact.as_str()), ("method", fact.served_by())];
                    (labels, u64::from(fact.method.is_some()))
                })
                .collect(),
        );
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
        self.counters("bpf_program_run_seconds", "Time in a BPF program", seconds);
        self.counters(
            "bpf_program_runs",
            "Runs of a BPF program",
            of_programs(|program| program.runs),
        );
        self.counters(
            "bpf_program_recursion_misses",
            "Runs of a BPF program skipped because it had interrupted itself",
            of_programs(|program| program.recursion_misses),
        );
        let maps = &report.maps;
        self.gauges(
            "bpf_map_entries",
            "Entries of a BPF map in use",
            maps.iter()
                .filter_map(|map| Some((vec![("map", map.name.as_str())], map.entries?)))
                .collect(),
        );
        self.gauges(
            "bpf_map_capacity",
            "Room for entries in a BPF map",
            maps.iter()
                .map(|map| (vec![("map", map.name.as_str())], map.capacity))
                .collect(),
        );
        let stream = report.stream.iter();
        self.gauges(
            "stream_clients",
            "Clients of the event stream",
            stream.clone().map(|stream| (vec![], stream.clients)).collect(),
        );
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
        );
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
        );
        let fill = report.ring.iter().map(|ring| (vec![], ring.fill)).collect();
        self.gauges("ring_fill_ratio", "Share of the ring buffer in use, 0 to 1", fill);
        let disagreements = report.counters.get(BYTE_DISAGREEMENTS);
        self.counters(
            "byte_disagreement",
            "Flows whose sum of calls and kernel counters differ beyond what is explained",
            disagreements.into_iter().map(|count| (vec![], *count)).collect(),
        );
        let opaque = report.counters.iter().filter_map(|(name, count)| {
            let library = name.strip_prefix(OPAQUE_TLS)?;
            Some((vec![("library", library)], *count))
        });
        self.counters(
            "requests_opaque",
            "Connections whose requests cannot be read, by the library that encrypts them",
            opaque.collect(),
        );
        let others = report
            .counters
            .iter()
            .filter(|(name, _)| name.as_str() != BYTE_DISAGREEMENTS && !name.starts_with(OPAQUE_TLS));
        self.counters(
            "probe_counters",
            "What else the hooks and the agent count, by name",
            others
                .map(|(name, count)| (vec![("counter", name.as_str())], *count))
                .collect(),
        );
        let limits = report.limits.iter();
        self.gauges(
            "host_limit_used",
            "How much is used of what the host has a limit on",
            limits
                .clone()
                .map(|limit| (vec![("limit", limit.what.as_str())], limit.used))
                .collect(),
        );
        self.gauges(
            "host_limit",
            "How much there may be of what the host has a limit on",
            limits
                .map(|limit| (vec![("limit", limit.what.as_str())], limit.limit))
                .collect(),
        );
        self.counters(
            "listen_overflows",
            "Connections dropped because an accept queue was full",
            by("netns", &report.listen_overflows),
        )
    }

    fn agent(&mut self, report: &ProbeReport) {
        let cost = report.cost.as_ref();
        self.counters(
            "agent_cpu_seconds",
            "CPU time of the agent",
            cost.iter().map(|cost| (vec![], cost.cpu_seconds)).collect(),
        );
        self.gauges(
            "agent_memory_bytes",
            "Resident memory of the agent",
            cost.iter().map(|cost| (vec![], cost.memory_bytes)).collect(),
        );
        let governor = report.governor.iter();
        self.gauges(
            "agent_cpu_usage",
            "Processors the agent used over the last ten seconds",
            governor
                .clone()
                .filter_map(|governor| Some((vec![], governor.cpu_usage?)))
                .collect(),
        );
        self.gauges(
            "agent_cpu_budget",
            "Processors the agent may use before it sheds detail, 0: as many as it takes",
            governor
                .clone()
                .map(|governor| (vec![], governor.cpu_budget))
                .collect(),
        );
        self.gauges(
            "governor_level",
            "Steps taken to stay within the budget, 0: nothing is shed",
            governor.map(|governor| (vec![], governor.level)).collect(),
        );
        self.family(
            "build",
            "Version of the agent and the kernel below",
            Kind::Info,
            vec![(
                vec![
                    ("version", report.agent_version.as_str()),
                    ("kernel", report.kernel.release.as_str()),
                ],
                1_u64,
            )],
        );
    }

    pub(super) fn counters<V: Into<Value>>(&mut self, name: &str, help: &str, series: Series<'_, V>) {
        self.family(name, help, Kind::Counter, series);
    }

    pub(super) fn gauges<V: Into<Value>>(&mut self, name: &str, help: &str, series: Series<'_, V>) {
        self.family(name, help, Kind::Gauge, series);
    }

    fn family<V: Into<Value>>(&mut self, name: &str, help: &str, kind: Kind, series: Series<'_, V>) {
        self.0.family(name, help, kind);
        for (labels, value) in series {
            self.0.sample(&labels, value.into(), None);
        }
    }
}

pub(super) fn by<'a>(label: &'static str, counts: &'a BTreeMap<String, u64>) -> Series<'a, u64> {
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
