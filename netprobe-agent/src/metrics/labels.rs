//! Which values labels take: bounded, whatever the traffic.
//!
//! A value once admitted stays, and one once refused stays refused, so the series of a flow do not move under it.
//! What is refused becomes [`OTHER`] and is counted in `netprobe_label_overflow_total`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use prometheus_client::metrics::{counter::Counter, family::Family};

use crate::{config::MetricsConfig, event::FlowRole};

/// Stands for every value beyond a bound.
pub const OTHER: &str = "~other";
/// Stands for a value that is not known.
pub const UNKNOWN: &str = "~unknown";

/// How often a bound was met, by label.
pub(super) type Overflow = Family<[(&'static str, &'static str); 1], Counter>;

/// The bounded values of every label.
#[derive(Debug)]
pub(super) struct Labels {
    services: Bounded,
    errors: Bounded,
    methods: Bounded,
    peers: Peers,
    pairs: HashSet<(Arc<str>, Arc<str>)>,
    max_pairs: usize,
    other: Arc<str>,
    overflow: Overflow,
}

impl Labels {
    pub(super) fn new(config: &MetricsConfig, overflow: Overflow) -> Labels {
        Labels {
            services: Bounded::new(config.max_services),
            errors: Bounded::new(config.max_values),
            methods: Bounded::new(config.max_values),
            peers: Peers::new(config),
            pairs: HashSet::new(),
            max_pairs: config.max_pairs,
            other: OTHER.into(),
            overflow,
        }
    }

    pub(super) fn service(&mut self, service: Option<&str>) -> Arc<str> {
        let (value, within) = self.services.admit(service.unwrap_or(UNKNOWN));
        self.note(within, "service");
        value
    }

    pub(super) fn error(&mut self, error: Option<&str>) -> Arc<str> {
        let (value, within) = self.errors.admit(error.unwrap_or(""));
        self.note(within, "error_type");
        value
    }

    pub(super) fn method(&mut self, method: Option<&str>) -> Arc<str> {
        let (value, within) = self.methods.admit(method.unwrap_or(""));
        self.note(within, "method");
        value
    }

    /// The labels `service` and `peer` of a flow.
    pub(super) fn pair(
        &mut self,
        service: Option<&str>,
        peer: Option<(IpAddr, u16)>,
        role: FlowRole,
    ) -> (Arc<str>, Arc<str>) {
        let service = self.service(service);
        let (peer, within) = self.peers.name(peer, role);
        self.note(within, "peer");
        let pair = (service, peer);
        if self.pairs.contains(&pair) {
            return pair;
        }
        if self.pairs.len() < self.max_pairs {
            self.pairs.insert(pair.clone());
            return pair;
        }
        self.note(false, "service,peer");
        (pair.0, self.other.clone())
    }

    fn note(&self, within: bool, label: &'static str) {
        if !within {
            self.overflow.get_or_create(&[("label", label)]).inc();
        }
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

    /// The value to use, and whether it is the one asked for.
    fn admit(&mut self, value: &str) -> (Arc<str>, bool) {
        if let Some(known) = self.values.get(value) {
            return (known.clone(), true);
        }
        if self.values.len() >= self.most {
            return (self.other.clone(), false);
        }
        let value: Arc<str> = value.into();
        self.values.insert(value.clone());
        (value, true)
    }
}

/// Names of peers: the configured one; for clients the address and port they dialed; the network; [`OTHER`].
#[derive(Debug)]
struct Peers {
    /// Longest prefix first.
    configured: Vec<(IpNet, Arc<str>)>,
    addresses: HashMap<(IpAddr, u16), Arc<str>>,
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
            if let Some(name) = self.addresses.get(&(address, port)) {
                return (name.clone(), true);
            }
            if self.addresses.len() < self.max_addresses {
                let name: Arc<str> = std::net::SocketAddr::new(address, port).to_string().into();
                self.addresses.insert((address, port), name.clone());
                return (name, true);
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
