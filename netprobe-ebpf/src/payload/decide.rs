//! What a connection carries, by its first bytes.

use aya_ebpf::{bindings::bpf_sock, programs::SkBuffContext};
use netprobe_common::*;

use super::{HTTP, OPAQUE, Payload, TLS, Talk, load};
use crate::{count, store};

/// Packets with payload that an older connection may take to begin a message that is read.
pub const MISSES: u32 = 256;
/// Bytes from which on the first ones tell what a connection carries.
const TELLING: u32 = 4;
/// Handshake record of TLS 1.0 to 1.3, and application data of the same.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 3];
const TLS_DATA: [u8; 2] = [0x17, 3];
/// Bytes of a TLS record before its content.
const TLS_HEADER: u32 = 5;

/// How a message begins.
const RESPONSE: u32 = word(*b"HTTP");
const METHODS: [u32; 17] = [
    word(*b"GET "),
    word(*b"POST"),
    word(*b"PUT "),
    word(*b"HEAD"),
    word(*b"DELE"),
    word(*b"PATC"),
    word(*b"OPTI"),
    word(*b"CONN"),
    word(*b"TRAC"),
    word(*b"PROP"),
    word(*b"REPO"),
    word(*b"MKCO"),
    word(*b"COPY"),
    word(*b"MOVE"),
    word(*b"LOCK"),
    word(*b"UNLO"),
    word(*b"PURG"),
];

const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// Whether first bytes are those of a request of HTTP, or of a response.
#[inline(always)]
pub fn http(first: u32) -> Option<bool> {
    if first == RESPONSE {
        Some(false)
    } else if METHODS.contains(&first) {
        Some(true)
    } else {
        None
    }
}

/// Takes the packet's first bytes into account.
///
/// # Safety
/// `sk` is a full socket of the context.
#[inline(always)]
pub unsafe fn decide(ctx: &SkBuffContext, sk: *mut bpf_sock, talk: &mut Talk, packet: &Payload) {
    let mut bytes = [0u8; 4];
    let Some(got) = load_first(ctx, packet, &mut bytes) else {
        return;
    };
    let direction = packet.direction as u32;
    let other = 1 - direction;
    let (bytes, have) = if talk.older != 0 {
        (u32::from_ne_bytes(bytes), got)
    } else {
        let first = &mut talk.first[(direction & 1) as usize];
        if first.begun == 0 || (first.have != 0 && first.next != packet.sequence) {
            // Too early, or sent again.
            return;
        }
        first.bytes |= u32::from_le(u32::from_ne_bytes(bytes)) << ((first.have & 3) * 8);
        first.have += got;
        first.next = packet.sequence.wrapping_add(packet.len);
        (first.bytes, first.have)
    };
    let two = [bytes as u8, (bytes >> 8) as u8];
    if have >= 2 && two == TLS_HANDSHAKE {
        // SAFETY: by contract.
        let told = unsafe { tell_tls(sk) };
        if talk.older != 0 {
            if told {
                talk.carries = OPAQUE;
            }
            return;
        }
        talk.carries = TLS;
        talk.left = tls_length(ctx, packet);
        talk.requests = direction;
        return;
    }
    if have >= TELLING {
        if let Some(is_request) = http(bytes) {
            talk.carries = HTTP;
            talk.requests = if is_request { direction } else { other };
        } else if talk.older == 0 {
            talk.carries = OPAQUE;
        } else if two == TLS_DATA {
            // SAFETY: by contract.
            if unsafe { tell_tls(sk) } {
                talk.carries = OPAQUE;
            }
        } else if talk.left >= MISSES {
            count::one(PAYLOAD_GIVEN_UP);
            talk.carries = OPAQUE;
        } else {
            talk.left += 1;
        }
        return;
    }
    let mask = (1u32 << (have * 8)) - 1;
    let begins = |word: u32| (word ^ bytes) & mask == 0;
    let maybe = begins(RESPONSE)
        || begins(u32::from_ne_bytes([TLS_HANDSHAKE[0], TLS_HANDSHAKE[1], 0, 0]) & mask)
        || METHODS.iter().any(|method| begins(*method));
    if !maybe && talk.older == 0 {
        talk.carries = OPAQUE;
    }
}

/// Has the hooks of calls look for the library that encrypts the connection. False: it is older than the programs, and not
/// followed yet.
///
/// # Safety
/// `sk` is a full socket of the context.
#[inline(always)]
unsafe fn tell_tls(sk: *mut bpf_sock) -> bool {
    // SAFETY: by contract.
    let conn = unsafe { store::get(sk.cast()) };
    match conn {
        Some(conn) => {
            conn.tls = 1;
            true
        }
        None => false,
    }
}

/// Bytes of the TLS record that begins the packet; when the packet is too short to tell, as much as one may have.
#[inline(always)]
fn tls_length(ctx: &SkBuffContext, packet: &Payload) -> u32 {
    let mut header = [0u8; TLS_HEADER as usize];
    if packet.len < TLS_HEADER || load(ctx, packet.offset, &mut header).is_none() {
        return PAYLOAD_TO_SERVER as u32;
    }
    TLS_HEADER + u32::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Up to four first bytes of a packet's payload, and how many.
#[inline(always)]
fn load_first(ctx: &SkBuffContext, packet: &Payload, bytes: &mut [u8; 4]) -> Option<u32> {
    if packet.len >= 4 {
        load(ctx, packet.offset, bytes)?;
        return Some(4);
    }
    let mut i = 0;
    while i < 3 {
        let mut one = [0u8; 1];
        if i < packet.len {
            load(ctx, packet.offset + i, &mut one)?;
            bytes[i as usize] = one[0];
        }
        i += 1;
    }
    Some(packet.len)
}
