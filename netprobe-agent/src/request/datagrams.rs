//! DNS over UDP: queries and answers of each socket and peer, and the events that come of them.
//!
//! Whether the local socket asks or answers is told by the message itself. A pair is remembered while a query waits.

use std::collections::BTreeMap;

use lru::LruCache;
use netprobe_common::{DatagramRecord, FlowKey, UdpKey};

use super::{
    dns::{self, Dns},
    events::{self, Place},
    protocol::{Exchange, Found, Piece, Protocol as _, Side},
};
use crate::{
    config::RequestsConfig,
    event::{Event, Family, Flags, Protocol, connection_id},
    flow::{address::ip, payload::Flows, udp},
};

/// Exchanges that wait for their flow at most: its record is made at the end of the call that sent the query, so a very fast
/// answer may be read before it.
const MOST_EARLY: usize = 1024;

/// A socket and its peer, and whether the socket asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Pair {
    socket: UdpKey,
    is_client: bool,
}

/// What is under way between them.
struct Talk {
    dns: Dns,
    key: FlowKey,
    told: u64,
}

/// An exchange that is complete.
struct Done {
    exchange: Exchange,
    pair: Pair,
    key: FlowKey,
    number: u64,
}

/// All of them.
pub(super) struct Datagrams {
    patience_ns: u64,
    most: usize,
    talks: LruCache<Pair, Talk>,
    early: Vec<Done>,
    found: Found,
    rejects: BTreeMap<&'static str, u64>,
    evicted: u64,
}

impl Datagrams {
    pub(super) fn new(config: &RequestsConfig) -> Datagrams {
        Datagrams {
            patience_ns: config.dns_timeout.0.as_nanos() as u64,
            most: config.max_connections,
            talks: LruCache::unbounded(),
            early: Vec::new(),
            found: Found::default(),
            rejects: BTreeMap::new(),
            evicted: 0,
        }
    }

    pub(super) fn take(&mut self, record: &DatagramRecord, bytes: &[u8], flows: &mut Flows<'_>) {
        let sent = record.direction == 1;
        let answers = dns::is_response(bytes);
        let pair = Pair {
            socket: UdpKey {
                cookie: record.cookie,
                remote_addr: record.key.remote_addr,
                remote_port: record.key.remote_port,
                reserved: [0; 3],
            },
            is_client: sent != answers,
        };
        let talk = self.talks.get_or_insert_mut(pair, || Talk {
            dns: Dns::datagrams(self.patience_ns),
            key: record.key,
            told: 0,
        });
        let piece = Piece {
            at: record.header.ts_ns,
            bytes,
            skipped: u64::from(record.payload) - bytes.len() as u64,
        };
        let side = if answers { Side::ToClient } else { Side::ToServer };
        talk.dns.feed(side, piece, &mut self.found);
        self.tell(pair, flows);
        while self.talks.len() > self.most {
            let Some((pair, mut talk)) = self.talks.pop_lru() else {
                break;
            };
            self.evicted += 1;
            talk.dns.close(record.header.ts_ns, &mut self.found);
            self.give(pair, &mut talk, flows, Flags::PARTIAL);
        }
    }

    /// Gives up what waited too long.
    pub(super) fn tick(&mut self, now_ns: u64, flows: &mut Flows<'_>) {
        for done in std::mem::take(&mut self.early) {
            emit(&done, flows, Flags::default());
        }
        let waiting: Vec<Pair> = self.talks.iter().map(|(pair, _)| *pair).collect();
        for pair in waiting {
            if let Some(talk) = self.talks.peek_mut(&pair) {
                talk.dns.expire(now_ns, &mut self.found);
                self.tell(pair, flows);
            }
        }
    }

    /// The agent stops: tells what is under way.
    pub(super) fn stop(&mut self, now_ns: u64, flows: &mut Flows<'_>) {
        self.tick(now_ns, flows);
        while let Some((pair, mut talk)) = self.talks.pop_lru() {
            talk.dns.close(now_ns, &mut self.found);
            self.give(pair, &mut talk, flows, Flags::AGENT_STOP);
        }
    }

    pub(super) fn rejects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.rejects.iter().map(|(name, count)| (*name, *count))
    }

    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Tells what was found of a pair, and forgets it when nothing waits.
    fn tell(&mut self, pair: Pair, flows: &mut Flows<'_>) {
        let Some(mut talk) = self.talks.pop(&pair) else {
            return;
        };
        self.give(pair, &mut talk, flows, Flags::default());
        if !talk.dns.is_idle() {
            self.talks.put(pair, talk);
        }
    }

    fn give(&mut self, pair: Pair, talk: &mut Talk, flows: &mut Flows<'_>, mark: Flags) {
        for exchange in self.found.exchanges.drain(..) {
            talk.told += 1;
            let done = Done {
                exchange,
                pair,
                key: talk.key,
                number: talk.told,
            };
            if mark == Flags::default()
                && self.early.len() < MOST_EARLY
                && !flows.udp.contains_key(&pair.socket)
            {
                self.early.push(done);
            } else {
                emit(&done, flows, mark);
            }
        }
        for named in self.found.names.drain(..) {
            if let (Some(address), true) = (named.address, pair.is_client) {
                flows.observer.named(address, &named.name, named.ttl);
            }
        }
        for reject in self.found.rejects.drain(..) {
            *self.rejects.entry(reject.name()).or_default() += 1;
        }
    }
}

fn emit(done: &Done, flows: &mut Flows<'_>, mark: Flags) {
    let maker = flows.maker;
    let live = flows.udp.get(&done.pair.socket);
    let place = Place {
        connection: match live {
            Some(live) => udp::connection_id(maker, live),
            None => connection_id(&maker.origin.boot_id, done.pair.socket.cookie),
        },
        number: done.number,
        is_client: done.pair.is_client,
        mark,
        tls: false,
    };
    let event = events::request(&done.exchange, place, maker, |event| {
        if let Some(live) = live {
            udp::about(event, live);
        }
        addresses(event, &done.key);
    });
    flows.emit(event);
}

/// What the datagrams say, which the flow may not: from which address a socket that is bound to none sends.
fn addresses(event: &mut Event, key: &FlowKey) {
    let (local, remote) = (ip(key.local_addr), ip(key.remote_addr));
    event.protocol = Some(Protocol::Udp);
    event.family = Some(Family::of(remote));
    if !local.is_unspecified() {
        event.internal_ip = Some(local);
    }
    event.internal_port = (key.local_port != 0).then_some(key.local_port);
    event.peer_ip = Some(remote);
    event.peer_port = Some(key.remote_port);
}
