//! Reading a configuration in layers.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// On a developer's machine: text logs, faster updates.
    Dev,
    /// Like production, with debug logs.
    Staging,
    /// The shipped defaults.
    #[default]
    Production,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A profile.
    Profile(Profile),
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
}

impl Profile {
    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Staging => "staging",
            Profile::Production => "production",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Profile(profile) => write!(f, "profile {}", profile.name()),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A value is not allowed.
    #[error("{source_name}: {message}")]
    Invalid {
        /// Where the value came from, with its line.
        source_name: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

impl Config {
    /// The defaults of a profile.
    pub fn of_profile(profile: Profile) -> Config {
        let mut config = Config::default();
        match profile {
            Profile::Dev => {
                config.log.format = super::LogFormat::Text;
                config.flow.update_every = super::Period::seconds(2);
            }
            Profile::Staging => config.log.level = super::LogLevel::Debug,
            Profile::Production => {}
        }
        config
    }
}
