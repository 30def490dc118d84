//! `[metrics]`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::value::at_least_one;

/// Metrics and the bounds of their labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Network → name: the value of `peer` for addresses in it; the longest prefix wins.
    pub peers: BTreeMap<IpNet, String>,
    /// Most values of `peer` that are one address and port.
    #[serde(deserialize_with = "at_least_one")]
    pub max_peers: usize,
    /// Prefix length of the networks that stand for other IPv4 peers.
    #[serde(deserialize_with = "prefix_v4")]
    pub peer_prefix_v4: u8,
    /// Prefix length of the networks that stand for other IPv6 peers.
    #[serde(deserialize_with = "prefix_v6")]
    pub peer_prefix_v6: u8,
    /// Most values of `peer` that are a network.
    pub max_peer_networks: usize,
    /// Most values of `service`.
    #[serde(deserialize_with = "at_least_one")]
    pub max_services: usize,
    /// Most pairs of `service` and `peer`: the bound on series that no single label has.
    #[serde(deserialize_with = "at_least_one")]
    pub max_pairs: usize,
    /// Most values of any other label.
    #[serde(deserialize_with = "at_least_one")]
    pub max_values: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig {
            peers: BTreeMap::new(),
            max_peers: 200,
            peer_prefix_v4: 16,
            peer_prefix_v6: 32,
            max_peer_networks: 50,
            max_services: 200,
            max_pairs: 1000,
            max_values: 100,
        }
    }
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
