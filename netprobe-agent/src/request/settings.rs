//! What the readers of all connections share.

use std::sync::Arc;

use super::route::Templates;
use crate::config::RequestsConfig;

/// Methods that are told from words; a further one is taken on a connection that is known to speak HTTP.
pub(super) const METHODS: &[&str] = &[
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "QUERY",
    "PURGE",
];

/// Settings of the configuration, in the form readers use.
#[derive(Debug)]
pub struct Settings {
    pub(super) routes: Templates,
    /// Lower case.
    pub(super) request_ids: Vec<Box<str>>,
    /// A DNS query that is not answered for so long is given up.
    pub(super) dns_timeout_ns: u64,
    methods: Vec<Arc<str>>,
}

impl Settings {
    /// From the configuration.
    pub fn new(config: &RequestsConfig) -> Settings {
        Settings {
            routes: Templates::new(&config.routes),
            request_ids: config
                .id_headers
                .iter()
                .map(|name| name.to_ascii_lowercase().into())
                .collect(),
            dns_timeout_ns: config.dns_timeout.0.as_nanos() as u64,
            methods: METHODS.iter().map(|name| Arc::from(*name)).collect(),
        }
    }

    /// A method without an allocation, if it is a usual one.
    pub(super) fn method(&self, name: &str) -> Arc<str> {
        let known = self.methods.iter().find(|known| ***known == *name);
        known.cloned().unwrap_or_else(|| name.into())
    }
}
