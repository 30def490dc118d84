//! Reading a configuration in layers: profile, file, environment, flags.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{Config, LogFormat, LogLevel, Period, place};

/// The file read when none is named.
pub const DEFAULT_PATH: &str = "/etc/netprobe/netprobe.toml";

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// On a developer's machine: logs as text, updates of every flow every 2 s, data in ./netprobe-data
    Dev,
    /// Like production, with debug logs
    Staging,
    /// The shipped defaults
    #[default]
    Production,
}

impl Profile {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Staging => "staging",
            Profile::Production => "production",
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
    #[error("{place}: {message}")]
    Invalid {
        /// Where it stands: file and line, or variable, and the key.
        place: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The shipped default.
    #[default]
    Default,
    /// The profile.
    Profile(Profile),
    /// The file, at this line when it is known.
    File(String, Option<usize>),
    /// This environment variable.
    Variable(String),
    /// This flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Profile(profile) => write!(f, "profile {}", profile.name()),
            Source::File(name, Some(line)) => write!(f, "{name}, line {line}"),
            Source::File(name, None) => f.write_str(name),
            Source::Variable(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A configuration and where each of its values comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    sources: BTreeMap<(String, String), Source>,
    profile: Profile,
    path: Option<PathBuf>,
    flags: Vec<Override>,
}

/// A key set by a flag of the command line.
#[derive(Clone, Debug, PartialEq)]
struct Override {
    section: &'static str,
    key: &'static str,
    value: Value,
    flag: &'static str,
}

impl Config {
    /// The defaults of a profile.
    pub fn of_profile(profile: Profile) -> Config {
        let mut config = Config::default();
        match profile {
            Profile::Dev => {
                config.log.format = LogFormat::Text;
                config.flow.update_every = Period::seconds(2);
                config.flow.update_share = 1.0;
                config.archive.url = "file:netprobe-data/archive".to_owned();
                config.archive.spool = "netprobe-data/spool".into();
                config.archive.seal_after = Period::seconds(30);
            }
            Profile::Staging => config.log.level = LogLevel::Debug,
            Profile::Production => {}
        }
        config
    }
}

impl Loaded {
    /// Reads the layers. Without `path` the file at [`DEFAULT_PATH`] is read when there is one.
    pub fn read(
        profile: Profile,
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let named = path.map(Path::to_owned);
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
        let mut loaded = Loaded::from_layers(profile, &path.display().to_string(), &text, environment)?;
        loaded.path = named;
        Ok(loaded)
    }

    /// Reads the layers with the environment of this process.
    pub fn of_process(profile: Profile, path: Option<&Path>) -> Result<Loaded, ConfigError> {
        // A variable that is not UTF-8 is none of ours.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Loaded::read(profile, path, variables)
    }

    /// Reads the same layers once more, flags of the command line included.
    pub fn again(&self) -> Result<Loaded, ConfigError> {
        let mut loaded = Loaded::of_process(self.profile, self.path.as_deref())?;
        for flag in &self.flags {
            loaded.set_by_flag(flag.section, flag.key, flag.value.clone(), flag.flag)?;
        }
        Ok(loaded)
    }

    /// The same with the text of the file; `name` is what errors call it.
    pub fn from_layers(
        profile: Profile,
        name: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let in_file = |error: &toml::de::Error| invalid(place::of_error(name, text, error), error.message());
        // Read on its own first: only then does an error know its line.
        let _: Config = toml::from_str(text).map_err(|error| in_file(&error))?;
        let mut layers = Layers::of_profile(profile).map_err(|error| invalid(name.to_owned(), &error))?;
        for (section, values) in toml::from_str::<Table>(text).map_err(|error| in_file(&error))? {
            let Value::Table(values) = values else { continue };
            for (key, value) in values {
                let line = place::of_key(text, &section, &key);
                layers.set(&section, &key, value, Source::File(name.to_owned(), line));
            }
        }
        let mut variables: Vec<_> = environment.into_iter().collect();
        variables.sort();
        for (variable, text) in variables {
            layers.set_variable(&variable, &text)?;
        }
        let config: Config = layers
            .table
            .try_into()
            .map_err(|error: toml::de::Error| invalid(name.to_owned(), error.message()))?;
        let loaded = Loaded {
            config,
            sources: layers.sources,
            profile,
            path: None,
            flags: Vec::new(),
        };
        match loaded.config.contradiction() {
            None => Ok(loaded),
            Some((section, key, message)) => {
                let place = match loaded.source(section, key) {
                    Source::Default => format!("{section}.{key}"),
                    source => format!("{source}, {section}.{key}"),
                };
                Err(invalid(place, &message))
            }
        }
    }

    /// Where the value of a key comes from.
    pub fn source(&self, section: &str, key: &str) -> Source {
        self.sources
            .get(&(section.to_owned(), key.to_owned()))
            .cloned()
            .unwrap_or_default()
    }

    /// Sets a key by a flag of the command line. A table is added to what is there.
    pub fn set_by_flag(
        &mut self,
        section: &'static str,
        key: &'static str,
        value: Value,
        flag: &'static str,
    ) -> Result<(), ConfigError> {
        let refused = |message: &str| invalid(format!("flag {flag}, {section}.{key}"), message);
        let mut table = Table::try_from(&self.config).map_err(|error| refused(&error.to_string()))?;
        match (
            table.get_mut(section).and_then(|values| values.get_mut(key)),
            value.clone(),
        ) {
            (Some(Value::Table(there)), Value::Table(more)) => there.extend(more),
            (Some(there), value) => *there = value,
            (None, _) => return Err(refused("there is no such key")),
        }
        self.config = table
            .try_into()
            .map_err(|error: toml::de::Error| refused(error.message()))?;
        self.sources
            .insert((section.to_owned(), key.to_owned()), Source::Flag(flag));
        self.flags.push(Override {
            section,
            key,
            value,
            flag,
        });
        Ok(())
    }
}

/// The table under construction.
struct Layers {
    table: Table,
    sources: BTreeMap<(String, String), Source>,
}

impl Layers {
    fn of_profile(profile: Profile) -> Result<Layers, String> {
        let table = |config| Table::try_from(config).map_err(|error| error.to_string());
        let mut layers = Layers {
            table: table(Config::default())?,
            sources: BTreeMap::new(),
        };
        for (section, values) in table(Config::of_profile(profile))? {
            let Value::Table(values) = values else { continue };
            for (key, value) in values {
                let default = layers.table.get(&section).and_then(|values| values.get(&key));
                if default != Some(&value) {
                    layers.set(&section, &key, value, Source::Profile(profile));
                }
            }
        }
        Ok(layers)
    }

    fn set(&mut self, section: &str, key: &str, value: Value, source: Source) {
        if let Some(Value::Table(values)) = self.table.get_mut(section) {
            values.insert(key.to_owned(), value);
            self.sources.insert((section.to_owned(), key.to_owned()), source);
        }
    }

    fn set_variable(&mut self, variable: &str, text: &str) -> Result<(), ConfigError> {
        let Some((section, key)) = section_and_key(&self.table, variable) else {
            return Ok(());
        };
        let Some(Value::Table(values)) = self.table.get(&section) else {
            return Ok(());
        };
        let place = format!("environment variable {variable}, {section}.{key}");
        let Some(value) = values.get(&key) else {
            let known: Vec<_> = values.keys().map(String::as_str).collect();
            let message = format!("there is no such key; allowed are {}", known.join(", "));
            return Err(invalid(place, &message));
        };
        let value = shaped_like(value, text).map_err(|message| invalid(place.clone(), &message))?;
        self.set(&section, &key, value, Source::Variable(variable.to_owned()));
        let read: Result<Config, toml::de::Error> = self.table.clone().try_into();
        read.map(drop).map_err(|error| invalid(place, error.message()))
    }
}

fn invalid(place: String, message: &str) -> ConfigError {
    ConfigError::Invalid {
        place,
        message: message.to_owned(),
    }
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
        Value::Float(_) => Value::Float(text.parse().map_err(|_| format!("`{text}` is not a number"))?),
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
        Value::Datetime(_) => return Err("this key cannot be set here".to_owned()),
    })
}
