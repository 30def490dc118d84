//! `cargo xtask bench`: what the agent costs, measured; Markdown on stdout, raw data as JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use netprobe_tests::bench::{self, Options};

/// Measures throughput with the agent off and on in interleaved pairs, and the agent's own cost.
#[derive(Parser)]
struct Arguments {
    /// Pairs per workload.
    #[arg(long, default_value_t = 60)]
    pairs: u32,
    /// Milliseconds of one measurement.
    #[arg(long, default_value_t = 300)]
    slice_ms: u64,
    /// Connections for the figures per event.
    #[arg(long, default_value_t = 200_000)]
    connections: u64,
    /// Live flows for the figure of memory.
    #[arg(long, default_value_t = 100_000)]
    live: u64,
    /// Lines for `[probe]` of the agent under test.
    #[arg(long, default_value = "")]
    probe: String,
    /// Where the raw data go.
    #[arg(long, default_value = "docs/perf-data/bench.json")]
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
    let report = bench::run(&Options {
        pairs: arguments.pairs,
        slice: Duration::from_millis(arguments.slice_ms),
        connections: arguments.connections,
        live: arguments.live,
        probe: arguments.probe.clone(),
    })?;
    if let Some(folder) = arguments.output.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.output, serde_json::to_vec_pretty(&report)?)?;
    print!("{}", bench::markdown(&report));
    Ok(())
}
