//! One of three nodes, and the judge of all of them: what `cargo xtask vm nodes` runs in and beside its machines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use netprobe_tests::nodes::{self, Role};
use netprobe_tests::traffic;

/// A node of the three-node test, or its judge.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be this node: inside the machine
    Be {
        /// Which
        role: Role,
    },
    /// Hold what the three said on their consoles against each other
    Check {
        /// The client's console
        client: PathBuf,
        /// The gateway's
        gateway: PathBuf,
        /// The server's
        server: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Some(code) = traffic::main_if_asked() {
        return code;
    }
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Be { role } => nodes::run(role),
        Command::Check {
            client,
            gateway,
            server,
        } => {
            let mut consoles = BTreeMap::new();
            for (role, file) in [
                (Role::Client, client),
                (Role::Gateway, gateway),
                (Role::Server, server),
            ] {
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                consoles.insert(role, text);
            }
            let agreed = nodes::check(&consoles)?;
            println!("{agreed} connections: the agents of client, gateway and server agree with conntrack");
            Ok(())
        }
    }
}
