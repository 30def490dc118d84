//! Requests, against real servers and their logs.

pub(crate) mod dns;
mod web;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, Lab, addr};
use netprobe_tests::{tools, wait_for};
use nix::sys::signal::Signal;

use super::programs::{Daemon, listening, program};
use super::{Case, Need, check, hold};
use web::{Web, agree, count, of, requests, speak, wait_requests};

const WEB: &[Need] = &[Need::Program("nginx"), Need::Program("curl")];

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_of_curl_equal_nginx_log", curl_and_nginx).needs(WEB),
    Case::new("requests_pipelined", pipelined).needs(WEB),
    Case::new("requests_byte_by_byte_and_long_heads", in_pieces).needs(WEB),
    Case::new("requests_over_a_lossy_link", lossy).needs(WEB),
    Case::new("requests_cut_off", cut_off),
    Case::new("requests_none_in_binary_data", binary),
    Case::new("requests_keep_secrets", secrets).needs(WEB),
    Case::new("requests_encrypted_are_counted", encrypted).needs(&[Need::Program("openssl")]),
    Case::new("requests_on_connections_older_than_the_agent", older).alone(),
    Case::new("requests_beyond_their_ring", beyond_the_ring)
        .needs(&[Need::Program("nginx"), Need::Speed])
        .alone(),
];

/// What the route of a path is.
fn route(path: &str) -> String {
    path.replace("/12345", "/:id")
}

fn curl_and_nginx() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let web = Web::start(&lab, "srv", addr(lab::SERVER, 20_601))?;
    let to = addr(lab::VIRTUAL, 20_601);
    let body = web.folder.path().join("body");
    std::fs::write(&body, vec![b'y'; 2_000_000])?;
    let body = format!("@{}", body.display());
    let url = |path: &str| format!("http://{to}{path}");
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
    ];
    for arguments in runs {
        let mut all = vec!["-sS"];
        for argument in arguments.iter() {
            if argument.starts_with("http") {
                all.extend(["--output", "/dev/null"]);
            }
            all.push(argument);
        }
        lab.run("cli", "curl", &all)?;
    }
    // The proxied one is logged twice.
    let lines = web.log(13)?;
    ensure!(lines.len() == 13, "{lines:?}");
    let (cli, srv) = (lab.inode("cli")?, lab.inode("srv")?);
    let own = |event: &Event| event.internal_port == Some(20_601);
    let dialed = |event: &Event| event.peer_port == Some(20_601);
    let servers = wait_requests(&agent, "server", srv, 13, own)?;
    let clients = wait_requests(&agent, "client", cli, 12, dialed)?;
    let proxies = wait_requests(&agent, "client", srv, 1, dialed)?;
    ensure!(
        (servers.len(), clients.len(), proxies.len()) == (13, 12, 1),
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
        let events = wait_requests(&agent, role, lab.inode(netns)?, REQUESTS, |_| true)?;
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

/// Reads what there is; an end instead is a fault.
fn some(stream: &mut TcpStream) -> Result<()> {
    let got = stream.read(&mut [0; 1024])?;
    ensure!(got > 0, "the other side closed");
    Ok(())
}

/// A server that reads and then does what it is told; its address.
fn server(
    answer: impl FnOnce(TcpStream) -> Result<()> + Send + 'static,
) -> Result<(SocketAddr, std::thread::JoinHandle<Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        some(&mut stream)?;
        answer(stream)
    });
    Ok((at, thread))
}

fn end(thread: std::thread::JoinHandle<Result<()>>) -> Result<()> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the server panicked"))?
}

fn reset(stream: &TcpStream) -> Result<()> {
    use std::os::fd::AsFd as _;
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(nix::sys::socket::setsockopt(
        &stream.as_fd(),
        nix::sys::socket::sockopt::Linger,
        &linger,
    )?)
}

fn cut_off() -> Result<()> {
    let agent = Agent::shared()?;
    // Reset before an answer; closed in the middle of one.
    for (half, answer) in [
        (false, ""),
        (true, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
    ] {
        let (at, thread) = server(move |mut stream| {
            stream.write_all(answer.as_bytes())?;
            if !half {
                reset(&stream)?;
            }
            Ok(())
        })?;
        let mut stream = TcpStream::connect(at)?;
        stream.write_all(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")?;
        // What comes of it is the server's affair.
        let _ = stream.read_to_end(&mut Vec::new());
        drop(stream);
        end(thread)?;
        for (role, port) in [
            ("client", (|e| e.peer_port) as fn(&Event) -> Option<u16>),
            ("server", |e| e.internal_port),
        ] {
            let event = agent.wait_event("a request that was cut off", |event| {
                event.kind == "request"
                    && event.role.as_deref() == Some(role)
                    && port(event) == Some(at.port())
            })?;
            check(&event, "route", of(&event, "route").as_str(), Some("/cut"))?;
            check(
                &event,
                "status_code",
                of(&event, "status_code").as_u64(),
                half.then_some(200),
            )?;
            hold(&event, "it has an error", of(&event, "error").is_string())?;
            check(&event, "severity", &*event.severity, "error")?;
        }
    }
    Ok(())
}

fn binary() -> Result<()> {
    let agent = Agent::shared()?;
    for bytes in [
        &b"\x00\x01\x02\x03\xff\xfe rest of it"[..],
        b"GET \xff\xfe\r\n\r\n\x00\x00",
        b"GE\x00 / HTTP/1.1\r\n\r\n",
    ] {
        let (at, thread) = server(|mut stream| Ok(stream.write_all(b"\x80\x81\x82\x83 back")?))?;
        let mut stream = TcpStream::connect(at)?;
        stream.write_all(bytes)?;
        stream.read_to_end(&mut Vec::new())?;
        drop(stream);
        end(thread)?;
        let flow = agent.wait_event("the flow", |event| {
            event.is_final() && event.peer_port == Some(at.port())
        })?;
        let made = agent.events();
        let requests = made
            .iter()
            .filter(|event| event.kind == "request" && event.connection_id == flow.connection_id);
        check(
            &flow,
            "requests with a status",
            requests
                .filter(|event| !of(event, "status_code").is_null())
                .count(),
            0,
        )?;
    }
    Ok(())
}

fn secrets() -> Result<()> {
    const SECRET: &str = "Tr0ub4dor-xyzzy";
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        sections: "[log]\nlevel = \"trace\"".to_owned(),
        ..Settings::default()
    })?;
    let web = Web::start(&lab, "cli", addr("127.0.0.1", 20_605))?;
    let url = format!("http://user:{SECRET}@{}/ok?token={SECRET}#{SECRET}", web.at);
    let header = |name: &str| format!("{name}: {SECRET}");
    lab.run(
        "cli",
        "curl",
        &[
            "-sS",
            "-o",
            "/dev/null",
            "-H",
            &header("Cookie"),
            "-H",
            &header("X-Any"),
            "-d",
            SECRET,
            &url,
        ],
    )?;
    // What is no request either: half a head, and a head that is none.
    let half = format!("GET /x?{SECRET} HTTP/1.1\r\nCookie: {SECRET}\r\n");
    let bad = format!("GET /{SECRET} HTTP/9.9 {SECRET}\r\n\r\n");
    for text in [&half, &bad] {
        speak(&lab, "cli", web.at, &[text.as_bytes()], |_| true)?;
    }
    let netns = lab.inode("cli")?;
    let found = wait_requests(&agent, "client", netns, 1, |e| {
        e.peer_port == Some(20_605) && of(e, "method") == "POST"
    })?;
    check(&found[0], "route", of(&found[0], "route").as_str(), Some("/ok"))?;
    let (_, metrics) = agent.get("/metrics")?;
    ensure!(
        metrics.contains("netprobe_requests_total{"),
        "the request is counted"
    );
    let (_, recent) = agent.get("/api/v1/events?limit=1000")?;
    let stopped = agent.stop()?;
    let events: Vec<String> = stopped
        .events
        .iter()
        .map(|e| Ok(serde_json::to_string(&**e)?))
        .collect::<Result<_>>()?;
    for (place, text) in [
        ("metrics", metrics),
        ("API", recent),
        ("log", stopped.log),
        ("events", events.join("\n")),
    ] {
        if let Some(at) = text.find(SECRET) {
            bail!("{place}: …{}…", &text[at.saturating_sub(200)..at]);
        }
    }
    Ok(())
}

/// Both ends of a connection use OpenSSL; nothing of what it carries is told.
fn encrypted() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings::default())?;
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (key, cert) = (file("key"), file("cert"));
    let make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=np.example";
    let mut make: Vec<&str> = make.split(' ').collect();
    make.extend(["-keyout", &key, "-out", &cert]);
    tools::run("openssl", &make)?;
    let at = addr("127.0.0.1", 20_606);
    let mut server = program("openssl")?;
    server.args([
        "s_server", "-quiet", "-www", "-accept", "20606", "-key", &key, "-cert", &cert,
    ]);
    let _server = Daemon::start(&lab, "cli", &mut server)?;
    listening(&lab, "cli", at)?;
    // It stays: of a process that is gone nothing can be told.
    let mut client = program("openssl")?;
    client.args([
        "s_client",
        "-quiet",
        "-connect",
        "127.0.0.1:20606",
        "-servername",
        "np.example",
    ]);
    let _client = Daemon::start(&lab, "cli", &mut client)?;
    let told = "netprobe_requests_opaque_total{library=\"openssl\"} 2";
    wait_for(
        "both ends of an encrypted connection in the metrics",
        PATIENCE,
        || {
            let (_, metrics) = agent.get("/metrics").ok()?;
            metrics.contains(told).then_some(())
        },
    )?;
    let stopped = agent.stop()?;
    ensure!(
        stopped.events.iter().all(|event| event.request.is_none()
            || ![event.internal_port, event.peer_port].contains(&Some(20_606))),
        "a request was told"
    );
    Ok(())
}

fn older() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, peer) = listener.accept()?;
    let exchange = |client: &mut TcpStream, server: &mut TcpStream| -> Result<()> {
        client.write_all(b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n")?;
        some(server)?;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        some(client)
    };
    exchange(&mut client, &mut server)?;
    // In the middle of a body when the agent begins.
    client.write_all(b"GET /body HTTP/1.1\r\nHost: a\r\n\r\n")?;
    some(&mut server)?;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")?;
    let agent = Agent::start(&Settings::default())?;
    // Its list of older connections must be there: with it, it knows whose they are.
    netprobe_tests::wait_for("the older connections", Duration::from_secs(20), || {
        agent.probe().ok()?["taking_over"]
            .as_bool()
            .is_some_and(|taking| !taking)
            .then_some(())
    })?;
    server.write_all(b"9876543210")?;
    some(&mut client)?;
    for _ in 0..3 {
        exchange(&mut client, &mut server)?;
    }
    for (role, port) in [
        ("client", (|e| e.internal_port) as fn(&Event) -> Option<u16>),
        ("server", |e| e.peer_port),
    ] {
        let wanted = |event: &Event| {
            event.kind == "request"
                && event.role.as_deref() == Some(role)
                && port(event) == Some(peer.port())
                && of(event, "route") == "/old"
        };
        let events = netprobe_tests::wait_for("three requests", Duration::from_secs(20), || {
            let found: Vec<_> = agent.events().into_iter().filter(|event| wanted(event)).collect();
            (found.len() >= 3).then_some(found)
        })?;
        check(&events[0], "events", events.len(), 3)?;
        for event in &events {
            check(event, "status_code", of(event, "status_code").as_u64(), Some(200))?;
            hold(
                event,
                "it is marked",
                event.flags.iter().any(|flag| flag == "partial"),
            )?;
        }
    }
    Ok(())
}

/// More than the ring for payload holds: every request is told or counted, and no flow is lost.
fn beyond_the_ring() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        // Nothing but its own: on a busy host nothing comes to rest.
        probe: "payload_ring_bytes = 65536\nports_only = [20606]".to_owned(),
        ..Settings::default()
    })?;
    let web = Web::start(&lab, "cli", addr("127.0.0.1", 20_606))?;
    let one = "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";
    agent.signal(Signal::SIGSTOP)?;
    let spoken = tools::within(&lab.path("cli"), || {
        let mut stream = TcpStream::connect(web.at)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = [0; 4096];
        for _ in 0..3000 {
            stream.write_all(one.as_bytes())?;
            ensure!(stream.read(&mut answer)? > 0, "the server closed");
        }
        Ok(())
    });
    agent.signal(Signal::SIGCONT)?;
    spoken?;
    agent.wait_event("the flow", |event| {
        event.is_final() && event.internal_port == Some(20_606)
    })?;
    let ledger = agent.ledger_at_rest(Duration::from_secs(20))?;
    ensure!(ledger.faults().is_empty(), "{:?}", ledger.faults());
    let gap = agent.wait_event("the gap", |event| {
        event
            .gap
            .as_ref()
            .is_some_and(|gap| gap.reason == "payload_ring_full")
    })?;
    hold(
        &gap,
        "it has a count",
        gap.gap.as_ref().is_some_and(|gap| gap.count > Some(0)),
    )?;
    let told = requests(&agent, "server", lab.inode("cli")?, |e| {
        e.internal_port == Some(20_606)
    });
    ensure!(
        !told.is_empty() && told.len() < 3000,
        "{} requests are told",
        told.len()
    );
    Ok(())
}
