//! Configuration: one TOML section a stage, in layers: defaults, profile, file, environment.
//!
//! The types are the documentation of what is allowed: a value out of range is refused while it is read, so the
//! error carries the line.

mod api;
mod flow;
mod load;
mod log;
mod metrics;
mod probe;
mod stream;
mod value;

use serde::{Deserialize, Serialize};

pub use api::ApiConfig;
pub use flow::FlowConfig;
pub use load::{ConfigError, DEFAULT_FILE, DEFAULT_PATH, Profile};
pub use log::{LogConfig, LogFormat, LogLevel};
pub use metrics::MetricsConfig;
pub use probe::ProbeConfig;
pub use stream::StreamConfig;
pub use value::{Period, RingBytes};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is measured in the kernel.
    pub probe: ProbeConfig,
    /// The flow table.
    pub flow: FlowConfig,
    /// Metrics and their labels.
    pub metrics: MetricsConfig,
    /// HTTP.
    pub api: ApiConfig,
    /// Events over WebSocket.
    pub stream: StreamConfig,
    /// Diagnostics.
    pub log: LogConfig,
}

#[cfg(test)]
mod tests;
