//! What the archive costs and how long it takes: `cargo xtask bench -- --part archive`. Needs some gigabytes below the
//! folder of temporary files (TMPDIR); the figures are of the disk that is on.

mod host;
mod measures;
mod pass;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use measures::{Day, Durable, Recovery, Throughput};
use netprobe_tests::bench::{machine, median};
use serde::Serialize;

/// Rates at which events are timed until they are durable, a second.
const RATES: [u64; 3] = [100, 2_000, 20_000];
/// How long each.
const LENGTH: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    /// Where the raw data go.
    #[arg(long)]
    output: PathBuf,
    /// Passes with syncs and without.
    #[arg(long)]
    pairs: u32,
    /// Events of a pass.
    #[arg(long)]
    events: u64,
    /// Events of the day that is asked.
    #[arg(long)]
    day: u64,
    /// Bytes of the spool that is recovered.
    #[arg(long, default_value_t = 1 << 30)]
    spool: u64,
    /// What cargo says to a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Everything measured.
#[derive(Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    durable: Vec<Durable>,
    throughput: Throughput,
    recovery: Recovery,
    day: Day,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    eprintln!("bench: from an event to its durability");
    let durable: Result<Vec<_>> = RATES
        .into_iter()
        .map(|rate| measures::durable(rate, LENGTH))
        .collect();
    let durable = durable?;
    eprintln!("bench: {} passes with syncs and without", arguments.pairs);
    let throughput = measures::throughput(arguments.pairs, arguments.events)?;
    eprintln!("bench: a start on a spool of {} MiB", arguments.spool >> 20);
    let recovery = measures::recovery(arguments.spool)?;
    eprintln!("bench: a day of {} events", arguments.day);
    let report = Report {
        durable,
        throughput,
        recovery,
        day: measures::day(arguments.day)?,
        machine: machine(),
    };
    std::fs::write(&arguments.output, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", arguments.output.display()))?;
    print!("{}", markdown(&report));
    Ok(())
}

fn markdown(report: &Report) -> String {
    let mut text = String::from("| machine | |\n|---|---|\n");
    for (key, value) in &report.machine {
        text += &format!("| {key} | {value} |\n");
    }
    text += "\n| events/s | event to durable p50 | p99 | longest |\n|---|---|---|---|\n";
    for d in &report.durable {
        text += &format!(
            "| {} | {:.0} ms | {:.0} ms | {:.0} ms |\n",
            d.rate, d.p50_ms, d.p99_ms, d.longest_ms
        );
    }
    let (t, r, d) = (&report.throughput, &report.recovery, &report.day);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let gib = r.bytes as f64 / f64::from(1 << 30);
    text + &format!(
        "\n| figure | value |\n|---|---|\n\
         | events/s through spool and upload (median of {} × {}) | {:.0} |\n\
         | the same path without syncs | {:.0} |\n\
         | with ÷ without (95 % interval) | {:.3} ({:.3} to {:.3}) |\n\
         | CPU per event: writing, sealing, uploading | {:.1} µs |\n\
         | start on a spool of {:.0} MiB, {} segments not sealed: until it goes on, per GiB | {:.1} s |\n\
         | until all of it is in the archive, per GiB | {:.1} s |\n\
         | a day of {} events: as JSON / as objects / segments | {:.0} MiB / {:.0} MiB / {} |\n\
         | compression | {:.1} : 1 |\n\
         | query of one service's hour, {} events | {:.2} s |\n\
         | verify the day | {:.1} s |\n\
         | restore the day | {:.1} s |\n\
         | `sla` of the day | {:.1} s |\n\
         | `timeline` of an hour of it | {:.1} s |\n",
        t.synced.len(),
        t.events,
        median(&t.synced),
        median(&t.unsynced),
        t.ratio.middle,
        t.ratio.low,
        t.ratio.high,
        median(&t.cpu_us),
        mib(r.bytes),
        r.segments,
        r.ready_seconds / gib,
        r.archived_seconds / gib,
        d.events,
        mib(d.lines_bytes),
        mib(d.object_bytes),
        d.segments,
        d.lines_bytes as f64 / d.object_bytes as f64,
        d.found,
        median(&d.query_seconds),
        d.verify_seconds,
        d.restore_seconds,
        d.sla_seconds,
        d.timeline_seconds,
    )
}
