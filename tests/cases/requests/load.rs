//! Requests by the ten thousand: wrk against nginx, each line of whose log has its event at either side.

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::wait_for;

use super::web::{Web, of, requests};
use crate::cases::metrics::Page;
use crate::cases::{Case, Need};

const TOOLS: &[Need] = &[
    Need::Program("nginx"),
    Need::Program("wrk"),
    Need::Program("openssl"),
    Need::Speed,
];
const CONNECTIONS: usize = 4;

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_of_wrk_equal_nginx_log", || wrk("http", 20_621))
        .needs(TOOLS)
        .alone(),
    Case::new("requests_of_a_share_are_told_and_all_counted", share).needs(super::WEB),
    Case::new("requests_of_wrk_in_tls_equal_nginx_log", || wrk("https", 20_622))
        .needs(TOOLS)
        .alone(),
];

fn wrk(scheme: &str, port: u16) -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        // What an agent that is not optimised cannot read at once waits in the ring.
        probe: format!("payload_ring_bytes = 134217728\nports_only = [{port}]"),
        ..Settings::default()
    })?;
    let web = Web::start_as(&lab, "cli", addr("127.0.0.1", port), scheme, None)?;
    let url = format!("{scheme}://{}/users/12345?n=1", web.at);
    let connections = CONNECTIONS.to_string();
    let said = lab.run(
        "cli",
        "wrk",
        &["-t1", "-c", &connections, "-d1s", "--latency", &url],
    )?;
    let lines = web.log(1)?.len();
    ensure!(lines > 500, "nginx served {lines} requests alone");
    let events = |role: &str| -> Vec<f64> {
        let mine = |event: &Event| {
            event.kind == "request"
                && event.role.as_deref() == Some(role)
                && of(event, "route") == "/users/:id"
                && of(event, "status_code") == 200
                && of(event, "tls") == (scheme == "https")
        };
        let events = agent.events();
        let mut took: Vec<f64> = events
            .iter()
            .filter(|event| mine(event))
            .filter_map(|event| event.elapsed_ms)
            .collect();
        took.sort_by(f64::total_cmp);
        took
    };
    let mut last = (0, 0);
    let told = wait_for(
        "an event at either side for each line of nginx's log",
        PATIENCE * 3,
        || {
            let (clients, servers) = (events("client"), events("server"));
            last = (clients.len(), servers.len());
            let near = |count: usize| count.abs_diff(lines) <= CONNECTIONS;
            (near(last.0) && near(last.1)).then_some((clients, servers))
        },
    );
    let probe = agent.probe()?;
    let lost = &probe["ledger"]["kernel"]["lost"];
    let (clients, servers) = told.with_context(|| format!("{lines} lines, {last:?} events, lost: {lost}"))?;
    // wrk's own median contains what happens above its socket, the client's event does not, and the server's is within that.
    let median = median_ms(&said)?;
    let (client, server) = (clients[clients.len() / 2], servers[servers.len() / 2]);
    ensure!(
        server <= client && client <= median + 0.1,
        "medians: server {server} ms, client {client} ms, wrk {median} ms"
    );
    Ok(())
}

/// Of requests that go well none is told here, of others each; metrics have all of them.
fn share() -> Result<()> {
    const PORT: u16 = 20_623;
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        probe: format!("ports_only = [{PORT}]"),
        sections: "[requests]\nshare = 0.0\nslow_after = \"300ms\"".to_owned(),
        ..Settings::default()
    })?;
    let web = Web::start(&lab, "cli", addr("127.0.0.1", PORT))?;
    let url = |path: &str| format!("http://{}{path}", web.at);
    let fine: Vec<String> = (0..30).map(|n| url(&format!("/users/{n}"))).collect();
    for arguments in [
        fine.iter().map(String::as_str).collect(),
        vec!["--output", "/dev/null", &url("/missing")],
        vec!["--output", "/dev/null", &url("/slow")],
        // Tried again, it would empty its output first, which the null device does not allow.
        vec!["--retry", "2", "--retry-delay", "1", &url("/broken")],
    ] {
        let arguments = ["-sS"].into_iter().chain(arguments).collect::<Vec<_>>();
        lab.run("cli", "curl", &arguments)?;
    }
    let lines = web.log(35)?.len() as f64;
    let counted = |role: &str| {
        let page = Page::scrape(&agent).ok()?;
        page.sum("netprobe_requests_total", &[("role", role)])
    };
    wait_for("metrics to count all at either side", PATIENCE, || {
        (counted("client") == Some(lines) && counted("server") == Some(lines)).then_some(())
    })?;
    agent.ledger_at_rest(PATIENCE)?;
    let retries = Page::scrape(&agent)?.sum("netprobe_request_retries_total", &[]);
    ensure!(
        retries == Some(2.0),
        "curl tried twice again, {retries:?} are counted"
    );
    let netns = lab.inode("cli")?;
    let clients = requests(&agent, "client", netns, |_| true);
    let told: Vec<_> = clients.iter().map(|event| of(event, "route").as_str()).collect();
    ensure!(
        told[..2] == [Some("/missing"), Some("/slow")] && told[2..] == [Some("/broken"); 3],
        "told: {told:?}"
    );
    let probe = agent.probe()?;
    let sinks = probe["ledger"]["sinks"].as_array().context("no sinks")?;
    let left_out = |name: &str| {
        let mut sinks = sinks.iter();
        sinks
            .find(|sink| sink["sink"] == name)
            .map(|sink| &sink["suppressed"]["share"])
    };
    let output = left_out("output").and_then(serde_json::Value::as_u64);
    ensure!(
        matches!(output, Some(60)) && left_out("metrics") == Some(&serde_json::Value::Null),
        "left out: {sinks:?}"
    );
    Ok(())
}

/// `    50%  312.00us` of what wrk says.
fn median_ms(said: &str) -> Result<f64> {
    let line = said
        .lines()
        .map(str::trim)
        .find_map(|line| line.strip_prefix("50%"));
    let text = line.context("wrk says no median")?.trim();
    let number = |unit: &str| {
        text.strip_suffix(unit)
            .and_then(|number| number.parse::<f64>().ok())
    };
    number("us")
        .map(|us| us / 1e3)
        .or_else(|| number("ms"))
        .with_context(|| format!("not a time: {text}"))
}
