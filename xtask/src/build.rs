//! Host builds, and where cargo put them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::ebpf;
use crate::packages::{self, Need};
use crate::sh::{self, say};

/// An agent that is built already, to be used instead of building one.
const BUILT: &str = "NETPROBE_BIN";

/// What the released agent has, and plain cargo leaves out.
pub(crate) const FEATURES: [&str; 2] = ["--features", "netprobe-agent/kafka"];

/// The agent as users run it: BPF object first, then an optimised binary. Returns its path.
pub(crate) fn agent() -> Result<PathBuf> {
    if let Some(agent) = std::env::var_os(BUILT).map(PathBuf::from) {
        let agent = agent
            .canonicalize()
            .with_context(|| format!("{BUILT}: {}", agent.display()))?;
        say!("using {} ({BUILT})", agent.display());
        return Ok(agent);
    }
    ebpf::build()?;
    packages::ensure(Need::Agent)?;
    say!("building netprobe");
    sh::run(
        sh::cargo(None)
            .args(["build", "--release", "-p", "netprobe-agent", "--bin", "netprobe"])
            .args(FEATURES),
    )
    .context("netprobe did not build")?;
    Ok(sh::target().join("release/netprobe"))
}

/// The agent for arm64, BPF object first; without Kafka, whose library would need OpenSSL of that architecture.
pub(crate) fn arm64() -> Result<()> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    const LINKER: &str = "aarch64-linux-gnu-gcc";
    if cfg!(target_arch = "aarch64") {
        return agent().map(drop);
    }
    if sh::which(LINKER).is_none() {
        packages::install_named(&["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])?;
    }
    sh::run(sh::clean("rustup").args(["target", "add", TARGET]))
        .context("the standard library for arm64 did not install")?;
    ebpf::build_for("aarch64")?;
    say!("building netprobe for arm64");
    let linker = format!("target.{TARGET}.linker=\"{LINKER}\"");
    sh::run(
        sh::cargo(None)
            .env("CC_aarch64_unknown_linux_gnu", LINKER)
            .args(["build", "--release", "-p", "netprobe-agent", "--bin", "netprobe"])
            .args(["--target", TARGET, "--config", &linker]),
    )
    .context("netprobe did not build for arm64")?;
    let agent = sh::target().join(TARGET).join("release/netprobe");
    say!("built {}", agent.display());
    Ok(())
}

/// The truth tests, built and not run.
pub(crate) fn truth() -> Result<PathBuf> {
    say!("building the truth tests");
    executable(
        sh::cargo(None).args(["test", "--no-run", "-p", "netprobe-tests", "--test", "truth"]),
        "truth",
    )
    .context("the truth tests did not build")
}

/// What measures a part of the agent from inside, optimised: a benchmark of its crate. It needs the BPF object, as
/// whatever is made of the agent.
pub(crate) fn bench(name: &str) -> Result<PathBuf> {
    packages::ensure(Need::Agent)?;
    ebpf::build()?;
    say!("building the benchmark `{name}`");
    executable(
        sh::cargo(None)
            .args(["bench", "--no-run", "-p", "netprobe-agent", "--bench", name])
            .args(FEATURES),
        name,
    )
    .with_context(|| format!("the benchmark `{name}` did not build"))
}

/// The program of the three nodes.
pub(crate) fn nodes() -> Result<PathBuf> {
    executable(
        sh::cargo(None).args(["build", "-p", "netprobe-tests", "--bin", "nodes"]),
        "nodes",
    )
    .context("the program of the nodes did not build")
}

/// PID 1 of the virtual machines, linked statically: nothing is there yet when it starts.
pub(crate) fn vm_init() -> Result<PathBuf> {
    let host = host_triple()?;
    executable(
        sh::cargo(None)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .args(["build", "--release", "-p", "vm-init", "--target", &host]),
        "vm-init",
    )
    .context("vm-init did not build; a static C library is needed (libc.a)")
}

fn host_triple() -> Result<String> {
    let version = sh::output(sh::clean("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    Ok(host.trim().to_owned())
}

/// Runs a cargo build and returns the executable of one target; a test's package builds its programs, too.
pub(crate) fn executable(cmd: &mut Command, target: &str) -> Result<PathBuf> {
    cmd.args(["--message-format", "json-render-diagnostics"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let shown = sh::shown(cmd);
    let out = cmd.output().with_context(|| format!("cannot start `{shown}`"))?;
    if !out.status.success() {
        bail!("`{shown}` failed ({})", out.status);
    }
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("`{shown}` built no {target}"))
}
