//! Reading a configuration in layers: profile, file, environment.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{Config, LogFormat, LogLevel, Period};

/// The file read when none is named.
pub const DEFAULT_PATH: &str = "/etc/netprobe/netprobe.toml";

/// The shipped default file: every key, documented.
pub const DEFAULT_FILE: &str = include_str!("../../netprobe.default.toml");

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// On a developer's machine: logs as text, updates every 2 s
    Dev,
    /// Like production, with debug logs
    Staging,
    /// The shipped defaults
    #[default]
    Production,
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
    #[error("{place}: {message}")]
    Invalid {
        /// Where it stands: file and line, or variable, and the key.
        place: String,
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
                config.log.format = LogFormat::Text;
                config.flow.update_every = Period::seconds(2);
            }
            Profile::Staging => config.log.level = LogLevel::Debug,
            Profile::Production => {}
        }
        config
    }

    /// Reads the layers. Without `path` the file at [`DEFAULT_PATH`] is read when there is one.
    pub fn load(
        profile: Profile,
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let (path, must_exist) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => String::new(),
            Err(error) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    error,
                });
            }
        };
        Config::from_layers(profile, &path.display().to_string(), &text, environment)
    }

    /// The same with the text of the file; `name` is what errors call it.
    pub fn from_layers(
        profile: Profile,
        name: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let invalid = |place: String, message: &str| ConfigError::Invalid {
            place,
            message: message.to_owned(),
        };
        let in_file = |error: &toml::de::Error| invalid(place_of(name, text, error), error.message());
        // Read on its own first: only then does an error know its line.
        let file: Config = toml::from_str(text).map_err(|error| in_file(&error))?;
        file.contradiction().map_or(Ok(()), |(section, key, message)| {
            let line = line_of(text, section, key).map_or_else(String::new, |line| format!(" line {line},"));
            Err(invalid(format!("{name},{line} {section}.{key}"), message))
        })?;
        let whole = |error: &dyn std::fmt::Display| invalid(name.to_owned(), &error.to_string());
        let mut table = Table::try_from(Config::of_profile(profile)).map_err(|error| whole(&error))?;
        for (section, values) in toml::from_str::<Table>(text).map_err(|error| in_file(&error))? {
            if let (Some(Value::Table(into)), Value::Table(values)) = (table.get_mut(&section), values) {
                into.extend(values);
            }
        }
        let mut variables: Vec<_> = environment.into_iter().collect();
        variables.sort();
        for (variable, text) in variables {
            let Some((section, key)) = section_and_key(&table, &variable) else {
                continue;
            };
            let place = format!("environment variable {variable}, {section}.{key}");
            let Some(Value::Table(values)) = table.get_mut(&section) else {
                continue;
            };
            let Some(value) = values.get(&key) else {
                let known: Vec<_> = values.keys().map(String::as_str).collect();
                return Err(invalid(
                    place,
                    &format!("there is no such key; allowed are {}", known.join(", ")),
                ));
            };
            let value = shaped_like(value, &text).map_err(|message| invalid(place.clone(), &message))?;
            values.insert(key, value);
            table
                .clone()
                .try_into::<Config>()
                .map_err(|error| invalid(place, error.message()))?;
        }
        let config: Config = table.try_into().map_err(|error| whole(&error))?;
        match config.contradiction() {
            None => Ok(config),
            Some((section, key, message)) => Err(invalid(format!("{section}.{key}"), message)),
        }
    }

    /// Two keys that cannot both be set.
    fn contradiction(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let probe = &self.probe;
        if !probe.ports_only.is_empty() && !probe.ports_except.is_empty() {
            return Some((
                "probe",
                "ports_except",
                "not together with probe.ports_only; leave one of them empty",
            ));
        }
        if !probe.cidrs_only.is_empty() && !probe.cidrs_except.is_empty() {
            return Some((
                "probe",
                "cidrs_except",
                "not together with probe.cidrs_only; leave one of them empty",
            ));
        }
        None
    }
}

/// `file, line 3, probe.ring_bytes`.
fn place_of(name: &str, text: &str, error: &toml::de::Error) -> String {
    let Some(span) = error.span() else {
        return name.to_owned();
    };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let section = text
        .lines()
        .take(number)
        .filter_map(|line| line.trim().strip_prefix('[')?.split(']').next())
        .last()
        .unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) if section.is_empty() => format!("{name}, line {number}, {}", key.trim()),
        Some((key, _)) => format!("{name}, line {number}, {section}.{}", key.trim()),
        None => format!("{name}, line {number}"),
    }
}

/// Line of `key` in `[section]`.
fn line_of(text: &str, section: &str, key: &str) -> Option<usize> {
    let mut within = false;
    text.lines().enumerate().find_map(|(index, line)| {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            within = header
                .split(']')
                .next()
                .is_some_and(|name| name.trim() == section);
        }
        (within && line.split_once('=').is_some_and(|(name, _)| name.trim() == key)).then_some(index + 1)
    })
}

/// Section and key of `NETPROBE_<SECTION>_<KEY>`; `None` when the variable is of something else.
fn section_and_key(table: &Table, variable: &str) -> Option<(String, String)> {
    let name = variable.strip_prefix("NETPROBE_")?.to_ascii_lowercase();
    let section = table.keys().find(|section| {
        name.strip_prefix(section.as_str())
            .is_some_and(|rest| rest.starts_with('_'))
    })?;
    Some((section.clone(), name[section.len() + 1..].to_owned()))
}

/// Text of a variable as a value like the one it replaces: lists as `80,443`, tables as `nat=ctnetlink`.
fn shaped_like(value: &Value, text: &str) -> Result<Value, String> {
    let text = text.trim();
    let item = |text: &str| {
        let text = text.trim();
        text.parse()
            .map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
    };
    let items = || text.split(',').filter(|item| !item.trim().is_empty());
    Ok(match value {
        Value::String(_) => Value::String(text.to_owned()),
        Value::Integer(_) => Value::Integer(
            text.parse()
                .map_err(|_| format!("`{text}` is not a whole number"))?,
        ),
        Value::Boolean(_) => Value::Boolean(
            text.parse()
                .map_err(|_| format!("`{text}` is not allowed; true and false are"))?,
        ),
        Value::Array(_) => Value::Array(items().map(item).collect()),
        Value::Table(_) => {
            let pairs = items().map(|pair| match pair.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), Value::String(value.trim().to_owned()))),
                None => Err(format!("`{pair}` is not a pair; write name=value,name=value")),
            });
            Value::Table(pairs.collect::<Result<Table, String>>()?)
        }
        Value::Float(_) | Value::Datetime(_) => return Err("this key cannot be set here".to_owned()),
    })
}
