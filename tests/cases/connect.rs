//! How connections begin, and fail to.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, Lab, addr};
use netprobe_tests::traffic::proto::{Cmd, ConnectMode, ConnectOptions, Reply};
use netprobe_tests::traffic::{Connection, Endpoint};
use netprobe_tests::truth;

use super::{Case, Need, Pair, check, check_bytes, check_process, comm, error, hold, nat_status, reason};

pub(crate) const CASES: &[Case] = &[
    Case::new("connect_blocking", || plain("blocking", ConnectMode::Blocking)),
    Case::new("connect_non_blocking", || {
        plain("nonblocking", ConnectMode::NonBlocking)
    }),
    Case::new("connect_io_uring", || plain("uring", ConnectMode::Uring)).needs(&[Need::Uring]),
    Case::new("connect_refused", refused),
    Case::new("connect_timeout", timeout),
    Case::new("connect_user_timeout", user_timeout),
    Case::new("connect_abandoned", abandoned),
    Case::new("connect_unreachable_no_route", no_route),
    Case::new("connect_unreachable_prohibited", prohibited),
    Case::new("connect_unreachable_no_neighbour", no_neighbour),
    Case::new("connect_unreachable_by_icmp", by_icmp),
    Case::new("connect_port_reuse_at_once", port_reuse),
    Case::new("connect_fast_open", fast_open),
    Case::new("connect_accepted_before_established", accepted_before_established),
    Case::new("connect_again_on_another_port_after_refusal", refused_then_served),
];

fn plain(name: &str, mode: ConnectMode) -> Result<()> {
    let mut pair = Pair::local(name)?;
    let client = pair.cli.connect_with(
        pair.addr,
        ConnectOptions {
            mode,
            ..Default::default()
        },
    )?;
    let server = pair.srv.accept(pair.listener)?;
    pair.cli.send(client.socket, 100)?;
    pair.srv.recv(server.socket, 100)?;
    pair.srv.send(server.socket, 2000)?;
    pair.cli.recv(client.socket, 2000)?;
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, 100, 2000)?;
    check_bytes(&s, 2000, 100)?;
    check_process(&c, &pair.cli)?;
    check_process(&s, &pair.srv)?;
    check(&c, "state", c.is_state("closed"), true)?;
    check(&c, "protocol", c.protocol.as_deref(), Some("tcp"))?;
    check(&c, "family", c.family.as_deref(), Some("ipv4"))?;
    check(&c, "close_reason", reason(&c), Some("fin"))?;
    check(&s, "close_reason", reason(&s), Some("fin"))?;
    check(&c, "error", error(&c), None)?;
    check(&c, "severity", c.severity.as_str(), "info")?;
    check(&c, "flags", c.flags.len(), 0)?;
    check(&c, "nat.status", nat_status(&c), Some("none"))?;
    // The call contains the handshake: its duration is an upper bound the probe may not exceed.
    let call_ms = (client.call_ns.1 - client.call_ns.0) as f64 / 1e6;
    let connect_ms = c
        .flow
        .as_ref()
        .and_then(|f| f.connect_ms)
        .context("no connect_ms")?;
    hold(
        &c,
        "0 < connect_ms ≤ duration of the call",
        connect_ms > 0.0 && connect_ms <= call_ms,
    )
}

/// Waits for the final event of a connect that failed: there is one socket, known by its cookie.
fn failed_event(agent: &Agent, cli: &Endpoint, reply: &Reply) -> Result<Arc<Event>> {
    let remote = reply.remote.context("no remote address")?;
    let event = agent.wait_event(&format!("the failed connect to {remote}"), |event| {
        event.is_final()
            && event.netns == Some(cli.info().netns)
            && event.peer() == Some(remote)
            && event.process.as_ref().is_some_and(|p| p.pid == cli.info().pid)
    })?;
    check(&event, "state", event.is_state("failed"), true)?;
    check(&event, "role", event.role.as_deref(), Some("client"))?;
    check(&event, "severity", event.severity.as_str(), "error")?;
    check(
        &event,
        "connect_ms",
        event.flow.as_ref().and_then(|f| f.connect_ms),
        None,
    )?;
    check(&event, "bytes_sent", event.bytes_sent.unwrap_or(0), 0)?;
    check(&event, "bytes_received", event.bytes_received.unwrap_or(0), 0)?;
    // A connect that fails before its SYN may have a socket without a cookie yet; a wrong one is never right.
    check(&event, "cookie", event.cookie().or(reply.cookie), reply.cookie)?;
    check_process(&event, cli)?;
    Ok(event)
}

/// A connect that must fail with this errno.
fn fail(cli: &mut Endpoint, to: std::net::SocketAddr, options: ConnectOptions, errno: i32) -> Result<Reply> {
    let reply = cli.attempt(Cmd::Connect { addr: to, options })?;
    ensure!(
        reply.errno == errno,
        "the connect to {to} gave errno {}, not {errno}",
        reply.errno
    );
    let socket = reply.socket.context("no socket")?;
    cli.close(socket)?;
    Ok(reply)
}

fn refused() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "refused"))?;
    for mode in [ConnectMode::Blocking, ConnectMode::NonBlocking] {
        // Port 1 of the loopback of our own namespace: nobody listens.
        let port = if mode == ConnectMode::Blocking { 1 } else { 2 };
        let options = ConnectOptions {
            mode,
            ..Default::default()
        };
        let reply = fail(&mut cli, addr("127.0.0.1", port), options, libc::ECONNREFUSED)?;
        let event = failed_event(&agent, &cli, &reply)?;
        check(&event, "error", error(&event), Some("ECONNREFUSED"))?;
        check(&event, "close_reason", reason(&event), Some("refused"))?;
        let call_ms = (reply.ended_ns - reply.started_ns) as f64 / 1e6;
        hold(
            &event,
            "elapsed_ms ≤ duration of the call",
            event.elapsed_ms.is_some_and(|e| e <= call_ms),
        )?;
    }
    Ok(())
}

/// A lab where the server's namespace swallows SYNs to port 9.
fn swallowing() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.add("cli")?;
    lab.add("srv")?;
    lab.link("cli", "c0", "srv", "s0")?;
    lab.ip("cli", "addr add 10.78.1.2/24 dev c0")?;
    lab.ip("srv", "addr add 10.78.1.1/24 dev s0")?;
    lab.nft(
        "srv",
        "table ip f {
          chain in {
            type filter hook input priority 0;
            tcp dport 9 drop
            tcp dport 10 reject with icmp type host-prohibited
          }
        }",
    )?;
    Ok(lab)
}

fn timeout() -> Result<()> {
    let lab = swallowing()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "timeout"))?;
    let before = truth::netstat(&lab, "cli", "TcpExt", "TCPSynRetrans")?;
    let options = ConnectOptions {
        syn_retries: Some(1),
        ..Default::default()
    };
    let reply = fail(&mut cli, addr("10.78.1.1", 9), options, libc::ETIMEDOUT)?;
    let retries = truth::netstat(&lab, "cli", "TcpExt", "TCPSynRetrans")? - before;
    // How many a limit of 1 allows depends on the kernel (linear timeouts); its own count is the truth.
    ensure!(retries >= 1, "no SYN was sent again");
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "error", error(&event), Some("ETIMEDOUT"))?;
    check(&event, "close_reason", reason(&event), Some("timeout"))?;
    check(
        &event,
        "syn_retransmits",
        event.flow.as_ref().and_then(|f| f.syn_retransmits),
        Some(retries),
    )?;
    let call_ms = (reply.ended_ns - reply.started_ns) as f64 / 1e6;
    let elapsed = event.elapsed_ms.context("no elapsed_ms")?;
    hold(
        &event,
        "elapsed_ms within 10 % of the call's duration",
        (elapsed - call_ms).abs() < call_ms / 10.0,
    )
}

fn user_timeout() -> Result<()> {
    let lab = swallowing()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "usertimeout"))?;
    let options = ConnectOptions {
        user_timeout_ms: Some(700),
        ..Default::default()
    };
    let reply = fail(&mut cli, addr("10.78.1.1", 9), options, libc::ETIMEDOUT)?;
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "error", error(&event), Some("ETIMEDOUT"))?;
    check(&event, "close_reason", reason(&event), Some("timeout"))
}

fn abandoned() -> Result<()> {
    let lab = swallowing()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "abandoned"))?;
    let options = ConnectOptions {
        mode: ConnectMode::StartOnly,
        ..Default::default()
    };
    let reply = fail(&mut cli, addr("10.78.1.1", 9), options, 0)?;
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "close_reason", reason(&event), Some("abandoned"))?;
    check(&event, "error", error(&event), None)
}

fn no_route() -> Result<()> {
    let lab = swallowing()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "noroute"))?;
    let reply = fail(
        &mut cli,
        addr("10.99.9.9", 80),
        ConnectOptions::default(),
        libc::ENETUNREACH,
    )?;
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "close_reason", reason(&event), Some("unreachable"))?;
    check(&event, "error", error(&event), Some("ENETUNREACH"))
}

fn prohibited() -> Result<()> {
    let lab = swallowing()?;
    lab.ip("cli", "route add prohibit 10.98.0.0/16")?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "prohibited"))?;
    let reply = fail(
        &mut cli,
        addr("10.98.9.9", 80),
        ConnectOptions::default(),
        libc::EACCES,
    )?;
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "close_reason", reason(&event), Some("unreachable"))?;
    check(&event, "error", error(&event), Some("EACCES"))
}

fn no_neighbour() -> Result<()> {
    let lab = swallowing()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "noneighbour"))?;
    // On the link, and nobody has the address.
    let reply = fail(
        &mut cli,
        addr("10.78.1.77", 80),
        ConnectOptions::default(),
        libc::EHOSTUNREACH,
    )?;
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "close_reason", reason(&event), Some("unreachable"))?;
    check(&event, "error", error(&event), Some("EHOSTUNREACH"))
}

fn by_icmp() -> Result<()> {
    let lab = swallowing()?;
    let agent = Agent::shared()?;
    let mut cli = lab.endpoint("cli", &comm('c', "icmp"))?;
    let options = ConnectOptions {
        syn_retries: Some(1),
        ..Default::default()
    };
    let reply = fail(&mut cli, addr("10.78.1.1", 10), options, libc::EHOSTUNREACH)?;
    let event = failed_event(&agent, &cli, &reply)?;
    check(&event, "close_reason", reason(&event), Some("unreachable"))?;
    check(&event, "error", error(&event), Some("EHOSTUNREACH"))
}

fn port_reuse() -> Result<()> {
    let mut pair = Pair::local("reuse")?;
    let mut last: Option<Connection> = None;
    // A reset leaves no TIME_WAIT behind, so the same four-tuple is free at once.
    for bytes in [10, 20, 30] {
        let options = ConnectOptions {
            bind: last.map(|c| c.local),
            ..Default::default()
        };
        let client = pair.cli.connect_with(pair.addr, options)?;
        let server = pair.srv.accept(pair.listener)?;
        if let Some(before) = last {
            ensure!(
                before.local == client.local && before.cookie != client.cookie,
                "the port is reused"
            );
        }
        pair.cli.send(client.socket, bytes)?;
        pair.srv.recv(server.socket, bytes)?;
        pair.cli.call(Cmd::LingerZero {
            socket: client.socket,
        })?;
        pair.cli.close(client.socket)?;
        pair.srv.close(server.socket)?;
        let (c, s) = pair.finals(&client, &server)?;
        check_bytes(&c, bytes, 0)?;
        check_bytes(&s, 0, bytes)?;
        last = Some(client);
    }
    Ok(())
}

fn fast_open() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.add("one")?;
    // 1: clients, 2: servers, 0x200: servers without a cookie.
    lab.sysctl("one", "net/ipv4/tcp_fastopen", "519")?;
    let lab = Arc::new(lab);
    let agent = Agent::shared()?;
    let mut pair = Pair::over(lab, agent, "tfo", "one", "one", addr("127.0.0.1", 0))?;
    let listen = Cmd::Listen {
        addr: addr("127.0.0.1", 0),
        backlog: 8,
        fast_open: true,
    };
    let listener = pair.srv.call(listen)?;
    let (socket, to) = (
        listener.socket.context("no socket")?,
        listener.local.context("no address")?,
    );
    // The first one fetches the cookie, the second one carries data in its SYN.
    let mut carried = false;
    for _ in 0..2 {
        let options = ConnectOptions {
            mode: ConnectMode::FastOpen(300),
            ..Default::default()
        };
        let reply = pair.cli.call(Cmd::Connect { addr: to, options })?;
        ensure!(reply.bytes == 300, "the call took {} bytes", reply.bytes);
        let client = Connection::try_from(&reply)?;
        let server = pair.srv.accept(socket)?;
        pair.srv.recv(server.socket, 300)?;
        carried = pair.cli.tcp_info(client.socket)?.options & 32 != 0;
        let (c, s) = pair.finish(client, server)?;
        check_bytes(&c, 300, 0)?;
        check_bytes(&s, 0, 300)?;
        check(&c, "flag tfo of the client", c.has_flag("tfo"), carried)?;
        check(&s, "flag tfo of the server", s.has_flag("tfo"), carried)?;
    }
    ensure!(
        carried,
        "no SYN carried data: fast open is not at work in this lab"
    );
    Ok(())
}

/// With fast open a connection can be taken before its handshake is done: here the client's last part of it is held
/// back until it was.
fn accepted_before_established() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.add("one")?;
    lab.sysctl("one", "net/ipv4/tcp_fastopen", "519")?;
    let lab = Arc::new(lab);
    let agent = Agent::shared()?;
    let mut pair = Pair::over(lab.clone(), agent, "early", "one", "one", addr("127.0.0.1", 0))?;
    let listener = pair.srv.call(Cmd::Listen {
        addr: addr("127.0.0.1", 0),
        backlog: 8,
        fast_open: true,
    })?;
    let (socket, to) = (
        listener.socket.context("no socket")?,
        listener.local.context("no address")?,
    );
    for held in [true, false] {
        if held {
            let rule = format!("tcp dport {} tcp flags & (syn | ack) == ack drop", to.port());
            lab.nft(
                "one",
                &format!("table ip hold {{ chain out {{ type filter hook output priority 0; {rule}; }}\n}}"),
            )?;
        }
        let options = ConnectOptions {
            mode: ConnectMode::FastOpen(300),
            ..Default::default()
        };
        let client = Connection::try_from(&pair.cli.call(Cmd::Connect { addr: to, options })?)?;
        let server = pair.srv.accept(socket)?;
        if held {
            let state = pair.srv.tcp_info(server.socket)?.state;
            ensure!(state == 3, "accepted in state {state}, not in SYN_RECV");
            lab.nft("one", "delete table ip hold")?;
        }
        pair.srv.recv(server.socket, 300)?;
        // The SYN-ACK comes again after a second, and with its answer the server's end is established.
        netprobe_tests::wait_for("ESTABLISHED", std::time::Duration::from_secs(10), || {
            let state = pair.srv.tcp_info(server.socket).ok()?.state;
            (state == 1).then_some(())
        })?;
        let (_, s) = pair.finish(client, server)?;
        check_bytes(&s, 0, 300)?;
        check_process(&s, &pair.srv)?;
        check(&s, "flag tfo", s.has_flag("tfo"), true)?;
        check(&s, "flag upper_bound", s.has_flag("upper_bound"), false)?;
        let wait = s.flow.as_ref().and_then(|flow| flow.accept_wait_ms);
        if held {
            check(&s, "accept_wait_ms", wait, Some(0.0))?;
        } else {
            ensure!(wait.is_some(), "no accept_wait_ms");
        }
    }
    Ok(())
}

fn refused_then_served() -> Result<()> {
    let mut pair = Pair::local("again")?;
    let reply = fail(
        &mut pair.cli,
        addr("127.0.0.1", 3),
        ConnectOptions::default(),
        libc::ECONNREFUSED,
    )?;
    let pid = Some(pair.cli.info().pid);
    let (client, server) = pair.open()?;
    let (c, _) = pair.finish(client, server)?;
    check(&c, "state", c.is_state("closed"), true)?;
    let failed = failed_event(&pair.agent, &pair.cli, &reply)?;
    // Both the state and the call tell of a refusal: one event comes of it. Whatever was to come came before `c`.
    let told = pair
        .agent
        .events()
        .iter()
        .filter(|e| e.is_final() && e.peer() == failed.peer() && e.process.as_ref().map(|p| p.pid) == pid)
        .count();
    check(&failed, "final events of the failed connect", told, 1)
}
