//! Every connection whose payload is read: its streams, its protocol, and the events that come of it.

use std::{collections::BTreeMap, sync::Arc};

use lru::LruCache;
use netprobe_common::{Application, Begins, DatagramRecord, PayloadRecord};

use super::{
    cap::RouteCap,
    datagrams::Datagrams,
    detect,
    events::{self, Place},
    library::{self, Libraries},
    protocol::{Found, Protocol, Reject, Side},
    settings::Settings,
    stream::{Segment, Stream},
};
use crate::{
    config::RequestsConfig,
    event::{Flags, connection_id},
    flow::{
        address::ip,
        losses::Losses,
        payload::{Flows, Reader},
    },
    kernel::libssl::Library,
    probe_report::OPAQUE_TLS,
};

/// When records were lost is remembered for so long.
const LOSSES_NS: u64 = 3_600_000_000_000;
/// The port whose TCP connections carry DNS; of others the first bytes tell.
const DNS_PORT: u16 = 53;

/// What was counted.
#[derive(Clone, Debug, Default)]
struct Counts {
    holes: u64,
    evicted: u64,
    /// Connections that are encrypted, by library.
    opaque: BTreeMap<&'static str, u64>,
    routes_capped: u64,
    rejects: BTreeMap<&'static str, u64>,
}

/// A connection.
struct Talk {
    protocol: detect::Reader,
    /// Towards the server, towards the client.
    streams: [Stream; 2],
    /// Whether the local socket is the client's.
    is_client: bool,
    /// Of an older connection: what came before is not known.
    mark: Flags,
    /// Requests told so far.
    told: u64,
    /// It is encrypted, not counted as such yet, and nothing in it was read.
    opaque: bool,
    /// It is what a TLS library was handed.
    tls: bool,
    /// Bytes it takes, as counted in the sum.
    memory: usize,
}

/// Reads the requests of all connections.
pub struct Requests {
    settings: Arc<Settings>,
    max_connections: usize,
    max_bytes: usize,
    /// By cookie, and whether it is what a TLS library was handed.
    talks: LruCache<(u64, bool), Talk>,
    /// Bytes of all of them.
    bytes: usize,
    losses: Losses,
    teller: Teller,
    datagrams: Datagrams,
}

/// Makes events of what pieces gave.
struct Teller {
    found: Found,
    counts: Counts,
    routes: RouteCap,
    libraries: Libraries,
    reads_tls: bool,
    /// Records of a TLS library whose connection is not known, or is no more.
    unplaced: u64,
}

impl Requests {
    /// A reader without connections.
    /// `reads_tls`: what is encrypted by OpenSSL comes too.
    pub fn new(config: &RequestsConfig, reads_tls: bool) -> Requests {
        Requests {
            settings: Arc::new(Settings::new(config)),
            max_connections: config.max_connections,
            max_bytes: config.max_bytes,
            // The bound is kept by `evict`, which tells what was under way.
            talks: LruCache::unbounded(),
            bytes: 0,
            losses: Losses::default(),
            teller: Teller {
                found: Found::default(),
                counts: Counts::default(),
                routes: RouteCap::new(config.max_routes),
                libraries: Libraries::default(),
                reads_tls,
                unplaced: 0,
            },
            datagrams: Datagrams::new(config),
        }
    }

    /// Lets go of what was silent for longest, until there is room.
    fn evict(&mut self, at_ns: u64, flows: &mut Flows<'_>) {
        while self.bytes > self.max_bytes || self.talks.len() > self.max_connections {
            let Some(((cookie, _), talk)) = self.talks.pop_lru() else {
                return;
            };
            self.teller.counts.evicted += 1;
            self.close(cookie, talk, at_ns, Flags::PARTIAL, flows);
        }
    }

    fn close(&mut self, cookie: u64, mut talk: Talk, at_ns: u64, mark: Flags, flows: &mut Flows<'_>) {
        self.bytes -= talk.memory;
        let Teller { found, counts, .. } = &mut self.teller;
        for (stream, side) in talk.streams.iter_mut().zip([Side::ToServer, Side::ToClient]) {
            counts.holes += stream.close(|piece| talk.protocol.feed(side, piece, found));
        }
        talk.protocol.close(at_ns, found);
        talk.mark.insert(mark);
        self.teller.tell(cookie, &mut talk, flows);
        self.teller.count_opaque(cookie, &mut talk, true, flows);
    }

    /// Nothing more comes of one of a connection's talks.
    fn ended_one(&mut self, cookie: u64, tls: bool, at_ns: u64, flows: &mut Flows<'_>) {
        let Some(talk) = self.talks.pop(&(cookie, tls)) else {
            return;
        };
        let last = talk.streams.iter().map(Stream::last_ns).max().unwrap_or(0);
        // What is missing at its end may have been there.
        let mark = if self.losses.between(last, at_ns) {
            Flags::PARTIAL
        } else {
            Flags::default()
        };
        self.close(cookie, talk, at_ns, mark, flows);
    }
}

impl Reader for Requests {
    fn lost(&mut self, count: u64, now_ns: u64) {
        self.losses.read(count, now_ns);
    }

    fn packet(&mut self, record: &PayloadRecord, bytes: &[u8], flows: &mut Flows<'_>) {
        let Requests {
            settings,
            talks,
            losses,
            teller,
            ..
        } = self;
        let tls = record.tls != 0;
        let key = (record.cookie, tls);
        if tls && !talks.contains(&key) {
            // The library may still hand out what came before the connection's end.
            if flows.of(record.cookie).is_none() {
                teller.unplaced += 1;
                return;
            }
            if let Some(encrypted) = talks.peek_mut(&(record.cookie, false)) {
                encrypted.opaque = false;
            }
        }
        let talk = talks.get_or_insert_mut(key, || Talk::new(settings, record));
        if talk.protocol.is_opaque() {
            return;
        }
        let (side, stream) = if record.side == 1 {
            (Side::ToServer, &mut talk.streams[0])
        } else {
            (Side::ToClient, &mut talk.streams[1])
        };
        let segment = Segment {
            at: record.header.ts_ns,
            sequence: record.sequence,
            len: record.payload,
            bytes,
        };
        let Teller { found, counts, .. } = teller;
        counts.holes += stream.take(
            segment,
            record.begins != Begins::No as u8,
            |from, to| losses.between(from, to),
            |piece| talk.protocol.feed(side, piece, found),
        );
        teller.tell(record.cookie, talk, flows);
        if talk.protocol.is_opaque() {
            talk.streams = Default::default();
        }
        let size = talk.size();
        self.bytes = self.bytes + size - talk.memory;
        talk.memory = size;
        self.evict(record.header.ts_ns, flows);
    }

    fn ended(&mut self, cookie: u64, at_ns: u64, flows: &mut Flows<'_>) {
        for tls in [true, false] {
            self.ended_one(cookie, tls, at_ns, flows);
        }
    }

    fn datagram(&mut self, record: &DatagramRecord, bytes: &[u8], flows: &mut Flows<'_>) {
        self.datagrams.take(record, bytes, flows);
    }

    fn tick(&mut self, now_ns: u64, flows: &mut Flows<'_>) {
        self.losses.forget(now_ns.saturating_sub(LOSSES_NS));
        self.datagrams.tick(now_ns, flows);
    }

    fn stop(&mut self, now_ns: u64, flows: &mut Flows<'_>) {
        while let Some(((cookie, _), talk)) = self.talks.pop_lru() {
            self.close(cookie, talk, now_ns, Flags::AGENT_STOP, flows);
        }
        self.datagrams.stop(now_ns, flows);
    }

    fn met_libraries(&mut self) -> Vec<Library> {
        self.teller.libraries.met()
    }

    fn connections(&self) -> (usize, usize) {
        (self.talks.len(), self.max_connections)
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let counts = &self.teller.counts;
        let mut rejects = counts.rejects.clone();
        for (name, count) in self.datagrams.rejects() {
            *rejects.entry(name).or_default() += count;
        }
        let rejects = rejects
            .into_iter()
            .map(|(name, count)| (format!("request_rejected_{name}"), count));
        let opaque = counts
            .opaque
            .iter()
            .map(|(library, count)| (format!("{OPAQUE_TLS}{library}"), *count));
        [
            ("request_holes", counts.holes),
            ("request_tls_unplaced", self.teller.unplaced),
            ("request_connections_evicted", counts.evicted),
            ("request_datagram_pairs_evicted", self.datagrams.evicted()),
            ("request_routes_capped", counts.routes_capped),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .chain(rejects)
        .chain(opaque)
        .collect()
    }
}

impl Talk {
    fn new(settings: &Arc<Settings>, record: &PayloadRecord) -> Talk {
        let resumed = record.begins == Begins::Sight as u8;
        let is_dns = record.application == Application::Dns as u8;
        let mut mark = Flags::default();
        if resumed {
            mark.insert(Flags::PARTIAL);
        }
        Talk {
            protocol: detect::Reader::new(settings.clone(), if is_dns { DNS_PORT } else { 0 }, resumed),
            streams: Default::default(),
            // What goes to the server was sent by a client.
            is_client: (record.side == 1) == (record.direction == 1),
            mark,
            told: 0,
            opaque: false,
            tls: record.tls != 0,
            memory: 0,
        }
    }

    fn size(&self) -> usize {
        let streams: usize = self.streams.iter().map(Stream::memory).sum();
        size_of::<Talk>() + self.protocol.memory() + streams
    }
}

impl Teller {
    fn tell(&mut self, cookie: u64, talk: &mut Talk, flows: &mut Flows<'_>) {
        for mut exchange in self.found.exchanges.drain(..) {
            talk.told += 1;
            let service = flows.of(cookie).and_then(|live| live.service());
            // Names that are asked for are no routes: they are what the event tells.
            if let (Some(route), Some(service), false) =
                (&exchange.route, service, exchange.protocol == events::DNS)
            {
                let (route, within) = self.routes.admit(service, route);
                self.counts.routes_capped += u64::from(!within);
                exchange.route = Some(route);
            }
            let place = Place {
                connection: connection_id(&flows.maker.origin.boot_id, cookie),
                number: talk.told,
                is_client: talk.is_client,
                mark: talk.mark,
                tls: talk.tls,
            };
            let event = events::request(&exchange, place, flows.maker, |event| {
                if let Some(live) = flows.of(cookie) {
                    flows.maker.about(event, live);
                }
            });
            flows.emit(event);
        }
        talk.opaque |= self.found.hello.take().is_some() || self.found.rejects.contains(&Reject::Hello);
        for reject in self.found.rejects.drain(..) {
            *self.counts.rejects.entry(reject.name()).or_default() += 1;
        }
        self.count_opaque(cookie, talk, false, flows);
        for named in self.found.names.drain(..) {
            let server = flows.of(cookie).map(|live| ip(live.key.remote_addr));
            if let (Some(address), true) = (named.address.or(server), talk.is_client) {
                flows.observer.named(address, &named.name, named.ttl);
            }
        }
    }

    /// Counts an encrypted connection once, as soon as its process is known; at its end in any case. One whose library is read
    /// is counted at its end, if nothing came of it.
    fn count_opaque(&mut self, cookie: u64, talk: &mut Talk, ends: bool, flows: &Flows<'_>) {
        if !talk.opaque {
            return;
        }
        let owner = flows.of(cookie).and_then(|live| live.process.as_ref());
        let library = match owner {
            Some(owner) => match self.libraries.of(&owner.process) {
                library::OPENSSL if self.reads_tls && !ends => return,
                library => library,
            },
            None if ends => library::UNKNOWN,
            None => return,
        };
        talk.opaque = false;
        *self.counts.opaque.entry(library).or_default() += 1;
    }
}
