//! UDP: datagrams and bytes, by socket and peer.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::{Event, plain};
use netprobe_tests::lab::{self, addr};
use netprobe_tests::traffic::Endpoint;
use netprobe_tests::traffic::proto::{Cmd, Reply};

use super::{Case, Need, check, check_bytes, check_process, nat_status};

/// The tracepoints that have the length of a call.
pub(crate) const LENGTHS: &[Need] = &[Need::Kernel(6, 3)];

pub(crate) const CASES: &[Case] = &[
    Case::new("udp_connected_client", || echo("udpconn", true, "127.0.0.1")).needs(LENGTHS),
    Case::new("udp_unconnected_client", || echo("udpunconn", false, "127.0.0.1")).needs(LENGTHS),
    Case::new("udp_ipv6", || echo("udp6", true, "::1")).needs(LENGTHS),
    Case::new("udp_two_peers_of_one_socket", two_peers).needs(LENGTHS),
    Case::new("udp_through_nat", through_nat).needs(LENGTHS),
];

fn flow(
    agent: &Agent,
    role: &str,
    end: &Endpoint,
    local: Option<SocketAddr>,
    peer: SocketAddr,
) -> Result<Arc<Event>> {
    agent.wait_event(&format!("the final UDP {role} event towards {peer}"), |event| {
        event.is_final()
            && event.protocol.as_deref() == Some("udp")
            && event.role.as_deref() == Some(role)
            && event.netns == Some(end.info().netns)
            && local.is_none_or(|local| event.internal() == Some(plain(local)))
            && event.peer() == Some(plain(peer))
    })
}

fn check_datagrams(event: &Event, out: u64, back: u64) -> Result<()> {
    let flow = event.flow.as_ref().context("no flow")?;
    check(event, "segments_out", flow.segments_out, Some(out))?;
    check(event, "segments_in", flow.segments_in, Some(back))?;
    check(event, "connect_ms", flow.connect_ms, None)
}

/// Opens a socket.
pub(super) fn udp(
    endpoint: &mut Endpoint,
    bind: Option<SocketAddr>,
    peer: Option<SocketAddr>,
) -> Result<(u32, Reply)> {
    let reply = endpoint.call(Cmd::Udp { bind, peer })?;
    Ok((reply.socket.context("no socket")?, reply))
}

fn echo(name: &str, connected: bool, ip: &str) -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let mut srv = lab.endpoint("cli", &super::comm('s', name))?;
    let mut cli = lab.endpoint("cli", &super::comm('c', name))?;
    let (server, bound) = udp(&mut srv, Some(addr(ip, 0)), None)?;
    let to = bound.local.context("no address")?;
    let (client, _) = udp(&mut cli, Some(addr(ip, 0)), connected.then_some(to))?;
    let target = (!connected).then_some(to);
    let sent = cli.call(Cmd::SendTo {
        socket: client,
        addr: target,
        count: 5,
        bytes: 300,
    })?;
    let got = srv.call(Cmd::RecvFrom {
        socket: server,
        count: 5,
    })?;
    ensure!(sent.bytes == 1500 && got.bytes == 1500, "{sent:?} {got:?}");
    let from = got.remote.context("no sender")?;
    srv.call(Cmd::SendTo {
        socket: server,
        addr: Some(from),
        count: 2,
        bytes: 1000,
    })?;
    cli.call(Cmd::RecvFrom {
        socket: client,
        count: 2,
    })?;
    cli.close(client)?;
    srv.close(server)?;
    let c = flow(&agent, "client", &cli, Some(from), to)?;
    check_bytes(&c, 1500, 2000)?;
    check_datagrams(&c, 5, 2)?;
    check_process(&c, &cli)?;
    let s = flow(&agent, "server", &srv, Some(to), from)?;
    check_bytes(&s, 2000, 1500)?;
    check_datagrams(&s, 2, 5)?;
    check_process(&s, &srv)
}

fn two_peers() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let mut srv = lab.endpoint("cli", "s-udptwo")?;
    let mut cli = lab.endpoint("cli", "c-udptwo")?;
    let (one, a) = udp(&mut srv, Some(addr("127.0.0.1", 0)), None)?;
    let (two, b) = udp(&mut srv, Some(addr("127.0.0.1", 0)), None)?;
    let (a, b) = (a.local.context("no address")?, b.local.context("no address")?);
    let (client, _) = udp(&mut cli, Some(addr("127.0.0.1", 0)), None)?;
    cli.call(Cmd::SendTo {
        socket: client,
        addr: Some(a),
        count: 1,
        bytes: 10,
    })?;
    cli.call(Cmd::SendTo {
        socket: client,
        addr: Some(b),
        count: 3,
        bytes: 20,
    })?;
    srv.call(Cmd::RecvFrom {
        socket: one,
        count: 1,
    })?;
    srv.call(Cmd::RecvFrom {
        socket: two,
        count: 3,
    })?;
    let to_a = flow(&agent, "client", &cli, None, a)?;
    let to_b = flow(&agent, "client", &cli, None, b)?;
    check_bytes(&to_a, 10, 0)?;
    check_bytes(&to_b, 60, 0)?;
    check_datagrams(&to_b, 3, 0)
}

fn through_nat() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let mut srv = lab.endpoint("srv", "s-udpnat")?;
    let mut cli = lab.endpoint("cli", "c-udpnat")?;
    let (server, _) = udp(&mut srv, Some(addr(lab::SERVER, 20_320)), None)?;
    let dialed = addr(lab::VIRTUAL, 20_320);
    let (client, bound) = udp(&mut cli, None, Some(dialed))?;
    cli.call(Cmd::SendTo {
        socket: client,
        addr: None,
        count: 1,
        bytes: 50,
    })?;
    let got = srv.call(Cmd::RecvFrom {
        socket: server,
        count: 1,
    })?;
    srv.call(Cmd::SendTo {
        socket: server,
        addr: got.remote,
        count: 1,
        bytes: 60,
    })?;
    cli.call(Cmd::RecvFrom {
        socket: client,
        count: 1,
    })?;
    let c = flow(&agent, "client", &cli, bound.local, dialed)?;
    check_bytes(&c, 50, 60)?;
    check(&c, "nat.status", nat_status(&c), Some("snat+dnat"))?;
    check(
        &c,
        "actual_peer",
        c.actual_peer(),
        Some(addr(lab::SERVER, 20_320)),
    )?;
    check(&c, "external", c.external(), got.remote)
}
