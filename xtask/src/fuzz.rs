//! `cargo xtask fuzz`: every fuzz target for a while, from the seeds in tests/fixtures.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::ebpf;
use crate::packages::{self, Need};
use crate::sh::{self, say};

/// The version the targets were written for.
const CARGO_FUZZ: &str = "0.13.2";

/// Runs the named targets, or all, `seconds` each; a finding is a failure that names the file that shows it.
pub(crate) fn run(wanted: &[String], seconds: u32) -> Result<()> {
    packages::ensure(Need::Build)?;
    let all = targets()?;
    if let Some(unknown) = wanted.iter().find(|target| !all.contains(target)) {
        bail!(
            "there is no fuzz target `{unknown}`; there are {}",
            all.join(", ")
        );
    }
    if sh::output(sh::cargo(Some("nightly")).arg("--version")).is_err() {
        bail!(
            "fuzzing needs a nightly toolchain: run `rustup toolchain install nightly`; \
             the same entry points run without it in `cargo test -p netprobe-agent --test fuzz_entries`"
        );
    }
    if sh::output(sh::cargo(Some("nightly")).args(["fuzz", "--version"])).is_err() {
        say!("installing cargo-fuzz {CARGO_FUZZ}");
        sh::run(sh::cargo(None).args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"]))?;
    }
    // The agent does not compile without it.
    ebpf::build()?;
    let targets = if wanted.is_empty() { &all } else { wanted };
    let mut failed = Vec::new();
    for target in targets {
        say!("fuzzing {target} for {seconds} s");
        let corpus = folder().join("corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        let mut cmd = sh::cargo(Some("nightly"));
        cmd.args(["fuzz", "run", "--fuzz-dir"]).arg(folder()).arg(target);
        // New inputs go to the first folder, the seeds are only read.
        cmd.arg(&corpus)
            .arg(sh::root().join("tests/fixtures").join(target));
        cmd.arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-print_final_stats=1"]);
        if let Err(error) = sh::run(&mut cmd) {
            say!("{error:#}");
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "fuzzing found something in {}: the inputs are in tests/fuzz/artifacts",
        failed.join(", ")
    );
}

fn folder() -> PathBuf {
    sh::root().join("tests/fuzz")
}

/// Names of the targets: one file each.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        if let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared_and_has_seeds() {
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("the manifest");
        let targets = targets().expect("targets");
        assert!(!targets.is_empty());
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target} is not declared"
            );
            let seeds = sh::root().join("tests/fixtures").join(&target);
            assert!(
                fs::read_dir(&seeds).is_ok_and(|mut files| files.next().is_some()),
                "{target} has no seeds"
            );
        }
    }
}
