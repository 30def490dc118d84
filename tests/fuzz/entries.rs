//! What is fuzzed: each reader of bytes that come from outside, and what must hold whatever they are. Each
//! says whether it took the bytes, so that a seed that is refused at once is noticed.
//!
//! Shared by the libFuzzer targets and by `netprobe-agent/tests/fuzz_entries.rs`, which runs them everywhere.

#![allow(dead_code, reason = "each fuzz target uses one")]

use std::sync::OnceLock;

use netprobe_agent::{
    decode::decode,
    event::Event,
    filter::Filter,
    flow::{conntrack, sockets},
    kernel::btf::Btf,
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
    assert_eq!(record.kind().size(), data.len());
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
