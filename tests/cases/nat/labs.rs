//! Translation in labs of its own: what the shared gateway does not have.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::lab::{Lab, addr};
use netprobe_tests::traffic::proto::ConnectOptions;
use netprobe_tests::truth;

use super::super::{Pair, check, check_bytes, nat_status};
use super::{Sides, check_ends, check_forwarded, hop, hops, travel};

/// A lab of `cli` – `srv` on one link.
fn two() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.add("cli")?;
    lab.add("srv")?;
    lab.link("cli", "c0", "srv", "s0")?;
    lab.ip(
        "cli",
        "addr add 10.79.1.2/24 dev c0\nroute add default via 10.79.1.1",
    )?;
    lab.ip("srv", "addr add 10.79.1.1/24 dev s0")?;
    Ok(lab)
}

/// DNAT in the client's own output path: socket and entry live in the same namespace.
pub(super) fn own_namespace() -> Result<()> {
    let lab = Arc::new(two()?);
    lab.nft(
        "cli",
        "table ip nat {
          chain out {
            type nat hook output priority -100;
            ip daddr 10.79.9.9 tcp dport 80 dnat to 10.79.1.1:8081
          }
        }",
    )?;
    let mut pair = Pair::over(
        lab,
        Agent::shared()?,
        "ownns",
        "cli",
        "srv",
        addr("10.79.1.1", 8081),
    )?;
    let sides = travel(&mut pair, "cli", addr("10.79.9.9", 80))?;
    check_ends(&pair, "cli", &sides, "dnat")
}

/// Two gateways in a row, each with an entry of its own.
pub(super) fn twice() -> Result<()> {
    let mut lab = Lab::new()?;
    for name in ["cli", "gw1", "gw2", "srv"] {
        lab.add(name)?;
    }
    lab.link("cli", "c0", "gw1", "a0")?;
    lab.link("gw1", "a1", "gw2", "b0")?;
    lab.link("gw2", "b1", "srv", "s0")?;
    lab.forward("gw1")?;
    lab.forward("gw2")?;
    lab.ip(
        "cli",
        "addr add 10.80.1.2/24 dev c0\nroute add default via 10.80.1.1",
    )?;
    lab.ip(
        "gw1",
        "addr add 10.80.1.1/24 dev a0\naddr add 10.80.2.1/24 dev a1\nroute add default via 10.80.2.2",
    )?;
    lab.ip(
        "gw2",
        "addr add 10.80.2.2/24 dev b0\naddr add 10.80.3.1/24 dev b1",
    )?;
    lab.ip(
        "srv",
        "addr add 10.80.3.2/24 dev s0\nroute add default via 10.80.3.1",
    )?;
    lab.nft(
        "gw1",
        "table ip nat {
          chain pre { type nat hook prerouting priority dstnat; ip daddr 10.80.9.9 tcp dport 80 dnat to 10.80.8.8:81; }
          chain post { type nat hook postrouting priority srcnat; oifname a1 masquerade; }
        }",
    )?;
    lab.nft(
        "gw2",
        "table ip nat {
          chain pre { type nat hook prerouting priority dstnat; ip daddr 10.80.8.8 tcp dport 81 dnat to 10.80.3.2:82; }
          chain post { type nat hook postrouting priority srcnat; oifname b1 masquerade; }
        }",
    )?;
    let lab = Arc::new(lab);
    let mut pair = Pair::over(
        lab,
        Agent::shared()?,
        "twice",
        "cli",
        "srv",
        addr("10.80.3.2", 82),
    )?;
    let first = travel(&mut pair, "gw1", addr("10.80.9.9", 80))?;
    let second = truth::conntrack_of(&pair.lab, "gw2", first.entry.reply.dst(), first.entry.reply.src())?;
    let way = vec![
        hop(&pair.lab, "gw1", &first.entry)?,
        hop(&pair.lab, "gw2", &second)?,
    ];
    let (c, s) = (&first.c, &first.s);
    for event in [c, s] {
        check(event, "nat.status", nat_status(event), Some("snat+dnat"))?;
        check(event, "nat.hops", hops(event), way.clone())?;
    }
    check(c, "external", c.external(), Some(second.reply.dst()))?;
    check(c, "actual_peer", c.actual_peer(), Some(second.reply.src()))?;
    check(s, "external", s.external(), Some(first.entry.orig.dst()))?;
    check(s, "actual_peer", s.actual_peer(), Some(first.client.local))?;
    ensure!(
        first.server.remote == second.reply.dst(),
        "conntrack agrees with the socket"
    );
    check_forwarded(&pair, "gw1", &first, "snat+dnat")?;
    let behind = Sides {
        entry: second,
        ..first
    };
    check_forwarded(&pair, "gw2", &behind, "snat+dnat").map(|_| ())
}

/// Two clients with the same address and port behind one gateway, told apart by conntrack zones.
pub(super) fn same_addresses() -> Result<()> {
    let mut lab = Lab::new()?;
    for name in ["one", "two", "gw", "srv"] {
        lab.add(name)?;
    }
    lab.link("one", "c0", "gw", "ga")?;
    lab.link("two", "c0", "gw", "gb")?;
    lab.link("srv", "s0", "gw", "gs")?;
    lab.forward("gw")?;
    for name in ["one", "two"] {
        lab.ip(
            name,
            "addr add 10.81.1.2/24 dev c0\nroute add default via 10.81.1.1",
        )?;
    }
    lab.ip(
        "gw",
        "addr add 10.81.1.1/24 dev ga
         addr add 10.81.2.1/24 dev gs
         addr add 10.81.2.11/24 dev gs
         addr add 10.81.2.12/24 dev gs
         route del 10.81.1.0/24 dev ga
         route add 10.81.1.0/24 dev ga table 101
         route add 10.81.1.0/24 dev gb table 102
         rule add fwmark 1 table 101
         rule add fwmark 2 table 102",
    )?;
    // Answers for the clients' gateway address on the second link as well, which has no address of its own.
    for key in ["ga", "gb"] {
        lab.sysctl("gw", &format!("net/ipv4/conf/{key}/rp_filter"), "0")?;
        lab.sysctl("gw", &format!("net/ipv4/conf/{key}/arp_ignore"), "0")?;
    }
    lab.sysctl("gw", "net/ipv4/conf/all/rp_filter", "0")?;
    lab.ip("srv", "addr add 10.81.2.2/24 dev s0")?;
    // The kernel does not look up an ARP sender that it has no route to without its mark: give neighbours.
    for (name, link) in [("one", "ga"), ("two", "gb")] {
        let mac = |ns: &str, dev: &str| -> Result<String> {
            let text = lab.run(ns, "ip", &["-br", "link", "show", dev])?;
            Ok(text.split_whitespace().nth(2).context("no MAC")?.to_owned())
        };
        lab.ip(
            name,
            &format!("neigh replace 10.81.1.1 lladdr {} dev c0", mac("gw", link)?),
        )?;
        lab.ip(
            "gw",
            &format!("neigh replace 10.81.1.2 lladdr {} dev {link}", mac(name, "c0")?),
        )?;
    }
    lab.nft(
        "gw",
        "table ip z {
          chain raw {
            type filter hook prerouting priority raw;
            iifname ga ct zone set 1 meta mark set 1
            iifname gb ct zone set 2 meta mark set 2
            iifname gs ip daddr 10.81.2.11 ct zone set 1 meta mark set 1
            iifname gs ip daddr 10.81.2.12 ct zone set 2 meta mark set 2
          }
          chain post {
            type nat hook postrouting priority srcnat;
            oifname gs meta mark 1 snat to 10.81.2.11
            oifname gs meta mark 2 snat to 10.81.2.12
          }
        }",
    )?;
    let lab = Arc::new(lab);
    let mut pair = Pair::over(
        lab.clone(),
        Agent::shared()?,
        "same",
        "one",
        "srv",
        addr("10.81.2.2", 8001),
    )?;
    let mut other = lab.endpoint("two", "c-same-two")?;
    let options = ConnectOptions {
        bind: Some(addr("10.81.1.2", 45_000)),
        ..Default::default()
    };
    let c1 = pair.cli.connect_with(pair.addr, options)?;
    let s1 = pair.srv.accept(pair.listener)?;
    let c2 = other.connect_with(pair.addr, options)?;
    let s2 = pair.srv.accept(pair.listener)?;
    ensure!(
        (c1.local, c1.remote) == (c2.local, c2.remote) && s1.remote != s2.remote,
        "{s1:?} {s2:?}"
    );
    pair.cli.send(c1.socket, 10)?;
    pair.srv.recv(s1.socket, 10)?;
    other.send(c2.socket, 20)?;
    pair.srv.recv(s2.socket, 20)?;
    let entries = truth::conntrack(&lab, "gw")?;
    let (first, second) = (pair.finish(c1, s1)?, {
        other.close(c2.socket)?;
        pair.srv.drain(s2.socket)?;
        pair.srv.close(s2.socket)?;
        (
            pair.agent.wait_final("client", other.info().netns, &c2)?,
            pair.server_final(&s2)?,
        )
    });
    for ((c, s), client, server, zone, name) in [(first, c1, s1, 1u16, "one"), (second, c2, s2, 2, "two")] {
        let entry = entries
            .iter()
            .find(|e| e.zone == zone && e.orig.src() == client.local);
        let entry = entry
            .with_context(|| format!("no entry in zone {zone}: {entries:?}"))?
            .clone();
        check(&c, "netns", c.netns, Some(lab.inode(name)?))?;
        check_bytes(&c, u64::from(zone) * 10, 0)?;
        check_bytes(&s, 0, u64::from(zone) * 10)?;
        check_ends(
            &pair,
            "gw",
            &Sides {
                client,
                server,
                c,
                s,
                entry: entry.clone(),
            },
            "snat",
        )?;
        let expected = hop(&lab, "gw", &entry)?;
        let f = pair
            .agent
            .wait_event(&format!("the forwarded event of zone {zone}"), |event| {
                event.is_final()
                    && event.role.as_deref() == Some("forwarded")
                    && hops(event) == [expected.clone()]
            })?;
        check(&f, "external", f.external(), Some(entry.reply.dst()))?;
    }
    Ok(())
}

pub(super) fn accounting() -> Result<()> {
    let mut lab = Lab::new()?;
    for name in ["cli", "gw", "srv"] {
        lab.add(name)?;
    }
    lab.link("cli", "c0", "gw", "g0")?;
    lab.link("srv", "s0", "gw", "g1")?;
    lab.forward("gw")?;
    lab.ip(
        "cli",
        "addr add 10.82.1.2/24 dev c0\nroute add default via 10.82.1.1",
    )?;
    lab.ip("gw", "addr add 10.82.1.1/24 dev g0\naddr add 10.82.2.1/24 dev g1")?;
    lab.ip(
        "srv",
        "addr add 10.82.2.2/24 dev s0\nroute add default via 10.82.2.1",
    )?;
    lab.nft(
        "gw",
        "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname g1 masquerade; }; }",
    )?;
    lab.sysctl("gw", "net/netfilter/nf_conntrack_acct", "1")?;
    let lab = Arc::new(lab);
    let mut pair = Pair::over(
        lab,
        Agent::shared()?,
        "acct",
        "cli",
        "srv",
        addr("10.82.2.2", 8080),
    )?;
    let dialed = pair.addr;
    let sides = travel(&mut pair, "gw", dialed)?;
    let f = check_forwarded(&pair, "gw", &sides, "snat")?;
    // After the end: conntrack holds the entry for a while, with its last counters.
    let entry = truth::conntrack_of(&pair.lab, "gw", sides.entry.orig.src(), sides.entry.orig.dst())?;
    let (bytes, packets) = (
        entry.bytes.context("no bytes")?,
        entry.packets.context("no packets")?,
    );
    ensure!(bytes.0 > 100 && bytes.1 > 5000, "{entry:?}");
    check(&f, "bytes_sent", f.bytes_sent, Some(bytes.0))?;
    check(&f, "bytes_received", f.bytes_received, Some(bytes.1))?;
    let flow = f.flow.as_ref().context("no flow")?;
    check(&f, "segments_out", flow.segments_out, Some(packets.0))?;
    check(&f, "segments_in", flow.segments_in, Some(packets.1))
}
