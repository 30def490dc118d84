//! `[requests]`.

use serde::{Deserialize, Serialize};

use super::{
    route::RoutePattern,
    value::{Period, at_least_one, share},
};

/// Requests inside connections. Of what is read, only method, route template, status, times, sizes, trace context and
/// request id are kept: never a query, a body, or another header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestsConfig {
    /// Whether requests are read.
    pub enabled: bool,
    /// Whether requests in encrypted connections are read too, where OpenSSL encrypts them: from what applications hand to its
    /// shared library. Two traps of the processor a call: nginx under load served a fifth (docs/performance.md), so it is to be asked for.
    pub tls: bool,
    /// Share of the requests that went well, and were not slow, of which an event is told, 0 to 1. Metrics count all; of the others,
    /// and of those to a destination that is `failing`, each is told. The budget may make it a tenth (`probe.cpu_budget`).
    #[serde(deserialize_with = "share")]
    pub share: f64,
    /// What a slow request takes, 1ms to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "slow_after")]
    pub slow_after: Period,
    /// Most connections whose payload is read at a time, at least 1; beyond it, what was silent for longest is let go of.
    #[serde(deserialize_with = "at_least_one")]
    pub max_connections: usize,
    /// Most bytes that reading them takes, all together, at least 1; beyond it, the same.
    #[serde(deserialize_with = "at_least_one")]
    pub max_bytes: usize,
    /// Headers that hold a request id, the first that is there wins. A value that is longer than 128 characters or
    /// has other than visible ASCII is not kept.
    #[serde(deserialize_with = "header_names")]
    pub id_headers: Vec<String>,
    /// Route templates that come before the rules of docs/schema.md, in this order: `:name` stands for any one
    /// segment, `*` at the end for one or more.
    /// Example: routes = ["/users/:user", "/files/*"]
    #[schema(value_type = Vec<String>)]
    pub routes: Vec<RoutePattern>,
    /// How long a DNS query may wait for its answer, 100ms to 10m; then its event says `timeout`.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "dns_timeout")]
    pub dns_timeout: Period,
    /// Most routes of one service, at least 1; further ones become `~other`.
    #[serde(deserialize_with = "at_least_one")]
    pub max_routes: usize,
}

impl Default for RequestsConfig {
    fn default() -> Self {
        RequestsConfig {
            enabled: true,
            tls: false,
            share: 1.0,
            slow_after: Period::seconds(1),
            max_connections: 65_536,
            max_bytes: 64 << 20,
            id_headers: vec!["x-request-id".to_owned()],
            routes: Vec::new(),
            dns_timeout: Period::seconds(10),
            max_routes: 100,
        }
    }
}

fn slow_after<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(1), Period::seconds(3_600))
}

fn dns_timeout<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(100), Period::seconds(600))
}

fn header_names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match names
        .iter()
        .find(|name| name.is_empty() || !name.bytes().all(token))
    {
        None => Ok(names),
        Some(name) => Err(serde::de::Error::custom(format_args!(
            "`{name}` is not the name of a header; write it like x-request-id"
        ))),
    }
}
