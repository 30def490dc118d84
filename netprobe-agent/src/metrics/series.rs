//! Where flows are counted, in plain numbers: from what a flow is to its pair in one hash look-up.
//!
//! What the labels of a flow are is decided in [`Labels`] alone. A decision stands until its values are released, so
//! it can be kept here; releasing forgets all of them. A bound met is counted with every observation, kept or not.
//!
//! A series that nothing was counted in for `metrics.idle_after` leaves the page. What it stood at is remembered, for
//! as many pairs as there may be: when it comes back, it goes on from there, as a counter must.

use std::{
    collections::HashSet,
    hash::BuildHasher,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    sync::Arc,
};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use lru::LruCache;

use super::{
    histogram::Histogram,
    labels::{Bounds, Labels},
    pair::{Key, Pair, Totals},
    window::Window,
};
use crate::{
    config::MetricsConfig,
    event::{FlowRole, NatStatus},
};

/// Decisions kept at most; past it all are forgotten and taken again. A busy host talks to fewer peers at a time.
const MAX_ROUTES: usize = 4096;

/// What decides the labels of a flow, and the decision.
#[derive(Debug)]
struct Route {
    service: Option<Arc<str>>,
    peer: Option<(IpAddr, u16)>,
    role: FlowRole,
    pair: usize,
    bounds: Bounds,
}

/// What is counted of a service alone.
#[derive(Clone, Debug, Default)]
pub(super) struct OfService {
    /// Live connections of clients and of servers; `None`: there never was one.
    pub(super) active: [Option<i64>; 2],
    pub(super) accept_wait: Option<Box<Histogram>>,
}

/// What is counted of the host.
#[derive(Clone, Debug, Default)]
pub(super) struct OfHost {
    pub(super) syn_retransmits: u64,
    /// Reset by this side, by the other.
    pub(super) resets: [u64; 2],
    pub(super) forwarded_active: i64,
    /// By method, then by status.
    pub(super) nat_lookups: Vec<(Arc<str>, [u64; NatStatus::ALL.len()])>,
    /// In the order of [`Bounds::NAMES`].
    pub(super) overflows: [u64; Bounds::NAMES.len()],
}

/// The last five minutes of the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows {
    pub(super) connect: Window,
    pub(super) rtt: Window,
    pub(super) accept_wait: Window,
    pub(super) request: Window,
}

/// Everything counted.
#[derive(Debug)]
pub(super) struct Series {
    labels: Labels,
    hasher: DefaultHashBuilder,
    routes: HashTable<Route>,
    pair_index: HashMap<Key, usize>,
    pub(super) pairs: Vec<Pair>,
    retired: LruCache<Key, Totals>,
    service_index: HashMap<Arc<str>, usize>,
    pub(super) services: Vec<(Arc<str>, OfService)>,
    retired_services: LruCache<Arc<str>, OfService>,
    pub(super) host: OfHost,
    pub(super) windows: Windows,
    /// Destinations that were failing when last looked at.
    pub(super) failing: HashSet<Arc<str>>,
    /// Windows of pairs and exemplars are kept.
    pub(super) detail: bool,
    idle_ms: u64,
    min_age_ms: u64,
    /// A bound was met since the last sweep.
    pressed: bool,
}

impl Series {
    pub(super) fn new(config: &MetricsConfig) -> Series {
        let room = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Series {
            labels: Labels::new(config),
            hasher: DefaultHashBuilder::default(),
            routes: HashTable::new(),
            pair_index: HashMap::new(),
            pairs: Vec::new(),
            retired: LruCache::new(room(config.max_pairs)),
            service_index: HashMap::new(),
            services: Vec::new(),
            retired_services: LruCache::new(room(config.max_services)),
            host: OfHost::default(),
            windows: Windows::default(),
            failing: HashSet::new(),
            detail: true,
            idle_ms: config.idle_after.0.as_millis() as u64,
            min_age_ms: config.min_age.0.as_millis() as u64,
            pressed: false,
        }
    }

    /// The series of a flow.
    pub(super) fn pair(
        &mut self,
        service: Option<&str>,
        peer: Option<(IpAddr, u16)>,
        role: FlowRole,
        now_ms: u64,
    ) -> &mut Pair {
        let (at, bounds) = self.find(service, peer, role);
        self.note(bounds);
        let pair = &mut self.pairs[at];
        pair.seen_ms = now_ms;
        pair
    }

    /// The label of what clients of a service dial; nothing is counted.
    pub(super) fn peer_label(&mut self, service: Option<&str>, peer: Option<(IpAddr, u16)>) -> Arc<str> {
        let (at, _) = self.find(service, peer, FlowRole::Client);
        self.pairs[at].key.1.clone()
    }

    /// Index of a pair, and the bounds met when its labels were decided.
    fn find(
        &mut self,
        service: Option<&str>,
        peer: Option<(IpAddr, u16)>,
        role: FlowRole,
    ) -> (usize, Bounds) {
        // Servers' peers are not told apart by port: each connection has another.
        let peer = peer.map(|(address, port)| (address, if role == FlowRole::Client { port } else { 0 }));
        let hash = hash(&self.hasher, service, peer, role);
        let known = self.routes.find(hash, |route| {
            route.peer == peer && route.role == role && route.service.as_deref() == service
        });
        match known {
            Some(route) => (route.pair, route.bounds),
            None => self.decide(hash, service, peer, role),
        }
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
        let Series {
            pairs,
            pair_index,
            retired,
            ..
        } = self;
        let key = (service_label, peer_label);
        let at = *pair_index.entry(key).or_insert_with_key(|key| {
            let totals = retired.pop(key).unwrap_or_default();
            pairs.push(Pair::new(key.clone(), totals));
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

    /// Keeps windows of pairs and exemplars, or not; what is half kept would mislead.
    pub(super) fn keep_detail(&mut self, keep: bool) {
        self.detail = keep;
        if !keep {
            self.pairs
                .iter_mut()
                .for_each(|pair| pair.recent = Default::default());
        }
    }

    /// What is counted of a service, by its name or by the label it was given.
    pub(super) fn service(&mut self, name: &str) -> &mut OfService {
        if let Some(at) = self.service_index.get(name) {
            return &mut self.services[*at].1;
        }
        let (label, bounds) = self.labels.service(Some(name));
        self.note(bounds);
        let Series {
            services,
            service_index,
            retired_services,
            ..
        } = self;
        let at = *service_index.entry(label).or_insert_with_key(|label| {
            let of = retired_services.pop(label).unwrap_or_default();
            services.push((label.clone(), of));
            services.len() - 1
        });
        &mut self.services[at].1
    }

    /// Counts what was found out about translation.
    pub(super) fn count_nat(&mut self, status: NatStatus, method: Option<&str>) {
        let method = method.unwrap_or("");
        let known = self
            .host
            .nat_lookups
            .iter()
            .position(|(known, _)| **known == *method);
        let at = known.unwrap_or_else(|| {
            let (label, bounds) = self.labels.method(method);
            self.note(bounds);
            let list = &mut self.host.nat_lookups;
            list.iter()
                .position(|(known, _)| *known == label)
                .unwrap_or_else(|| {
                    list.push((label, Default::default()));
                    list.len() - 1
                })
        });
        self.host.nat_lookups[at].1[status as usize] += 1;
    }

    /// The label of an error.
    pub(super) fn error(&mut self, error: &str) -> Arc<str> {
        let (label, bounds) = self.labels.error(error);
        self.note(bounds);
        label
    }

    /// The label of a route of a service.
    pub(super) fn route(&mut self, service: Option<&str>, route: &str) -> Arc<str> {
        let (label, bounds) = self.labels.route(service, route);
        self.note(bounds);
        label
    }

    /// The label of a request's method.
    pub(super) fn request_method(&mut self, method: &str) -> Arc<str> {
        let (label, bounds) = self.labels.request_method(method);
        self.note(bounds);
        label
    }

    /// An address was called so: what is counted of it from now on has that name.
    pub(super) fn named(&mut self, address: IpAddr, name: &Arc<str>, ttl_ms: u64, now_ms: u64) {
        if self.labels.named(address, name, ttl_ms, now_ms) {
            self.routes
                .retain(|route| route.peer.is_none_or(|(peer, _)| peer != address));
        }
    }

    fn note(&mut self, bounds: Bounds) {
        if bounds == Bounds::default() {
            return;
        }
        self.pressed = true;
        for ((bound, _), count) in Bounds::NAMES.iter().zip(&mut self.host.overflows) {
            *count += u64::from(bounds.contains(*bound));
        }
    }

    /// Drops what no window reaches, and takes series off the page that nothing was counted in for long.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        for pair in &mut self.pairs {
            pair.forget(now_ms);
        }
        let limit = if std::mem::take(&mut self.pressed) {
            self.min_age_ms.min(self.idle_ms)
        } else {
            self.idle_ms
        };
        let is_idle = |pair: &Pair| now_ms.saturating_sub(pair.seen_ms) >= limit;
        if !self.pairs.iter().any(is_idle) {
            return;
        }
        let (idle, kept) = std::mem::take(&mut self.pairs).into_iter().partition(is_idle);
        self.pairs = kept;
        for Pair { key, totals, .. } in idle {
            self.retired.put(key, totals);
        }
        let numbered = self.pairs.iter().enumerate();
        self.pair_index = numbered.map(|(at, pair)| (pair.key.clone(), at)).collect();
        self.routes.clear();
        let keys: HashSet<Key> = self.pair_index.keys().cloned().collect();
        let in_pairs: HashSet<&Arc<str>> = keys.iter().map(|(service, _)| service).collect();
        let is_idle = |(name, of): &(Arc<str>, OfService)| {
            !in_pairs.contains(name) && of.active.iter().all(|active| active.unwrap_or(0) == 0)
        };
        let (idle, kept) = std::mem::take(&mut self.services).into_iter().partition(is_idle);
        self.services = kept;
        for (name, of) in idle {
            self.retired_services.put(name, of);
        }
        let numbered = self.services.iter().enumerate();
        self.service_index = numbered.map(|(at, (name, _))| (name.clone(), at)).collect();
        self.labels.release(&keys, |name| {
            in_pairs.contains(name) || self.service_index.contains_key(name)
        });
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
