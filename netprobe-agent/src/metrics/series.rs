//! Handles of the series that flows count in, so that the usual observation is one hash lookup and some additions.
//!
//! What the labels of a flow are is decided in [`Labels`] alone. Its decisions are final (what was admitted stays
//! admitted, what was refused stays refused), so they can be kept here. Families never drop a series, so handles can
//! be kept too; each is made when it is first counted in, since a series without an observation is not to be on the
//! page. A bound met is counted with every observation, kept or not.

use std::{
    hash::BuildHasher,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::labels::{Bounds, Labels, OTHER, Overflow, UNKNOWN};
use crate::event::{FlowRole, NatStatus};

/// Decisions kept at most; past it all are forgotten and taken again. A busy host talks to fewer peers at a time.
const MAX_ROUTES: usize = 4096;

/// The series of one pair of `service` and `peer`.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) service: Arc<str>,
    pub(super) peer: Arc<str>,
    /// Of clients and of servers.
    pub(super) sides: [Side; 2],
    /// Sent and received, as everywhere below.
    pub(super) tcp_bytes: [Option<Counter>; 2],
    pub(super) udp_bytes: [Option<Counter>; 2],
    pub(super) udp_datagrams: [Option<Counter>; 2],
    pub(super) rtt: Option<Histogram>,
    pub(super) retransmits: Option<Counter>,
    pub(super) timeouts: Option<Counter>,
    pub(super) accept_wait: Option<Histogram>,
}

/// The series that tell clients and servers apart.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) connects: Option<Counter>,
    pub(super) connect_duration: Option<Histogram>,
}

/// Index of what tells clients and servers apart. Forwarded connections have no such series.
pub(super) const fn side(role: FlowRole) -> usize {
    matches!(role, FlowRole::Server) as usize
}

/// What decides the labels of a flow, and the decision.
#[derive(Debug)]
struct Route {
    service: Option<Arc<str>>,
    peer: Option<(IpAddr, u16)>,
    role: FlowRole,
    pair: usize,
    bounds: Bounds,
}

/// Handles by a name that is itself bounded; those of every refused name come first.
#[derive(Debug)]
struct Named<T> {
    index: HashMap<Arc<str>, usize>,
    list: Vec<T>,
}

impl<T: Default> Default for Named<T> {
    fn default() -> Self {
        Named {
            index: HashMap::new(),
            list: vec![T::default()],
        }
    }
}

impl<T: Default> Named<T> {
    /// The handles of a name, and whether it was admitted. `admit` gives its label, and whether that is the name.
    fn of(&mut self, name: &str, admit: impl FnOnce() -> (Arc<str>, bool)) -> (&mut T, bool) {
        let at = match self.index.get(name) {
            Some(at) => *at,
            None => match admit() {
                (label, true) => {
                    self.list.push(T::default());
                    self.index.insert(label, self.list.len() - 1);
                    self.list.len() - 1
                }
                (_, false) => 0,
            },
        };
        (&mut self.list[at], at != 0)
    }
}

/// Every decision and handle.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    overflow: Overflow,
    /// Handles of `overflow`, in the order of [`Bounds::NAMES`].
    overflows: [Option<Counter>; Bounds::NAMES.len()],
    hasher: DefaultHashBuilder,
    routes: HashTable<Route>,
    pair_index: HashMap<(Arc<str>, Arc<str>), usize>,
    pairs: Vec<Pair>,
    active: Named<[Option<Gauge>; 2]>,
    nat_lookups: Named<[Option<Counter>; NatStatus::ALL.len()]>,
    /// Reset by this side, by the other.
    pub(super) resets: [Option<Counter>; 2],
    /// Label of a connect without an error; decided at the first.
    no_error: Option<(Arc<str>, Bounds)>,
}

impl Series {
    pub(super) fn new(labels: Labels, overflow: Overflow) -> Series {
        Series {
            labels,
            overflow,
            overflows: Default::default(),
            hasher: DefaultHashBuilder::default(),
            routes: HashTable::new(),
            pair_index: HashMap::new(),
            pairs: Vec::new(),
            active: Named::default(),
            nat_lookups: Named::default(),
            resets: Default::default(),
            no_error: None,
        }
    }

    /// The series of a flow.
    pub(super) fn pair(
        &mut self,
        service: Option<&str>,
        peer: Option<(IpAddr, u16)>,
        role: FlowRole,
    ) -> &mut Pair {
        // Servers' peers are not told apart by port: each connection has another.
        let peer = peer.map(|(address, port)| (address, if role == FlowRole::Client { port } else { 0 }));
        let hash = hash(&self.hasher, service, peer, role);
        let known = self.routes.find(hash, |route| {
            route.peer == peer && route.role == role && route.service.as_deref() == service
        });
        let (at, bounds) = match known {
            Some(route) => (route.pair, route.bounds),
            None => self.decide(hash, service, peer, role),
        };
        self.note(bounds);
        &mut self.pairs[at]
    }

    fn decide(
        &mut self,
        hash_of_it: u64,
        service: Option<&str>,
        peer: Option<(IpAddr, u16)>,
        role: FlowRole,
    ) -> (usize, Bounds) {
        let (service_label, peer_label, bounds) = self.labels.pair(service, peer, role);
        let label = &service_label;
        let service = service.map(|name| {
            if **label == *name {
                label.clone()
            } else {
                name.into()
            }
        });
        let pairs = &mut self.pairs;
        let at = *self
            .pair_index
            .entry((service_label.clone(), peer_label.clone()))
            .or_insert_with(|| {
                pairs.push(Pair::new(service_label, peer_label));
                pairs.len() - 1
            });
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        let route = Route {
            service,
            peer,
            role,
            pair: at,
            bounds,
        };
        let hasher = &self.hasher;
        self.routes.insert_unique(hash_of_it, route, |route| {
            hash(hasher, route.service.as_deref(), route.peer, route.role)
        });
        (at, bounds)
    }

    /// The gauge of live flows of a service, made by `make` from its label.
    pub(super) fn active(
        &mut self,
        service: Option<&str>,
        role: FlowRole,
        make: impl FnOnce(Arc<str>) -> Gauge,
    ) -> &Gauge {
        let name = service.unwrap_or(UNKNOWN);
        let labels = &mut self.labels;
        let (gauges, admitted) = self.active.of(name, || labels.service(service));
        if !admitted {
            count(&mut self.overflows, &self.overflow, Bounds::SERVICE);
        }
        let label = if admitted { name } else { OTHER };
        gauges[side(role)].get_or_insert_with(|| make(label.into()))
    }

    /// The counter of what was found out about translation, made by `make` from the label of the method.
    pub(super) fn nat_lookups(
        &mut self,
        status: NatStatus,
        method: Option<&str>,
        make: impl FnOnce(Arc<str>) -> Counter,
    ) -> &Counter {
        let name = method.unwrap_or("");
        let labels = &mut self.labels;
        let (counters, admitted) = self.nat_lookups.of(name, || labels.method(method));
        if !admitted {
            count(&mut self.overflows, &self.overflow, Bounds::METHOD);
        }
        let label = if admitted { name } else { OTHER };
        counters[status as usize].get_or_insert_with(|| make(label.into()))
    }

    /// The label of an error.
    pub(super) fn error(&mut self, error: &str) -> Arc<str> {
        let (label, within) = self.labels.error(Some(error));
        self.note(Bounds::ERROR.unless(within));
        label
    }

    /// The label of no error.
    pub(super) fn no_error(&mut self) -> Arc<str> {
        let labels = &mut self.labels;
        let (label, bounds) = self.no_error.get_or_insert_with(|| {
            let (label, within) = labels.error(None);
            (label, Bounds::ERROR.unless(within))
        });
        let (label, bounds) = (label.clone(), *bounds);
        self.note(bounds);
        label
    }

    fn note(&mut self, bounds: Bounds) {
        if bounds != Bounds::default() {
            count(&mut self.overflows, &self.overflow, bounds);
        }
    }
}

impl Pair {
    fn new(service: Arc<str>, peer: Arc<str>) -> Pair {
        Pair {
            service,
            peer,
            sides: Default::default(),
            tcp_bytes: Default::default(),
            udp_bytes: Default::default(),
            udp_datagrams: Default::default(),
            rtt: None,
            retransmits: None,
            timeouts: None,
            accept_wait: None,
        }
    }
}

fn count(handles: &mut [Option<Counter>; Bounds::NAMES.len()], overflow: &Overflow, bounds: Bounds) {
    for ((bound, label), handle) in Bounds::NAMES.iter().zip(handles) {
        if bounds.contains(*bound) {
            handle
                .get_or_insert_with(|| overflow.get_or_create_owned(&[("label", label)]))
                .inc();
        }
    }
}

/// In few words: the derived hash of an address is three times the work.
fn hash(
    hasher: &DefaultHashBuilder,
    service: Option<&str>,
    peer: Option<(IpAddr, u16)>,
    role: FlowRole,
) -> u64 {
    let (address, port) = peer.unwrap_or((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));
    let address = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    hasher.hash_one((address, u32::from(port) << 8 | role as u32, service))
}
