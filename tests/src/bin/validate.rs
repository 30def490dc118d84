//! `cargo xtask validate`: a million scripted connections against the generator's own log.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use netprobe_tests::validate::{self, Options};

/// Makes scripted connections in phases and holds every event of the agent against the generator's log.
#[derive(Parser)]
struct Arguments {
    /// Connections over all phases.
    #[arg(long, default_value_t = 1_000_000)]
    connections: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that make connections.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only phases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where the result goes, as JSON.
    #[arg(long, default_value = "target/validate.json")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("validate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let options = Options {
        connections: arguments.connections,
        seed: arguments.seed,
        threads: arguments.threads,
        only: arguments.only.clone(),
    };
    let report = validate::run(&options)?;
    print!("{}", validate::table(&report));
    for fault in &report.faults {
        println!("fault: {fault}");
    }
    if let Some(folder) = arguments.output.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.output, serde_json::to_vec_pretty(&report)?)?;
    println!(
        "result: {}",
        if report.faults.is_empty() {
            "passed"
        } else {
            "FAILED"
        }
    );
    Ok(report.faults.is_empty())
}
