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
        "{} events break the schema, the first: {}",
        faults.len(),
        faults[0]
    );
    let mut finals: HashMap<(&str, Option<std::net::SocketAddr>), u32> = HashMap::new();
    let mut gaps: BTreeMap<String, u64> = BTreeMap::new();
    for (index, event) in stopped.events.iter().enumerate() {
        let first = stopped.events[0].seq.context("no seq")?;
        ensure!(
            event.seq == Some(first + index as u64),
            "seq {:?} follows {:?}",
            event.seq,
            index.checked_sub(1).map(|before| stopped.events[before].seq)
        );
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
                event.trace_id == trace,
                "trace_id {} is not the one of {id}",
                event.trace_id
            );
            if event.is_final() {
                // One UDP socket has as many flows as peers; a TCP socket that connects again is another flow.
                *finals.entry((id, event.peer())).or_default() += 1;
            }
        }
    }
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
