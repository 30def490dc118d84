//! What the kernel knows of connections and translations right now, listed for one purpose and made ready to use.
//!
//! Runs in a thread of its own: everything here may take seconds on a host with very many sockets, so every index is
//! built here, and the pipeline only looks things up.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use netprobe_common::ForwardRecord;

use super::{
    baseline,
    live::{Live, Totals},
    sockets::{self, ListenDrops, Query, SocketInfo},
    translations::Translations,
};
use crate::{
    config::Config,
    kernel::{
        load::Own,
        netns::{self, NetNs},
    },
    probe_report::AcceptQueueReport,
};

/// What a survey is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The connections older than the agent.
    Baseline,
    /// Which connections are gone.
    Reconcile,
    /// Translation of flows that have none yet: conntrack's tables only.
    Translate,
    /// What live connections moved: sockets only.
    Counters,
}

/// What a survey has to know.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Settings.
    pub config: Arc<Config>,
    /// The agent's own listener.
    pub own: Own,
    /// Forwarded connections are found by listing conntrack's tables alone.
    pub forwarded_by_list: bool,
}

/// What was found in every namespace that could be listed. What its purpose does not need is empty.
#[derive(Debug)]
pub struct Survey {
    /// What it is for.
    pub purpose: Purpose,
    /// `CLOCK_MONOTONIC` before the first list was asked for.
    pub since_ns: u64,
    /// How long it all took.
    pub took: Duration,
    /// Sentences for the operator about what could not be listed.
    pub notices: Vec<String>,
    /// Namespaces whose connections were listed whole.
    pub listed: HashSet<u64>,
    /// Connections as they were listed, to find older ones among them.
    pub sockets: Vec<SocketInfo>,
    /// Counters of all connections by cookie: what live ones moved, and which are gone.
    pub counters: HashMap<u64, Totals>,
    /// conntrack's tables.
    pub translations: Translations,
    /// Connections refused by full accept queues, by namespace.
    pub listen_overflows: BTreeMap<String, u64>,
    /// The fullest accept queues.
    pub accept_queues: Vec<AcceptQueueReport>,
    /// Connections older than the agent.
    pub older: Vec<Live>,
    /// Forwarded connections not seen to begin.
    pub forwarded: Vec<ForwardRecord>,
}

impl Survey {
    /// Lists what `purpose` needs of all namespaces.
    pub fn take(purpose: Purpose, scope: &Scope) -> Survey {
        let begun = Instant::now();
        let mut survey = Survey {
            purpose,
            since_ns: super::clock::monotonic_ns(),
            took: Duration::ZERO,
            notices: Vec::new(),
            listed: HashSet::new(),
            sockets: Vec::new(),
            counters: HashMap::new(),
            translations: Translations::default(),
            listen_overflows: BTreeMap::new(),
            accept_queues: Vec::new(),
            older: Vec::new(),
            forwarded: Vec::new(),
        };
        match netns::enumerate(netns::DEFAULT_MAX_PIDS) {
            Ok(mut namespaces) => {
                let followed = u64::from(scope.own.followed);
                namespaces
                    .found
                    .retain(|netns| followed == 0 || netns.inode == followed);
                if namespaces.denied > 0 {
                    survey.notices.push(format!(
                        "the namespaces of {} processes cannot be read: CAP_SYS_PTRACE is missing, or something protects them",
                        namespaces.denied
                    ));
                }
                if namespaces.truncated {
                    survey.notices.push(format!(
                        "more than {} processes: namespaces that only the others are in are not listed",
                        netns::DEFAULT_MAX_PIDS
                    ));
                }
                survey.list(&namespaces.found, scope);
            }
            Err(error) => survey
                .notices
                .push(format!("network namespaces cannot be listed: {error}")),
        }
        survey.took = begun.elapsed();
        survey
    }

    fn list(&mut self, namespaces: &[NetNs], scope: &Scope) {
        if self.purpose != Purpose::Counters {
            self.translations = Translations::take(namespaces);
            self.notices.append(&mut self.translations.notices);
        }
        if self.purpose == Purpose::Translate {
            return;
        }
        for namespace in namespaces {
            self.connections_of(namespace);
        }
        if self.purpose == Purpose::Counters {
            self.count();
            return;
        }
        for namespace in namespaces {
            if let Ok(ListenDrops {
                overflows: Some(count),
                ..
            }) = sockets::listen_drops(namespace)
            {
                self.listen_overflows.insert(namespace.inode.to_string(), count);
            }
        }
        let listeners = self.listeners(namespaces);
        self.accept_queues = fullest(&listeners);
        let baseline = self.purpose == Purpose::Baseline;
        if baseline || scope.forwarded_by_list {
            let again = Translations::take(namespaces);
            self.forwarded = baseline::forwarded(self, &again, &scope.config.probe);
        }
        if baseline {
            let ports = listeners
                .iter()
                .map(|socket| (socket.netns, socket.local.port()))
                .collect();
            self.older = baseline::older(self, &ports, scope);
            self.sockets = Vec::new();
        } else {
            self.count();
            self.translations.index_connections();
        }
    }

    /// Keeps of the connections what live ones need.
    fn count(&mut self) {
        self.counters = self
            .sockets
            .drain(..)
            .map(|socket| (socket.cookie, baseline::totals(&socket)))
            .collect();
    }

    fn connections_of(&mut self, namespace: &NetNs) {
        match sockets::dump(namespace, Query::TcpConnections) {
            Ok(mut found) => {
                self.sockets.append(&mut found);
                self.listed.insert(namespace.inode);
            }
            Err(error) => self.notices.push(format!(
                "connections of network namespace {} cannot be listed: {error}",
                namespace.inode
            )),
        }
    }

    fn listeners(&mut self, namespaces: &[NetNs]) -> Vec<SocketInfo> {
        let mut listeners = Vec::new();
        for namespace in namespaces {
            match sockets::dump(namespace, Query::TcpListeners) {
                Ok(mut found) => listeners.append(&mut found),
                Err(error) => self.notices.push(format!(
                    "listeners of network namespace {} cannot be listed, so older connections of it count as clients': {error}",
                    namespace.inode
                )),
            }
        }
        listeners
    }
}

/// The accept queues that connections wait in, those with the least room left first.
fn fullest(listeners: &[SocketInfo]) -> Vec<AcceptQueueReport> {
    const MOST: usize = 20;
    let mut queues: Vec<_> = listeners
        .iter()
        .filter_map(|socket| Some((socket, socket.backlog?)))
        .filter(|(_, backlog)| backlog.now > 0)
        .map(|(socket, backlog)| AcceptQueueReport {
            netns: socket.netns,
            listener: socket.local.to_string(),
            waiting: u64::from(backlog.now),
            room: u64::from(backlog.max),
        })
        .collect();
    queues.sort_by_key(|queue| (queue.room.saturating_sub(queue.waiting), queue.listener.clone()));
    queues.truncate(MOST);
    queues
}
