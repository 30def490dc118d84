//! Archive and Kafka: measured inside the agent, by benchmarks of its own crate.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::agent::binary;

/// Measures the archive, writes the raw data to a file, and tables to standard output.
pub fn archive(options: &Options, output: &Path) -> Result<()> {
    let day = options.day.to_string();
    inside("archive", &["--day", &day], options, output)
}

/// The same of Kafka; a pair is two passes.
pub fn kafka(options: &Options, output: &Path) -> Result<()> {
    inside("kafka", &[], options, output)
}

/// Runs the benchmark that `cargo xtask bench` names.
fn inside(name: &str, arguments: &[&str], options: &Options, output: &Path) -> Result<()> {
    let variable = format!("NETPROBE_{}_BENCH", name.to_uppercase());
    let program = std::env::var_os(&variable)
        .with_context(|| format!("{variable} is not set; start this by `cargo xtask bench`"))?;
    let status = Command::new(program)
        .arg("--output")
        .arg(output)
        .args(["--pairs", &options.pairs.to_string()])
        .args(["--events", &options.connections.to_string()])
        .args(arguments)
        .env("NETPROBE_BIN", binary()?)
        .status()?;
    ensure!(status.success(), "the benchmark of {name} ended with {status}");
    Ok(())
}
