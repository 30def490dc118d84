//! Loss: counted to the last record and byte. The same as the long run, small.

use anyhow::{Result, ensure};
use netprobe_tests::validate::{self, Options};

use super::Case;

pub(crate) const CASES: &[Case] = &[
    Case::new("ring_of_64_kib_with_the_agent_stopped", stopped).alone(),
    Case::new("validate_small", small).alone(),
];

fn options(connections: u64, only: Option<&str>) -> Options {
    Options {
        connections,
        seed: 42,
        threads: 2,
        only: only.map(str::to_owned),
    }
}

/// So many connections while the agent stands still that the overflow of final records is full as well.
fn stopped() -> Result<()> {
    let report = validate::run(&options(200_000, Some("agent stopped")))?;
    validate::must_pass(&report)?;
    let phase = &report.phases[0];
    ensure!(
        phase.lost > 0 && phase.lost_bytes.0 > 0,
        "final records were to be lost: {phase:?}"
    );
    Ok(())
}

fn small() -> Result<()> {
    let report = validate::run(&options(4_000, None))?;
    ensure!(report.phases.len() == 5, "{} phases ran", report.phases.len());
    validate::must_pass(&report)
}
