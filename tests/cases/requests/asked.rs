//! Requests asked for by the filters that only they have, on the command line and over HTTP.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings, binary};
use netprobe_tests::lab::{self, addr};
use netprobe_tests::tools;
use serde_json::Value;

use super::web::{Line, Web, wait_requests};
use crate::cases::Case;

pub(crate) const CASES: &[Case] =
    &[Case::new("requests_asked_for_by_route_method_and_status", filters).needs(super::WEB)];

/// Method, route and status.
type Told = (String, String, u64);

/// A query of the grammar, and what it stands for.
type Asked = (&'static str, fn(&Told) -> bool);

const ASKED: &[Asked] = &[
    ("route=/users/*", |told| told.1 == "/users/:id"),
    ("route=/users/**", |told| told.1.starts_with("/users/")),
    ("method=DELETE", |told| told.0 == "DELETE"),
    ("status=404", |told| told.2 == 404),
    ("status=5xx", |told| told.2 == 503),
    ("not=status&status=2xx", |told| told.2 >= 300),
    ("method=GET&route=/users/**&status=200", |told| {
        told.0 == "GET" && told.1.starts_with("/users/")
    }),
    ("filter=method==GET,status>=400", |told| {
        told.0 == "GET" && told.2 >= 400
    }),
];

fn filters() -> Result<()> {
    const PORT: u16 = 20_624;
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        probe: format!("ports_only = [{PORT}]"),
        ..Settings::default()
    })?;
    let web = Web::start(&lab, "cli", addr("127.0.0.1", PORT))?;
    for (method, path) in [
        ("GET", "/users/1"),
        ("GET", "/users/2/orders"),
        ("DELETE", "/users/3"),
        ("GET", "/missing"),
        ("DELETE", "/missing"),
        ("GET", "/broken"),
        ("GET", "/none"),
    ] {
        let url = format!("http://{}{path}", web.at);
        lab.run("cli", "curl", &["-sS", "-o", "/dev/null", "-X", method, &url])?;
    }
    let log = web.log(7)?;
    wait_requests(&agent, "client", lab.inode("cli")?, log.len(), |_| true)?;
    for (query, wanted) in ASKED {
        let mut truth: Vec<Told> = log.iter().map(told).filter(wanted).collect();
        truth.sort();
        ensure!(
            !truth.is_empty() && truth.len() < log.len(),
            "{query} tells nothing apart"
        );
        for (by, mut found) in [
            ("observe", observe(&agent, query)?),
            ("HTTP", ask(&agent, query)?),
        ] {
            found.sort();
            ensure!(found == truth, "{by}, {query}: {found:?}, not {truth:?}");
        }
    }
    Ok(())
}

fn told(line: &Line) -> Told {
    let numbers = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = line
        .path
        .split('/')
        .map(|part| if numbers(part) { ":id" } else { part })
        .collect();
    (line.method.clone(), parts.join("/"), line.status)
}

/// What the command line tells of clients' requests. A pair of the query is a flag.
fn observe(agent: &Agent, query: &str) -> Result<Vec<Told>> {
    let mut command = Command::new(binary()?);
    command.args(["observe", "--last", "1000", "-o", "json"]);
    command.args(["--kind", "request", "--filter", "role==client"]);
    for pair in query.split('&') {
        match pair.split_once('=').context("no pair")? {
            ("not", _) => command.arg("--not"),
            (flag, value) => command.arg(format!("--{flag}")).arg(value),
        };
    }
    tools::run_command(command.arg("--socket").arg(agent.socket()))?
        .lines()
        .map(|line| read(&serde_json::from_str(line)?))
        .collect()
}

/// The same of HTTP.
fn ask(agent: &Agent, query: &str) -> Result<Vec<Told>> {
    let query = query
        .replace("not=status&status=2xx", "filter=status%3E%3D300")
        .replace("==", "%3D%3D")
        .replace(">=", "%3E%3D");
    let (status, body) = agent.get(&format!(
        "/api/v1/events?limit=1000&last=1000&kind=request&filter=role%3D%3Dclient&{query}"
    ))?;
    ensure!(status == 200, "{status}: {body}");
    let page: Value = serde_json::from_str(&body)?;
    let events = page["events"]
        .as_array()
        .with_context(|| format!("no events: {body}"))?;
    events.iter().map(read).collect()
}

fn read(event: &Value) -> Result<Told> {
    let request = &event["request"];
    let text = |name: &str| Some(request[name].as_str()?.to_owned());
    let told = || Some((text("method")?, text("route")?, request["status_code"].as_u64()?));
    told().with_context(|| format!("not a request: {event}"))
}
