//! What other tools saw: `conntrack`, `ss`, the kernel's own per-namespace counters.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use crate::event::Tuple;
use crate::lab::Lab;
use crate::tools;

/// One line of `conntrack -L -o extended`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// As the originator sent it.
    pub orig: Tuple,
    /// As replies come.
    pub reply: Tuple,
    /// Zone, 0 when not shown.
    pub zone: u16,
    /// Bytes of each direction, when accounting is on.
    pub bytes: Option<(u64, u64)>,
    /// Packets of each direction, when accounting is on.
    pub packets: Option<(u64, u64)>,
}

/// Lists the conntrack entries of a namespace.
pub fn conntrack(lab: &Lab, netns: &str) -> Result<Vec<ConntrackEntry>> {
    let mut entries = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let text = lab.run(netns, "conntrack", &["-L", "-o", "extended", "-f", family])?;
        entries.extend(text.lines().filter_map(parse_conntrack));
    }
    Ok(entries)
}

/// The entry whose originator side is this, if there is exactly one.
pub fn conntrack_of(lab: &Lab, netns: &str, src: SocketAddr, dst: SocketAddr) -> Result<ConntrackEntry> {
    let wanted = Tuple::new(src, dst);
    let all = conntrack(lab, netns)?;
    let mut found = all.iter().filter(|entry| entry.orig == wanted);
    let entry = found
        .next()
        .with_context(|| format!("conntrack has no entry {wanted:?}: {all:#?}"))?;
    anyhow::ensure!(
        found.next().is_none(),
        "conntrack has more than one entry {wanted:?}"
    );
    Ok(entry.clone())
}

/// Reads one line; also lines of `conntrack -E`.
pub fn parse_conntrack(line: &str) -> Option<ConntrackEntry> {
    let protocol = ["tcp", "udp"]
        .into_iter()
        .find(|p| line.split_whitespace().any(|word| word == *p))?;
    let mut ends: Vec<(IpAddr, IpAddr, u16, u16)> = Vec::new();
    let (mut src, mut dst, mut sport) = (None, None, None);
    let (mut bytes, mut packets, mut zone) = (Vec::new(), Vec::new(), 0);
    for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
        match key {
            "src" => src = value.parse().ok(),
            "dst" => dst = value.parse().ok(),
            "sport" => sport = value.parse().ok(),
            "dport" => ends.push((src?, dst?, sport?, value.parse().ok()?)),
            "bytes" => bytes.push(value.parse().ok()?),
            "packets" => packets.push(value.parse().ok()?),
            "zone" => zone = value.parse().ok()?,
            _ => {}
        }
    }
    let [orig, reply] = ends[..] else { return None };
    let tuple = |(src, dst, sport, dport): (IpAddr, IpAddr, u16, u16)| {
        Tuple::new(SocketAddr::new(src, sport), SocketAddr::new(dst, dport))
    };
    let two = |list: &[u64]| Some((*list.first()?, *list.get(1)?));
    Some(ConntrackEntry {
        protocol: protocol.to_owned(),
        orig: tuple(orig),
        reply: tuple(reply),
        zone,
        bytes: two(&bytes),
        packets: two(&packets),
    })
}

/// What `ss -tin` says of one socket, key to value (`bytes_acked:12` → `bytes_acked`, `12`).
pub fn ss(lab: &Lab, netns: &str, local: SocketAddr, remote: SocketAddr) -> Result<HashMap<String, String>> {
    let text = lab.run(netns, "ss", &["-tinHO"])?;
    let (local, remote) = (local.to_string(), remote.to_string());
    let line = text
        .lines()
        .find(|line| {
            let mut words = line.split_whitespace().skip(3);
            words.next() == Some(&local) && words.next() == Some(&remote)
        })
        .with_context(|| format!("ss does not list {local} {remote}:\n{text}"))?;
    Ok(line
        .split_whitespace()
        .filter_map(|word| word.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect())
}

/// A counter of `/proc/net/netstat` or `/proc/net/snmp` in a namespace, such as `TcpExt`, `TCPSynRetrans`.
pub fn netstat(lab: &Lab, netns: &str, group: &str, counter: &str) -> Result<u64> {
    tools::within(&lab.path(netns), || {
        let mut text = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
        text.push_str(&std::fs::read_to_string("/proc/thread-self/net/snmp")?);
        let prefix = format!("{group}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix.as_str()));
        let names = lines.next().with_context(|| format!("no group {group}"))?;
        let values = lines.next().with_context(|| format!("no values of {group}"))?;
        names
            .split(' ')
            .zip(values.split(' '))
            .find(|(name, _)| *name == counter)
            .and_then(|(_, value)| value.parse().ok())
            .with_context(|| format!("no counter {group}.{counter}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_listing_line_with_accounting_and_zone() {
        let line = "ipv4     2 tcp      6 117 TIME_WAIT src=10.77.1.2 dst=10.77.1.100 sport=4000 dport=80 \
                    packets=6 bytes=400 src=10.77.2.2 dst=10.77.2.1 sport=8080 dport=4000 packets=5 bytes=300 \
                    [ASSURED] mark=0 zone=7 use=1";
        let entry = parse_conntrack(line).unwrap();
        assert_eq!(entry.orig.src(), "10.77.1.2:4000".parse().unwrap());
        assert_eq!(entry.reply.dst(), "10.77.2.1:4000".parse().unwrap());
        assert_eq!(
            (entry.zone, entry.bytes, entry.packets),
            (7, Some((400, 300)), Some((6, 5)))
        );
    }

    #[test]
    fn reads_an_event_line_without_accounting() {
        let line = "    [NEW] ipv4     2 tcp      6 120 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 \
                    [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1";
        let entry = parse_conntrack(line).unwrap();
        assert_eq!((entry.zone, entry.bytes), (0, None));
        assert_eq!(entry.orig.dst(), "10.0.0.2:2".parse().unwrap());
    }

    #[test]
    fn skips_what_is_no_entry() {
        assert_eq!(
            parse_conntrack("conntrack v1.4.7: 3 flow entries have been shown."),
            None
        );
    }
}
