//! `netprobe archive verify`.

use std::io;

use clap::Args;

use super::{super::output::unwritable, Bar, Place};
use crate::{
    archive::verify::{self, Trust, Verdict},
    error::AgentError,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// A head hash noted elsewhere: the history must have it. May be repeated
    #[arg(long, value_name = "SHA256")]
    expect_head: Vec<String>,
    /// A public key that may sign; without, any may. May be repeated
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
}

pub(super) async fn verify(args: &VerifyArgs) -> Result<(), AgentError> {
    let opened = args.place.open()?;
    let trust = Trust {
        heads: args.expect_head.clone(),
        keys: args.public_key.clone(),
    };
    let bar = Bar::new("segments");
    let verdict = verify::verify(&opened.store, &opened.span, &trust, |steps| bar.step(steps))
        .await
        .map_err(|error| opened.unreadable(&error))?;
    drop(bar);
    report(&mut io::stdout().lock(), &verdict).map_err(unwritable)?;
    let Some(first) = verdict.findings.first() else {
        return Ok(());
    };
    let place = match first.seq {
        Some(seq) => format!("run {}, seq {seq}, {}", first.run, first.fault),
        None => first.fault.to_string(),
    };
    Err(AgentError::other(
        format!(
            "the archive does not verify: {} findings, the first: {place}: {}",
            verdict.findings.len(),
            first.detail
        ),
        "docs/runbook/archive.md says what each of them means",
    ))
}

fn report(out: &mut impl io::Write, verdict: &Verdict) -> io::Result<()> {
    for chain in &verdict.chains {
        writeln!(
            out,
            "chain {} host {} segments {}-{} events {} dropped {}",
            chain.id, chain.host, chain.first, chain.last, chain.events, chain.dropped
        )?;
        if let Some(start) = &chain.start {
            writeln!(out, "  begins because {start}")?;
        }
        for key in &chain.keys {
            writeln!(out, "  signed by {key}")?;
        }
        let tail = if chain.witnessed {
            "witnessed"
        } else {
            "tail not witnessed"
        };
        writeln!(out, "  head {} ({tail})", chain.head)?;
    }
    for finding in &verdict.findings {
        let seq = finding.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        writeln!(
            out,
            "{}: chain {} index {} run {} seq {seq}: {}",
            finding.fault, finding.chain_id, finding.index, finding.run, finding.detail
        )?;
    }
    if verdict.uncommitted > 0 {
        writeln!(
            out,
            "{} objects without a manifest: not committed, not verified",
            verdict.uncommitted
        )?;
    }
    let sum = if verdict.findings.is_empty() {
        "verified"
    } else {
        "NOT verified"
    };
    writeln!(
        out,
        "{sum}: {} chains, {} findings",
        verdict.chains.len(),
        verdict.findings.len()
    )?;
    out.flush()
}
