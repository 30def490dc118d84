//! Strangers that read what the agent leaves, in tests: Python packages, each in an environment of its own.

use anyhow::{Context, Result};

use crate::packages::{self, Need};
use crate::sh::{self, say};

/// One of them.
struct Engine {
    /// Its folder below `target`, where the tests look for it: outside cargo's own folders, so that it outlives them.
    folder: &'static str,
    package: &'static str,
    module: &'static str,
    /// The version that the test was written with.
    version: &'static str,
}

const ENGINES: &[Engine] = &[
    Engine {
        folder: "duckdb",
        package: "duckdb",
        module: "duckdb",
        version: "2.0.0",
    },
    Engine {
        folder: "kafka",
        package: "confluent-kafka",
        module: "confluent_kafka",
        version: "2.16.1",
    },
];

/// Installs them below `target`, unless they are there.
pub(crate) fn ensure() -> Result<()> {
    packages::ensure(Need::Test)?;
    ENGINES.iter().try_for_each(Engine::ensure)
}

impl Engine {
    fn ensure(&self) -> Result<()> {
        let Engine {
            package,
            module,
            version,
            ..
        } = self;
        let folder = sh::root().join("target").join(self.folder);
        let python = folder.join("bin/python");
        let ask = format!("import {module}; print({module}.__version__)");
        if python.exists()
            && sh::output(sh::clean(&python).args(["-c", &ask])).is_ok_and(|said| said.trim() == *version)
        {
            return Ok(());
        }
        say!(
            "installing {package} {version} for Python into {}",
            folder.display()
        );
        sh::run(sh::clean("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        sh::run(sh::clean(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            &format!("{package}=={version}"),
        ]))
        .with_context(|| format!("{package} could not be installed; is the Python package index reachable?"))
    }
}
