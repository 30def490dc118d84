//! `cargo xtask web`: the dashboard, from its sources to the files the agent has inside.
//!
//! The built files are committed, so that building netprobe needs neither Node nor a network; `--check` holds them
//! against the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::sh::{self, say};

fn folder() -> PathBuf {
    sh::root().join("dashboards/web")
}

fn npm(arguments: &[&str]) -> Result<()> {
    sh::run(sh::clean("npm").args(arguments).current_dir(folder()))
}

/// Fetches what building and testing the page needs, unless it is there.
pub(crate) fn modules() -> Result<()> {
    packages::ensure(Need::Test)?;
    let (lock, installed) = (
        folder().join("package-lock.json"),
        folder().join("node_modules/.netprobe-lock"),
    );
    let wanted = fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    if fs::read(&installed).is_ok_and(|known| known == wanted) {
        return Ok(());
    }
    say!("fetching what the dashboard is built and tested with");
    npm(&["ci", "--ignore-scripts", "--no-audit", "--no-fund"])?;
    fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))
}

/// Builds the page; with `check`, tests it and compares.
pub(crate) fn build(check: bool) -> Result<()> {
    modules()?;
    if !check {
        return npm(&["run", "build"]);
    }
    npm(&["test"])?;
    let committed = files(&folder().join("dist"))?;
    let fresh = sh::root().join("target/web");
    npm(&[
        "run",
        "build",
        "--",
        "--outDir",
        &fresh.display().to_string(),
        "--emptyOutDir",
    ])?;
    if committed != files(&fresh)? {
        bail!(
            "dashboards/web/dist is not what its sources make: run `cargo xtask web` and commit the result"
        );
    }
    say!("ok: the dashboard's built files are those of its sources");
    Ok(())
}

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder)?.to_owned();
                found.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}
