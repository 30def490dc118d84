//! What goes wrong: connections cut off, data that is no request, secrets, agents that come late or cannot keep up.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::tools;
use nix::sys::signal::Signal;

use super::WEB;
use super::web::{Web, of, requests, speak, wait_requests};
use crate::cases::{Case, Need, check, check_bytes, hold};

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_cut_off", cut_off),
    Case::new("requests_none_in_binary_data", binary),
    Case::new("requests_end_with_an_upgrade", upgraded),
    Case::new("requests_keep_secrets", secrets).needs(WEB),
    Case::new("requests_on_connections_older_than_the_agent", older).alone(),
    Case::new("requests_beyond_their_ring", beyond_the_ring)
        .needs(&[Need::Program("nginx"), Need::Speed])
        .alone(),
];

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

/// A connection that becomes something else: the request that asked for it is told, and what follows is none, even where it
/// looks like one.
fn upgraded() -> Result<()> {
    let agent = Agent::shared()?;
    const ASKED: &[u8] =
        b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const SWITCHED: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let inside: (&[u8], &[u8]) = (
        b"GET /inside HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let (at, thread) = server(move |mut stream| {
        stream.write_all(SWITCHED)?;
        some(&mut stream)?;
        Ok(stream.write_all(inside.1)?)
    })?;
    let mut stream = TcpStream::connect(at)?;
    stream.write_all(ASKED)?;
    some(&mut stream)?;
    stream.write_all(inside.0)?;
    stream.read_to_end(&mut Vec::new())?;
    drop(stream);
    end(thread)?;
    let (sent, received) = (ASKED.len() as u64, SWITCHED.len() as u64);
    for (role, port, bytes) in [
        (
            "client",
            (|e| e.peer_port) as fn(&Event) -> Option<u16>,
            (sent, received),
        ),
        ("server", |e| e.internal_port, (received, sent)),
    ] {
        let of_it = |event: &Event| event.role.as_deref() == Some(role) && port(event) == Some(at.port());
        let flow = agent.wait_event("the flow", |event| event.is_final() && of_it(event))?;
        let mut made = agent.events();
        made.retain(|event| event.kind == "request" && of_it(event));
        check(&flow, "requests", made.len(), 1)?;
        let event = &made[0];
        check(event, "route", of(event, "route").as_str(), Some("/chat"))?;
        check(event, "status_code", of(event, "status_code").as_u64(), Some(101))?;
        check(event, "error", of(event, "error").is_null(), true)?;
        check_bytes(event, bytes.0, bytes.1)?;
        check_bytes(
            &flow,
            bytes.0 + if role == "client" { inside.0 } else { inside.1 }.len() as u64,
            bytes.1 + if role == "client" { inside.1 } else { inside.0 }.len() as u64,
        )?;
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
