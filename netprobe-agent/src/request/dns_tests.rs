use proptest::prelude::*;
use simple_dns::{CLASS, Name, QCLASS, Question, RCODE, ResourceRecord, rdata};

use super::*;
use crate::request::protocol::Side::{ToClient, ToServer};

const PATIENCE_NS: u64 = 10_000_000_000;

fn packet(id: u16, name: &'static str, kind: TYPE, response: bool) -> Packet<'static> {
    let mut packet = if response {
        Packet::new_reply(id)
    } else {
        Packet::new_query(id)
    };
    packet.questions.push(Question::new(
        Name::new_unchecked(name),
        kind.into(),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet
}

fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    packet.build_bytes_vec_compressed().expect("a packet")
}

fn asked(id: u16, name: &'static str, kind: TYPE) -> Vec<u8> {
    bytes(&packet(id, name, kind, false))
}

fn answered(id: u16, name: &'static str) -> Vec<u8> {
    let mut reply = packet(id, name, TYPE::A, true);
    let alias = rdata::CNAME(Name::new_unchecked("edge.example.net"));
    reply.answers.push(ResourceRecord::new(
        Name::new_unchecked(name),
        CLASS::IN,
        60,
        RData::CNAME(alias),
    ));
    let address = rdata::A {
        address: u32::from_be_bytes([192, 0, 2, 7]),
    };
    reply.answers.push(ResourceRecord::new(
        Name::new_unchecked("edge.example.net"),
        CLASS::IN,
        30,
        RData::A(address),
    ));
    bytes(&reply)
}

fn datagrams(pieces: &[(Side, u64, &[u8])]) -> Found {
    let mut dns = Dns::datagrams(PATIENCE_NS);
    let mut found = Found::default();
    for (side, at, bytes) in pieces {
        let piece = Piece {
            at: *at,
            bytes,
            skipped: 0,
        };
        dns.feed(*side, piece, &mut found);
    }
    dns.close(1000, &mut found);
    found
}

#[test]
fn an_answer_finds_its_query_and_names_addresses() {
    let (first, other) = (
        asked(1, "WWW.example.org", TYPE::A),
        asked(2, "www.example.org", TYPE::AAAA),
    );
    let found = datagrams(&[
        (ToServer, 10, &first),
        (ToServer, 20, &other),
        (ToServer, 25, &first),
        (ToClient, 30, &answered(1, "www.example.org")),
    ]);
    let [exchange, open] = found.exchanges.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(exchange.method.as_deref(), Some("A"));
    assert_eq!(exchange.route.as_deref(), Some("www.example.org"));
    assert_eq!((exchange.status_code, exchange.error), (Some(0), None));
    assert_eq!(exchange.times.request_first, Some(10));
    assert_eq!(exchange.times.response_last, Some(30));
    assert_eq!(exchange.bytes_to_server, 2 * first.len() as u64, "asked twice");
    assert_eq!(open.error, Some("no_response"));
    let named = Named {
        address: Some("192.0.2.7".parse().expect("an address")),
        name: "www.example.org".into(),
        ttl: Duration::from_secs(30),
    };
    assert_eq!(found.names, [named]);
}

#[test]
fn codes_are_told() {
    let code = |code| {
        let mut reply = packet(7, "no.example", TYPE::A, true);
        *reply.rcode_mut() = code;
        let query = asked(7, "no.example", TYPE::A);
        let found = datagrams(&[(ToServer, 1, &query), (ToClient, 2, &bytes(&reply))]);
        assert_eq!(found.names, []);
        (found.exchanges[0].status_code, found.exchanges[0].error)
    };
    assert_eq!(code(RCODE::NameError), (Some(3), None), "it is an answer");
    assert_eq!(code(RCODE::ServerFailure), (Some(2), Some("servfail")));
    assert_eq!(code(RCODE::Refused), (Some(5), Some("refused")));
}

#[test]
fn what_answers_nothing_is_counted() {
    let found = datagrams(&[
        (ToClient, 1, &answered(1, "a.example")),
        (ToServer, 2, b"\0\x01"),
        (ToServer, 3, &asked(1, "a.example", TYPE::A)),
        (ToClient, 4, &answered(2, "a.example")),
        (ToClient, 5, &answered(1, "b.example")),
    ]);
    assert_eq!(
        found.rejects,
        [
            Reject::DnsOrphan,
            Reject::Dns,
            Reject::DnsOrphan,
            Reject::DnsOrphan
        ]
    );
    assert_eq!(found.exchanges[0].error, Some("no_response"));
}

#[test]
fn a_cut_answer_is_paired_all_the_same() {
    let (query, answer) = (asked(1, "a.example", TYPE::A), answered(1, "a.example"));
    let mut dns = Dns::datagrams(PATIENCE_NS);
    let mut found = Found::default();
    let whole = Piece {
        at: 1,
        bytes: &query,
        skipped: 0,
    };
    dns.feed(ToServer, whole, &mut found);
    let kept = answer.len() - 3;
    let cut = Piece {
        at: 2,
        bytes: &answer[..kept],
        skipped: 3,
    };
    dns.feed(ToClient, cut, &mut found);
    assert_eq!(found.exchanges[0].bytes_to_client, answer.len() as u64);
    assert!(found.exchanges[0].marks.partial);
    assert_eq!(found.names, []);
}

#[test]
fn queries_time_out_and_are_bounded() {
    let mut dns = Dns::datagrams(PATIENCE_NS);
    let mut found = Found::default();
    for id in 0..1000 {
        let query = asked(id, "a.example", TYPE::A);
        let piece = Piece {
            at: 1,
            bytes: &query,
            skipped: 0,
        };
        dns.feed(ToServer, piece, &mut found);
    }
    assert_eq!(found.rejects.len(), 1000 - MOST_QUERIES);
    assert!(dns.memory() < 256 << 10);
    let query = asked(1, "b.example", TYPE::A);
    let later = Piece {
        at: 1 + PATIENCE_NS,
        bytes: &query,
        skipped: 0,
    };
    dns.feed(ToServer, later, &mut found);
    assert_eq!(found.exchanges.len(), MOST_QUERIES);
    assert_eq!(found.exchanges[0].error, Some("timeout"));
    assert_eq!(found.exchanges[0].times.given_up, Some(1 + PATIENCE_NS));
}

#[test]
fn names_are_clean() {
    assert_eq!(&*clean("A.b."), "a.b");
    assert_eq!(&*clean(""), ".");
    assert_eq!(&*clean("a\u{1b}[31m \u{e9}"), "a?[31m??");
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(message);
    out
}

proptest! {
    #[test]
    fn any_split_of_a_stream_gives_the_same(places in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let queries = [framed(&asked(1, "a.example", TYPE::A)), framed(&asked(2, "b.example", TYPE::MX))].concat();
        let answers = framed(&answered(1, "a.example"));
        let mut results = Vec::new();
        for places in [&places[..], &[]] {
            let mut dns = Dns::stream(PATIENCE_NS);
            let mut found = Found::default();
            for (side, bytes) in [(ToServer, &queries), (ToClient, &answers)] {
                let mut ends: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
                ends.push(bytes.len());
                ends.sort_unstable();
                let mut from = 0;
                for end in ends {
                    dns.feed(side, Piece { at: 1, bytes: &bytes[from..end], skipped: 0 }, &mut found);
                    from = end;
                }
            }
            dns.close(2, &mut found);
            prop_assert_eq!(found.exchanges.len(), 2);
            prop_assert_eq!(found.names.len(), 1);
            results.push(found);
        }
        prop_assert_eq!(&results[0], &results[1]);
    }
}
