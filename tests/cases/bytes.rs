//! Bytes, by every call that moves them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::lab::{self, addr};
use netprobe_tests::traffic::Connection;
use netprobe_tests::traffic::proto::{Cmd, RecvHow, SendHow};
use netprobe_tests::wait_for;

use super::{Case, Need, Pair, check, check_bytes};

pub(crate) const CASES: &[Case] = &[
    Case::new("bytes_send_recv_small_calls", || {
        moved("small", SendHow::Send, RecvHow::Recv, 30_011, 7)
    }),
    Case::new("bytes_writev", || {
        moved("writev", SendHow::Writev, RecvHow::Recv, 100_001, 10_000)
    }),
    Case::new("bytes_sendmmsg_recvmmsg", || {
        moved("mmsg", SendHow::Sendmmsg, RecvHow::Recvmmsg, 100_001, 9_000)
    }),
    Case::new("bytes_sendfile", || {
        moved("sendfile", SendHow::Sendfile, RecvHow::Recv, 3_000_001, 1 << 20)
    }),
    Case::new("bytes_splice_to_socket", || {
        moved("spliceto", SendHow::Splice, RecvHow::Recv, 1_000_001, 65_536)
    }),
    Case::new("bytes_splice_from_socket", || {
        moved("splicefr", SendHow::Send, RecvHow::Splice, 1_000_001, 65_536)
    }),
    Case::new("bytes_peek_counts_once", || {
        moved("peek", SendHow::Send, RecvHow::PeekFirst, 50_001, 1000)
    }),
    Case::new("bytes_discarded_by_trunc", || {
        moved("trunc", SendHow::Send, RecvHow::Discard, 500_001, 65_536)
    }),
    Case::new("bytes_io_uring", || {
        moved("uring", SendHow::Uring, RecvHow::Uring, 200_001, 20_000)
    })
    .needs(&[Need::Uring]),
    Case::new("bytes_kernel_tls", kernel_tls).needs(&[Need::KernelTls]),
    Case::new("bytes_zero_copy", zero_copy),
    Case::new("bytes_partial_writes", partial_writes),
    Case::new("bytes_of_idle_connections_are_told_while_they_live", || {
        idle("idle", "1s", told_by_update)
    }),
    Case::new("bytes_of_idle_connections_are_listed_for_who_looks", || {
        idle("idlelook", "1h", listed)
    }),
    Case::new("bytes_more_than_4_gib", more_than_4_gib)
        .alone()
        .needs(&[Need::Speed]),
];

/// What the probe's own check said so far: connections whose calls and counters agreed, and did not.
struct SelfCheck {
    passed: u64,
    disagreed: u64,
}

impl SelfCheck {
    /// As it stands before a connection, once the agent names those that disagree.
    fn before(agent: &Agent) -> Result<Self> {
        wait_for("the programs' debug lines", PATIENCE, || {
            agent.log().contains("debug lines of the programs").then_some(())
        })?;
        Self::read(agent)
    }

    fn read(agent: &Agent) -> Result<Self> {
        let probe = agent.probe()?;
        let count = |name: &str| probe["counters"][name].as_u64().context("no such counter");
        Ok(Self {
            passed: count("byte_checks_passed")?,
            disagreed: count("byte_disagreements")?,
        })
    }

    /// Totals come from TCP's counters; here the sums of the calls, as the hooks saw them, must not contradict. `skipped`:
    /// they are not comparable, so none needs to have passed.
    fn agrees(&self, pair: &Pair, ends: [Connection; 2], skipped: bool) -> Result<()> {
        wait_for("the probe to compare its counts", Duration::from_secs(10), || {
            let now = Self::read(&pair.agent).ok()?;
            (skipped || now.passed + now.disagreed > self.passed + self.disagreed).then_some(())
        })?;
        if Self::read(&pair.agent)?.disagreed == self.disagreed {
            return Ok(());
        }
        // Some connection of this host disagrees; the log says which, within a second or so.
        let ours = ends.map(|end| format!("bytes disagree: cookie {} ", end.cookie));
        let line = wait_for("a line about this connection", Duration::from_secs(5), || {
            let log = pair.agent.log();
            let line = log.lines().find(|line| ours.iter().any(|o| line.contains(o)))?;
            Some(line.to_owned())
        });
        match line {
            Ok(line) => bail!("the calls seen do not add up to what moved: {line}"),
            // A count that no line explains could be ours: only another connection's line acquits.
            Err(_) => {
                ensure!(
                    pair.agent.log().contains("bytes disagree: cookie "),
                    "disagreements were counted and no line of the log names the connection"
                );
                Ok(())
            }
        }
    }
}

/// Client sends `bytes`, server answers with a third of it, by these calls.
fn moved(name: &str, send: SendHow, recv: RecvHow, bytes: u64, chunk: usize) -> Result<()> {
    exchange(Pair::local(name)?, send, recv, bytes, chunk)
}

fn exchange(mut pair: Pair, send: SendHow, recv: RecvHow, bytes: u64, chunk: usize) -> Result<()> {
    let calls = SelfCheck::before(&pair.agent)?;
    let (client, server) = pair.open()?;
    let back = bytes / 3;
    // Both ends at work: more than a buffer holds goes through.
    pair.srv.begin(&Cmd::Recv {
        socket: server.socket,
        bytes: Some(bytes),
        how: recv,
    })?;
    let sent = pair.cli.call(Cmd::Send {
        socket: client.socket,
        bytes,
        chunk,
        how: send,
    })?;
    let received = pair.srv.finish()?;
    ensure!(
        sent.bytes == bytes && received.bytes == bytes,
        "{sent:?} {received:?}"
    );
    pair.cli.begin(&Cmd::Recv {
        socket: client.socket,
        bytes: Some(back),
        how: recv,
    })?;
    let sent = pair.srv.call(Cmd::Send {
        socket: server.socket,
        bytes: back,
        chunk,
        how: send,
    })?;
    let received = pair.cli.finish()?;
    ensure!(
        sent.bytes == back && received.bytes == back,
        "{sent:?} {received:?}"
    );
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, bytes, back)?;
    check_bytes(&s, back, bytes)?;
    calls.agrees(&pair, [client, server], recv == RecvHow::Splice)
}

/// Across a veth, where the kernel need not copy at once; on the loopback it always does.
fn zero_copy() -> Result<()> {
    exchange(
        Pair::across("zerocopy", 30200)?,
        SendHow::ZeroCopy,
        RecvHow::Recv,
        2_000_001,
        100_000,
    )
}

/// A reader that stops: the write returns less than asked for, and only that counts.
fn partial_writes() -> Result<()> {
    let mut pair = Pair::local("partial")?;
    let calls = SelfCheck::before(&pair.agent)?;
    let (client, server) = pair.open()?;
    // No one reads: the call is cut short by the send timeout of the socket, after some of it was taken.
    pair.cli.call(Cmd::SendTimeout {
        socket: client.socket,
        ms: 300,
    })?;
    let sent = pair.cli.attempt(Cmd::SendOnce {
        socket: client.socket,
        bytes: 64 << 20,
    })?;
    ensure!(
        sent.errno == 0 && sent.bytes > 0 && sent.bytes < 64 << 20,
        "a partial write: {sent:?}"
    );
    let received = {
        pair.srv.begin(&Cmd::Recv {
            socket: server.socket,
            bytes: None,
            how: RecvHow::Recv,
        })?;
        pair.cli.close(client.socket)?;
        pair.srv.finish()?
    };
    ensure!(
        received.bytes == sent.bytes,
        "what was taken arrives: {received:?}"
    );
    pair.srv.close(server.socket)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, sent.bytes, 0)?;
    check_bytes(&s, 0, sent.bytes)?;
    calls.agrees(&pair, [client, server], false)
}

/// Counters are 64 bits wide: 4 GiB and a bit, one way.
fn more_than_4_gib() -> Result<()> {
    let mut pair = Pair::local("huge")?;
    let bytes = (4u64 << 30) + 12_345;
    let (client, server) = pair.open()?;
    pair.srv.begin(&Cmd::Recv {
        socket: server.socket,
        bytes: Some(bytes),
        how: RecvHow::Discard,
    })?;
    let chunk = 1 << 20;
    let sent = pair.cli.call(Cmd::Send {
        socket: client.socket,
        bytes,
        chunk,
        how: SendHow::Send,
    })?;
    let received = pair.srv.finish()?;
    ensure!(
        sent.bytes == bytes && received.bytes == bytes,
        "{sent:?} {received:?}"
    );
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, bytes, 0)?;
    check_bytes(&s, 0, bytes)
}

/// Only the end that has TLS in the kernel says so.
fn kernel_tls() -> Result<()> {
    let mut pair = Pair::local("ktls")?;
    let (client, server) = pair.open()?;
    pair.cli.call(Cmd::KernelTls {
        socket: client.socket,
    })?;
    pair.cli.send(client.socket, 100)?;
    pair.srv.recv(server.socket, 100)?;
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, 100, 0)?;
    check(&c, "flag ktls of the client", c.has_flag("ktls"), true)?;
    check(&s, "flag ktls of the server", s.has_flag("ktls"), false)
}

/// How many bytes the idle connections of [`idle`] move.
const IDLE: u64 = 12_345;

/// What moved in the first moments of a connection that then stands still: too early for a sample, and nothing calls for
/// one later. `told` waits until the agent knows, given role, local port, and bytes sent and received.
fn idle(
    case: &str,
    reconcile_every: &str,
    told: fn(&Agent, &str, u16, (u64, u64)) -> Result<()>,
) -> Result<()> {
    let agent = Arc::new(Agent::start(&Settings {
        probe: "sample_interval = \"1h\"".to_owned(),
        flow: format!("update_every = \"500ms\"\nreconcile_every = \"{reconcile_every}\""),
        ..Settings::default()
    })?);
    let at = addr("127.0.0.1", 0);
    let mut pair = Pair::over(lab::gateway()?, agent.clone(), case, "cli", "cli", at)?;
    let (client, server) = pair.open()?;
    pair.srv.begin(&Cmd::Recv {
        socket: server.socket,
        bytes: Some(IDLE),
        how: RecvHow::Recv,
    })?;
    pair.cli.send(client.socket, IDLE)?;
    pair.srv.finish()?;
    told(&agent, "client", client.local.port(), (IDLE, 0))?;
    told(&agent, "server", server.local.port(), (0, IDLE))?;
    let (client, server) = pair.finish(client, server)?;
    check_bytes(&client, IDLE, 0)?;
    check_bytes(&server, 0, IDLE)
}

fn told_by_update(agent: &Agent, role: &str, port: u16, bytes: (u64, u64)) -> Result<()> {
    agent.wait_event(&format!("an update of the idle {role} with its bytes"), |event| {
        event.role.as_deref() == Some(role)
            && event.internal_port == Some(port)
            && event.flow.as_ref().is_some_and(|flow| flow.state == "update")
            && (event.bytes_sent, event.bytes_received) == (Some(bytes.0), Some(bytes.1))
    })?;
    Ok(())
}

fn listed(agent: &Agent, role: &str, port: u16, bytes: (u64, u64)) -> Result<()> {
    let path = format!("/api/v1/flows?filter=role=={role},internal_port=={port}");
    let mut last = String::new();
    wait_for(
        &format!("the idle {role} to be listed with its bytes"),
        PATIENCE,
        || {
            last = agent.get(&path).ok()?.1;
            let answer: serde_json::Value = serde_json::from_str(&last).ok()?;
            let flow = &answer["flows"][0];
            ((flow["bytes_sent"].as_u64(), flow["bytes_received"].as_u64()) == (Some(bytes.0), Some(bytes.1)))
                .then_some(())
        },
    )
    .with_context(|| last.clone())
}
