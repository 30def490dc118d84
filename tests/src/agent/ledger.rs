//! The agent's ledger as its report shows it, added up here: what the agent says of it is only compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// The numbers of both equations, read from `/api/v1/probe` and added up here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Seen, less drained, of each kind where they differ: lost, or not accounted for.
    pub open: BTreeMap<String, i64>,
    /// Records seen, all kinds.
    pub seen: u64,
    /// Records drained, all kinds.
    pub drained: u64,
    /// Final records of connections seen and not drained.
    pub lost_finals: u64,
    /// Records lost, all stages and reasons.
    pub lost: u64,
    /// Losses by `stage/reason`.
    pub losses: BTreeMap<String, u64>,
    /// Payload bytes of connections whose final record was lost: sent, received.
    pub lost_bytes: (u64, u64),
    /// Per sink: emitted, delivered, lost, suppressed, queued.
    pub sinks: BTreeMap<String, [u64; 5]>,
    /// Events emitted, all kinds.
    pub emitted: u64,
    /// Events in all queues.
    pub queued: u64,
    /// What the agent itself says of its equations.
    pub says_closed: bool,
}

impl Ledger {
    /// Reads the report.
    pub fn read(probe: &Value) -> Result<Ledger> {
        let ledger = probe
            .get("ledger")
            .filter(|l| l.is_object())
            .context("the report has no ledger")?;
        let kernel = &ledger["kernel"];
        let mut losses = BTreeMap::new();
        for loss in kernel["lost"]
            .as_array()
            .context("ledger.kernel.lost is no list")?
        {
            let name = |key: &str| loss[key].as_str().unwrap_or("?").to_owned();
            let count = loss["count"].as_u64().context("a loss without count")?;
            *losses
                .entry(format!("{}/{}", name("stage"), name("reason")))
                .or_insert(0) += count;
        }
        let mut sinks = BTreeMap::new();
        let mut says_closed = kernel["closes"]
            .as_bool()
            .context("ledger.kernel.closes is missing")?;
        for sink in ledger["sinks"].as_array().context("ledger.sinks is no list")? {
            let number = |key: &str| sink[key].as_u64().with_context(|| format!("sink without {key}"));
            let row = [
                number("emitted")?,
                number("delivered")?,
                sum(&sink["lost"])?,
                sum(&sink["suppressed"])?,
                number("queued")?,
            ];
            says_closed &= sink["closes"].as_bool().context("a sink without closes")?;
            sinks.insert(
                sink["sink"].as_str().context("a sink without name")?.to_owned(),
                row,
            );
        }
        let count = |side: &str, kind: &str| kernel[side][kind].as_u64().unwrap_or(0);
        let finals = |side: &str| count(side, "closed") + count(side, "connect_failed");
        let lost_bytes = |key: &str| kernel["lost_bytes"][key].as_u64().unwrap_or(0);
        let mut open = BTreeMap::new();
        for kind in kernel["seen"]
            .as_object()
            .into_iter()
            .flat_map(serde_json::Map::keys)
        {
            let difference = count("seen", kind) as i64 - count("drained", kind) as i64;
            if difference != 0 {
                open.insert(kind.clone(), difference);
            }
        }
        Ok(Ledger {
            open,
            seen: sum(&kernel["seen"])?,
            drained: sum(&kernel["drained"])?,
            lost_finals: finals("seen").saturating_sub(finals("drained")),
            lost: losses.values().sum(),
            losses,
            lost_bytes: (lost_bytes("sent"), lost_bytes("received")),
            emitted: sum(&ledger["emitted"])?,
            queued: sinks.values().map(|row| row[4]).sum(),
            sinks,
            says_closed,
        })
    }

    /// Equations that do not close.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.seen != self.drained + self.lost {
            faults.push(format!(
                "(a) seen {} ≠ drained {} + lost {}",
                self.seen, self.drained, self.lost
            ));
        }
        for (name, [emitted, delivered, lost, suppressed, queued]) in &self.sinks {
            if *emitted != delivered + lost + suppressed + queued || *emitted != self.emitted {
                faults.push(format!(
                    "(b) {name}: emitted {emitted} (of {}) ≠ {delivered} + {lost} + {suppressed} + {queued}",
                    self.emitted
                ));
            }
        }
        if !self.says_closed {
            faults.push("the agent itself says an equation does not close".to_owned());
        }
        faults
    }
}

fn sum(numbers: &Value) -> Result<u64> {
    let object = numbers.as_object().context("expected an object of counts")?;
    object
        .values()
        .map(|n| n.as_u64().context("a count is no number"))
        .sum()
}
