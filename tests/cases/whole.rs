//! What must hold of everything the shared agent said in this run. Taken last.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use sha2::{Digest, Sha256};

use super::Case;

pub(crate) const CASES: &[Case] = &[Case::new("whole_run_keeps_schema_sequence_and_ledger", whole).last()];

fn whole() -> Result<()> {
    // After the cases that flood the host, a slow machine has a backlog.
    Agent::shared()?.ledger_at_rest(std::time::Duration::from_secs(300))?;
    // Alone, there is nothing to look back on: make a little.
    let mut pair = super::Pair::local("whole")?;
    let (client, server) = pair.open()?;
    pair.finish(client, server)?;
    drop(pair);
    let agent = Agent::shared()?;
    let ledger = agent.ledger_at_rest(std::time::Duration::from_secs(60))?;
    ensure!(
        ledger.seen > 0 && ledger.emitted > 0,
        "an empty ledger proves nothing: {ledger:?}"
    );
    let counters = agent.counters();
    let stopped = agent.stop()?;
    ensure!(
        stopped.status.success(),
        "the agent ended with {}: {}",
        stopped.status,
        stopped.log
    );
    let faults = agent.faults();
    ensure!(
        faults.is_empty(),
        "{} events break the schema, with losses {:?} and counters {counters}, the first: {}",
        faults.len(),
        ledger.losses,
        faults[0]
    );
    let mut finals: HashMap<(&str, Option<std::net::SocketAddr>), u32> = HashMap::new();
    let mut gaps: BTreeMap<String, u64> = BTreeMap::new();
    let mut unread = 0;
    for (index, event) in stopped.events.iter().enumerate() {
        let first = stopped.events[0].seq.context("no seq")?;
        let seq = event.seq.context("no seq")?;
        let expected = index.checked_sub(1).map_or(Some(first), |before| {
            stopped.events[before].seq.map(|seq| seq + 1)
        });
        // A reader of stdout that was too slow for a flood has holes, and each is told by a gap.
        unread += expected
            .and_then(|expected| seq.checked_sub(expected))
            .with_context(|| format!("seq {seq} where {expected:?} was to follow"))?;
        ensure!(event.run == stopped.events[0].run, "two runs in one output");
        if let Some(gap) = &event.gap {
            ensure!(
                gap.scope == "agent",
                "a gap of one client among everyone's events: {gap:?}"
            );
            *gaps.entry(format!("{}/{}", gap.stage, gap.reason)).or_default() += gap.count.unwrap_or(0);
        }
        if let Some(id) = &event.connection_id {
            let digest = Sha256::digest(id.as_bytes());
            let trace: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
            ensure!(
                event.trace_origin == "propagated" || event.trace_id == trace,
                "trace_id {} is not the one of {id}",
                event.trace_id
            );
            if event.is_final() {
                // One UDP socket has as many flows as peers; a TCP socket that connects again is another flow.
                *finals.entry((id, event.peer())).or_default() += 1;
            }
        }
    }
    let mut told = 0;
    gaps.retain(|reason, count| {
        let on_stdout = reason.starts_with("output/");
        told += if on_stdout { *count } else { 0 };
        !on_stdout
    });
    let lost = ledger.sinks.get("output").map(|row| row[2]);
    ensure!(
        unread == told && lost == Some(told),
        "{unread} numbers did not come on stdout, gaps tell of {told}, the ledger of {lost:?}"
    );
    // The cases that flood the host may have cost this agent records: every one of them is told by a gap.
    let mut losses = ledger.losses.clone();
    losses.retain(|_, count| *count > 0);
    ensure!(
        gaps == losses,
        "gap events tell of {gaps:?}, the ledger of {losses:?}"
    );
    let twice: Vec<_> = finals.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(twice.is_empty(), "more than one final event: {twice:?}");
    Ok(())
}
