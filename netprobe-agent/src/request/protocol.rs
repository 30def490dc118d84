//! What a protocol takes and what it gives. A further protocol is one file that implements [`Protocol`].

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::event::{SpanId, TraceId};

/// A direction, relative to who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// From who connected.
    ToServer,
    /// From who was connected to.
    ToClient,
}

impl Side {
    /// The other direction.
    pub const fn other(self) -> Side {
        match self {
            Side::ToServer => Side::ToClient,
            Side::ToClient => Side::ToServer,
        }
    }
}

/// Consecutive bytes of one direction: a packet, or what is new in it. A hole is a piece without bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Monotonic time of the packet, ns.
    pub at: u64,
    /// What was captured.
    pub bytes: &'a [u8],
    /// Bytes of the stream right behind `bytes` that were not captured.
    pub skipped: u64,
}

/// One connection's reader. It never panics and its memory is bounded, whatever the bytes.
pub trait Protocol: Send {
    /// Takes the next piece of a direction.
    fn feed(&mut self, side: Side, piece: Piece<'_>, found: &mut Found);

    /// The connection ended: what is unfinished is given with an error, or with what is known.
    fn close(&mut self, at: u64, found: &mut Found);

    /// Bytes it holds on the heap.
    fn memory(&self) -> usize;

    /// Nothing more will be found: no further piece needs to be captured or fed.
    fn is_opaque(&self) -> bool;
}

/// What the pieces gave. The caller empties it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Requests that are complete, in the order of their requests.
    pub exchanges: Vec<Exchange>,
    /// Names that were seen.
    pub names: Vec<Named>,
    /// The first message of TLS.
    pub hello: Option<Hello>,
    /// What was refused, to be counted.
    pub rejects: Vec<Reject>,
}

/// A request and its response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// Name of the protocol: `http/1.0`, `http/1.1`, `dns`.
    pub protocol: &'static str,
    /// Method; type of a DNS query. `None` when the request was not read.
    pub method: Option<Arc<str>>,
    /// Route template of the path, never with query or fragment; the name of a DNS query.
    pub route: Option<Arc<str>>,
    /// Status; response code of DNS.
    pub status_code: Option<u16>,
    /// What went wrong, of what the bytes tell.
    pub error: Option<&'static str>,
    /// When its bytes passed.
    pub times: Times,
    /// Bytes of the request, head and body.
    pub bytes_to_server: u64,
    /// Bytes of the response, interim ones included.
    pub bytes_to_client: u64,
    /// Trace that the request carried.
    pub trace: Option<Trace>,
    /// Value of the first request id header.
    pub request_id: Option<Arc<str>>,
    /// Marks.
    pub marks: Marks,
}

/// Monotonic times in ns; `None` when it did not pass, or was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// First byte of the request.
    pub request_first: Option<u64>,
    /// Last byte of the request.
    pub request_last: Option<u64>,
    /// First byte of the final response; interim ones (1xx) do not count.
    pub response_first: Option<u64>,
    /// Last byte of the response.
    pub response_last: Option<u64>,
    /// When nobody waited for a response any more.
    pub given_up: Option<u64>,
}

/// What is to be known about how an exchange was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Part of it was not seen: bytes of a head are missing, or it ended early.
    pub partial: bool,
    /// Where it ended was not told by its framing: times and bytes up to the last that can be its own.
    pub upper_bound: bool,
    /// A request that two parsers may read as two different ones.
    pub ambiguous: bool,
}

/// The trace context a request carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Trace.
    pub trace_id: TraceId,
    /// The sender's span.
    pub parent_span_id: Option<SpanId>,
}

/// An address or a connection got a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The address; `None`: the server of this connection.
    pub address: Option<IpAddr>,
    /// The name, lower case, without a dot at its end.
    pub name: Arc<str>,
    /// How long it holds.
    pub ttl: Duration,
}

/// What a ClientHello tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Name of the server that is wanted (SNI).
    pub server_name: Option<Arc<str>>,
    /// Protocols offered (ALPN), in their order.
    pub alpn: Vec<Arc<str>>,
}

/// Why bytes were not taken. Names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reject {
    /// An HTTP head that is none.
    HttpHead,
    /// An HTTP head beyond the bound.
    HttpHeadTooLong,
    /// A response without a request that was seen.
    HttpOrphan,
    /// More unanswered requests on one connection than are remembered.
    HttpPipeline,
    /// Two lengths, or a length and an encoding, or a folded line: read differently by different parsers.
    HttpAmbiguous,
    /// Chunks that are none.
    HttpChunk,
    /// A DNS message that is none.
    Dns,
    /// A DNS answer to nothing that was seen.
    DnsOrphan,
    /// More unanswered DNS queries than are remembered.
    DnsQueries,
    /// A ClientHello that is none, or beyond the bound.
    Hello,
}

impl Reject {
    /// Name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Reject::HttpHead => "http_head",
            Reject::HttpHeadTooLong => "http_head_too_long",
            Reject::HttpOrphan => "http_orphan",
            Reject::HttpPipeline => "http_pipeline",
            Reject::HttpAmbiguous => "http_ambiguous",
            Reject::HttpChunk => "http_chunk",
            Reject::Dns => "dns",
            Reject::DnsOrphan => "dns_orphan",
            Reject::DnsQueries => "dns_queries",
            Reject::Hello => "tls_hello",
        }
    }
}
