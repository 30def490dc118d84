//! `[log]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Diagnostics, on stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Least level written: error, warn, info, debug or trace.
    #[schema(value_type = String)]
    pub level: LogLevel,
    /// Form of a line: text or json.
    #[schema(value_type = String)]
    pub format: LogFormat,
    /// Module = level: levels of single parts of the agent, under which the longest name that fits wins.
    /// Example: targets = { "netprobe_agent::flow" = "debug" }
    #[schema(value_type = BTreeMap<String, String>)]
    pub targets: BTreeMap<String, LogLevel>,
    /// Most lines a second from one place of the program; what is beyond is counted and told. 0: no limit.
    pub max_repeats: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            level: LogLevel::default(),
            format: LogFormat::default(),
            targets: BTreeMap::new(),
            max_repeats: 20,
        }
    }
}

/// Levels, in falling order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The agent cannot do its job.
    Error,
    /// Something an operator should know.
    Warn,
    /// Milestones.
    #[default]
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    #[default]
    Json,
}
