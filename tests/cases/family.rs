//! Address families and look-alikes.

use anyhow::{Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::plain;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::traffic::proto::ConnectOptions;

use super::{Case, Pair, check, check_bytes, nat_status};

pub(crate) const CASES: &[Case] = &[
    Case::new("family_ipv6", ipv6),
    Case::new("family_ipv4_mapped_on_both_sides", mapped),
    Case::new("family_same_four_tuple_in_two_namespaces", same_tuple),
];

fn ipv6() -> Result<()> {
    let mut pair = Pair::between("ipv6", "cli", "cli", addr("::1", 0))?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 66)?;
    pair.srv.recv(server.socket, 66)?;
    let (c, s) = pair.finish(client, server)?;
    for event in [&c, &s] {
        check(event, "family", event.family.as_deref(), Some("ipv6"))?;
        check(event, "nat.status", nat_status(event), Some("none"))?;
    }
    check_bytes(&c, 66, 0)?;
    check_bytes(&s, 0, 66)
}

/// IPv6 sockets that speak IPv4: the event shows the IPv4 they speak.
fn mapped() -> Result<()> {
    let mut pair = Pair::between("mapped", "cli", "cli", addr("::", 0))?;
    let (client, server) = pair.open_to(addr("::ffff:127.0.0.1", pair.addr.port()))?;
    ensure!(
        client.local.is_ipv6() && server.remote.is_ipv6(),
        "both sockets are IPv6"
    );
    pair.cli.send(client.socket, 44)?;
    pair.srv.recv(server.socket, 44)?;
    let (c, s) = pair.finish(client, server)?;
    for event in [&c, &s] {
        check(event, "family", event.family.as_deref(), Some("ipv4"))?;
        let four = event.internal_ip.is_some_and(|ip| ip.is_ipv4());
        check(event, "internal_ip is IPv4", four, true)?;
    }
    check(&c, "internal", c.internal(), Some(plain(client.local)))?;
    check(&s, "internal", s.internal(), Some(plain(server.local)))?;
    check_bytes(&c, 44, 0)?;
    check_bytes(&s, 0, 44)
}

/// The same four-tuple at the same time in two namespaces: told apart by namespace and cookie.
fn same_tuple() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let at = addr("127.0.0.1", 30_301);
    let options = ConnectOptions {
        bind: Some(addr("127.0.0.1", 30_302)),
        ..Default::default()
    };
    let mut open = Vec::new();
    for (name, bytes) in [("cli", 111), ("srv", 222)] {
        let mut pair = Pair::over(lab.clone(), agent.clone(), "sametuple", name, name, at)?;
        let client = pair.cli.connect_with(at, options)?;
        let server = pair.srv.accept(pair.listener)?;
        pair.cli.send(client.socket, bytes)?;
        pair.srv.recv(server.socket, bytes)?;
        open.push((pair, client, server, bytes));
    }
    for (mut pair, client, server, bytes) in open {
        let (c, s) = pair.finish(client, server)?;
        check_bytes(&c, bytes, 0)?;
        check_bytes(&s, 0, bytes)?;
    }
    Ok(())
}
