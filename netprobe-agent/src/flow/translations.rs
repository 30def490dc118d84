//! conntrack's tables of all namespaces, as ctnetlink lists them: translation of what no handshake packet told (older
//! connections, UDP), forwarded connections older than the agent, and which forwarded connections are gone.
//!
//! A list has no sockets in it, so matching is by addresses: only what is unique counts.

use std::collections::{HashMap, HashSet};

use netprobe_common::{HopRecord, Role, Tuple};

use super::{
    address::bytes,
    conntrack::{Answer, Conntrack, Entry, Tuple as SocketTuple},
    forward::Id,
    nat::Path,
};
use crate::kernel::netns::NetNs;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// Hops followed in a row: more is a loop.
const MAX_HOPS: usize = 16;

/// One entry and its namespace.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Namespace.
    pub netns: u32,
    /// The entry.
    pub entry: Entry,
    /// As the originator sent it.
    pub original: Tuple,
    /// As replies come.
    pub reply: Tuple,
}

impl Listed {
    /// Its identity as a connection.
    pub const fn id(&self) -> Id {
        (self.netns, self.entry.zone, self.original)
    }
}

/// Port of a UDP socket bound to no address, and whom it sends to.
type FromPort = (u16, [u8; 16], u16);

/// What an index holds of a UDP socket bound to no address.
#[derive(Clone, Copy, Debug)]
enum Source {
    One(Tuple),
    Several,
}

/// All entries of all namespaces that could be listed.
#[derive(Debug, Default)]
pub struct Translations {
    /// Entries of TCP and UDP.
    pub entries: Vec<Listed>,
    /// Namespaces listed whole, those without connection tracking too.
    pub listed: HashSet<u32>,
    /// Sentences for the operator.
    pub notices: Vec<String>,
    by_original: HashMap<(u8, Tuple), Vec<usize>>,
    by_reply: HashMap<(u8, Tuple), Vec<usize>>,
    by_port: HashMap<FromPort, Source>,
    by_id: HashMap<Id, usize>,
    /// Entries looked at to answer questions.
    #[cfg(test)]
    looked_at: std::cell::Cell<usize>,
}

impl Translations {
    /// Lists the tables of `namespaces`.
    pub fn take(namespaces: &[NetNs]) -> Translations {
        let mut all = Translations::default();
        for namespace in namespaces {
            let entries = match Conntrack::open(namespace) {
                Ok(Answer::Absent) => Ok(Vec::new()),
                Ok(Answer::Present(mut table)) => table.dump(),
                Err(error) => Err(error),
            };
            match entries {
                Ok(entries) => {
                    all.listed.insert(namespace.inode as u32);
                    for entry in entries {
                        all.add(namespace.inode as u32, entry);
                    }
                }
                Err(error) => all.notices.push(format!(
                    "conntrack of network namespace {} cannot be listed: {error}",
                    namespace.inode
                )),
            }
        }
        all
    }

    fn add(&mut self, netns: u32, entry: Entry) {
        if entry.proto != TCP && entry.proto != UDP {
            return;
        }
        let (original, reply) = (tuple(&entry.orig), tuple(&entry.reply));
        let index = self.entries.len();
        if entry.translated() {
            self.by_original
                .entry((entry.proto, original))
                .or_default()
                .push(index);
            self.by_reply.entry((entry.proto, reply)).or_default().push(index);
        }
        if entry.proto == UDP {
            self.by_port
                .entry((original.src_port, original.dst, original.dst_port))
                .and_modify(|source| {
                    if !matches!(source, Source::One(one) if *one == original) {
                        *source = Source::Several;
                    }
                })
                .or_insert(Source::One(original));
        }
        self.entries.push(Listed {
            netns,
            entry,
            original,
            reply,
        });
    }

    /// Makes [`Translations::connection`] possible; not every list is asked that.
    pub fn index_connections(&mut self) {
        self.by_id = (0..)
            .zip(&self.entries)
            .filter(|(_, listed)| listed.entry.proto == TCP)
            .map(|(index, listed)| (listed.id(), index))
            .collect();
    }

    /// The entry of a forwarded TCP connection.
    pub fn connection(&self, id: &Id) -> Option<&Entry> {
        Some(&self.entry(*self.by_id.get(id)?)?.entry)
    }

    fn entry(&self, index: usize) -> Option<&Listed> {
        #[cfg(test)]
        self.looked_at.set(self.looked_at.get() + 1);
        self.entries.get(index)
    }

    /// The path of a connection whose socket sends `outgoing`.
    pub fn resolve(&self, protocol: u8, outgoing: &Tuple, role: Role) -> Path {
        let mut path = Path {
            by_address: true,
            ..Path::default()
        };
        let mut wanted = *outgoing;
        let mut visited = HashSet::new();
        while path.hops.len() < MAX_HOPS {
            let index = if role == Role::Server {
                &self.by_reply
            } else {
                &self.by_original
            };
            let known = index.get(&(protocol, wanted)).map_or(&[][..], Vec::as_slice);
            let fresh: Vec<&Listed> = known
                .iter()
                .filter_map(|&index| self.entry(index))
                .filter(|listed| !visited.contains(&(listed.netns, listed.entry.zone)))
                .collect();
            match fresh.as_slice() {
                [] => break,
                [one] => {
                    visited.insert((one.netns, one.entry.zone));
                    if role == Role::Server {
                        path.hops.insert(0, hop(one));
                        wanted = reversed(&one.original);
                    } else {
                        path.hops.push(hop(one));
                        wanted = reversed(&one.reply);
                    }
                }
                _ => {
                    return Path {
                        hops: Vec::new(),
                        ambiguous: true,
                        by_address: true,
                    };
                }
            }
        }
        path
    }

    /// As [`Translations::resolve`] for a UDP client socket bound to no address: only its port is known.
    pub fn resolve_from_port(&self, port: u16, remote: [u8; 16], remote_port: u16) -> Path {
        match self.by_port.get(&(port, remote, remote_port)) {
            None => Path::default(),
            Some(Source::One(source)) => self.resolve(UDP, source, Role::Client),
            Some(Source::Several) => Path {
                ambiguous: true,
                by_address: true,
                hops: Vec::new(),
            },
        }
    }
}

fn tuple(tuple: &SocketTuple) -> Tuple {
    Tuple {
        src: bytes(tuple.src.ip()),
        dst: bytes(tuple.dst.ip()),
        src_port: tuple.src.port(),
        dst_port: tuple.dst.port(),
    }
}

fn reversed(tuple: &Tuple) -> Tuple {
    Tuple {
        src: tuple.dst,
        dst: tuple.src,
        src_port: tuple.dst_port,
        dst_port: tuple.src_port,
    }
}

fn hop(listed: &Listed) -> HopRecord {
    HopRecord {
        conntrack: u64::from(listed.entry.id.unwrap_or(0)),
        netns: listed.netns,
        zone: listed.entry.zone,
        original: listed.original,
        reply: listed.reply,
        ..HopRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn entry(orig: (&str, &str), reply: (&str, &str), zone: u16) -> Entry {
        let socket = |text: &str| text.parse::<SocketAddr>().expect("an address");
        Entry {
            orig: SocketTuple {
                src: socket(orig.0),
                dst: socket(orig.1),
            },
            reply: SocketTuple {
                src: socket(reply.0),
                dst: socket(reply.1),
            },
            proto: UDP,
            zone,
            reply_zone: zone,
            status: None,
            tcp_state: None,
            orig_count: None,
            reply_count: None,
            start_ns: None,
            id: Some(u32::from(zone) + 1),
        }
    }

    fn two_gateways() -> Translations {
        let mut all = Translations::default();
        all.add(
            1,
            entry(("10.0.0.1:5", "10.0.0.9:53"), ("10.0.0.9:53", "10.0.0.1:5"), 0),
        );
        all.add(
            2,
            entry(("10.0.0.1:5", "10.0.0.9:53"), ("10.1.0.2:53", "10.1.0.1:7"), 0),
        );
        all.add(
            3,
            entry(("10.1.0.1:7", "10.1.0.2:53"), ("10.2.0.2:5353", "10.2.0.1:8"), 0),
        );
        all
    }

    #[test]
    fn follows_a_path_from_both_ends() {
        let all = two_gateways();
        let sent = tuple(&SocketTuple {
            src: "10.0.0.1:5".parse().expect("an address"),
            dst: "10.0.0.9:53".parse().expect("an address"),
        });
        let path = all.resolve(UDP, &sent, Role::Client);
        assert_eq!(path.hops.iter().map(|hop| hop.netns).collect::<Vec<_>>(), [2, 3]);
        let answered = tuple(&SocketTuple {
            src: "10.2.0.2:5353".parse().expect("an address"),
            dst: "10.2.0.1:8".parse().expect("an address"),
        });
        let path = all.resolve(UDP, &answered, Role::Server);
        assert_eq!(path.hops.iter().map(|hop| hop.netns).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(all.resolve(TCP, &sent, Role::Client).hops, []);
        assert_eq!(all.resolve_from_port(5, sent.dst, 53).hops.len(), 2);
    }

    #[test]
    fn looks_at_no_more_entries_when_there_are_more() {
        let mut all = two_gateways();
        let sent = all.entries[1].original;
        for port in 1000..3000 {
            let (from, to) = (format!("10.0.1.1:{port}"), "10.0.0.9:53");
            all.add(1, entry((&from, to), (to, &from), 0));
        }
        assert_eq!(all.resolve_from_port(5, sent.dst, 53).hops.len(), 2);
        // Two hops, and each looked up once more to see that the path ends.
        let looked_at = all.looked_at.take();
        assert!(looked_at <= 4, "{looked_at} entries for a path of two");
        all.index_connections();
        assert!(all.connection(&(1, 0, sent)).is_none() && all.looked_at.get() == 0);
    }

    #[test]
    fn a_port_with_two_sources_stays_open() {
        let mut all = two_gateways();
        let remote = all.entries[1].original.dst;
        // The same flow in another namespace is the same source.
        assert!(!all.resolve_from_port(5, remote, 53).ambiguous);
        all.add(
            4,
            entry(("10.0.0.2:5", "10.0.0.9:53"), ("10.0.0.9:53", "10.0.0.2:5"), 0),
        );
        all.add(
            5,
            entry(("10.0.0.2:5", "10.0.0.9:53"), ("10.0.0.9:53", "10.0.0.2:5"), 0),
        );
        assert!(all.resolve_from_port(5, remote, 53).ambiguous);
        assert_eq!(all.resolve_from_port(6, remote, 53), Path::default());
    }

    #[test]
    fn does_not_choose_between_two() {
        let mut all = two_gateways();
        all.add(
            2,
            entry(("10.0.0.1:5", "10.0.0.9:53"), ("10.1.0.3:53", "10.1.0.1:9"), 4),
        );
        let sent = all.entries[1].original;
        let path = all.resolve(UDP, &sent, Role::Client);
        assert!(path.ambiguous && path.hops.is_empty());
    }
}
