//! How connections end.

use anyhow::{Context, Result, ensure};
use netprobe_tests::traffic::proto::Cmd;

use super::{Case, Pair, check, check_bytes, check_process, error, hold, reason};

pub(crate) const CASES: &[Case] = &[
    Case::new("close_zero_bytes", zero_bytes),
    Case::new("close_reset_by_linger", reset_by_linger),
    Case::new("close_reset_by_unread_data", reset_by_unread),
    Case::new("close_half", half),
    Case::new("close_by_server_first", server_first),
    Case::new("close_killed_with_its_process", killed),
    Case::new("close_never_accepted", never_accepted),
    Case::new("close_simultaneous_data_both_ways", both_ways),
    Case::new("close_unread_bytes_count", unread_count),
];

fn zero_bytes() -> Result<()> {
    let mut pair = Pair::local("zero")?;
    let (client, server) = pair.open()?;
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, 0, 0)?;
    check_bytes(&s, 0, 0)?;
    check(&c, "close_reason", reason(&c), Some("fin"))?;
    check_process(&c, &pair.cli)?;
    check_process(&s, &pair.srv)
}

fn reset_by_linger() -> Result<()> {
    let mut pair = Pair::local("linger")?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 500)?;
    pair.srv.recv(server.socket, 500)?;
    pair.cli.call(Cmd::LingerZero {
        socket: client.socket,
    })?;
    pair.cli.close(client.socket)?;
    let read = pair.srv.attempt(Cmd::Recv {
        socket: server.socket,
        bytes: None,
        how: netprobe_tests::traffic::proto::RecvHow::Recv,
    })?;
    ensure!(
        read.errno == libc::ECONNRESET,
        "the server's read gave errno {}",
        read.errno
    );
    pair.srv.close(server.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 500, 0)?;
    check_bytes(&s, 0, 500)?;
    check(&c, "close_reason", reason(&c), Some("reset_local"))?;
    check(&s, "close_reason", reason(&s), Some("reset_remote"))?;
    check(&s, "error", error(&s), Some("ECONNRESET"))?;
    // Everything had been read and acknowledged.
    check(&c, "severity", c.severity.as_str(), "warning")?;
    check(&s, "severity", s.severity.as_str(), "warning")
}

fn reset_by_unread() -> Result<()> {
    let mut pair = Pair::local("unread")?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 800)?;
    pair.srv.call(Cmd::Settle {
        socket: server.socket,
        unread: 800,
    })?;
    pair.srv.close(server.socket)?;
    let read = pair.cli.attempt(Cmd::Recv {
        socket: client.socket,
        bytes: None,
        how: netprobe_tests::traffic::proto::RecvHow::Recv,
    })?;
    ensure!(
        read.errno == libc::ECONNRESET,
        "the client's read gave errno {}",
        read.errno
    );
    pair.cli.close(client.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 800, 0)?;
    check_bytes(&s, 0, 800)?;
    check(&s, "close_reason", reason(&s), Some("reset_local"))?;
    check(&c, "close_reason", reason(&c), Some("reset_remote"))?;
    check(&s, "severity", s.severity.as_str(), "error")
}

fn half() -> Result<()> {
    let mut pair = Pair::local("half")?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 40)?;
    pair.cli.call(Cmd::ShutdownWrite {
        socket: client.socket,
    })?;
    ensure!(
        pair.srv.drain(server.socket)? == 40,
        "the server reads to the end"
    );
    // Still open the other way: a lot comes after the client's FIN.
    for _ in 0..5 {
        pair.srv.send(server.socket, 100_000)?;
        pair.cli.recv(client.socket, 100_000)?;
    }
    pair.srv.close(server.socket)?;
    ensure!(pair.cli.drain(client.socket)? == 0, "then the server ends");
    pair.cli.close(client.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 40, 500_000)?;
    check_bytes(&s, 500_000, 40)?;
    check(&c, "close_reason", reason(&c), Some("fin"))?;
    check(&s, "close_reason", reason(&s), Some("fin"))
}

fn server_first() -> Result<()> {
    let mut pair = Pair::local("srvfirst")?;
    let (client, server) = pair.open()?;
    pair.srv.send(server.socket, 9)?;
    pair.srv.close(server.socket)?;
    ensure!(pair.cli.drain(client.socket)? == 9, "the client reads to the end");
    pair.cli.close(client.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 0, 9)?;
    check_bytes(&s, 9, 0)?;
    check(&c, "close_reason", reason(&c), Some("fin"))?;
    check(&s, "close_reason", reason(&s), Some("fin"))
}

fn killed() -> Result<()> {
    let mut pair = Pair::local("killed")?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 321)?;
    pair.srv.recv(server.socket, 321)?;
    // Its `open`: from then on the agent knows whose it is.
    let netns = pair.cli.info().netns;
    pair.agent.wait_event("the open event", |event| {
        event.is_state("open") && event.netns == Some(netns) && event.cookie() == Some(client.cookie)
    })?;
    pair.cli.kill()?;
    ensure!(pair.srv.drain(server.socket)? == 0, "the server sees the end");
    pair.srv.close(server.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 321, 0)?;
    check_bytes(&s, 0, 321)?;
    // The process is gone, and was known before.
    check_process(&c, &pair.cli)?;
    let exe = c.process.as_ref().and_then(|p| p.exe.as_deref());
    check(&c, "process.exe", exe, Some(pair.cli.info().exe.as_str()))
}

fn never_accepted() -> Result<()> {
    let mut pair = Pair::local("unaccepted")?;
    let client = pair.cli.connect(pair.addr)?;
    pair.cli.send(client.socket, 64)?;
    pair.srv.close(pair.listener)?;
    // Closing the listener resets what waits in its queue.
    pair.cli.attempt(Cmd::Recv {
        socket: client.socket,
        bytes: None,
        how: netprobe_tests::traffic::proto::RecvHow::Recv,
    })?;
    pair.cli.close(client.socket)?;
    let c = pair.client_final(&client)?;
    check_bytes(&c, 64, 0)?;
    let netns = pair.srv.info().netns;
    let s = pair
        .agent
        .wait_event("the server end that nobody accepted", |event| {
            event.is_final()
                && event.role.as_deref() == Some("server")
                && event.netns == Some(netns)
                && event.peer() == Some(client.local)
                && event.internal() == Some(client.remote)
        })?;
    check(&s, "close_reason", reason(&s), Some("unaccepted"))?;
    check_bytes(&s, 0, 64)?;
    check(&s, "process", s.process.is_none(), true)?;
    check(
        &s,
        "accept_wait_ms",
        s.flow.as_ref().and_then(|f| f.accept_wait_ms),
        None,
    )
}

fn both_ways() -> Result<()> {
    let mut pair = Pair::local("bothways")?;
    let (client, server) = pair.open()?;
    for bytes in [1u64, 1000, 65_536, 300_000] {
        pair.cli.send(client.socket, bytes)?;
        pair.srv.recv(server.socket, bytes)?;
        pair.srv.send(server.socket, bytes * 2)?;
        pair.cli.recv(client.socket, bytes * 2)?;
    }
    let sum = 1 + 1000 + 65_536 + 300_000;
    let info = pair.cli.tcp_info(client.socket)?;
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, sum, 2 * sum)?;
    check_bytes(&s, 2 * sum, sum)?;
    let flow = c.flow.as_ref().context("no flow")?;
    hold(
        &c,
        "segments_out ≥ what TCP_INFO said",
        flow.segments_out >= Some(u64::from(info.segs_out)),
    )?;
    hold(
        &c,
        "segments_in ≥ what TCP_INFO said",
        flow.segments_in >= Some(u64::from(info.segs_in)),
    )?;
    let rtt = flow.rtt_ms.context("no rtt_ms")?;
    hold(&c, "rtt_ms as on a loopback", rtt > 0.0 && rtt < 100.0)
}

fn unread_count() -> Result<()> {
    let mut pair = Pair::local("unreadcount")?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 700)?;
    pair.srv.call(Cmd::Settle {
        socket: server.socket,
        unread: 700,
    })?;
    pair.srv.recv(server.socket, 300)?;
    // The client ends in order; the server never reads the other 400.
    pair.cli.close(client.socket)?;
    pair.srv.close(server.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 700, 0)?;
    check_bytes(&s, 0, 700)
}
