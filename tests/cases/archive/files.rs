//! An agent that may not open a file for a while.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::wait_for;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{archive, numbers, settings, to_be_archived, traffic};

/// Files it cannot open, then it can again: what it saw meanwhile waits, and is archived.
pub(super) fn none() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let agent = Agent::start(&settings(folder.path()))?;
    traffic("files", 10)?;
    // The next event needs a file: what came before is in the archive.
    agent.ledger_at_rest(Duration::from_secs(60))?;
    let before = agent.events().len();
    let pid = Pid::from_raw(agent.pid() as i32).context("no process")?;
    let limit = |files: Rlimit| prlimit(Some(pid), Resource::Nofile, files);
    // The files it has stay open; there is no number for another.
    let was = limit(Rlimit {
        current: Some(1),
        ..getrlimit(Resource::Nofile)
    })?;
    traffic("files", 30)?;
    wait_for("the agent to say so", Duration::from_secs(60), || {
        let log = agent.log();
        let says = |line: &str| line.contains("spool") && line.contains("Too many open files");
        log.lines().any(says).then_some(())
    })
    .with_context(|| agent.log())?;
    // It says so at the first event; the last ones may still be on their way.
    let mut meanwhile = 0;
    wait_for("both ends of every connection", Duration::from_secs(60), || {
        meanwhile = agent.events().len() - before;
        (meanwhile >= 60).then_some(())
    })
    .with_context(|| format!("{meanwhile} events while no file could be opened"))?;
    limit(was)?;
    agent.ledger_at_rest(Duration::from_secs(90))?;
    let stopped = agent.stop_well()?;
    let verdict = archive(folder.path(), &["verify"])?;
    ensure!(verdict.contains("\nverified: 1 chains, 0 findings"), "{verdict}");
    let found = numbers(&archive(folder.path(), &["query", "-o", "json"])?)?;
    let found: BTreeSet<u64> = found.into_values().flatten().collect();
    let seen = to_be_archived(&stopped);
    println!(
        "no files: {} events, {meanwhile} of them meanwhile, recovered {}",
        seen.len(),
        found.len()
    );
    ensure!(
        found == seen,
        "seen and not archived, or the other way round: {:?}",
        found.symmetric_difference(&seen).collect::<Vec<_>>()
    );
    Ok(())
}
