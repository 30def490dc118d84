//! `cargo xtask`: set-up, build, run, test and lint netprobe, each one command on a fresh machine.

mod build;
mod contract;
mod docs;
mod ebpf;
mod engine;
mod follow;
mod fuzz;
mod grafana;
mod imports;
mod lint;
mod mutants;
mod packages;
mod report;
mod sh;
mod start;
mod test;
mod toolchain;
mod vm;
mod web;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    /// Build the agent (without Kafka) and its BPF programs for arm64, on whatever this machine is
    Cross,
    /// Run the agent: probe on, API on http://127.0.0.1:9477, data in ./netprobe-data
    Run {
        /// Passed on to `netprobe run`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run every test; kernel tests on this kernel if it can, otherwise in a virtual machine
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Check format, lints and house rules
    Lint,
    /// Break the code in a copy, one mutant of tests/mutants after the other: the cases it names must fail
    Mutants {
        /// Ids of mutants [default: all]
        ids: Vec<String>,
        /// Run every case, not only those the mutant names
        #[arg(long)]
        all: bool,
        /// Run the cases on this kernel of vm/kernels.toml, in a virtual machine: for those this machine cannot run
        #[arg(long, value_name = "VERSION", conflicts_with = "all")]
        kernel: Option<String>,
    },
    /// Write what is generated: the references of commands and configuration, the Grafana dashboards
    Docs {
        /// Change nothing; fail when one of them, or a command in the documents, is out of date
        #[arg(long)]
        check: bool,
        /// Write the pictures of docs/pictures instead: the browser test's, of an agent with real traffic
        #[arg(long, conflicts_with = "check")]
        pictures: bool,
    },
    /// The long check: an archive killed a thousand times and a disk that loses its power, then a million connections
    /// against the generator's own log
    Validate {
        /// Passed on to the connections, which then run alone; `-- --help` lists them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Three hosts with an agent each, as namespaces of this machine: real traffic through a NAT gateway, an incident, one
    /// archive, one Kafka topic, one Prometheus, and one connection's story; about two minutes
    Fleet {
        /// Where what came of it is kept; emptied first
        #[arg(default_value = "target/fleet")]
        folder: PathBuf,
    },
    /// What the probe costs: interleaved pairs, with and without
    Bench {
        /// Passed on; `-- --help` lists them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Hold the API against its own document: schemathesis asks what the document allows, and what it does not
    Contract {
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Feed the readers of outside bytes with mutated input (needs a nightly toolchain)
    Fuzz {
        /// Targets, see tests/fuzz/fuzz_targets [default: all]
        targets: Vec<String>,
        /// How long each
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Build the dashboard into dashboards/web/dist, which the agent has inside
    Web {
        /// Change nothing; run its tests, and fail when the built files are not those of the sources
        #[arg(long)]
        check: bool,
    },
    /// Other kernels, in a virtual machine
    #[command(subcommand)]
    Vm(Vm),
}

/// What to do in virtual machines.
#[derive(Subcommand)]
enum Vm {
    /// Run the truth tests, as many machines at once as there are processors; a table of every method at the end
    Test {
        #[command(flatten)]
        machine: Machine,
        /// Keep what was measured in docs/kernels-data: budgets of the programs, figures of docs/kernels.md
        #[arg(long)]
        record: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Three machines, client, NAT gateway and server, with an agent each: what they say of the same connections
    Nodes {
        /// Kernels of client, gateway and server [default: 5.10 6.12 7.3]
        #[arg(num_args = 3, value_names = ["CLIENT", "GATEWAY", "SERVER"])]
        kernels: Vec<String>,
    },
    /// Run one command: `cargo xtask vm run --kernel 6.1 -- netprobe doctor`
    Run {
        #[command(flatten)]
        machine: Machine,
        /// A machine of vm/kernels.toml that is not the plain one
        #[arg(long, value_name = "NAME")]
        special: Option<String>,
        /// `netprobe`, a path to a program of this machine, or a tool of the guest
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
}

/// Which machines.
#[derive(clap::Args)]
struct Machine {
    /// A kernel of vm/kernels.toml, or `all`; may be repeated [default: all for tests, 6.12 for one command]
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
    /// Seconds without console output that count as a hang
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    silence: u64,
}

impl Machine {
    fn silence(&self) -> Duration {
        Duration::from_secs(self.silence)
    }
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
            if test {
                engine::ensure()?;
            }
            packages::ensure(Need::Agent)?;
            toolchain::find_or_install()?;
            toolchain::ensure_linker()
        }
        Command::Ebpf => ebpf::build().map(drop),
        Command::Cross => build::arm64(),
        Command::Run { args } => start::agent(&args),
        Command::Test { filter } => test::everything(filter.as_deref()),
        Command::Lint => lint::run(),
        Command::Mutants { ids, all, kernel } => mutants::run(&ids, all, kernel.as_deref()),
        Command::Web { check } => web::build(check),
        Command::Docs { pictures: true, .. } => test::pictures(),
        Command::Docs { check, .. } => docs::run(check),
        Command::Validate { args } => {
            if args.is_empty() {
                test::archive_campaigns()?;
            }
            start::test_program("validate", &args, &[])
        }
        Command::Fleet { folder } => test::fleet(&folder),
        Command::Bench { args } => start::bench(&args),
        Command::Contract { seconds } => contract::run(seconds),
        Command::Fuzz { targets, seconds } => fuzz::run(&targets, seconds),
        Command::Vm(Vm::Test {
            machine,
            record,
            filter,
        }) => test::on_kernels(&machine.kernels, filter.as_deref(), machine.silence(), record),
        Command::Vm(Vm::Nodes { kernels }) => vm::nodes::run(&kernels),
        Command::Vm(Vm::Run {
            machine,
            special,
            command,
        }) => vm::run(&machine.kernels, special.as_deref(), &command, machine.silence()),
    }
}
