//! Joining conntrack entries to connections.
//!
//! A hop comes bound: to the client's socket by its cookie, to the server's by its addresses and namespace, both from
//! the handshake packet itself. Only a connection without a bound hop is matched by its addresses, and only when exactly
//! one entry of its time fits; several that fit leave it `unresolved`.

use std::collections::{HashMap, VecDeque};

use netprobe_common::{FlowKey, HopRecord, Role, Tuple};

use super::{
    address::{hop_tuple, outgoing},
    losses::Losses,
};
use crate::event::{Hop, Nat, NatStatus};

/// Hops kept for connections that have not shown up yet; beyond, the oldest go (counted).
const MAX_PENDING: usize = 65_536;
/// How long a hop waits for its connection: longer than a connect with six SYN retries.
const KEEP_NS: u64 = 180_000_000_000;
/// How long a hop can be matched by addresses alone.
const MATCH_NS: u64 = 10_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Bound {
    Client(u64),
    Server(FlowKey),
}

#[derive(Clone, Copy)]
struct Seen {
    hop: HopRecord,
    client: bool,
    server: bool,
}

/// Translation found for one connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    /// Entries in the order from originator to responder.
    pub hops: Vec<HopRecord>,
    /// Several entries fitted and none was bound.
    pub ambiguous: bool,
    /// Matched by addresses, not bound.
    pub by_address: bool,
}

/// Hops that wait for their connections.
#[derive(Default)]
pub struct NatTable {
    pending: HashMap<Bound, Vec<HopRecord>>,
    order: VecDeque<(u64, Bound)>,
    seen: HashMap<(u64, Tuple), Seen>,
    seen_order: VecDeque<(u64, (u64, Tuple))>,
    by_original: HashMap<Tuple, Vec<u64>>,
    by_reply: HashMap<Tuple, Vec<(u64, Tuple)>>,
    /// Hops that went before their connection came.
    pub expired: u64,
    /// When hop records were lost.
    pub losses: Losses,
    /// Hops of connections that had not come were given up, up to this time.
    given_up_ns: u64,
}

impl NatTable {
    /// Takes a hop record.
    pub fn add(&mut self, hop: &HopRecord) {
        self.remember(hop);
        let bound = bound(hop);
        let path = self.pending.entry(bound).or_insert_with(|| {
            self.order.push_back((hop.header.ts_ns, bound));
            Vec::new()
        });
        merge(path, hop);
        while self.pending.len() > MAX_PENDING {
            self.drop_oldest();
        }
    }

    /// The path of a connection; the hops bound to it are taken out.
    pub fn resolve(&mut self, cookie: u64, key: &FlowKey, role: Role, started_ns: u64) -> Path {
        if self.seen.is_empty() && self.pending.is_empty() {
            return Path::default();
        }
        let bound = match role {
            Role::Server => Bound::Server(*key),
            Role::Client | Role::Unknown => Bound::Client(cookie),
        };
        if let Some(hops) = self.pending.remove(&bound) {
            return Path {
                hops,
                ..Path::default()
            };
        }
        let fits: Vec<HopRecord> = match role {
            Role::Client => {
                let dialed = outgoing(key);
                let entries = self.by_original.get(&dialed).into_iter().flatten();
                entries
                    .filter_map(|&conntrack| self.seen.get(&(conntrack, dialed)))
                    .filter(|seen| !seen.client && seen.hop.header.ts_ns >= started_ns)
                    .map(|seen| seen.hop)
                    .collect()
            }
            Role::Server => {
                let answer = outgoing(key);
                let entries = self.by_reply.get(&answer).into_iter().flatten();
                entries
                    .filter_map(|id| self.seen.get(id))
                    .filter(|seen| !seen.server && seen.hop.header.ts_ns <= started_ns)
                    .map(|seen| seen.hop)
                    .collect()
            }
            Role::Unknown => Vec::new(),
        };
        match fits.len() {
            0 => Path::default(),
            1 => Path {
                hops: fits,
                by_address: true,
                ambiguous: false,
            },
            _ => Path {
                hops: Vec::new(),
                by_address: false,
                ambiguous: true,
            },
        }
    }

    /// Whether a hop of a handshake between these times may be missing: that none is known says nothing then.
    pub fn may_lack(&self, from_ns: u64, to_ns: u64) -> bool {
        from_ns <= self.given_up_ns || self.losses.between(from_ns, to_ns)
    }

    /// Forgets what is too old at `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while self
            .order
            .front()
            .is_some_and(|(ts, _)| now_ns.saturating_sub(*ts) > KEEP_NS)
        {
            self.drop_oldest();
        }
        self.losses.forget(now_ns.saturating_sub(KEEP_NS));
        // Connections that came took their hops out: their places in the order go too, before they outnumber the rest.
        if self.order.len() > 2 * self.pending.len() + 1024 {
            let pending = &self.pending;
            self.order.retain(|(_, bound)| pending.contains_key(bound));
        }
        while let Some(&(ts, id)) = self.seen_order.front() {
            if now_ns.saturating_sub(ts) <= MATCH_NS {
                break;
            }
            self.seen_order.pop_front();
            if let Some(seen) = self.seen.remove(&id) {
                forget(&mut self.by_original, &seen.hop.original, |&conntrack| {
                    conntrack == id.0
                });
                forget(&mut self.by_reply, &seen.hop.reply, |other| *other == id);
            }
        }
    }

    fn remember(&mut self, hop: &HopRecord) {
        let id = (hop.conntrack, hop.original);
        let seen = self.seen.entry(id).or_insert_with(|| {
            self.seen_order.push_back((hop.header.ts_ns, id));
            self.by_original
                .entry(hop.original)
                .or_default()
                .push(hop.conntrack);
            self.by_reply.entry(hop.reply).or_default().push(id);
            Seen {
                hop: *hop,
                client: false,
                server: false,
            }
        });
        match bound(hop) {
            Bound::Client(_) => seen.client = true,
            Bound::Server(_) => seen.server = true,
        }
    }

    fn drop_oldest(&mut self) {
        // An entry whose connection came is gone from the map already.
        if let Some((ts, bound)) = self.order.pop_front()
            && self.pending.remove(&bound).is_some()
        {
            self.given_up_ns = self.given_up_ns.max(ts);
            self.expired += 1;
        }
    }
}

fn forget<T>(index: &mut HashMap<Tuple, Vec<T>>, tuple: &Tuple, which: impl Fn(&T) -> bool) {
    if let Some(list) = index.get_mut(tuple) {
        list.retain(|entry| !which(entry));
        if list.is_empty() {
            index.remove(tuple);
        }
    }
}

fn bound(hop: &HopRecord) -> Bound {
    if hop.role == Role::Server as u8 {
        Bound::Server(hop.key)
    } else {
        Bound::Client(hop.cookie)
    }
}

/// Adds a hop to a path. A SYN meets hops in order, a SYN-ACK in reverse. A repeated handshake packet meets the same entry;
/// a new handshake on old addresses meets a new entry in the same place, which replaces the old.
fn merge(path: &mut Vec<HopRecord>, hop: &HopRecord) {
    if path
        .iter()
        .any(|known| known.conntrack == hop.conntrack && known.original == hop.original)
    {
        return;
    }
    path.retain(|known| !(known.netns == hop.netns && known.zone == hop.zone));
    if hop.role == Role::Server as u8 {
        path.insert(0, *hop)
    } else {
        path.push(*hop)
    }
}

/// Status of a path: the union of what its hops translate.
pub fn status(path: &Path) -> NatStatus {
    if path.ambiguous {
        return NatStatus::Unresolved;
    }
    let source = path
        .hops
        .iter()
        .any(|hop| (hop.original.src, hop.original.src_port) != (hop.reply.dst, hop.reply.dst_port));
    let destination = path
        .hops
        .iter()
        .any(|hop| (hop.original.dst, hop.original.dst_port) != (hop.reply.src, hop.reply.src_port));
    match (source, destination) {
        (true, true) => NatStatus::SnatDnat,
        (true, false) => NatStatus::Snat,
        (false, true) => NatStatus::Dnat,
        (false, false) => NatStatus::None,
    }
}

/// A path as events show it; `method` is the one that serves the fact.
pub fn shown(path: &Path, method: Option<&'static str>) -> Nat {
    let Some(method) = method else {
        return unavailable();
    };
    let method = if path.by_address { "address" } else { method };
    Nat {
        status: status(path),
        method: Some(method.into()),
        hops: path.hops.iter().map(shown_hop).collect(),
    }
}

/// Nothing is known about translation.
pub const fn unavailable() -> Nat {
    Nat {
        status: NatStatus::Unavailable,
        method: None,
        hops: Vec::new(),
    }
}

fn shown_hop(hop: &HopRecord) -> Hop {
    Hop {
        netns: u64::from(hop.netns),
        zone: hop.zone,
        orig: hop_tuple(&hop.original),
        reply: hop_tuple(&hop.reply),
    }
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
