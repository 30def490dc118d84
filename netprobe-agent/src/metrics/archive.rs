//! Spool and archive, and the way into Kafka, from the report.

use super::probe::{Writer, by};
use crate::probe_report::{Circuit, ProbeReport};

impl Writer<'_> {
    pub(super) fn archive(&mut self, report: &ProbeReport) {
        let Some(archive) = &report.archive else {
            return;
        };
        self.gauges(
            "spool_bytes",
            "Bytes of all files of the spool",
            vec![(vec![], archive.spool_bytes)],
        );
        self.gauges(
            "spool_oldest_seconds",
            "Age of the oldest event that the archive does not have yet; 0: there is none",
            vec![(vec![], archive.spool_oldest_seconds)],
        );
        self.gauges(
            "spool_durable_seq",
            "Every event that must be kept, up to this number of the run, survives a crash",
            vec![(vec![], archive.durable_seq)],
        );
        self.counters(
            "spool_quarantined",
            "Files of the spool that could not be read and were moved to quarantine",
            vec![(vec![], archive.quarantined)],
        );
        self.counters(
            "archive_segments",
            "Segments by what became of them, and tries that failed",
            by("result", &archive.segments),
        );
        self.counters(
            "archive_bytes",
            "Bytes of objects the archive has taken",
            vec![(vec![], archive.archived_bytes)],
        );
    }

    pub(super) fn kafka(&mut self, report: &ProbeReport) {
        let Some(kafka) = &report.kafka else {
            return;
        };
        self.counters(
            "kafka_messages",
            "Events by what became of them on their way to Kafka, and those that were sent again",
            by("result", &kafka.messages),
        );
        self.counters(
            "kafka_bytes",
            "Bytes of events that Kafka has confirmed",
            vec![(vec![], kafka.bytes)],
        );
        self.gauges(
            "kafka_in_flight",
            "Events sent to Kafka and not confirmed",
            vec![(vec![], kafka.in_flight)],
        );
        self.gauges(
            "kafka_oldest_seconds",
            "Age of the oldest event that was read for Kafka and is not confirmed; 0: there is none",
            vec![(vec![], kafka.oldest_seconds)],
        );
    }

    /// Whether what the agent's events go to takes them.
    pub(super) fn circuits(&mut self, report: &ProbeReport) {
        let archive = report
            .archive
            .as_ref()
            .map(|archive| ("archive", archive.circuit));
        let kafka = report.kafka.as_ref().map(|kafka| ("kafka", kafka.circuit));
        let states = archive.into_iter().chain(kafka).map(|(target, circuit)| {
            let state = match circuit {
                Circuit::Closed => 0_u64,
                Circuit::HalfOpen => 1,
                Circuit::Open => 2,
            };
            (vec![("target", target)], state)
        });
        self.gauges(
            "circuit_state",
            "Whether the target takes what it is sent: 0 closed, 1 being tried, 2 open",
            states.collect(),
        );
    }
}
