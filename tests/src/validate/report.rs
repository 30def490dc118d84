//! What came of a run.

use anyhow::{Result, bail};
use serde::Serialize;

/// What came of one phase.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Phase {
    /// Name.
    pub name: String,
    /// Connections made, refused ones included.
    pub connections: u64,
    /// Connections a second, by the generator's clock.
    pub per_second: f64,
    /// Final events expected: one per end.
    pub expected: u64,
    /// Final events that came, each with the right bytes.
    pub events: u64,
    /// Final events counted as lost by the agent.
    pub lost: u64,
    /// Records of other kinds counted as lost.
    pub lost_other_records: u64,
    /// Payload bytes of the log: sent and received, both ends.
    pub bytes: (u64, u64),
    /// Payload bytes of the events.
    pub event_bytes: (u64, u64),
    /// Payload bytes counted as lost.
    pub lost_bytes: (u64, u64),
    /// Forwarded flows that came.
    pub forwarded: u64,
    /// Address pairs compared with the sockets, and how many conntrack told of as well.
    pub pairs: (u64, u64),
}

/// What came of it all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seed of the run.
    pub seed: u64,
    /// By phase.
    pub phases: Vec<Phase>,
    /// Everything that is not as it must be; empty: passed.
    pub faults: Vec<String>,
}

/// The report as a table.
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{:<28} {:>9} {:>8} {:>9} {:>9} {:>8} {:>9} {:>15} {:>15} {:>12} {:>9}\n",
        "phase",
        "conns",
        "conn/s",
        "expected",
        "events",
        "lost",
        "lost rec",
        "bytes",
        "event bytes",
        "lost bytes",
        "forwarded"
    );
    for p in &report.phases {
        text.push_str(&format!(
            "{:<28} {:>9} {:>8.0} {:>9} {:>9} {:>8} {:>9} {:>15} {:>15} {:>12} {:>9}\n",
            p.name,
            p.connections,
            p.per_second,
            p.expected,
            p.events,
            p.lost,
            p.lost_other_records,
            p.bytes.0 + p.bytes.1,
            p.event_bytes.0 + p.event_bytes.1,
            p.lost_bytes.0 + p.lost_bytes.1,
            p.forwarded
        ));
    }
    text
}

/// Fails with the faults, if there are any.
pub fn must_pass(report: &Report) -> Result<()> {
    if report.faults.is_empty() {
        return Ok(());
    }
    bail!("{}\n{}", report.faults.join("\n"), table(report))
}
