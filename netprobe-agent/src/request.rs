//! Stage 4: requests, from the bytes connections carry. No clock, nothing shared, and no I/O but that of [`library`].
//!
//! Bytes arrive as [`protocol::Piece`]s, in stream order, each direction for itself; only the first bytes of a packet
//! may be there. A [`protocol::Protocol`] makes [`protocol::Exchange`]s of them: one request with its response.

pub mod cap;
mod datagrams;
pub mod detect;
pub mod dns;
mod events;
pub mod hello;
pub mod http1;
pub mod library;
pub mod protocol;
pub mod reader;
#[doc(hidden)]
pub mod recording;
pub mod route;
pub mod settings;
mod stream;
pub mod trace;
