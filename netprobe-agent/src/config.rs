//! Configuration: one TOML section a stage, in layers: defaults, profile, file, environment.
//!
//! The types are the documentation of what is allowed: a value out of range is refused while it is read, so the
//! error carries the line; the comment of a field becomes its text in the default file and in the reference page.

mod api;
mod archive;
mod flow;
mod kafka;
mod load;
mod log;
mod metrics;
mod place;
mod probe;
mod reference;
mod reload;
mod requests;
mod route;
mod stream;
mod token;
mod value;

use serde::{Deserialize, Serialize};

pub use api::{Anonymous, ApiConfig};
pub use archive::{ArchiveConfig, Place};
pub use flow::FlowConfig;
pub use kafka::KafkaConfig;
pub use load::{ConfigError, DEFAULT_PATH, Loaded, Profile, Source};
pub use log::{LogConfig, LogFormat, LogLevel};
pub use metrics::MetricsConfig;
pub use probe::ProbeConfig;
pub use reference::{default_file, page};
pub use reload::Changes;
pub use requests::RequestsConfig;
pub use route::RoutePattern;
pub use stream::StreamConfig;
pub(crate) use token::Hex;
pub use token::{Role, TokenHash};
pub use value::{Period, RingBytes};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is measured in the kernel.
    pub probe: ProbeConfig,
    /// The flow table.
    pub flow: FlowConfig,
    /// Requests inside connections.
    pub requests: RequestsConfig,
    /// Metrics and their labels.
    pub metrics: MetricsConfig,
    /// HTTP.
    pub api: ApiConfig,
    /// Events over WebSocket.
    pub stream: StreamConfig,
    /// The history.
    pub archive: ArchiveConfig,
    /// Events into Kafka.
    pub kafka: KafkaConfig,
    /// Diagnostics.
    pub log: LogConfig,
}

impl Config {
    /// Two keys that cannot both be set: section, key, and what to do.
    fn contradiction(&self) -> Option<(&'static str, &'static str, String)> {
        let probe = &self.probe;
        let both = |one: &str| format!("not together with {one}; leave one of them empty");
        if !probe.ports_only.is_empty() && !probe.ports_except.is_empty() {
            return Some(("probe", "ports_except", both("probe.ports_only")));
        }
        if !probe.cidrs_only.is_empty() && !probe.cidrs_except.is_empty() {
            return Some(("probe", "cidrs_except", both("probe.cidrs_only")));
        }
        if let Some((key, message)) = self.kafka.contradiction(self.archive.enabled) {
            return Some(("kafka", key, message));
        }
        self.api
            .contradiction()
            .map(|(key, message)| ("api", key, message))
    }
}

#[cfg(test)]
mod tests;
