//! `[metrics]`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::value::{Period, at_least_one, named_networks};

/// Metrics and the bounds of their labels. What is beyond a bound becomes `~other` and is counted in
/// netprobe_label_overflow_total.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Network = name: the label `peer` of addresses in it. The longest prefix wins.
    /// Example: peers = { "10.1.2.0/24" = "postgres", "192.0.2.7/32" = "mail" }
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(deserialize_with = "named_networks")]
    pub peers: BTreeMap<IpNet, String>,
    /// Most values of `peer` that are one address and port (clients only). 0: only configured names and networks.
    pub max_peers: usize,
    /// Other peers are named by their network of this prefix length: 0 to 32.
    #[serde(deserialize_with = "prefix_v4")]
    pub peer_prefix_v4: u8,
    /// The same for IPv6: 0 to 128.
    #[serde(deserialize_with = "prefix_v6")]
    pub peer_prefix_v6: u8,
    /// Most values of `peer` that are such a network.
    pub max_peer_networks: usize,
    /// The only values of `service`; all others become `~other`. Empty: all are allowed.
    pub services_only: Vec<String>,
    /// Most values of `service`, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub max_services: usize,
    /// Most pairs of `service` and `peer`, at least 1: the bound on series that no single label has.
    #[serde(deserialize_with = "at_least_one")]
    pub max_pairs: usize,
    /// Most values of any other label, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub max_values: usize,
    /// Series that nothing was counted in for this long leave the page, and their label values make room: 1m to 30d.
    /// A counter that comes back goes on where it stood.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "idle_after")]
    pub idle_after: Period,
    /// The same when a bound was met, so that the room is wanted: 1m to 30d.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "idle_after")]
    pub min_age: Period,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig {
            peers: BTreeMap::new(),
            max_peers: 200,
            peer_prefix_v4: 16,
            peer_prefix_v6: 32,
            max_peer_networks: 50,
            services_only: Vec::new(),
            max_services: 200,
            max_pairs: 1000,
            max_values: 100,
            idle_after: Period::seconds(3600),
            min_age: Period::seconds(600),
        }
    }
}

fn idle_after<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    // Shorter, and Prometheus may never have seen a series that is gone again.
    Period::between(deserializer, Period::seconds(60), Period::seconds(30 * 86_400))
}

fn prefix_v4<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    prefix(deserializer, 32)
}

fn prefix_v6<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    prefix(deserializer, 128)
}

fn prefix<'de, D: serde::Deserializer<'de>>(deserializer: D, most: u8) -> Result<u8, D::Error> {
    let bits = u8::deserialize(deserializer)?;
    if bits <= most {
        Ok(bits)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "a prefix length is 0 to {most}, not {bits}"
        )))
    }
}
