//! `[api]`.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    token::{Role, TokenHash},
    value::at_least_one,
};

/// HTTP. Who may ask, and how, is told in docs/access.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Address of the API. One that is not loopback needs tls_cert, tls_key and at least one token.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Unix socket of the API, mode 0660: whoever can open it is an operator. The command line talks to it.
    #[schema(value_type = String)]
    pub socket: PathBuf,
    /// File with the certificate chain in PEM; empty: no TLS. Only TLS 1.3 is spoken. Read again at SIGHUP.
    #[schema(value_type = String)]
    pub tls_cert: PathBuf,
    /// File with the private key of the certificate in PEM. Read again at SIGHUP.
    #[schema(value_type = String)]
    pub tls_key: PathBuf,
    /// File with certificates in PEM; when it is set, clients must show a certificate one of these signed, besides
    /// their token. Empty: no certificate is asked for. Read again at SIGHUP.
    #[schema(value_type = String)]
    pub tls_client_ca: PathBuf,
    /// Name = role and hash of a token. `netprobe token new` makes one and prints this entry.
    /// Example: tokens = { grafana = "reader:<64 hexadecimal digits>" }
    #[schema(value_type = BTreeMap<String, String>)]
    pub tokens: BTreeMap<String, TokenHash>,
    /// What callers without token may do on a loopback address: none, reader or operator. Elsewhere they may
    /// nothing.
    #[schema(value_type = String)]
    pub anonymous: Anonymous,
    /// Values of `Host` (without port) allowed beside localhost, 127.0.0.1 and [::1].
    pub allowed_hosts: Vec<String>,
    /// Values of `Origin` allowed beside the API's own, like "https://noc.example".
    pub allowed_origins: Vec<String>,
    /// Requests a second one client address may make, at least 1; half a second's worth may come at once. The Unix
    /// socket has no such limit.
    #[schema(value_type = u32)]
    #[serde(deserialize_with = "rate")]
    pub rate_limit: u32,
    /// Most connections at a time, at least 1, counted apart for address and Unix socket. Further ones are closed at
    /// once.
    #[serde(deserialize_with = "at_least_one")]
    pub max_connections: usize,
    /// Recent events held for `/api/v1/events` and the stream, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub recent_events: usize,
    /// Bytes they may take, at least 1.
    #[serde(deserialize_with = "at_least_one")]
    pub recent_bytes: usize,
}

/// What callers without token may do on a loopback address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nothing.
    None,
    /// What a reader may.
    #[default]
    Reader,
    /// Everything.
    Operator,
}

impl Anonymous {
    /// The role that is.
    pub const fn role(self) -> Option<Role> {
        match self {
            Anonymous::None => None,
            Anonymous::Reader => Some(Role::Reader),
            Anonymous::Operator => Some(Role::Operator),
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        ApiConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9477)),
            socket: "/run/netprobe/api.sock".into(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
            tokens: BTreeMap::new(),
            anonymous: Anonymous::default(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            rate_limit: 1000,
            max_connections: 2048,
            recent_events: 8192,
            recent_bytes: 8 << 20,
        }
    }
}

impl ApiConfig {
    /// Whether the address is served with TLS.
    pub fn has_tls(&self) -> bool {
        !self.tls_cert.as_os_str().is_empty()
    }

    /// Keys that do not fit together: the one to change, and how.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        let key = !self.tls_key.as_os_str().is_empty();
        if self.has_tls() != key {
            let (there, missing) = if key {
                ("tls_key", "tls_cert")
            } else {
                ("tls_cert", "tls_key")
            };
            return Some((there, format!("needs api.{missing}; set both or none")));
        }
        if !self.tls_client_ca.as_os_str().is_empty() && !self.has_tls() {
            return Some((
                "tls_client_ca",
                "needs TLS; set api.tls_cert and api.tls_key".to_owned(),
            ));
        }
        if !self.listen.ip().is_loopback() && (!self.has_tls() || self.tokens.is_empty()) {
            return Some((
                "listen",
                format!(
                    "`{}` is not a loopback address, which needs TLS and a token: set api.tls_cert, api.tls_key and \
                     api.tokens, or listen on 127.0.0.1 or [::1]",
                    self.listen
                ),
            ));
        }
        None
    }
}

fn rate<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("0 is not allowed; at least 1 is")),
        rate => Ok(rate),
    }
}
