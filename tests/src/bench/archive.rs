//! The archive: measured inside the agent, by a benchmark of its own crate.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Options;
use crate::agent::binary;

/// Where `cargo xtask bench` says that benchmark is.
const PROGRAM: &str = "NETPROBE_ARCHIVE_BENCH";

/// Measures, writes the raw data to a file, and tables to standard output.
pub fn run(options: &Options, output: &Path) -> Result<()> {
    let program = std::env::var_os(PROGRAM)
        .with_context(|| format!("{PROGRAM} is not set; start this by `cargo xtask bench`"))?;
    let status = Command::new(program)
        .arg("--output")
        .arg(output)
        .args(["--pairs", &options.pairs.to_string()])
        .args(["--events", &options.connections.to_string()])
        .args(["--day", &options.day.to_string()])
        .env("NETPROBE_BIN", binary()?)
        .status()?;
    ensure!(
        status.success(),
        "the benchmark of the archive ended with {status}"
    );
    Ok(())
}
