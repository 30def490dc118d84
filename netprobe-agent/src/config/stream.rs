//! `[stream]`.

use serde::{Deserialize, Serialize};

use super::value::{Period, at_least_one};

/// Events over WebSocket, at /api/v1/stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Most clients at a time, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub max_clients: usize,
    /// A client behind for longer than this is told what it missed and goes on with fresh events: 100ms to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "max_lag")]
    pub max_lag: Period,
    /// Time between two pings. A client not heard of for three of them is gone: 100ms to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "ping_every")]
    pub ping_every: Period,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            max_clients: 1000,
            max_lag: Period::seconds(5),
            ping_every: Period::seconds(15),
        }
    }
}

fn max_lag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(100), Period::seconds(3600))
}

fn ping_every<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(100), Period::seconds(3600))
}
