//! Who may ask: `Host` and `Origin` are held against lists, so that a page of another site cannot reach the API
//! through a browser on this host. A client that sends neither is no browser.

use std::{collections::HashSet, net::IpAddr};

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};

use super::problem::Problem;
use crate::config::ApiConfig;

/// Names and origins that may ask.
#[derive(Debug)]
pub(super) struct Allowed {
    hosts: HashSet<String>,
    origins: HashSet<String>,
    /// How the API's own pages begin.
    scheme: &'static str,
    port: u16,
}

impl Allowed {
    pub(super) fn new(config: &ApiConfig, port: u16) -> Allowed {
        let lower = |list: &[String]| list.iter().map(|entry| entry.to_ascii_lowercase()).collect();
        let mut hosts: HashSet<_> = lower(&config.allowed_hosts);
        // An address in `Host` cannot be the name of another site that leads here.
        hosts.insert(config.listen.ip().to_string());
        hosts.insert(format!("[{}]", config.listen.ip()));
        Allowed {
            hosts,
            origins: lower(&config.allowed_origins),
            scheme: if config.has_tls() { "https://" } else { "http://" },
            port,
        }
    }

    fn host(&self, host: &str) -> bool {
        let name = split_port(host).0.to_ascii_lowercase();
        is_loopback(&name) || self.hosts.contains(&name)
    }

    fn origin(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return true;
        }
        // Our own pages: any other program on this host has another port and is foreign.
        origin.strip_prefix(self.scheme).is_some_and(|host| {
            let (name, port) = split_port(host);
            let usual = if self.scheme == "https://" { "443" } else { "80" };
            port.unwrap_or(usual).parse() == Ok(self.port) && self.host(name)
        })
    }
}

/// `name:port`, `[address]:port` or either without port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl Allowed {
    /// Why a request is refused, if it is.
    pub(super) fn objection(&self, request: &Request) -> Option<Problem> {
        let refuse = |what: &str, value: &str| {
            let detail = format!(
                "{what} `{value}` is not allowed; add it to api.allowed_{}s",
                what.to_lowercase()
            );
            Some(Problem::new(StatusCode::FORBIDDEN, detail))
        };
        let authority = request.uri().authority().map(|name| name.as_str().to_owned());
        for host in authority
            .into_iter()
            .chain(values(request.headers(), header::HOST))
        {
            if !self.host(&host) {
                return refuse("Host", &host);
            }
        }
        for origin in values(request.headers(), header::ORIGIN) {
            if !self.origin(&origin) {
                return refuse("Origin", &origin);
            }
        }
        None
    }
}

fn values(headers: &HeaderMap, name: header::HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}
