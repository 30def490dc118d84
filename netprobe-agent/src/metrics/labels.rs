//! The label policy: which values labels take, bounded whatever the traffic.
//!
//! A value is admitted while its label has room. One that has not been counted in for a while is released
//! ([`Labels::release`]), and its place is free. What is refused becomes [`OTHER`] and is counted in
//! `netprobe_label_overflow_total`; a service that is not in `metrics.services_only` becomes it too, uncounted: that
//! is what was asked for.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::names::Names;
use crate::{config::MetricsConfig, event::FlowRole};

/// Stands for every value beyond a bound.
pub const OTHER: &str = "~other";
/// Stands for a value that is not known.
pub const UNKNOWN: &str = "~unknown";

/// Bounds that one decision met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds(u8);

impl Bounds {
    pub(super) const SERVICE: Bounds = Bounds(1);
    pub(super) const PEER: Bounds = Bounds(1 << 1);
    pub(super) const PAIR: Bounds = Bounds(1 << 2);
    pub(super) const ERROR: Bounds = Bounds(1 << 3);
    pub(super) const METHOD: Bounds = Bounds(1 << 4);
    pub(super) const ROUTE: Bounds = Bounds(1 << 5);

    /// Names in the metric.
    pub(super) const NAMES: [(Bounds, &'static str); 6] = [
        (Bounds::SERVICE, "service"),
        (Bounds::PEER, "peer"),
        (Bounds::PAIR, "service,peer"),
        (Bounds::ERROR, "error_type"),
        (Bounds::METHOD, "method"),
        (Bounds::ROUTE, "route"),
    ];

    pub(super) const fn contains(self, bound: Bounds) -> bool {
        self.0 & bound.0 != 0
    }

    /// This bound, or none when the value was within it.
    const fn unless(self, within: bool) -> Bounds {
        if within { Bounds(0) } else { self }
    }

    const fn and(self, other: Bounds) -> Bounds {
        Bounds(self.0 | other.0)
    }
}

/// The bounded values of every label. Of each value asked for: the one to use, and the bounds met.
#[derive(Debug)]
pub(super) struct Labels {
    services_only: BTreeSet<Arc<str>>,
    services: Bounded,
    errors: Bounded,
    methods: Bounded,
    /// Of requests, not of the probe.
    request_methods: Bounded,
    /// By service.
    routes: HashMap<Arc<str>, Bounded>,
    max_values: usize,
    peers: Peers,
    pairs: HashSet<(Arc<str>, Arc<str>)>,
    max_pairs: usize,
    other: Arc<str>,
}

impl Labels {
    pub(super) fn new(config: &MetricsConfig) -> Labels {
        Labels {
            services_only: config
                .services_only
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            services: Bounded::new(config.max_services),
            errors: Bounded::new(config.max_values),
            methods: Bounded::new(config.max_values),
            request_methods: Bounded::new(config.max_values),
            routes: HashMap::new(),
            max_values: config.max_values,
            peers: Peers::new(config),
            pairs: HashSet::new(),
            max_pairs: config.max_pairs,
            other: OTHER.into(),
        }
    }

    pub(super) fn service(&mut self, service: Option<&str>) -> (Arc<str>, Bounds) {
        let name = service.unwrap_or(UNKNOWN);
        if !self.services_only.is_empty() && !self.services_only.contains(name) {
            return (self.other.clone(), Bounds::default());
        }
        self.services.admit(name, Bounds::SERVICE)
    }

    pub(super) fn error(&mut self, error: &str) -> (Arc<str>, Bounds) {
        self.errors.admit(error, Bounds::ERROR)
    }

    pub(super) fn method(&mut self, method: &str) -> (Arc<str>, Bounds) {
        self.methods.admit(method, Bounds::METHOD)
    }

    pub(super) fn request_method(&mut self, method: &str) -> (Arc<str>, Bounds) {
        self.request_methods.admit(method, Bounds::METHOD)
    }

    /// The label of a route: each service has its own room.
    pub(super) fn route(&mut self, service: Option<&str>, route: &str) -> (Arc<str>, Bounds) {
        let (service, bounds) = self.service(service);
        let most = self.max_values;
        let routes = self.routes.entry(service).or_insert_with(|| Bounded::new(most));
        let (route, met) = routes.admit(route, Bounds::ROUTE);
        (route, bounds.and(met))
    }

    /// The labels `service` and `peer` of a flow, and the bounds met.
    pub(super) fn pair(
        &mut self,
        service: Option<&str>,
        peer: Option<(IpAddr, u16)>,
        role: FlowRole,
    ) -> (Arc<str>, Arc<str>, Bounds) {
        let (service, bounds) = self.service(service);
        let (peer, within) = self.peers.name(peer, role);
        let bounds = bounds.and(Bounds::PEER.unless(within));
        let pair = (service, peer);
        if self.pairs.contains(&pair) {
            return (pair.0, pair.1, bounds);
        }
        if self.pairs.len() < self.max_pairs {
            self.pairs.insert(pair.clone());
            return (pair.0, pair.1, bounds);
        }
        (pair.0, self.other.clone(), bounds.and(Bounds::PAIR))
    }

    /// An address was called so. Returns whether decisions about it are to be taken anew.
    pub(super) fn named(&mut self, address: IpAddr, name: &Arc<str>, ttl_ms: u64, now_ms: u64) -> bool {
        self.peers.names.put(address, name, ttl_ms, now_ms)
    }

    /// Keeps only values that are in use; the others' places are free. Errors and methods stay: they are few.
    pub(super) fn release(
        &mut self,
        pairs: &HashSet<(Arc<str>, Arc<str>)>,
        is_service: impl Fn(&Arc<str>) -> bool,
    ) {
        let peers: HashSet<&Arc<str>> = pairs.iter().map(|(_, peer)| peer).collect();
        self.pairs.retain(|pair| pairs.contains(pair));
        self.services.values.retain(&is_service);
        self.routes.retain(|service, _| is_service(service));
        self.peers.addresses.retain(|_, name| peers.contains(name));
        self.peers.named.retain(|_, name| peers.contains(name));
        self.peers.networks.retain(|_, name| peers.contains(name));
    }
}

/// A set of values with a bound.
#[derive(Debug)]
struct Bounded {
    values: HashSet<Arc<str>>,
    most: usize,
    other: Arc<str>,
}

impl Bounded {
    fn new(most: usize) -> Bounded {
        Bounded {
            values: HashSet::new(),
            most,
            other: OTHER.into(),
        }
    }

    /// The value to use, and `bound` when it is not the one asked for.
    fn admit(&mut self, value: &str, bound: Bounds) -> (Arc<str>, Bounds) {
        if let Some(known) = self.values.get(value) {
            return (known.clone(), Bounds::default());
        }
        if self.values.len() >= self.most {
            return (self.other.clone(), bound);
        }
        let value: Arc<str> = value.into();
        self.values.insert(value.clone());
        (value, Bounds::default())
    }
}

/// Names of peers: the configured one; for clients the name seen for the address they dialed, or else the address, and the
/// port; the network; [`OTHER`].
#[derive(Debug)]
struct Peers {
    /// Longest prefix first.
    configured: Vec<(IpNet, Arc<str>)>,
    addresses: HashMap<(IpAddr, u16), Arc<str>>,
    /// Observed names and ports; with `addresses` as many as there may be.
    named: HashMap<(Arc<str>, u16), Arc<str>>,
    names: Names,
    max_addresses: usize,
    networks: HashMap<IpNet, Arc<str>>,
    max_networks: usize,
    prefix_v4: u8,
    prefix_v6: u8,
    other: Arc<str>,
    unknown: Arc<str>,
}

impl Peers {
    fn new(config: &MetricsConfig) -> Peers {
        let mut configured: Vec<_> = config
            .peers
            .iter()
            .map(|(network, name)| (*network, Arc::from(name.as_str())))
            .collect();
        configured.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        Peers {
            configured,
            addresses: HashMap::new(),
            named: HashMap::new(),
            names: Names::default(),
            max_addresses: config.max_peers,
            networks: HashMap::new(),
            max_networks: config.max_peer_networks,
            prefix_v4: config.peer_prefix_v4,
            prefix_v6: config.peer_prefix_v6,
            other: OTHER.into(),
            unknown: UNKNOWN.into(),
        }
    }

    fn name(&mut self, peer: Option<(IpAddr, u16)>, role: FlowRole) -> (Arc<str>, bool) {
        let Some((address, port)) = peer else {
            return (self.unknown.clone(), true);
        };
        if let Some((_, name)) = self
            .configured
            .iter()
            .find(|(network, _)| network.contains(&address))
        {
            return (name.clone(), true);
        }
        let mut within = true;
        if role == FlowRole::Client {
            let has_room = self.addresses.len() + self.named.len() < self.max_addresses;
            if let Some(name) = self.names.get(address) {
                let key = (name, port);
                if let Some(label) = self.named.get(&key) {
                    return (label.clone(), true);
                }
                if has_room {
                    let label: Arc<str> = format!("{}:{port}", key.0).into();
                    self.named.insert(key, label.clone());
                    return (label, true);
                }
            } else if let Some(label) = self.addresses.get(&(address, port)) {
                return (label.clone(), true);
            } else if has_room {
                let label: Arc<str> = std::net::SocketAddr::new(address, port).to_string().into();
                self.addresses.insert((address, port), label.clone());
                return (label, true);
            }
            within = false;
        }
        let prefix = if address.is_ipv4() {
            self.prefix_v4
        } else {
            self.prefix_v6
        };
        // The prefix was held against the family when the configuration was read.
        let Ok(network) = IpNet::new(address, prefix) else {
            return (self.other.clone(), false);
        };
        let network = network.trunc();
        if let Some(name) = self.networks.get(&network) {
            return (name.clone(), within);
        }
        if self.networks.len() < self.max_networks {
            let name: Arc<str> = network.to_string().into();
            self.networks.insert(network, name.clone());
            return (name, within);
        }
        (self.other.clone(), false)
    }
}
