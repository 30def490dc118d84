//! The public event, schema `netprobe.event/1`: one JSON object a line, fields in the order of the struct.
//!
//! A field that does not apply or is not known is `null`, never left out and never invented. Shared strings are
//! `Arc<str>` and fixed vocabularies are enums, so that making an event costs little more than filling the struct.

mod body;
mod ids;
mod line;
mod time;

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

pub use body::{
    Agent, AgentAction, CloseReason, Flags, Flow, FlowState, Gap, GapScope, Hop, HopTuple, Nat, NatStatus,
    Process, Request,
};
pub use ids::{Origin, SpanId, TraceId, connection_id, of_connection, span_of};
pub use time::Nanos;

/// Name and version of the schema.
pub const SCHEMA: &str = "netprobe.event/1";

/// Always [`SCHEMA`]; reading an event of another schema is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schema;

impl Serialize for Schema {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SCHEMA)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        if name == SCHEMA {
            Ok(Schema)
        } else {
            Err(serde::de::Error::custom(format_args!(
                "schema `{name}` is not known, only `{SCHEMA}` is"
            )))
        }
    }
}

/// Declares an enum with its name on the wire, one line per value. The name is a `tt`: as a `literal` other macros
/// would not see what it is.
macro_rules! vocabulary {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $text:tt,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $value,)*
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$value),*];

            /// Name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $($name::$value => $text,)* }
            }

            /// The value of a name on the wire.
            pub fn from_name(name: &str) -> Option<$name> {
                match name { $($text => Some($name::$value),)* _ => None }
            }
        }
    };
}
use vocabulary;

vocabulary! {
    /// What an event tells.
    EventKind {
        /// A connection.
        Flow = "flow",
        /// A request inside a connection.
        Request = "request",
        /// Something was lost.
        Gap = "gap",
        /// The agent itself.
        Agent = "agent",
    }
}

vocabulary! {
    /// How bad it is, in rising order.
    Severity {
        /// Updates of live flows.
        Debug = "debug",
        /// The rest.
        Info = "info",
        /// Resets without loss, bursts of retransmits.
        Warning = "warning",
        /// Failed connects, resets that lost data.
        Error = "error",
        /// The agent cannot do its job, or data was lost.
        Critical = "critical",
    }
}

vocabulary! {
    /// Transport protocol.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

vocabulary! {
    /// Address family.
    Family {
        /// IPv4, also an IPv4 peer of an IPv6 socket.
        Ipv4 = "ipv4",
        /// IPv6.
        Ipv6 = "ipv6",
    }
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
}

vocabulary! {
    /// Which side of a connection this host is.
    FlowRole {
        /// The local socket connected.
        Client = "client",
        /// The local socket was accepted.
        Server = "server",
        /// A gateway: no local socket.
        Forwarded = "forwarded",
    }
}

vocabulary! {
    /// Where a trace id comes from.
    TraceOrigin {
        /// A request's own `traceparent`.
        Propagated = "propagated",
        /// Made from the connection id.
        Generated = "generated",
    }
}

/// One event. The order of fields is the order in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Always `netprobe.event/1`.
    #[schema(value_type = String)]
    pub schema: Schema,
    /// What the event tells, and which of the bodies at the end is set.
    pub kind: EventKind,
    /// Host name.
    pub host: Arc<str>,
    /// Boot id of the kernel.
    pub boot_id: Arc<str>,
    /// Run of the agent: 16 lowercase hex digits.
    pub run: Arc<str>,
    /// Number of the event in its run, assigned at fan-out without holes; `null` only in the live flow listing
    /// and in what is told to one client alone.
    pub seq: Option<u64>,
    /// When the event was emitted.
    pub ts: Nanos,
    /// When what it tells of began.
    pub started_at: Option<Nanos>,
    /// Duration so far or in all, milliseconds, from the monotonic clock.
    pub elapsed_ms: Option<f64>,
    /// How bad it is.
    pub severity: Severity,
    /// `{boot_id}-{socket cookie}`: the same on the flow and on all its requests.
    pub connection_id: Option<Arc<str>>,
    /// Trace, never absent.
    pub trace_id: TraceId,
    /// Span of this event in the trace.
    pub span_id: SpanId,
    /// Span above it.
    pub parent_span_id: Option<SpanId>,
    /// Where the trace id comes from.
    pub trace_origin: TraceOrigin,
    /// Id a request carried.
    pub request_id: Option<Arc<str>>,
    /// Container name, else systemd service, else command name.
    pub service: Option<Arc<str>>,
    /// Transport protocol.
    pub protocol: Option<Protocol>,
    /// Address family.
    pub family: Option<Family>,
    /// Which side this host is.
    pub role: Option<FlowRole>,
    /// Inode number of the network namespace.
    pub netns: Option<u64>,
    /// Our address before translation.
    #[schema(value_type = Option<String>)]
    pub internal_ip: Option<IpAddr>,
    /// Our port before translation.
    pub internal_port: Option<u16>,
    /// Our address after translation.
    #[schema(value_type = Option<String>)]
    pub external_ip: Option<IpAddr>,
    /// Our port after translation.
    pub external_port: Option<u16>,
    /// The other side as the socket sees it.
    #[schema(value_type = Option<String>)]
    pub peer_ip: Option<IpAddr>,
    /// Its port.
    pub peer_port: Option<u16>,
    /// The other side behind translation.
    #[schema(value_type = Option<String>)]
    pub actual_peer_ip: Option<IpAddr>,
    /// Its port.
    pub actual_peer_port: Option<u16>,
    /// Translation seen on this host.
    pub nat: Option<Nat>,
    /// The connector or acceptor.
    pub process: Option<Arc<Process>>,
    /// The first process that sent or received, when it is another one.
    pub io_process: Option<Arc<Process>>,
    /// Payload the peer was sent at least once.
    pub bytes_sent: Option<u64>,
    /// Payload accepted from the peer, read or not.
    pub bytes_received: Option<u64>,
    /// What else is to be known about it.
    #[schema(value_type = Vec<String>)]
    pub flags: Flags,
    /// Set when `kind` is `flow`.
    pub flow: Option<Flow>,
    /// Set when `kind` is `request`.
    pub request: Option<Box<Request>>,
    /// Set when `kind` is `gap`.
    pub gap: Option<Box<Gap>>,
    /// Set when `kind` is `agent`.
    pub agent: Option<Box<Agent>>,
}

impl Event {
    /// An event with nothing known but its origin, kind and severity, in the trace of the run.
    pub fn new(origin: &Origin, kind: EventKind, severity: Severity) -> Event {
        Event {
            schema: Schema,
            kind,
            host: origin.host.clone(),
            boot_id: origin.boot_id.clone(),
            run: origin.run.clone(),
            seq: None,
            ts: Nanos(0),
            started_at: None,
            elapsed_ms: None,
            severity,
            connection_id: None,
            trace_id: origin.trace_id,
            span_id: origin.span_id,
            parent_span_id: None,
            trace_origin: TraceOrigin::Generated,
            request_id: None,
            service: None,
            protocol: None,
            family: None,
            role: None,
            netns: None,
            internal_ip: None,
            internal_port: None,
            external_ip: None,
            external_port: None,
            peer_ip: None,
            peer_port: None,
            actual_peer_ip: None,
            actual_peer_port: None,
            nat: None,
            process: None,
            io_process: None,
            bytes_sent: None,
            bytes_received: None,
            flags: Flags::default(),
            flow: None,
            request: None,
            gap: None,
            agent: None,
        }
    }

    /// A flow event of the connection `connection_id`, with the trace that id gives.
    pub fn flow(origin: &Origin, connection_id: Arc<str>, severity: Severity, flow: Flow) -> Event {
        let mut event = Event::of_connection(origin, EventKind::Flow, connection_id, severity);
        event.flow = Some(flow);
        event
    }

    /// The event of a request on the connection `connection_id`, with the trace that id gives.
    pub fn request(origin: &Origin, connection_id: Arc<str>, severity: Severity, request: Request) -> Event {
        let mut event = Event::of_connection(origin, EventKind::Request, connection_id, severity);
        event.request = Some(Box::new(request));
        event
    }

    fn of_connection(origin: &Origin, kind: EventKind, id: Arc<str>, severity: Severity) -> Event {
        let mut event = Event::new(origin, kind, severity);
        (event.trace_id, event.span_id) = ids::of_connection(&id);
        event.connection_id = Some(id);
        event
    }

    /// An event that says what was lost.
    pub fn gap(origin: &Origin, gap: Gap) -> Event {
        let mut event = Event::new(origin, EventKind::Gap, Severity::Critical);
        event.gap = Some(Box::new(gap));
        event
    }

    /// An event about the agent itself.
    pub fn agent(origin: &Origin, severity: Severity, agent: Agent) -> Event {
        let mut event = Event::new(origin, EventKind::Agent, severity);
        event.agent = Some(Box::new(agent));
        event
    }

    /// Whether this is the last event of a connection.
    pub fn is_final(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.state.is_final())
    }

    /// Appends the event as one line of JSON, newline included.
    pub fn write_line(&self, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        line::write(self, line)?;
        line.push(b'\n');
        Ok(())
    }
}

/// Whether an event may never be dropped by the archive: severity `error` and above, final flow events,
/// requests and gaps.
pub fn must_keep(event: &Event) -> bool {
    event.severity >= Severity::Error
        || matches!(event.kind, EventKind::Request | EventKind::Gap)
        || event.is_final()
}

/// Retransmits from which on a connection can count as bursty.
const BURST_RETRANSMITS: u64 = 5;
/// A burst is also more than one retransmit in this many segments.
const BURST_SEGMENTS: u64 = 20;

/// Severity of a flow event. `data_lost` is true when bytes were unread or unacknowledged as it ended.
pub fn flow_severity(flow: &Flow, data_lost: bool) -> Severity {
    match flow.state {
        FlowState::Failed => return Severity::Error,
        FlowState::Update => return Severity::Debug,
        FlowState::Open => return Severity::Info,
        FlowState::Closed => {}
    }
    match flow.close_reason {
        // A connection that timed out was still waiting for its peer.
        Some(CloseReason::Timeout) => return Severity::Error,
        Some(CloseReason::ResetLocal | CloseReason::ResetRemote) => {
            return if data_lost {
                Severity::Error
            } else {
                Severity::Warning
            };
        }
        _ => {}
    }
    if retransmit_burst(flow) {
        Severity::Warning
    } else {
        Severity::Info
    }
}

/// Whether so much of a connection was sent again that it cannot have gone unnoticed.
pub fn retransmit_burst(flow: &Flow) -> bool {
    let retransmits = flow.retransmits.unwrap_or(0);
    retransmits >= BURST_RETRANSMITS
        && flow
            .segments_out
            .is_some_and(|segments| retransmits.saturating_mul(BURST_SEGMENTS) >= segments)
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
