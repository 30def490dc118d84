//! Spool and archive, from the report.

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
        let state = match archive.circuit {
            Circuit::Closed => 0_u64,
            Circuit::HalfOpen => 1,
            Circuit::Open => 2,
        };
        self.gauges(
            "circuit_state",
            "Whether the target takes what it is sent: 0 closed, 1 being tried, 2 open",
            vec![(vec![("target", "archive")], state)],
        );
    }
}
