//! Connections older than the agent, out of the kernel's lists.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use netprobe_common::{FlowRecord, ForwardRecord, Header, Role};

use super::{
    address::{self, outgoing},
    conntrack::Counters,
    live::{Live, Totals},
    owners::{Owners, inode_owners},
    process::{self, Identity},
    sockets::SocketInfo,
    survey::{Scope, Survey},
    translations::{self, Listed, Translations},
};
use crate::{
    config::ProbeConfig,
    event::Flags,
    kernel::{filter::excludes, load::Own},
};

/// A handshake on the server's side.
const SYN_RECV: u8 = 3;
/// How long the search for the owners of sockets may take.
const OWNERS_TIME: Duration = Duration::from_secs(5);

/// Established forwarded connections: entries of a namespace that has no socket of them.
///
/// `again` is a list made after that of the sockets. A local connection that began or ended between two lists would
/// look forwarded; one that was established in the first and in the last must have had its socket in between.
pub fn forwarded(survey: &Survey, again: &Translations, config: &ProbeConfig) -> Vec<ForwardRecord> {
    const ESTABLISHED: u8 = 3;
    let established = |listed: &&Listed| {
        listed.entry.proto == translations::TCP && listed.entry.tcp_state == Some(ESTABLISHED)
    };
    let still: HashSet<_> = again.entries.iter().filter(established).map(Listed::id).collect();
    let sockets: HashSet<(u64, SocketAddr, SocketAddr)> = survey
        .sockets
        .iter()
        .map(|socket| (socket.netns, socket.local, socket.remote))
        .collect();
    survey
        .translations
        .entries
        .iter()
        .filter(established)
        .filter(|listed| {
            let (netns, entry) = (u64::from(listed.netns), &listed.entry);
            survey.listed.contains(&netns)
                && still.contains(&listed.id())
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
                ts_ns: survey.since_ns,
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

/// The listed connections as live ones, with their owners, charged from now on only.
pub fn older(survey: &mut Survey, listeners: &HashSet<(u64, u16)>, scope: &Scope) -> Vec<Live> {
    let owners = owners(survey);
    let mut identities: HashMap<u32, Option<Identity>> = HashMap::new();
    survey
        .sockets
        .iter()
        // Half open: no connection yet, its ESTABLISHED will tell.
        .filter(|socket| socket.state != SYN_RECV)
        .map(|socket| (socket, live(socket, listeners, survey.since_ns)))
        .filter(|(socket, live)| {
            let served = if live.role == Role::Server {
                socket.local
            } else {
                socket.remote
            };
            !excludes(
                &scope.config.probe,
                scope.own,
                socket.netns,
                socket.local,
                socket.remote,
                served.port(),
            )
        })
        .map(|(socket, mut live)| {
            let path = survey
                .translations
                .resolve(translations::TCP, &outgoing(&live.key), live.role);
            if path.ambiguous || !path.hops.is_empty() {
                live.path = Some(Box::new(path));
            }
            live.process = owners.by_inode.get(&u64::from(socket.inode)).and_then(|&pid| {
                identities
                    .entry(pid)
                    .or_insert_with(|| process::identify_live(pid).ok())
                    .clone()
            });
            live
        })
        .collect()
}

fn owners(survey: &mut Survey) -> Owners {
    let inodes: HashSet<u64> = survey
        .sockets
        .iter()
        .map(|socket| u64::from(socket.inode))
        .collect();
    let owners = inode_owners(&inodes, Instant::now() + OWNERS_TIME).unwrap_or_else(|error| {
        survey
            .notices
            .push(format!("owners of older connections cannot be found: {error}"));
        Owners::default()
    });
    if owners.stopped_early {
        survey
            .notices
            .push("the search for owners of older connections took too long and was cut".to_owned());
    }
    owners
}

fn live(socket: &SocketInfo, listeners: &HashSet<(u64, u16)>, since_ns: u64) -> Live {
    let mut live = Live::new(&FlowRecord {
        cookie: socket.cookie,
        key: address::key(socket.local, socket.remote, socket.netns as u32),
        started_ns: since_ns,
        ..FlowRecord::default()
    });
    // Which side opened it is not recorded; a port that is listened on was dialed.
    let served = listeners.contains(&(socket.netns, socket.local.port()));
    live.role = if served { Role::Server } else { Role::Client };
    live.flags.insert(Flags::PARTIAL);
    let base = totals(socket);
    live.totals = base;
    live.base = Some(Box::new(base));
    live.touched_ns = since_ns;
    live
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

#[cfg(test)]
#[path = "baseline_tests.rs"]
mod tests;
