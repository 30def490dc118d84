//! One connection as every host on its way saw it, out of the archive of a fleet.
//!
//! Hosts do not know of each other, and a connection has another id on each. What they share is what was on the wire
//! between them: the addresses with which a connection left one host are those with which it came to the next. So each
//! event has two pairs of addresses, [`Wire`]: towards the client and towards the server, and an event is the next one's
//! neighbour when the one's second pair is the other's first, at about the same time. On one host (two containers, or a
//! gateway beside them) both pairs are the same.
//!
//! The archive is read once to find the connection, then once for each host on the way and once more: what is kept
//! meanwhile is one connection, however many there were.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    is_local,
    read::{self, walk},
    sources::Sources,
};
use crate::{
    archive::{
        read::Span,
        store::{Store, StoreError},
    },
    event::{Event, EventKind, FlowRole, Nanos, Protocol},
    filter::Filter,
};

/// How far the clocks of two hosts may be apart, and how much later one of them may see the connection begin.
const APART_NS: i64 = 60_000_000_000;
/// Longest way that is followed: more hosts than that are a loop of mistaken identities.
const MOST_LEGS: usize = 64;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// `connection_id` of an event of any of its hosts.
    pub connection: String,
    /// Where that event is looked for. The others are found around it.
    pub span: Span,
    /// Segments decoded at a time.
    pub at_once: usize,
}

/// The connection on all hosts that tell of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// From the client to the server.
    pub legs: Vec<Leg>,
    /// Whether another connection had the same addresses within a minute: the nearest was taken.
    pub alike: bool,
    /// What was read, and what is not there.
    pub sources: Sources,
}

/// What one host tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Leg {
    /// The connection there: its final event, or the last there is.
    pub flow: Event,
    /// The requests it carried, as read there.
    pub requests: Vec<Event>,
}

/// Addresses of both sides: who opened it, and whom it was opened to.
pub type Pair = (Protocol, SocketAddr, SocketAddr);

/// A connection's addresses where it comes to a host, and where it leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Towards the client; `None`: translated on this host, and not known to what.
    pub client: Option<Pair>,
    /// Towards the server.
    pub server: Option<Pair>,
}

impl Wire {
    /// Those of an event about a connection.
    pub fn of(event: &Event) -> Option<Wire> {
        let protocol = event.protocol?;
        let end = |ip: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(ip?, port?));
        let internal = end(event.internal_ip, event.internal_port);
        let external = end(event.external_ip, event.external_port);
        let peer = end(event.peer_ip, event.peer_port);
        let actual = end(event.actual_peer_ip, event.actual_peer_port);
        let pair = |from: Option<SocketAddr>, to: Option<SocketAddr>| Some((protocol, from?, to?));
        Some(match event.role? {
            FlowRole::Client | FlowRole::Forwarded => Wire {
                client: pair(internal, peer),
                server: pair(external, actual),
            },
            FlowRole::Server => Wire {
                client: pair(actual, external),
                server: pair(peer, internal),
            },
        })
    }

    fn pairs(self) -> impl Iterator<Item = Pair> {
        [self.client, self.server].into_iter().flatten()
    }
}

/// Reads the way of a connection; `None`: the archive has nothing of it. `seen` is told of every segment read, with how many
/// there are.
pub async fn path(
    store: &Store,
    question: &Question,
    mut seen: impl FnMut(u64),
) -> Result<Option<Path>, StoreError> {
    let mut wanted = Wanted::default();
    wanted.ids.insert(question.connection.as_str().into());
    let mut span = question.span;
    let mut alike = HashSet::new();
    loop {
        let asked = read::Question {
            span,
            filter: Filter::default(),
            at_once: question.at_once,
        };
        let pick = {
            let wanted = wanted.clone();
            move |event: Event| wanted.holds(&event).then_some(event)
        };
        let mut found = Found::default();
        let sources = walk(store, &asked, pick, |event| found.take(event), &mut seen).await?;
        let known: Vec<&Event> = found.flows.values().filter(|flow| wanted.has(flow)).collect();
        if known.is_empty() {
            return Ok(None);
        }
        span = around(&known);
        let (more, others) = neighbours(&known, &found);
        alike.extend(others);
        let first = wanted.pairs.is_empty();
        wanted.pairs = known
            .iter()
            .chain(&more)
            .filter_map(|flow| Wire::of(flow))
            .flat_map(Wire::pairs)
            .collect();
        let (many, none) = (known.len() + more.len() >= MOST_LEGS, more.is_empty());
        wanted
            .ids
            .extend(more.iter().filter_map(|flow| flow.connection_id.clone()));
        // The first time only its own events were read, and not all of its time.
        if !first && (none || many) {
            return Ok(Some(Path {
                alike: alike.difference(&wanted.ids).next().is_some(),
                legs: found.legs(&wanted),
                sources,
            }));
        }
    }
}

/// What is read: events of connections that are known to belong to it, and connections that may.
#[derive(Clone, Default)]
struct Wanted {
    ids: HashSet<Arc<str>>,
    pairs: HashSet<Pair>,
}

impl Wanted {
    fn has(&self, event: &Event) -> bool {
        event
            .connection_id
            .as_ref()
            .is_some_and(|id| self.ids.contains(id))
    }

    fn holds(&self, event: &Event) -> bool {
        self.has(event)
            || (event.kind == EventKind::Flow
                && Wire::of(event).is_some_and(|wire| wire.pairs().any(|pair| self.pairs.contains(&pair))))
    }
}

/// What one reading found.
#[derive(Default)]
struct Found {
    flows: HashMap<Arc<str>, Event>,
    requests: Vec<Event>,
}

impl Found {
    fn take(&mut self, event: Event) {
        let Some(id) = event.connection_id.clone() else {
            return;
        };
        match event.kind {
            EventKind::Request => self.requests.push(event),
            EventKind::Flow => {
                let worth = |event: &Event| (event.is_final(), event.ts);
                let better = self.flows.get(&id).is_none_or(|kept| worth(kept) < worth(&event));
                if better {
                    self.flows.insert(id, event);
                }
            }
            _ => {}
        }
    }

    fn legs(mut self, wanted: &Wanted) -> Vec<Leg> {
        self.flows.retain(|_, flow| wanted.has(flow));
        self.requests.sort_by_key(|request| (began(request), request.seq));
        let flows = ordered(self.flows.into_values().collect());
        let mut legs: Vec<Leg> = flows
            .into_iter()
            .map(|flow| Leg {
                flow,
                requests: Vec::new(),
            })
            .collect();
        for request in self.requests {
            let of = |leg: &&mut Leg| leg.flow.connection_id == request.connection_id;
            if let Some(leg) = legs.iter_mut().find(of) {
                leg.requests.push(request);
            }
        }
        legs
    }
}

/// When it began; of one that is older than its agent, when it was told of.
fn began(event: &Event) -> Nanos {
    event.started_at.unwrap_or(event.ts)
}

/// The time in which events of the same connection may have been told.
fn around(known: &[&Event]) -> Span {
    let from = known.iter().map(|flow| began(flow).0).min();
    let to = known.iter().map(|flow| flow.ts.0).max();
    Span {
        since: from.map(|from| Nanos(from.saturating_sub(APART_NS))),
        until: to.map(|to| Nanos(to.saturating_add(APART_NS + super::TOLD_LATE_NS))),
    }
}

/// Host, role and namespace of a connection.
type Place<'a> = (&'a str, Option<FlowRole>, Option<u64>);

/// Those that were found and are not known, and belong to one that is: the nearest in time on each host. And those that were as
/// good but for the time.
fn neighbours<'a>(known: &[&Event], found: &'a Found) -> (Vec<&'a Event>, HashSet<Arc<str>>) {
    let ids: HashSet<_> = known
        .iter()
        .filter_map(|flow| flow.connection_id.as_ref())
        .collect();
    // By host and what it is there: a connection is there once.
    let mut best: HashMap<Place<'_>, (i64, &Event)> = HashMap::new();
    let mut alike = HashSet::new();
    for (id, flow) in &found.flows {
        let apart = known.iter().filter_map(|one| apart(one, flow)).min();
        let Some(apart) = apart.filter(|_| !ids.contains(id)) else {
            continue;
        };
        let place = (&*flow.host, flow.role, flow.netns);
        if known.iter().any(|one| (&*one.host, one.role, one.netns) == place) {
            alike.insert(id.clone());
            continue;
        }
        let key = |(apart, flow): (i64, &Event)| (apart, flow.connection_id.clone());
        let kept = best.entry(place).or_insert((apart, flow));
        if !std::ptr::eq(kept.1, flow) {
            // One of the two; the other one becomes a leg, and is taken out in the end.
            alike.extend([id.clone()].into_iter().chain(kept.1.connection_id.clone()));
            if key((apart, flow)) < key(*kept) {
                *kept = (apart, flow);
            }
        }
    }
    (best.into_values().map(|(_, flow)| flow).collect(), alike)
}

/// How far the begins of two events are apart that may be of the same connection; `None`: they are not.
fn apart(one: &Event, other: &Event) -> Option<i64> {
    let (a, b) = (Wire::of(one)?, Wire::of(other)?);
    let joined = if one.host == other.host {
        a == b && a.client.is_some() && a.server.is_some()
    } else {
        let wire = |from: Wire, to: Wire| {
            from.server
                .filter(|pair| Some(*pair) == to.client && !is_local(pair.1.ip()) && !is_local(pair.2.ip()))
        };
        // What leaves a client for nowhere else comes to no other client, and so for servers.
        (other.role != Some(FlowRole::Client) && one.role != Some(FlowRole::Server) && wire(a, b).is_some())
            || (one.role != Some(FlowRole::Client)
                && other.role != Some(FlowRole::Server)
                && wire(b, a).is_some())
    };
    let overlap = began(one).0.saturating_sub(APART_NS) <= other.ts.0
        && began(other).0.saturating_sub(APART_NS) <= one.ts.0;
    let apart = (began(one).0 - began(other).0).abs();
    // Of one that is older than its agent the begin is not known.
    let known = one.started_at.is_some() && other.started_at.is_some();
    (joined && overlap && (!known || apart <= APART_NS)).then_some(apart)
}

/// From the client to the server; between them along the wire.
fn ordered(mut flows: Vec<Event>) -> Vec<Event> {
    flows.sort_by_key(|flow| (flow.role, began(flow), flow.connection_id.clone()));
    let mut ends: [Vec<Event>; 2] = Default::default();
    let mut between = Vec::new();
    for flow in flows {
        match flow.role {
            Some(FlowRole::Client) => ends[0].push(flow),
            Some(FlowRole::Server) => ends[1].push(flow),
            _ => between.push(flow),
        }
    }
    let [mut path, servers] = ends;
    let wire = |flow: &Event| {
        Wire::of(flow).unwrap_or(Wire {
            client: None,
            server: None,
        })
    };
    while !between.is_empty() {
        let leaves = path.last().map(|last| wire(last).server);
        let follows = |flow: &Event| leaves.is_some_and(|pair| pair.is_some() && wire(flow).client == pair);
        let is_first = |flow: &Event| {
            let comes = wire(flow).client;
            !between
                .iter()
                .any(|other| wire(other).server == comes && wire(other) != wire(flow))
        };
        let next = between
            .iter()
            .position(follows)
            .or_else(|| between.iter().position(is_first));
        path.push(between.remove(next.unwrap_or(0)));
    }
    path.extend(servers);
    path
}

#[cfg(test)]
mod tests;
