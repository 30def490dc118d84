//! `[api]`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::value::at_least_one;

/// HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Address of the API. Loopback only: it has neither TLS nor a token.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "loopback")]
    pub listen: SocketAddr,
    /// Unix socket of the API, mode 0660. The command line talks to it.
    #[schema(value_type = String)]
    pub socket: PathBuf,
    /// Values of `Host` (without port) allowed beside localhost, 127.0.0.1 and [::1].
    pub allowed_hosts: Vec<String>,
    /// Values of `Origin` allowed beside the API's own, like "https://noc.example".
    pub allowed_origins: Vec<String>,
    /// Recent events held for `/api/v1/events` and the stream, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub recent_events: usize,
    /// Bytes they may take, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub recent_bytes: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        ApiConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9477)),
            socket: "/run/netprobe/api.sock".into(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            recent_events: 8192,
            recent_bytes: 8 << 20,
        }
    }
}

fn loopback<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let address = SocketAddr::deserialize(deserializer)?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "`{address}` is not a loopback address; only 127.0.0.0/8 and ::1 are allowed without TLS and a token"
        )))
    }
}
