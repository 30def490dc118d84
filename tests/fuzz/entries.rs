//! What is fuzzed: each reader of bytes that come from outside, and what must hold whatever they are. Each
//! says whether it took the bytes, so that a seed that is refused at once is noticed.
//!
//! Shared by the libFuzzer targets and by `netprobe-agent/tests/fuzz_entries.rs`, which runs them everywhere.

#![allow(dead_code, reason = "each fuzz target uses one")]

use std::sync::{Arc, OnceLock};

use netprobe_agent::{
    config::RequestsConfig,
    decode::decode,
    event::Event,
    filter::Filter,
    flow::{conntrack, sockets},
    kernel::btf::Btf,
    request::{
        dns::Dns,
        hello::HelloReader,
        http1::Http1,
        protocol::{Exchange, Found, Piece, Protocol, Side},
        recording,
        route::Templates,
        settings::Settings,
    },
};
use netprobe_common::OFFSET_PATHS;

/// The kernel's type information: parsed or refused, and every question answered or refused.
pub(crate) fn btf(data: &[u8]) -> bool {
    let Ok(btf) = Btf::parse(data) else { return false };
    // Names of the seed, so that the fuzzer gets behind the first lookup.
    for path in ["s.a", "s.b", "s.in.c", "s.bits", "s.b + V_TWO", "sizeof s", ""] {
        let _ = btf.offset(path);
    }
    for path in OFFSET_PATHS {
        let _ = btf.offset(path);
    }
    let _ = btf.parameters("f");
    assert!(btf.parameters("f").is_err() || btf.has_function("f"));
    true
}

/// A record of the ring: decoded to what its header says, or refused.
pub(crate) fn record(data: &[u8]) -> bool {
    // The ring gives records at multiples of 8.
    let mut words = vec![0u64; data.len().div_ceil(8)];
    for (word, bytes) in words.iter_mut().zip(data.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    // SAFETY: the words are initialised and hold at least as many bytes; bytes have no alignment.
    let aligned = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), data.len()) };
    let Ok(record) = decode(aligned) else { return false };
    assert_eq!(record.kind() as u8, data[1]);
    assert!(record.kind().size() == data.len() || record.kind().carries_bytes());
    true
}

/// The filter grammar: read or refused with a place in the text, and applied without a panic.
pub(crate) fn filter(data: &[u8]) -> bool {
    static EVENT: OnceLock<Event> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let event = EVENT.get_or_init(|| {
        serde_json::from_str(include_str!("../fixtures/event.json")).expect("the fixture is an event")
    });
    match Filter::parse(text) {
        Ok(filter) => {
            let _ = filter.matches(event);
            assert!(!filter.is_empty() || text.trim().is_empty());
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// An entry of connection tracking: whole, or refused.
pub(crate) fn conntrack(data: &[u8]) -> bool {
    let Ok(entry) = conntrack::decode(data) else {
        return false;
    };
    for tuple in [entry.orig, entry.reply] {
        assert_eq!(tuple.src.is_ipv4(), tuple.dst.is_ipv4());
        assert_eq!(tuple.reversed().reversed(), tuple);
    }
    let mut plain = entry.clone();
    plain.reply = entry.orig.reversed();
    assert!(!plain.translated());
    true
}

/// A socket: whole, or refused.
pub(crate) fn sock_diag(data: &[u8]) -> bool {
    let Ok(found) = sockets::decode(data, 7) else {
        return false;
    };
    let Some(socket) = found else { return true };
    assert_eq!(socket.netns, 7);
    assert_eq!(socket.backlog.is_some(), socket.state == 10);
    assert!(socket.backlog.is_none() || socket.tcp.is_none());
    for ip in [socket.local.ip(), socket.remote.ip()] {
        assert_eq!(ip.to_canonical(), ip);
    }
    true
}

/// Plays a recording into a reader: its memory is bounded, and its times are in order.
fn play(mut reader: impl Protocol, data: &[u8]) -> Found {
    let (mut found, mut at) = (Found::default(), 0);
    for (side, bytes, skipped) in recording::steps(data) {
        at += 1;
        reader.feed(side, Piece { at, bytes, skipped }, &mut found);
        assert!(reader.memory() < 2 << 20);
    }
    reader.close(at + 1, &mut found);
    assert!(reader.is_opaque());
    for Exchange { times, route, .. } in &found.exchanges {
        assert!(times.request_first <= times.request_last.or(times.request_first));
        assert!(times.response_first <= times.response_last.or(times.response_first));
        assert!(!route.as_ref().is_some_and(|route| route.contains('?')));
    }
    found
}

/// A connection of HTTP/1, from its beginning and from its middle.
pub(crate) fn http1(data: &[u8]) -> bool {
    static SETTINGS: OnceLock<Arc<Settings>> = OnceLock::new();
    let settings = SETTINGS.get_or_init(|| Arc::new(Settings::new(&RequestsConfig::default())));
    play(Http1::new(settings.clone(), true), data);
    !play(Http1::new(settings.clone(), false), data)
        .exchanges
        .is_empty()
}

/// How long a DNS query may wait.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Datagrams and a connection of DNS.
pub(crate) fn dns(data: &[u8]) -> bool {
    let found = [
        play(Dns::datagrams(PATIENCE_NS), data),
        play(Dns::stream(PATIENCE_NS), data),
    ];
    found.iter().any(|found| !found.exchanges.is_empty())
}

/// The beginning of a TLS connection: read, refused, or unfinished.
pub(crate) fn hello(data: &[u8]) -> bool {
    let mut reader = HelloReader::default();
    let mut found = Found::default();
    for bytes in data.chunks(700) {
        let piece = Piece {
            at: 1,
            bytes,
            skipped: 0,
        };
        reader.feed(Side::ToServer, piece, &mut found);
    }
    assert!(found.hello.is_none() || found.rejects.is_empty());
    found.hello.is_some()
}

/// A request's target: without what is behind the path, and its own template.
pub(crate) fn route(data: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(data) else {
        return false;
    };
    let patterns = ["/users/:name", "/files/*"].map(|text| text.parse().expect("a pattern"));
    let templates = Templates::new(&patterns);
    let Some(route) = templates.of(target) else {
        return false;
    };
    assert_eq!(templates.of(&route), Some(route.clone()));
    assert!(!route.contains(['?', '#', '%']) && route.len() < 1000);
    true
}
