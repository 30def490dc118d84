//! Requests, against real servers and their logs.

pub(crate) mod asked;
pub(crate) mod dns;
pub(crate) mod faults;
pub(crate) mod load;
pub(crate) mod times;
pub(crate) mod tls;
pub(super) mod web;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, Lab, addr};

use super::{Case, Need, check, hold};
use web::{Web, agree, count, of, speak, wait_requests};

pub(super) const WEB: &[Need] = &[Need::Program("nginx"), Need::Program("curl")];

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_of_curl_equal_nginx_log", || {
        curl_and_nginx("http", 20_601)
    })
    .needs(WEB),
    Case::new("requests_in_tls_equal_nginx_log", || {
        curl_and_nginx("https", 20_608)
    })
    .needs(tls::TOOLS),
    Case::new("requests_pipelined", pipelined).needs(WEB),
    Case::new("requests_byte_by_byte_and_long_heads", in_pieces).needs(WEB),
    Case::new("requests_over_a_lossy_link", lossy).needs(WEB),
];

const CHUNKED: &str = "Transfer-Encoding: chunked";

/// What the route of a path is.
fn route(path: &str) -> String {
    path.replace("/12345", "/:id")
}

fn curl_and_nginx(scheme: &str, port: u16) -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let web = Web::start_as(&lab, "srv", addr(lab::SERVER, port), scheme, None)?;
    let to = addr(lab::VIRTUAL, port);
    let body = web.folder.path().join("body");
    std::fs::write(&body, vec![b'y'; 2_000_000])?;
    let body = format!("@{}", body.display());
    let url = |path: &str| format!("{scheme}://{to}{path}");
    // One connection for the four of the first line, one for each of the others.
    let runs: &[&[&str]] = &[
        &[
            &url("/ok?q=1"),
            &url("/users/12345/orders"),
            &url("/none"),
            &url("/missing"),
        ],
        &["-I", &url("/file")],
        &[&url("/file")],
        &[
            "-H",
            "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT",
            &url("/file"),
        ],
        &["--compressed", &url("/text.txt")],
        &["-0", &url("/ok")],
        &[
            "-H",
            "Expect: 100-continue",
            "--data-binary",
            &body,
            &url("/post"),
        ],
        &[&url("/broken")],
        &["-X", "DELETE", &url("/users/12345")],
        &["-H", CHUNKED, "--data-binary", "a few bytes", &url("/post")],
        &["-H", CHUNKED, "--data-binary", &body, &url("/post")],
    ];
    for arguments in runs {
        let mut all = vec!["-sSk"];
        for argument in arguments.iter() {
            if argument.starts_with(scheme) {
                all.extend(["--output", "/dev/null"]);
            }
            all.push(argument);
        }
        lab.run("cli", "curl", &all)?;
    }
    // The three proxied ones are logged twice.
    let lines = web.log(17)?;
    ensure!(lines.len() == 17, "{lines:?}");
    let (cli, srv) = (lab.inode("cli")?, lab.inode("srv")?);
    let own = |event: &Event| event.internal_port == Some(port);
    let dialed = |event: &Event| event.peer_port == Some(port);
    let servers = wait_requests(&agent, "server", srv, 17, own)?;
    let clients = wait_requests(&agent, "client", cli, 14, dialed)?;
    let proxies = wait_requests(&agent, "client", srv, 3, dialed)?;
    ensure!(
        (servers.len(), clients.len(), proxies.len()) == (17, 14, 3),
        "{} server events, {} of clients, {} of the proxy",
        servers.len(),
        clients.len(),
        proxies.len()
    );
    for line in &lines {
        let of_port = |events: &[Arc<Event>], port: fn(&Event) -> Option<u16>| -> Result<Arc<Event>> {
            events
                .iter()
                .filter(|event| port(event) == Some(line.port))
                .nth(line.number - 1)
                .cloned()
                .with_context(|| format!("no event for {line:?}"))
        };
        let server = of_port(&servers, |event| event.peer_port)?;
        agree(line, &server, true, &route(&line.path))?;
        let client = of_port(&clients, |event| event.external_port)
            .or_else(|_| of_port(&proxies, |event| event.internal_port))?;
        agree(line, &client, false, &route(&line.path))?;
        let tls = serde_json::Value::Bool(scheme == "https");
        check(&server, "tls", of(&server, "tls"), &tls)?;
        check(&client, "tls", of(&client, "tls"), &tls)?;
        let bad = |status| match status {
            500.. => "error",
            400.. => "warning",
            _ => "info",
        };
        check(&server, "severity", &*server.severity, bad(line.status))?;
        check(
            &client,
            "process",
            process(&client),
            Some(if client.netns == Some(cli) {
                "curl"
            } else {
                "nginx"
            }),
        )?;
        check(&server, "process", process(&server), Some("nginx"))?;
        belongs_to_its_flow(&agent, &client)?;
        belongs_to_its_flow(&agent, &server)?;
    }
    Ok(())
}

fn process(event: &Event) -> Option<&str> {
    event.process.as_ref()?.comm.as_deref()
}

/// Same connection, trace and addresses as the flow's own event, which comes after it.
fn belongs_to_its_flow(agent: &Agent, request: &Event) -> Result<()> {
    let flow = agent.wait_event("the flow of a request", |event| {
        event.is_final() && event.connection_id == request.connection_id
    })?;
    check(request, "trace_id", &request.trace_id, &flow.trace_id)?;
    check(
        request,
        "parent_span_id",
        request.parent_span_id.as_ref(),
        Some(&flow.span_id),
    )?;
    check(
        request,
        "nat",
        format!("{:?}", request.nat),
        format!("{:?}", flow.nat),
    )?;
    check(request, "peer", request.peer(), flow.peer())?;
    hold(request, "told before its flow ends", request.seq < flow.seq)
}

fn pipelined() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let web = Web::start(&lab, "cli", addr("127.0.0.1", 20_602))?;
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let all: String = ["/ok", "/missing", "/none", "/users/12345", "/broken"]
        .map(one)
        .concat();
    let (local, _) = speak(&lab, "cli", web.at, &[all.as_bytes()], |answer| {
        count(answer, "HTTP/1.1 ") == 5 && answer.ends_with(b"</html>\r\n")
    })?;
    let statuses = |events: &[Arc<Event>]| -> Vec<(String, u64)> {
        let text = |event: &Event| of(event, "route").as_str().unwrap_or("").to_owned();
        events
            .iter()
            .map(|event| (text(event), of(event, "status_code").as_u64().unwrap_or(0)))
            .collect()
    };
    let truth = [
        ("/ok", 200),
        ("/missing", 404),
        ("/none", 204),
        ("/users/:id", 200),
        ("/broken", 503),
    ]
    .map(|(route, status)| (route.to_owned(), status));
    let netns = lab.inode("cli")?;
    let c = wait_requests(&agent, "client", netns, 5, |e| {
        e.internal_port == Some(local.port())
    })?;
    let s = wait_requests(&agent, "server", netns, 5, |e| e.peer_port == Some(local.port()))?;
    ensure!(statuses(&c) == truth, "client: {:?}", statuses(&c));
    ensure!(statuses(&s) == truth, "server: {:?}", statuses(&s));
    Ok(())
}

fn in_pieces() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let web = Web::start(&lab, "cli", addr("127.0.0.1", 20_603))?;
    let netns = lab.inode("cli")?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let head = format!(
        "GET /users/12345 HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-17\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"
    );
    let bytes: Vec<&[u8]> = head.as_bytes().chunks(1).collect();
    // A head of 6 KiB in packets of 700 bytes, what is wanted of it at its end.
    let filler: String = (0..60)
        .map(|n| format!("X-Filler-{n}: {}\r\n", "z".repeat(80)))
        .collect();
    let long = head.replace("X-Request-Id", &format!("{filler}X-Request-Id"));
    let parts: Vec<&[u8]> = long.as_bytes().chunks(700).collect();
    for pieces in [bytes, parts] {
        let (local, _) = speak(&lab, "cli", web.at, &pieces, |answer| answer.ends_with(b"user"))?;
        let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
        for (role, port) in [
            ("client", (|e| e.internal_port) as fn(&Event) -> Option<u16>),
            ("server", |e| e.peer_port),
        ] {
            let found = wait_requests(&agent, role, netns, 1, |e| port(e) == Some(local.port()))?;
            let event = &found[0];
            check(event, "events", found.len(), 1)?;
            check(event, "route", of(event, "route").as_str(), Some("/users/:id"))?;
            check(event, "status_code", of(event, "status_code").as_u64(), Some(200))?;
            check(event, "trace_id", &*event.trace_id, trace)?;
            check(event, "trace_origin", &*event.trace_origin, "propagated")?;
            check(
                event,
                "parent_span_id",
                event.parent_span_id.as_deref(),
                Some("00f067aa0ba902b7"),
            )?;
            check(event, "request_id", event.request_id.as_deref(), Some("r-17"))?;
            let request = if role == "client" {
                event.bytes_sent
            } else {
                event.bytes_received
            };
            check(event, "bytes of the request", request, Some(sent as u64))?;
            let send_ms = of(event, "send_ms").as_f64().unwrap_or(0.0);
            let slept = (pieces.len() - 1) as f64 * 0.2;
            hold(event, &format!("send_ms ≥ {slept}"), send_ms >= slept)?;
        }
    }
    Ok(())
}

fn lossy() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.add("cli")?;
    lab.add("srv")?;
    lab.link("cli", "c0", "srv", "s0")?;
    lab.ip("cli", "addr add 10.84.1.2/24 dev c0")?;
    lab.ip("srv", "addr add 10.84.1.1/24 dev s0")?;
    // Small packets, each on its own, so that several of one request wait for one that was lost.
    lab.ip("cli", "link set c0 mtu 600 gso_max_segs 1")?;
    for side in ["cli", "srv"] {
        lab.nft(
            side,
            "table ip f { chain in { type filter hook input priority 0; \
             meta l4proto tcp meta length > 60 numgen random mod 100 < 4 drop; }; }",
        )?;
    }
    let agent = Agent::shared()?;
    let web = Web::start(&lab, "srv", addr("10.84.1.1", 20_604))?;
    const REQUESTS: usize = 60;
    let urls = vec![format!("http://{}/text.txt", web.at); REQUESTS];
    let long = format!("X-Long: {}", "l".repeat(6_000));
    let mut arguments = vec!["-sS", "-H", &long];
    for url in &urls {
        arguments.extend(["-o", "/dev/null", url]);
    }
    lab.run("cli", "curl", &arguments)?;
    let lines = web.log(REQUESTS)?;
    for (role, netns) in [("client", "cli"), ("server", "srv")] {
        // The number of a namespace that is gone may be that of a new one.
        let ours = |event: &Event| [event.internal_port, event.peer_port].contains(&Some(20_604));
        let events = wait_requests(&agent, role, lab.inode(netns)?, REQUESTS, ours)?;
        ensure!(events.len() == REQUESTS, "{role}: {} events", events.len());
        for (line, event) in lines.iter().zip(&events) {
            check(
                event,
                "status_code",
                of(event, "status_code").as_u64(),
                Some(line.status),
            )?;
            let (sent, received) = if role == "server" {
                (line.sent, line.received)
            } else {
                (line.received, line.sent)
            };
            super::check_bytes(event, sent, received)?;
        }
    }
    let flow = agent.wait_event("the server's flow", |event| {
        event.is_final() && event.internal_port == Some(20_604)
    })?;
    let lost = flow.flow.as_ref().and_then(|flow| flow.retransmits).unwrap_or(0);
    hold(&flow, "the link lost something", lost > 0)
}
