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
    /// Without the packages it names: they are for what no test asks of it.
    alone: bool,
}

const ENGINES: &[Engine] = &[
    Engine {
        folder: "duckdb",
        package: "duckdb",
        module: "duckdb",
        version: "2.0.0",
        alone: false,
    },
    Engine {
        folder: "clickhouse",
        package: "chdb-core",
        module: "chdb",
        version: "26.9.0",
        alone: true,
    },
    Engine {
        folder: "kafka",
        package: "confluent-kafka",
        module: "confluent_kafka",
        version: "2.16.1",
        alone: false,
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
            alone,
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
        sh::run(
            sh::clean(&python)
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    &format!("{package}=={version}"),
                ])
                .args(alone.then_some("--no-deps")),
        )
        .with_context(|| format!("{package} could not be installed; is the Python package index reachable?"))
    }
}
