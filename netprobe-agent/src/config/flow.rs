//! `[flow]`.

use serde::{Deserialize, Serialize};

use super::value::{Period, at_least_one, share};

/// The flow table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Most live flows held, at least 1. What comes beyond is counted as lost.
    #[serde(deserialize_with = "at_least_one")]
    pub max_flows: usize,
    /// A flow alive for this long gives an `open` event: 0s to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "open_after")]
    pub open_after: Period,
    /// Time between two `update` events of a live flow: 100ms to 1d.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "update_every")]
    pub update_every: Period,
    /// Share of live flows whose `update` events are told, 0 to 1: they are detail, of severity debug. Those of a
    /// connection to a destination that is `failing` are all told.
    #[serde(deserialize_with = "share")]
    pub update_share: f64,
    /// Time between two comparisons of the table with the kernel's list of sockets: 1s to 1d.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "reconcile_every")]
    pub reconcile_every: Period,
    /// A UDP flow silent for this long has ended: 1s to 1d.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "udp_idle")]
    pub udp_idle: Period,
    /// Most processes whose identity is remembered, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub max_processes: usize,
}

impl Default for FlowConfig {
    fn default() -> Self {
        FlowConfig {
            max_flows: 1_000_000,
            open_after: Period::seconds(1),
            update_every: Period::seconds(10),
            update_share: 0.1,
            reconcile_every: Period::seconds(60),
            udp_idle: Period::seconds(30),
            max_processes: 16_384,
        }
    }
}

fn open_after<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(0), Period::seconds(3600))
}

fn update_every<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(100), Period::seconds(86_400))
}

fn reconcile_every<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::seconds(1), Period::seconds(86_400))
}

fn udp_idle<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::seconds(1), Period::seconds(86_400))
}
