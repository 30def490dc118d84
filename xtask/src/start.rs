//! Commands that build something and become it: the agent, the validation, the benchmark.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::packages::{self, Need};
use crate::sh::{self, say};
use crate::web;

/// Builds the agent and becomes `netprobe run --profile dev`.
pub(crate) fn agent(args: &[String]) -> Result<()> {
    packages::ensure(Need::Build)?;
    let agent = build::agent()?;
    let mut cmd = sh::privileged(agent)?;
    become_it(cmd.args(["run", "--profile", "dev"]).args(args))
}

/// Builds the benchmark and becomes it. What measures archive and Kafka does so inside the agent: programs of their own,
/// which the benchmark finds by `NETPROBE_ARCHIVE_BENCH` and `NETPROBE_KAFKA_BENCH`.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    packages::ensure(Need::Test)?;
    let wants = |name: &str| {
        args.iter()
            .any(|arg| arg.strip_prefix("--part=").unwrap_or(arg) == name)
    };
    if wants("browser") {
        web::modules()?;
    }
    let mut variables = Vec::new();
    for name in ["archive", "kafka"] {
        if wants(name) {
            let program = build::bench(name)?;
            variables.push(format!(
                "NETPROBE_{}_BENCH={}",
                name.to_uppercase(),
                program.display()
            ));
        }
    }
    test_program("bench", args, &variables)
}

/// Builds a program of the tests, optimised, and becomes it; it finds the agent by `NETPROBE_BIN`.
pub(crate) fn test_program(name: &str, args: &[String], variables: &[String]) -> Result<()> {
    packages::ensure(Need::Test)?;
    let agent = build::agent()?;
    say!("building {name}");
    sh::run(sh::cargo(None).args(["build", "--release", "-p", "netprobe-tests", "--bin", name]))
        .with_context(|| format!("{name} did not build"))?;
    let mut cmd = sh::privileged("env")?;
    cmd.arg(format!("NETPROBE_BIN={}", agent.display()));
    cmd.args(variables);
    become_it(
        cmd.arg(sh::target().join("release").join(name))
            .args(args)
            .current_dir(sh::root()),
    )
}

/// Replaces this process, so that signals and the exit code are the program's own.
fn become_it(cmd: &mut Command) -> Result<()> {
    say!("{}", sh::shown(cmd));
    Err(cmd.exec()).with_context(|| format!("cannot start `{}`", sh::shown(cmd)))
}
