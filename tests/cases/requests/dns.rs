//! DNS over UDP, against dnsmasq and its log.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{Lab, addr};
use netprobe_tests::{tools, wait_for};

use super::web::{Web, of, requests, wait_requests};
use crate::cases::programs::{Daemon, program};
use crate::cases::{Case, Need, check, check_bytes, hold};

const SERVER: &str = "10.84.3.1";
const SERVER_V6: &str = "fd84:3::1";
const KERNEL: Need = Need::Kernel(6, 12);
const TOOLS: &[Need] = &[KERNEL, Need::Program("dnsmasq"), Need::Program("dig")];

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_of_dig_equal_dnsmasq_log", dig_and_dnsmasq).needs(TOOLS),
    Case::new("requests_of_dns_without_an_answer", unanswered).needs(&[KERNEL]),
    Case::new("requests_name_peers", names).needs(&[
        KERNEL,
        Need::Program("dnsmasq"),
        Need::Program("dig"),
        Need::Program("nginx"),
        Need::Program("curl"),
    ]),
];

/// Two namespaces beside each other.
fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.add("cli")?;
    lab.add("srv")?;
    lab.link("cli", "c0", "srv", "s0")?;
    for (side, device, v4, v6) in [
        ("cli", "c0", "10.84.3.2/24", "fd84:3::2/64"),
        ("srv", "s0", "10.84.3.1/24", "fd84:3::1/64"),
    ] {
        lab.ip(side, &format!("addr add {v4} dev {device}"))?;
        lab.ip(side, &format!("addr add {v6} dev {device} nodad"))?;
    }
    Ok(lab)
}

fn dnsmasq(lab: &Lab, folder: &Path) -> Result<Daemon> {
    let log = folder.join("log");
    let mut command = program("dnsmasq")?;
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--bind-interfaces",
        "--log-queries=extra",
        "--host-record=web.example,10.84.3.1,fd84:3::1",
        "--txt-record=long.example,0123456789012345678901234567890123456789012345678901234567890123456789",
        "--local=/example/",
    ]);
    command.arg(format!("--listen-address={SERVER},{SERVER_V6}"));
    command.arg(format!("--log-facility={}", log.display()));
    command.arg(format!("--pid-file={}", folder.join("pid").display()));
    let daemon = Daemon::start(lab, "srv", &mut command)?;
    wait_for("dnsmasq to listen", PATIENCE, || {
        let text = lab.run("srv", "ss", &["-ulnH"]).ok()?;
        (text.contains("10.84.3.1:53") && text.contains("]:53")).then_some(())
    })?;
    Ok(daemon)
}

/// A query in dnsmasq's log: port of the client, type, name.
fn log(folder: &Path) -> Result<Vec<(u16, String, String)>> {
    let text = std::fs::read_to_string(folder.join("log"))?;
    // `… dnsmasq[1]: 7 10.84.3.2/40001 query[A] web.example from 10.84.3.2`
    let read = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let at = words.iter().position(|word| word.starts_with("query["))?;
        let port = words.get(at.checked_sub(1)?)?.rsplit('/').next()?.parse().ok()?;
        let kind = words[at].strip_prefix("query[")?.strip_suffix(']')?;
        Some((port, kind.to_owned(), (*words.get(at + 1)?).to_owned()))
    };
    Ok(text.lines().filter_map(read).collect())
}

/// What dig says: status and microseconds.
fn dig(lab: &Lab, arguments: &[&str]) -> Result<(String, f64)> {
    let mut all = vec!["-u", "+noedns", "+tries=1", "+time=5"];
    all.extend(arguments);
    let said = lab.run("cli", "dig", &all)?;
    let behind = |word: &str| -> Option<&str> {
        let at = said.find(word)? + word.len();
        said[at..].split([',', ' ', '\n']).find(|part| !part.is_empty())
    };
    Ok((
        behind("status:").context("dig says no status")?.to_owned(),
        behind("Query time:").context("dig says no time")?.parse()?,
    ))
}

fn dig_and_dnsmasq() -> Result<()> {
    let (lab, agent) = (lab()?, Agent::shared()?);
    let folder = tempfile::tempdir()?;
    let _server = dnsmasq(&lab, folder.path())?;
    let (v4, v6) = (format!("@{SERVER}"), format!("@{SERVER_V6}"));
    let runs: &[(&[&str], &str)] = &[
        (&[&v4, "web.example", "A"], "udp"),
        (&[&v6, "web.example", "AAAA"], "udp"),
        (&[&v4, "none.example", "A"], "udp"),
        (&[&v4, "LONG.example", "TXT"], "udp"),
        (&[&v4, "web.example", "MX"], "udp"),
        (&[&v4, "elsewhere.invalid", "A"], "udp"),
        (&[&v4, "+tcp", "web.example", "A"], "tcp"),
    ];
    let mut said = Vec::new();
    for (arguments, transport) in runs {
        let (status, micros) = dig(&lab, arguments)?;
        said.push((status, micros, *transport));
    }
    let truth = log(folder.path())?;
    ensure!(truth.len() == runs.len(), "dnsmasq's log: {truth:?}");
    let dns = |event: &Event| of(event, "protocol") == "dns";
    let (cli, srv) = (lab.inode("cli")?, lab.inode("srv")?);
    let clients = wait_requests(&agent, "client", cli, runs.len(), dns)?;
    let servers = wait_requests(&agent, "server", srv, runs.len(), dns)?;
    ensure!(
        (clients.len(), servers.len()) == (runs.len(), runs.len()),
        "{} of clients, {} of the server",
        clients.len(),
        servers.len()
    );
    for ((port, kind, name), (status, micros, transport)) in truth.iter().zip(&said) {
        let client = clients.iter().find(|event| event.internal_port == Some(*port));
        let server = servers.iter().find(|event| event.peer_port == Some(*port));
        let (client, server) = (
            client.with_context(|| format!("no client's event for {name}"))?,
            server.with_context(|| format!("no server's event for {name}"))?,
        );
        let code = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"]
            .iter()
            .position(|known| known == status)
            .with_context(|| format!("status {status}"))? as u64;
        for event in [client, server] {
            check(event, "method", of(event, "method").as_str(), Some(&**kind))?;
            check(
                event,
                "route",
                of(event, "route").as_str(),
                Some(&*name.to_lowercase()),
            )?;
            check(
                event,
                "status_code",
                of(event, "status_code").as_u64(),
                Some(code),
            )?;
            check(event, "protocol", event.protocol.as_deref(), Some(*transport))?;
            check(event, "tls", of(event, "tls"), &serde_json::Value::Bool(false))?;
            hold(event, "it took time", event.elapsed_ms > Some(0.0))?;
        }
        check(client, "external addresses", client.peer(), server.internal())?;
        check(server, "the peer", server.peer(), client.internal())?;
        let program = |event: &Event| {
            let exe = event.process.as_ref().and_then(|process| process.exe.clone());
            exe.and_then(|exe| exe.rsplit('/').next().map(str::to_owned))
        };
        // dig may be gone before its executable can be looked at.
        hold(client, "it has a process", client.process.is_some())?;
        check(server, "program", program(server).as_deref(), Some("dnsmasq"))?;
        check_bytes(
            server,
            client.bytes_received.unwrap_or(0),
            client.bytes_sent.unwrap_or(0),
        )?;
        // dig's clock begins before the socket is written and ends after it was read.
        hold(
            client,
            "within dig's time",
            client.elapsed_ms <= Some(micros / 1e3),
        )?;
        hold(
            server,
            "within the client's time",
            server.elapsed_ms <= client.elapsed_ms,
        )?;
        let flow = agent.wait_event("the flow", |event| {
            event.kind == "flow" && event.connection_id == client.connection_id
        })?;
        check(client, "trace_id", &client.trace_id, &flow.trace_id)?;
    }
    Ok(())
}

/// A query for the name `a.example`, type A.
fn query(id: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend_from_slice(b"\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01");
    query
}

/// Sockets that are not connected; the server reads and says nothing.
fn unanswered() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&Settings {
        sections: "[requests]\ndns_timeout = \"1500ms\"".to_owned(),
        ..Settings::default()
    })?;
    let bind = |netns: &str, at: SocketAddr| tools::within(&lab.path(netns), || Ok(UdpSocket::bind(at)?));
    let server = bind("srv", addr("0.0.0.0", 53))?;
    let client = bind("cli", addr("0.0.0.0", 0))?;
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    let query = query(7);
    for bytes in [&query[..], b"no message of DNS"] {
        client.send_to(bytes, addr(SERVER, 53))?;
        server.recv_from(&mut [0; 512])?;
    }
    for (role, netns) in [("client", "cli"), ("server", "srv")] {
        let events = wait_requests(&agent, role, lab.inode(netns)?, 1, |_| true)?;
        check(&events[0], "events", events.len(), 1)?;
        let event = &events[0];
        check(event, "error", of(event, "error").as_str(), Some("timeout"))?;
        check(
            event,
            "status_code",
            of(event, "status_code"),
            &serde_json::Value::Null,
        )?;
        check(event, "route", of(event, "route").as_str(), Some("a.example"))?;
        check(event, "severity", &*event.severity, "error")?;
        check(event, "elapsed_ms", event.elapsed_ms, Some(1500.0))?;
        let size = Some(query.len() as u64);
        let (there, back) = (event.bytes_sent, event.bytes_received);
        check(event, "bytes", if role == "client" { there } else { back }, size)?;
        check(
            event,
            "the client's address",
            if role == "client" {
                event.internal()
            } else {
                event.peer()
            },
            Some(addr("10.84.3.2", client.local_addr()?.port())),
        )?;
    }
    let rejected = agent.probe()?["counters"]["request_rejected_dns"].as_u64();
    ensure!(
        rejected == Some(2),
        "{rejected:?} messages were refused, not one at each side"
    );
    Ok(())
}

/// What an address was called by DNS is what connections to it are counted under.
fn names() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&Settings::default())?;
    let folder = tempfile::tempdir()?;
    let _server = dnsmasq(&lab, folder.path())?;
    let web = Web::start(&lab, "srv", addr(SERVER, 20_607))?;
    dig(&lab, &[&format!("@{SERVER}"), "web.example", "A"])?;
    lab.run(
        "cli",
        "curl",
        &["-sS", "-o", "/dev/null", &format!("http://{}/ok", web.at)],
    )?;
    let netns = lab.inode("cli")?;
    agent.wait_event("the flow", |event| {
        event.is_final() && event.peer_port == Some(20_607) && event.netns == Some(netns)
    })?;
    let http = |event: &Event| event.peer_port == Some(20_607);
    ensure!(!requests(&agent, "client", netns, http).is_empty(), "no request");
    let (_, metrics) = agent.get("/metrics")?;
    for family in ["netprobe_tcp_connects_total{", "netprobe_requests_total{"] {
        let mut lines = metrics
            .lines()
            .filter(|line| line.starts_with(family) && line.contains("20607"));
        ensure!(
            lines.clone().count() > 0 && lines.all(|line| line.contains("peer=\"web.example:20607\"")),
            "{family}: {:?}",
            metrics
                .lines()
                .filter(|line| line.contains("20607"))
                .collect::<Vec<_>>()
        );
    }
    Ok(())
}
