//! Connections the kernel knows: at start those older than the agent, later the list to reconcile with.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use netprobe_common::{FlowRecord, Role};

use super::{
    address,
    live::{Live, Totals},
    owners::inode_owners,
    process::ProcessCache,
    sockets::{self, Query, SocketInfo},
};
use crate::{event::Flags, kernel::netns};

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
    listeners: HashSet<(u64, u16)>,
}

impl Survey {
    /// Lists all TCP connections of all namespaces. With `listeners`, listening ports too.
    pub fn take(listeners: bool) -> Survey {
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
                "the namespaces of {} processes cannot be read: CAP_SYS_PTRACE is missing",
                namespaces.denied
            ));
        }
        for namespace in &namespaces.found {
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
            if listeners && let Ok(found) = sockets::dump(namespace, Query::TcpListeners) {
                survey
                    .listeners
                    .extend(found.iter().map(|socket| (socket.netns, socket.local.port())));
            }
        }
        survey
    }

    /// Cookies of all connections.
    pub fn cookies(&self) -> HashSet<u64> {
        self.sockets.iter().map(|socket| socket.cookie).collect()
    }

    /// The connections as live ones, with their owners, charged from now on only.
    pub fn into_live(mut self, processes: &ProcessCache) -> (Vec<Live>, Vec<String>) {
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
            .map(|socket| {
                let mut live = self.older(socket);
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
        let stats = socket.tcp.unwrap_or_default();
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
        let base = Totals {
            sent: stats.bytes_sent.saturating_sub(stats.bytes_retrans),
            received: stats.bytes_received,
            segments_out: stats.segs_out,
            segments_in: stats.segs_in,
            retransmits: stats.retransmits,
        };
        live.totals = base;
        live.base = Some(Box::new(base));
        live.touched_ns = self.since_ns;
        live
    }
}
