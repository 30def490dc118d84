//! `cargo xtask lint`: format, lints and house rules. Host and BPF crates apart: they differ in target,
//! toolchain and flags. Every gate runs, then the failed ones are named.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::sh::{self, say};
use crate::{build, ebpf, imports, mutants, toolchain};

/// Folders and the length past which a file there is two things.
const LENGTHS: &[(&str, usize)] = &[
    ("netprobe-ebpf/src/hooks", 150),
    ("netprobe-ebpf/src", 400),
    ("netprobe-agent/src", 400),
    ("netprobe-common/src", 400),
    ("tests", 400),
    ("xtask/src", 400),
];

type Gate = (&'static str, fn() -> Result<()>);

const GATES: &[Gate] = &[
    ("format, host crates", || {
        sh::run(sh::cargo(None).args(["fmt", "--all", "--check"]))
    }),
    ("format, BPF crate", || {
        sh::run(
            sh::cargo(None)
                .args(["fmt", "--check"])
                .current_dir(ebpf::crate_dir()),
        )
    }),
    ("format, fuzz crate", format_fuzz),
    ("lock files are current", locks),
    ("clippy, host crates", || {
        clippy_host(&["--workspace", "--all-targets"], &build::FEATURES)
    }),
    ("clippy, agent without features", || {
        clippy_host(&["-p", "netprobe-agent"], &[])
    }),
    ("clippy, BPF crate", clippy_bpf),
    ("data flows one way", || {
        imports::check(&sh::root().join("netprobe-agent/src"))
    }),
    ("mutants fit code and cases", || mutants::check(sh::root())),
];

/// Runs every gate.
pub(crate) fn run() -> Result<()> {
    packages::ensure(Need::Agent)?;
    for component in ["fmt", "clippy"] {
        component_there(component)?;
    }
    // The agent embeds the object, so its lints need it.
    ebpf::build()?;
    let mut failed = Vec::new();
    for (name, gate) in GATES {
        match gate() {
            Ok(()) => say!("ok: {name}"),
            Err(error) => {
                say!("FAILED: {name}: {error:#}");
                failed.push(*name);
            }
        }
    }
    report_lengths()?;
    if !failed.is_empty() {
        bail!(
            "{} of {} gates failed: {}",
            failed.len(),
            GATES.len(),
            failed.join(", ")
        );
    }
    Ok(())
}

/// rustup's minimal profile has neither.
fn component_there(subcommand: &str) -> Result<()> {
    if sh::cargo(None)
        .args([subcommand, "--version"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        return Ok(());
    }
    let component = if subcommand == "fmt" {
        "rustfmt"
    } else {
        subcommand
    };
    say!("rustup component add {component}");
    sh::run(sh::clean("rustup").args(["component", "add", component]))
}

fn format_fuzz() -> Result<()> {
    let dir = sh::root().join("tests/fuzz");
    if !dir.join("Cargo.toml").exists() {
        return Ok(());
    }
    sh::run(sh::cargo(None).args(["fmt", "--check"]).current_dir(dir))
}

/// A build that changes a lock file is a build nobody reviewed.
fn locks() -> Result<()> {
    for dir in [sh::root().to_owned(), ebpf::crate_dir()] {
        sh::run(
            sh::cargo(None)
                .args(["metadata", "--locked", "--quiet", "--format-version", "1"])
                .current_dir(&dir)
                .stdout(Stdio::null()),
        )
        .with_context(|| format!("run `cargo check` in {} and commit its Cargo.lock", dir.display()))?;
    }
    Ok(())
}

fn clippy_host(selection: &[&str], features: &[&str]) -> Result<()> {
    sh::run(
        sh::cargo(None)
            .args(["clippy", "--quiet"])
            .args(selection)
            .args(features)
            .args(["--", "-D", "warnings"]),
    )
}

fn clippy_bpf() -> Result<()> {
    let tools = toolchain::find_or_install()?;
    let check = if tools.has("clippy") {
        "clippy"
    } else {
        say!(
            "{} has no clippy: the BPF crate gets the compiler's own warnings only",
            tools.label
        );
        "check"
    };
    let mut cmd = tools.cargo(&ebpf::crate_dir());
    cmd.args([
        check,
        "--quiet",
        "--release",
        "-Z",
        "build-std=core",
        "--target",
        ebpf::TARGET,
    ]);
    if check == "clippy" {
        cmd.env("RUSTFLAGS", ebpf::RUSTFLAGS)
            .args(["--", "-D", "warnings"]);
    } else {
        cmd.env("RUSTFLAGS", format!("{} -D warnings", ebpf::RUSTFLAGS));
    }
    sh::run(&mut cmd)
}

/// Names long files; a nudge, not a gate.
fn report_lengths() -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (folder, limit) in LENGTHS {
        let folder = sh::root().join(folder);
        if !folder.exists() {
            continue;
        }
        for file in imports::rust_files(&folder)? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let lines = text.lines().count();
            // The first folder that holds a file has the word.
            if seen.insert(file.clone()) && lines > *limit {
                let shown = file.strip_prefix(sh::root()).unwrap_or(&file).display();
                say!("long: {shown} has {lines} lines (about {limit} is the rule)");
            }
        }
    }
    Ok(())
}
