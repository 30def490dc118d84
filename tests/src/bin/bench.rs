//! `cargo xtask bench`: what the agent costs, measured; Markdown on stdout, raw data as JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use netprobe_tests::bench::{self, Options, Part, Seen};
use serde::Serialize;

/// Measures throughput with the agent off and on in interleaved pairs, and the agent's own cost.
#[derive(Parser)]
struct Arguments {
    /// What to measure.
    #[arg(long, value_enum, default_value = "cost")]
    part: Vec<Part>,
    /// Pairs per workload.
    #[arg(long, default_value_t = 60)]
    pairs: u32,
    /// Milliseconds of one measurement; of one step of stream and API they are to be some thousands.
    #[arg(long, default_value_t = 300)]
    slice_ms: u64,
    /// Connections for the figures per event.
    #[arg(long, default_value_t = 200_000)]
    connections: u64,
    /// Live flows for the figure of memory.
    #[arg(long, default_value_t = 100_000)]
    live: u64,
    /// Events of the day the archive is asked about.
    #[arg(long, default_value_t = 10_000_000)]
    day: u64,
    /// Of the stream, only the steps with so many clients.
    #[arg(long)]
    clients: Option<usize>,
    /// Lines for `[probe]` of the agent under test.
    #[arg(long, default_value = "")]
    probe: String,
    /// Where the raw data go: bench.json of the cost, stream.json, browser.json, api.json, archive.json, kafka.json,
    /// requests.json.
    #[arg(long, default_value = "docs/perf-data")]
    output: PathBuf,
    /// Holds so many flows until standard input ends: what the bench starts itself with.
    #[arg(long, hide = true)]
    hold: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(flows) = arguments.hold {
        return bench::hold(flows);
    }
    let options = Options {
        pairs: arguments.pairs,
        slice: Duration::from_millis(arguments.slice_ms),
        connections: arguments.connections,
        live: arguments.live,
        probe: arguments.probe.clone(),
        day: arguments.day,
        clients: arguments.clients,
    };
    std::fs::create_dir_all(&arguments.output)?;
    if arguments.part.contains(&Part::Cost) {
        let report = bench::run(&options)?;
        write(&arguments.output.join("bench.json"), &report)?;
        print!("{}", bench::markdown(&report));
    }
    if arguments.part.contains(&Part::Archive) {
        bench::archive(&options, &arguments.output.join("archive.json"))?;
    }
    if arguments.part.contains(&Part::Kafka) {
        bench::kafka(&options, &arguments.output.join("kafka.json"))?;
    }
    if arguments.part.contains(&Part::Requests) {
        let requests = bench::requests(&options)?;
        write(&arguments.output.join("requests.json"), &requests)?;
        print!("{}", requests.markdown());
    }
    for (part, file) in [
        (Part::Stream, "stream.json"),
        (Part::Browser, "browser.json"),
        (Part::Api, "api.json"),
    ] {
        if arguments.part.contains(&part) {
            let seen = Seen::measure(&options, &[part])?;
            write(&arguments.output.join(file), &seen)?;
            print!("{}", seen.markdown());
        }
    }
    Ok(())
}

fn write(file: &Path, report: &impl Serialize) -> Result<()> {
    std::fs::write(file, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("cannot write {}", file.display()))
}
