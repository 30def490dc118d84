//! DNS over UDP and TCP: a query and its answer are an exchange, told apart by id and question.
//!
//! Messages are read by simple-dns. Of one that is cut, header and question are read alone: they stand first. The name
//! of the question, not of the record, is what an address is called: that is what the application asked for.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use simple_dns::{Packet, PacketFlag, QTYPE, TYPE, rdata::RData};

use super::protocol::{Exchange, Found, Named, Piece, Protocol, Reject, Side};

/// Unanswered queries of one connection or pair of UDP addresses.
const MOST_QUERIES: usize = 256;
/// Bytes of a DNS header.
const HEADER: usize = 12;

/// A connection, or a pair of UDP addresses.
#[derive(Debug)]
pub struct Dns {
    /// Directions of a TCP connection; `None`: every piece is a datagram.
    streams: Option<[Stream; 2]>,
    queries: VecDeque<Query>,
    /// A query that is not answered for so long is given up, ns.
    patience_ns: u64,
    opaque: bool,
}

#[derive(Debug)]
struct Query {
    id: u16,
    exchange: Exchange,
}

/// Messages of one direction of a TCP connection, each behind its length.
#[derive(Debug, Default)]
struct Stream {
    prefix: Vec<u8>,
    message: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
    /// Some of it was not captured.
    cut: bool,
    first_at: u64,
}

/// A message as it was read.
struct Message {
    id: u16,
    response: bool,
    code: u16,
    kind: Arc<str>,
    name: Arc<str>,
    addresses: Vec<(IpAddr, u32)>,
}

/// When a message passed, and how long it was.
#[derive(Clone, Copy)]
struct Passed {
    first_at: u64,
    last_at: u64,
    bytes: u64,
    cut: bool,
}

impl Dns {
    /// A pair of UDP addresses; for so long a query waits for its answer.
    pub fn datagrams(patience_ns: u64) -> Dns {
        Dns {
            streams: None,
            queries: VecDeque::new(),
            patience_ns,
            opaque: false,
        }
    }

    /// A TCP connection.
    pub fn stream(patience_ns: u64) -> Dns {
        Dns {
            streams: Some(Default::default()),
            ..Dns::datagrams(patience_ns)
        }
    }

    /// Whether no query waits.
    pub fn is_idle(&self) -> bool {
        self.queries.is_empty()
    }

    fn message(&mut self, bytes: &[u8], passed: Passed, found: &mut Found) {
        self.expire(passed.first_at, found);
        let Some(message) = read(bytes) else {
            found.rejects.push(Reject::Dns);
            return;
        };
        let same = |query: &Query| {
            let exchange = &query.exchange;
            query.id == message.id
                && exchange.method.as_ref() == Some(&message.kind)
                && exchange.route.as_ref() == Some(&message.name)
        };
        let place = self.queries.iter().position(same);
        match (message.response, place) {
            // Asked again: the time runs from the first.
            (false, Some(place)) => self.queries[place].exchange.bytes_to_server += passed.bytes,
            (false, None) if self.queries.len() >= MOST_QUERIES => found.rejects.push(Reject::DnsQueries),
            (false, None) => self.queries.push_back(query(message, passed)),
            (true, Some(place)) => {
                if let Some(query) = self.queries.remove(place) {
                    answer(query, message, passed, found);
                }
            }
            (true, None) => found.rejects.push(Reject::DnsOrphan),
        }
    }

    /// Gives up the queries that have waited too long.
    pub fn expire(&mut self, now: u64, found: &mut Found) {
        while let Some(query) = self.queries.front() {
            let asked = query.exchange.times.request_first.unwrap_or(now);
            let until = asked.saturating_add(self.patience_ns);
            if now < until {
                break;
            }
            self.give_up("timeout", until, found);
        }
    }

    fn give_up(&mut self, error: &'static str, at: u64, found: &mut Found) {
        if let Some(Query { mut exchange, .. }) = self.queries.pop_front() {
            exchange.error = Some(error);
            exchange.times.given_up = Some(at);
            found.exchanges.push(exchange);
        }
    }
}

fn query(message: Message, passed: Passed) -> Query {
    let mut exchange = Exchange {
        protocol: "dns",
        method: Some(message.kind),
        route: Some(message.name),
        bytes_to_server: passed.bytes,
        ..Exchange::default()
    };
    exchange.times.request_first = Some(passed.first_at);
    exchange.times.request_last = Some(passed.last_at);
    exchange.marks.partial = passed.cut;
    Query {
        id: message.id,
        exchange,
    }
}

fn answer(Query { mut exchange, .. }: Query, message: Message, passed: Passed, found: &mut Found) {
    exchange.status_code = Some(message.code);
    exchange.error = match message.code {
        // A name that does not exist is an answer.
        0 | 3 => None,
        1 => Some("formerr"),
        2 => Some("servfail"),
        4 => Some("notimp"),
        5 => Some("refused"),
        _ => Some("rcode"),
    };
    exchange.times.response_first = Some(passed.first_at);
    exchange.times.response_last = Some(passed.last_at);
    exchange.bytes_to_client = passed.bytes;
    exchange.marks.partial |= passed.cut;
    found.exchanges.push(exchange);
    let names = message.addresses.into_iter().map(|(address, ttl)| Named {
        address: Some(address),
        name: message.name.clone(),
        ttl: Duration::from_secs(ttl.into()),
    });
    found.names.extend(names);
}

/// Whether a message is an answer, as far as its header is there.
pub(super) fn is_response(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

fn read(bytes: &[u8]) -> Option<Message> {
    let flags: [u8; 2] = bytes.get(2..4)?.try_into().ok()?;
    let mut question_alone;
    let packet = match Packet::parse(bytes) {
        Ok(packet) => packet,
        Err(_) => {
            // Without its records: header and question stand first.
            question_alone = bytes.to_vec();
            question_alone.get_mut(6..HEADER)?.fill(0);
            Packet::parse(&question_alone).ok()?
        }
    };
    let [question] = packet.questions.as_slice() else {
        return None;
    };
    let kind = match question.qtype {
        QTYPE::TYPE(TYPE::Unknown(number)) => format!("TYPE{number}"),
        QTYPE::TYPE(kind) => format!("{kind:?}"),
        other => format!("{other:?}"),
    };
    let code = u16::from(flags[1] & 0x0f);
    let mut addresses = Vec::new();
    for record in packet.answers.iter().filter(|_| code == 0) {
        match &record.rdata {
            RData::A(a) => addresses.push((IpAddr::V4(a.address.into()), record.ttl)),
            RData::AAAA(a) => addresses.push((IpAddr::V6(a.address.into()), record.ttl)),
            _ => {}
        }
    }
    Some(Message {
        id: packet.id(),
        response: packet.has_flags(PacketFlag::RESPONSE),
        code,
        kind: kind.into(),
        name: clean(&question.qname.to_string()),
        addresses,
    })
}

/// A name as it is shown: lower case, with a `?` for what is not visible ASCII.
pub(super) fn clean(name: &str) -> Arc<str> {
    let name = name.trim_end_matches('.');
    let clean = |c: char| {
        if c.is_ascii_graphic() {
            c.to_ascii_lowercase()
        } else {
            '?'
        }
    };
    if name.is_empty() {
        return ".".into();
    }
    name.chars().map(clean).collect::<String>().into()
}

impl Stream {
    /// Takes what is there; gives a message that is complete. `Err`: nobody knows where the next begins.
    fn take(&mut self, piece: &mut Piece<'_>) -> Result<Option<(Vec<u8>, Passed)>, ()> {
        while self.prefix.len() < 2 {
            let Some((byte, rest)) = piece.bytes.split_first() else {
                return if piece.skipped == 0 { Ok(None) } else { Err(()) };
            };
            if self.prefix.is_empty() {
                self.first_at = piece.at;
            }
            self.prefix.push(*byte);
            piece.bytes = rest;
            if let [high, low] = *self.prefix {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.cut = false;
            }
        }
        let (seen, rest) = piece.bytes.split_at(self.left.min(piece.bytes.len()));
        if !self.cut {
            self.message.extend_from_slice(seen);
        }
        self.left -= seen.len();
        piece.bytes = rest;
        if self.left > 0 && piece.skipped > 0 {
            let unseen = piece.skipped.min(self.left as u64);
            self.left -= unseen as usize;
            piece.skipped -= unseen;
            self.cut = true;
        }
        if self.left > 0 {
            return Ok(None);
        }
        let length = match *self.prefix {
            [high, low] => u64::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        self.prefix.clear();
        let passed = Passed {
            first_at: self.first_at,
            last_at: piece.at,
            bytes: length + 2,
            cut: self.cut,
        };
        Ok(Some((std::mem::take(&mut self.message), passed)))
    }
}

impl Protocol for Dns {
    fn feed(&mut self, side: Side, mut piece: Piece<'_>, found: &mut Found) {
        if self.opaque {
            return;
        }
        if self.streams.is_none() {
            let passed = Passed {
                first_at: piece.at,
                last_at: piece.at,
                bytes: piece.bytes.len() as u64 + piece.skipped,
                cut: piece.skipped > 0,
            };
            return self.message(piece.bytes, passed, found);
        }
        while !piece.bytes.is_empty() || piece.skipped > 0 {
            let Some(streams) = &mut self.streams else { return };
            match streams[side as usize].take(&mut piece) {
                Ok(Some((bytes, passed))) => self.message(&bytes, passed, found),
                Ok(None) => return,
                Err(()) => {
                    found.rejects.push(Reject::Dns);
                    while let Some(Query { mut exchange, .. }) = self.queries.pop_front() {
                        exchange.marks.partial = true;
                        found.exchanges.push(exchange);
                    }
                    self.opaque = true;
                    return;
                }
            }
        }
    }

    fn close(&mut self, at: u64, found: &mut Found) {
        self.expire(at, found);
        while !self.queries.is_empty() {
            self.give_up("no_response", at, found);
        }
        self.opaque = true;
    }

    fn memory(&self) -> usize {
        let streams = self.streams.iter().flatten();
        self.queries.capacity() * size_of::<Query>()
            + streams.map(|stream| stream.message.capacity()).sum::<usize>()
    }

    fn is_opaque(&self) -> bool {
        self.opaque
    }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
