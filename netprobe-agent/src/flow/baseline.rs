//! Connections the kernel knows: at start those older than the agent, later the list to reconcile with.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use netprobe_common::{FlowRecord, ForwardRecord, Header, Role};

use super::{
    address::{self, outgoing},
    conntrack::Counters,
    live::{Live, Totals},
    owners::inode_owners,
    process::ProcessCache,
    sockets::{self, ListenDrops, Query, SocketInfo},
    translations::{self, Listed, Translations},
};
use crate::{
    config::ProbeConfig,
    event::Flags,
    kernel::{filter::excludes, load::Own, netns},
};

/// A handshake on the server's side.
const SYN_RECV: u8 = 3;
/// How long the search for the owners of sockets may take.
const OWNERS_TIME: Duration = Duration::from_secs(5);

/// Sockets of every namespace that could be listed.
#[derive(Debug, Default)]
pub struct Survey {
    /// Connections.
    pub sockets: Vec<SocketInfo>,
    /// Namespaces that were listed whole.
    pub listed: HashSet<u64>,
    /// Sentences for the operator about what could not be listed.
    pub notices: Vec<String>,
    /// `CLOCK_MONOTONIC` before the first list was asked for.
    pub since_ns: u64,
    /// conntrack's tables.
    pub translations: Translations,
    /// Connections refused by full accept queues, by namespace.
    pub listen_overflows: BTreeMap<String, u64>,
    /// How long it all took.
    pub took: Duration,
    listeners: HashSet<(u64, u16)>,
}

/// What a survey is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The connections older than the agent.
    Baseline,
    /// Which connections are gone.
    Reconcile,
    /// Translation of flows that have none yet: conntrack's tables only.
    Translate,
}

impl Survey {
    /// Lists what `purpose` needs of all namespaces.
    pub fn take(purpose: Purpose) -> Survey {
        let begun = Instant::now();
        let mut survey = Survey {
            since_ns: super::clock::monotonic_ns(),
            ..Survey::default()
        };
        let namespaces = match netns::enumerate(netns::DEFAULT_MAX_PIDS) {
            Ok(namespaces) => namespaces,
            Err(error) => {
                survey
                    .notices
                    .push(format!("network namespaces cannot be listed: {error}"));
                return survey;
            }
        };
        if namespaces.denied > 0 {
            survey.notices.push(format!(
                "the namespaces of {} processes cannot be read: CAP_SYS_PTRACE is missing, or something protects them",
                namespaces.denied
            ));
        }
        survey.translations = Translations::take(&namespaces.found);
        survey.notices.append(&mut survey.translations.notices);
        if purpose == Purpose::Translate {
            survey.took = begun.elapsed();
            return survey;
        }
        for namespace in &namespaces.found {
            if let Ok(ListenDrops {
                overflows: Some(count),
                ..
            }) = sockets::listen_drops(namespace)
            {
                survey.listen_overflows.insert(namespace.inode.to_string(), count);
            }
            match sockets::dump(namespace, Query::TcpConnections) {
                Ok(mut found) => {
                    survey.sockets.append(&mut found);
                    survey.listed.insert(namespace.inode);
                }
                Err(error) => survey.notices.push(format!(
                    "connections of network namespace {} cannot be listed: {error}",
                    namespace.inode
                )),
            }
            if purpose == Purpose::Baseline
                && let Ok(found) = sockets::dump(namespace, Query::TcpListeners)
            {
                survey
                    .listeners
                    .extend(found.iter().map(|socket| (socket.netns, socket.local.port())));
            }
        }
        survey.took = begun.elapsed();
        survey
    }

    /// Established forwarded connections: entries of a namespace that has no socket of them.
    pub fn forwarded(&self, config: &ProbeConfig) -> Vec<ForwardRecord> {
        const ESTABLISHED: u8 = 3;
        let sockets: HashSet<(u64, SocketAddr, SocketAddr)> = self
            .sockets
            .iter()
            .map(|socket| (socket.netns, socket.local, socket.remote))
            .collect();
        self.translations
            .entries
            .iter()
            .filter(|listed| {
                let (netns, entry) = (u64::from(listed.netns), &listed.entry);
                entry.proto == translations::TCP
                    && entry.tcp_state == Some(ESTABLISHED)
                    && self.listed.contains(&netns)
                    && !sockets.contains(&(netns, entry.orig.src, entry.orig.dst))
                    && !sockets.contains(&(netns, entry.reply.src, entry.reply.dst))
                    && !excludes(
                        config,
                        Own::default(),
                        netns,
                        entry.orig.src,
                        entry.orig.dst,
                        entry.orig.dst.port(),
                    )
            })
            .map(|listed| ForwardRecord {
                header: Header {
                    ts_ns: self.since_ns,
                    ..Header::default()
                },
                netns: listed.netns,
                zone: listed.entry.zone,
                state: ESTABLISHED,
                original: listed.original,
                reply: listed.reply,
                accounted: u8::from(listed.entry.orig_count.is_some()),
                packets: counted(listed, |count| count.packets),
                bytes: counted(listed, |count| count.bytes),
                ..ForwardRecord::default()
            })
            .collect()
    }

    /// Cookies of all connections.
    pub fn cookies(&self) -> HashSet<u64> {
        self.sockets.iter().map(|socket| socket.cookie).collect()
    }

    /// The connections as live ones, with their owners, charged from now on only.
    pub fn into_live(
        mut self,
        processes: &ProcessCache,
        config: &ProbeConfig,
        own: Own,
    ) -> (Vec<Live>, Vec<String>) {
        let inodes: HashSet<u64> = self
            .sockets
            .iter()
            .map(|socket| u64::from(socket.inode))
            .collect();
        let owners = match inode_owners(&inodes, Instant::now() + OWNERS_TIME) {
            Ok(owners) => owners,
            Err(error) => {
                self.notices
                    .push(format!("owners of older connections cannot be found: {error}"));
                Default::default()
            }
        };
        if owners.stopped_early {
            self.notices
                .push("the search for owners of older connections took too long and was cut".to_owned());
        }
        let live = self
            .sockets
            .iter()
            .map(|socket| (socket, self.older(socket)))
            // Half open: no connection yet, its ESTABLISHED will tell.
            .filter(|(socket, _)| socket.state != SYN_RECV)
            .filter(|(socket, live)| {
                let served = if live.role == Role::Server {
                    socket.local
                } else {
                    socket.remote
                };
                !excludes(
                    config,
                    own,
                    socket.netns,
                    socket.local,
                    socket.remote,
                    served.port(),
                )
            })
            .map(|(socket, mut live)| {
                let path = self
                    .translations
                    .resolve(translations::TCP, &outgoing(&live.key), live.role);
                if path.ambiguous || !path.hops.is_empty() {
                    live.path = Some(Box::new(path));
                }
                live.process = owners
                    .by_inode
                    .get(&u64::from(socket.inode))
                    .and_then(|&pid| processes.identify_live(pid).ok());
                live
            })
            .collect();
        (live, self.notices)
    }

    fn older(&self, socket: &SocketInfo) -> Live {
        let mut live = Live::new(&FlowRecord {
            cookie: socket.cookie,
            key: address::key(socket.local, socket.remote, socket.netns as u32),
            started_ns: self.since_ns,
            ..FlowRecord::default()
        });
        // Which side opened it is not recorded; a port that is listened on was dialed.
        let served = self.listeners.contains(&(socket.netns, socket.local.port()));
        live.role = if served { Role::Server } else { Role::Client };
        live.flags.insert(Flags::PARTIAL);
        let base = totals(socket);
        live.totals = base;
        live.base = Some(Box::new(base));
        live.touched_ns = self.since_ns;
        live
    }
}

/// Both directions of an entry's accounting; 0 where there is none.
fn counted(listed: &Listed, of: impl Fn(Counters) -> u64) -> [u64; 2] {
    [listed.entry.orig_count, listed.entry.reply_count].map(|count| count.map_or(0, &of))
}

/// Totals of a listed socket, FIN taken off.
pub fn totals(socket: &SocketInfo) -> Totals {
    const FIN_PROCESSED: [u8; 3] = [8, 9, 11]; // CLOSE_WAIT, LAST_ACK, CLOSING
    let stats = socket.tcp.unwrap_or_default();
    Totals {
        sent: stats.bytes_sent.saturating_sub(stats.bytes_retrans),
        received: stats
            .bytes_received
            .saturating_sub(u64::from(FIN_PROCESSED.contains(&socket.state))),
        segments_out: stats.segs_out,
        segments_in: stats.segs_in,
        retransmits: stats.retransmits,
    }
}
