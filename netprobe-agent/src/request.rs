//! Stage 4: requests, from the bytes connections carry. Pure: no clock, no I/O, nothing shared.
//!
//! Bytes arrive as [`protocol::Piece`]s, in stream order, each direction for itself; only the first bytes of a packet
//! may be there. A [`protocol::Protocol`] makes [`protocol::Exchange`]s of them: one request with its response.

pub mod protocol;
