//! DuckDB, a stranger that reads the archive in a test: a Python package in an environment of its own.

use anyhow::{Context, Result};

use crate::packages::{self, Need};
use crate::sh::{self, say};

/// The version that the test was written with.
const VERSION: &str = "2.0.0";

/// Installs it below `target`, unless it is there.
pub(crate) fn ensure() -> Result<()> {
    packages::ensure(Need::Test)?;
    // Where the test looks for it, too; outside cargo's own folders, so that it outlives them.
    let folder = sh::root().join("target/duckdb");
    let python = folder.join("bin/python");
    let ask = "import duckdb; print(duckdb.__version__)";
    if python.exists()
        && sh::output(sh::clean(&python).args(["-c", ask])).is_ok_and(|said| said.trim() == VERSION)
    {
        return Ok(());
    }
    say!("installing DuckDB {VERSION} for Python into {}", folder.display());
    sh::run(sh::clean("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    sh::run(sh::clean(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &format!("duckdb=={VERSION}"),
    ]))
    .context("DuckDB could not be installed; is the Python package index reachable?")
}
