//! Recordings of connections, for tests and fuzzing: pieces one after the other, each a byte for its direction (0: to
//! the server), its length and what was skipped behind it (16 bits each, little endian), and its bytes.

use super::protocol::Side;

/// The pieces of a recording: direction, bytes, bytes skipped. A piece that is cut short ends it.
pub fn steps(mut bytes: &[u8]) -> impl Iterator<Item = (Side, &[u8], u64)> {
    std::iter::from_fn(move || {
        let [side, a, b, c, d, rest @ ..] = bytes else {
            return None;
        };
        let side = if side & 1 == 0 {
            Side::ToServer
        } else {
            Side::ToClient
        };
        let len = usize::from(u16::from_le_bytes([*a, *b])).min(rest.len());
        let (piece, rest) = rest.split_at(len);
        bytes = rest;
        Some((side, piece, u64::from(u16::from_le_bytes([*c, *d]))))
    })
}
