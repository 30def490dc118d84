//! Who may ask: `Host` and `Origin` are held against lists, so that a page of another site cannot reach the API
//! through a browser on this host. A client that sends neither is no browser.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::Problem;
use crate::config::ApiConfig;

/// Names and origins that may ask.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    hosts: Arc<HashSet<String>>,
    origins: Arc<HashSet<String>>,
    port: u16,
}

impl Allowed {
    pub(super) fn new(config: &ApiConfig, port: u16) -> Allowed {
        let lower = |list: &[String]| list.iter().map(|entry| entry.to_ascii_lowercase()).collect();
        Allowed {
            hosts: Arc::new(lower(&config.allowed_hosts)),
            origins: Arc::new(lower(&config.allowed_origins)),
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
        origin.strip_prefix("http://").is_some_and(|host| {
            let (name, port) = split_port(host);
            port.unwrap_or("80").parse() == Ok(self.port) && is_loopback(name)
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

/// Refuses foreign names.
pub(super) async fn check(State(allowed): State<Allowed>, request: Request, next: Next) -> Response {
    let refuse = |what: &str, value: &str| {
        let detail = format!(
            "{what} `{value}` is not allowed; add it to api.allowed_{}s",
            what.to_lowercase()
        );
        Problem::new(StatusCode::FORBIDDEN, detail).into_response()
    };
    if let Some(authority) = request.uri().authority()
        && !allowed.host(authority.as_str())
    {
        return refuse("Host", authority.as_str());
    }
    for host in values(request.headers(), header::HOST) {
        if !allowed.host(&host) {
            return refuse("Host", &host);
        }
    }
    for origin in values(request.headers(), header::ORIGIN) {
        if !allowed.origin(&origin) {
            return refuse("Origin", &origin);
        }
    }
    next.run(request).await
}

fn values(headers: &HeaderMap, name: header::HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}
