//! `cargo xtask`: set-up, build, run, test and lint netprobe, each one command on a fresh machine.

mod ebpf;
mod packages;
mod sh;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use packages::{Need, SetupNeeded};

/// Sets up, builds, runs and tests netprobe. Every command does its own set-up.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: packages, the BPF toolchain, bpf-linker
    Setup {
        /// Also what the tests need
        #[arg(long)]
        test: bool,
    },
    /// Build the BPF programs into target/bpf/netprobe.bpf.o
    Ebpf,
}

fn main() -> ExitCode {
    match dispatch(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            // 2: somebody has to install something; 1: the work itself failed.
            if error.chain().any(|e| e.is::<SetupNeeded>()) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Setup { test } => {
            packages::ensure(if test { Need::Test } else { Need::Build })?;
            toolchain::find_or_install()?;
            toolchain::ensure_linker()
        }
        Command::Ebpf => ebpf::build().map(drop),
    }
}
