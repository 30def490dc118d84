//! What a new configuration changes while the agent runs, and what needs a restart.

use toml::{Table, Value};

use super::{Config, ConfigError};

/// Keys that take effect at SIGHUP. Every other key needs a restart.
const LIVE: &[&str] = &[
    "api.tls_cert",
    "api.tls_key",
    "api.tls_client_ca",
    "api.tokens",
    "api.anonymous",
    "api.allowed_hosts",
    "api.allowed_origins",
    "api.rate_limit",
    "log.level",
    "log.targets",
    "log.max_repeats",
];

/// Names of the keys in which two configurations differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that take effect at once.
    pub live: Vec<String>,
    /// Those that need a restart.
    pub restart: Vec<String>,
}

/// Whether a key takes effect at SIGHUP.
pub(super) fn is_live(section: &str, key: &str) -> bool {
    LIVE.iter()
        .any(|live| live.split_once('.') == Some((section, key)))
}

impl Config {
    /// What changes from this configuration to another.
    pub fn changes(&self, new: &Config) -> Changes {
        let table = |config| Table::try_from(config).unwrap_or_default();
        let (old, new) = (table(self), table(new));
        let mut changes = Changes::default();
        for (section, values) in &new {
            let Value::Table(values) = values else { continue };
            for (key, value) in values {
                if old.get(section).and_then(|values| values.get(key)) == Some(value) {
                    continue;
                }
                let name = format!("{section}.{key}");
                if is_live(section, key) {
                    changes.live.push(name);
                } else {
                    changes.restart.push(name);
                }
            }
        }
        changes
    }

    /// This configuration with the keys of another one that take effect while the agent runs.
    pub fn with_live_keys_of(&self, new: &Config) -> Result<Config, ConfigError> {
        let refused = |error: &dyn std::fmt::Display| ConfigError::Invalid {
            place: "the reloaded configuration".to_owned(),
            message: error.to_string(),
        };
        let table = |config| Table::try_from(config).map_err(|error| refused(&error));
        let (mut merged, new) = (table(self)?, table(new)?);
        for (section, key) in LIVE.iter().filter_map(|name| name.split_once('.')) {
            if let (Some(Value::Table(values)), Some(value)) = (
                merged.get_mut(section),
                new.get(section).and_then(|values| values.get(key)),
            ) {
                values.insert(key.to_owned(), value.clone());
            }
        }
        merged
            .try_into()
            .map_err(|error: toml::de::Error| refused(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;

    #[test]
    fn changes_are_told_apart_by_what_they_need() {
        let old = Config::default();
        let mut new = Config::default();
        assert_eq!(old.changes(&new), Changes::default());
        new.log.level = LogLevel::Debug;
        new.api.rate_limit = 7;
        new.flow.max_flows = 7;
        let changes = old.changes(&new);
        assert_eq!(changes.live, ["api.rate_limit", "log.level"]);
        assert_eq!(changes.restart, ["flow.max_flows"]);
        let running = old.with_live_keys_of(&new).unwrap();
        assert_eq!(old.changes(&running).restart, [""; 0]);
        assert_eq!(running.changes(&new).restart, ["flow.max_flows"]);
        assert_eq!(running.changes(&new).live, [""; 0]);
    }

    #[test]
    fn every_live_key_exists() {
        let table = Table::try_from(Config::default()).unwrap();
        for name in LIVE {
            let (section, key) = name.split_once('.').unwrap();
            assert!(table[section].get(key).is_some(), "{name}");
        }
    }
}
