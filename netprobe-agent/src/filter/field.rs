//! Every field a filter can name, how to read it, and what it may be compared with.

use std::{fmt, net::IpAddr};

use crate::event::{
    AgentAction, CloseReason, Event, EventKind, Family, FlowRole, FlowState, GapScope, Nanos, NatStatus,
    Protocol, SCHEMA, Severity, TraceOrigin,
};

/// A value of an event.
pub(super) enum Value<'a> {
    Null,
    Text(&'a str),
    Integer(u64),
    Float(f64),
    Severity(Severity),
    Address(IpAddr),
    Time(Nanos),
    Trace(crate::event::TraceId),
    Span(crate::event::SpanId),
    Bool(bool),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Text(text) => f.write_str(text),
            Value::Integer(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Severity(severity) => f.write_str(severity.name()),
            Value::Address(address) => address.fmt(f),
            Value::Time(time) => time.fmt(f),
            Value::Trace(id) => id.fmt(f),
            Value::Span(id) => id.fmt(f),
            Value::Bool(value) => value.fmt(f),
        }
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    /// One of these.
    Name(&'static [&'static str]),
    Severity,
    Number,
    Address,
    Time,
}

/// A field.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) holds: Type,
    pub(super) read: Read,
}

/// Hands every value of a field to the caller.
type Read = fn(&Event, &mut dyn FnMut(Value<'_>));

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Something that is a value.
trait IntoValue {
    fn value(&self) -> Value<'_>;
}

macro_rules! into_value {
    ($($type:ty, $self:ident => $value:expr;)*) => {
        $(impl IntoValue for $type { fn value(&$self) -> Value<'_> { $value } })*
    };
}

into_value! {
    str, self => Value::Text(self);
    std::sync::Arc<str>, self => Value::Text(self);
    std::borrow::Cow<'static, str>, self => Value::Text(self);
    u16, self => Value::Integer(u64::from(*self));
    u32, self => Value::Integer(u64::from(*self));
    u64, self => Value::Integer(*self);
    f64, self => Value::Float(*self);
    bool, self => Value::Bool(*self);
    IpAddr, self => Value::Address(*self);
    Nanos, self => Value::Time(*self);
    Severity, self => Value::Severity(*self);
    crate::event::TraceId, self => Value::Trace(*self);
    crate::event::SpanId, self => Value::Span(*self);
    EventKind, self => Value::Text(self.name());
    TraceOrigin, self => Value::Text(self.name());
    Protocol, self => Value::Text(self.name());
    Family, self => Value::Text(self.name());
    FlowRole, self => Value::Text(self.name());
    NatStatus, self => Value::Text(self.name());
    FlowState, self => Value::Text(self.name());
    CloseReason, self => Value::Text(self.name());
    GapScope, self => Value::Text(self.name());
    AgentAction, self => Value::Text(self.name());
}

impl<T: IntoValue> IntoValue for Option<T> {
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, IntoValue::value)
    }
}

impl<T: IntoValue + ?Sized> IntoValue for &T {
    fn value(&self) -> Value<'_> {
        (**self).value()
    }
}

/// Names of a vocabulary as a list.
macro_rules! names {
    ($type:ident) => {{
        const NAMES: [&str; $type::ALL.len()] = {
            let mut names = [""; $type::ALL.len()];
            let mut index = 0;
            while index < names.len() {
                names[index] = $type::ALL[index].name();
                index += 1;
            }
            names
        };
        Type::Name(&NAMES)
    }};
}

macro_rules! fields {
    ($($name:literal $holds:expr, $event:ident => $($value:expr),+;)*) => {
        &[$(Field {
            name: $name,
            holds: $holds,
            read: |$event, take| { $(take($value.value());)+ },
        },)*]
    };
}

/// Both ends of the side that opened the connection (`true`) or of the other one.
fn side(event: &Event, opener: bool) -> [(Option<IpAddr>, Option<u16>); 2] {
    let ours = match event.role {
        None => return [(None, None); 2],
        Some(FlowRole::Client | FlowRole::Forwarded) => opener,
        Some(FlowRole::Server) => !opener,
    };
    if ours {
        [
            (event.internal_ip, event.internal_port),
            (event.external_ip, event.external_port),
        ]
    } else {
        [
            (event.peer_ip, event.peer_port),
            (event.actual_peer_ip, event.actual_peer_port),
        ]
    }
}

/// Reads a member of a nested object.
macro_rules! member {
    ($event:ident . $object:ident . $($member:tt)+) => {
        $event.$object.as_ref().map(|object| object.$($member)+)
    };
    (? $event:ident . $object:ident . $member:ident) => {
        $event.$object.as_ref().and_then(|object| object.$member.as_ref())
    };
}

use Type::{Address, Number, Text, Time};

/// Every field, in the order of the schema; names that stand for several fields come last.
pub(super) static FIELDS: &[Field] = fields! {
    "schema" Text, _e => SCHEMA;
    "kind" names!(EventKind), e => e.kind;
    "host" Text, e => e.host;
    "boot_id" Text, e => e.boot_id;
    "run" Text, e => e.run;
    "seq" Number, e => e.seq;
    "ts" Time, e => e.ts;
    "started_at" Time, e => e.started_at;
    "elapsed_ms" Number, e => e.elapsed_ms;
    "severity" Type::Severity, e => e.severity;
    "connection_id" Text, e => e.connection_id;
    "trace_id" Text, e => e.trace_id;
    "span_id" Text, e => e.span_id;
    "parent_span_id" Text, e => e.parent_span_id;
    "trace_origin" names!(TraceOrigin), e => e.trace_origin;
    "request_id" Text, e => e.request_id;
    "service" Text, e => e.service;
    "protocol" names!(Protocol), e => e.protocol;
    "family" names!(Family), e => e.family;
    "role" names!(FlowRole), e => e.role;
    "netns" Number, e => e.netns;
    "internal_ip" Address, e => e.internal_ip;
    "internal_port" Number, e => e.internal_port;
    "external_ip" Address, e => e.external_ip;
    "external_port" Number, e => e.external_port;
    "peer_ip" Address, e => e.peer_ip;
    "peer_port" Number, e => e.peer_port;
    "actual_peer_ip" Address, e => e.actual_peer_ip;
    "actual_peer_port" Number, e => e.actual_peer_port;
    "nat.status" names!(NatStatus), e => member!(e.nat.status);
    "nat.method" Text, e => member!(? e.nat.method);
    "process.pid" Number, e => member!(e.process.pid);
    "process.comm" Text, e => member!(? e.process.comm);
    "process.exe" Text, e => member!(? e.process.exe);
    "process.uid" Number, e => member!(? e.process.uid);
    "process.cgroup" Text, e => member!(? e.process.cgroup);
    "process.unit" Text, e => member!(? e.process.unit);
    "process.container_id" Text, e => member!(? e.process.container_id);
    "io_process.pid" Number, e => member!(e.io_process.pid);
    "io_process.comm" Text, e => member!(? e.io_process.comm);
    "io_process.exe" Text, e => member!(? e.io_process.exe);
    "io_process.uid" Number, e => member!(? e.io_process.uid);
    "io_process.cgroup" Text, e => member!(? e.io_process.cgroup);
    "io_process.unit" Text, e => member!(? e.io_process.unit);
    "io_process.container_id" Text, e => member!(? e.io_process.container_id);
    "bytes_sent" Number, e => e.bytes_sent;
    "bytes_received" Number, e => e.bytes_received;
    "flow.state" names!(FlowState), e => member!(e.flow.state);
    "flow.connect_ms" Number, e => member!(? e.flow.connect_ms);
    "flow.syn_retransmits" Number, e => member!(? e.flow.syn_retransmits);
    "flow.rtt_ms" Number, e => member!(? e.flow.rtt_ms);
    "flow.rtt_var_ms" Number, e => member!(? e.flow.rtt_var_ms);
    "flow.retransmits" Number, e => member!(? e.flow.retransmits);
    "flow.segments_out" Number, e => member!(? e.flow.segments_out);
    "flow.segments_in" Number, e => member!(? e.flow.segments_in);
    "flow.accept_wait_ms" Number, e => member!(? e.flow.accept_wait_ms);
    "flow.close_reason" names!(CloseReason), e => member!(? e.flow.close_reason);
    "flow.error" Text, e => member!(? e.flow.error);
    "request.protocol" Text, e => member!(? e.request.protocol);
    "request.method" Text, e => member!(? e.request.method);
    "request.route" Text, e => member!(? e.request.route);
    "request.status_code" Number, e => member!(? e.request.status_code);
    "request.ttfb_ms" Number, e => member!(? e.request.ttfb_ms);
    "request.send_ms" Number, e => member!(? e.request.send_ms);
    "request.wait_ms" Number, e => member!(? e.request.wait_ms);
    "request.receive_ms" Number, e => member!(? e.request.receive_ms);
    "request.error" Text, e => member!(? e.request.error);
    "request.tls" Type::Name(&["true", "false"]), e => member!(? e.request.tls);
    "gap.stage" Text, e => e.gap.as_ref().map(|gap| &*gap.stage);
    "gap.reason" Text, e => e.gap.as_ref().map(|gap| &*gap.reason);
    "gap.count" Number, e => member!(? e.gap.count);
    "gap.from_seq" Number, e => member!(? e.gap.from_seq);
    "gap.to_seq" Number, e => member!(? e.gap.to_seq);
    "gap.scope" names!(GapScope), e => member!(e.gap.scope);
    "agent.action" names!(AgentAction), e => member!(e.agent.action);
    "agent.version" Text, e => e.agent.as_ref().map(|agent| &*agent.version);
    "agent.message" Text, e => member!(? e.agent.message);
    "ip" Address, e => e.internal_ip, e.external_ip, e.peer_ip, e.actual_peer_ip;
    "port" Number, e => e.internal_port, e.external_port, e.peer_port, e.actual_peer_port;
    "pid" Number, e => member!(e.process.pid), member!(e.io_process.pid);
    "comm" Text, e => member!(? e.process.comm), member!(? e.io_process.comm);
    "route" Text, e => member!(? e.request.route);
    "method" Text, e => member!(? e.request.method);
    "status" Number, e => member!(? e.request.status_code);
    "state" names!(FlowState), e => member!(e.flow.state);
    "nat" names!(NatStatus), e => member!(e.nat.status);
    "from.ip" Address, e => side(e, true)[0].0, side(e, true)[1].0;
    "from.port" Number, e => side(e, true)[0].1, side(e, true)[1].1;
    "to.ip" Address, e => side(e, false)[0].0, side(e, false)[1].0;
    "to.port" Number, e => side(e, false)[0].1, side(e, false)[1].1;
};

/// `flags` is a list of any length, so it stands apart from the table.
pub(super) static FLAGS_FIELD: Field = Field {
    name: "flags",
    holds: Type::Name(&FLAG_NAMES),
    read: |event, take| {
        if event.flags == crate::event::Flags::default() {
            take(Value::Null);
        }
        event.flags.names().for_each(|name| take(Value::Text(name)));
    },
};

const FLAG_NAMES: [&str; crate::event::Flags::NAMES.len()] = {
    let mut names = [""; crate::event::Flags::NAMES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = crate::event::Flags::NAMES[index].1;
        index += 1;
    }
    names
};

/// The field of a name.
pub(super) fn find(name: &str) -> Option<&'static Field> {
    all().find(|field| field.name == name)
}

/// Up to three names that look like `name`.
pub(super) fn near(name: &str) -> Vec<&'static str> {
    let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let mut ranked: Vec<_> = all()
        .map(|field| {
            let whole = strsim::damerau_levenshtein(name, field.name);
            // `pod` or `rtt_ms` should find `flow.rtt_ms` too.
            (
                whole.min(strsim::damerau_levenshtein(name, last(field.name)) + 1),
                field.name,
            )
        })
        .filter(|(distance, _)| *distance <= 3.min(name.len().div_ceil(2)))
        .collect();
    ranked.sort();
    ranked.into_iter().take(3).map(|(_, name)| name).collect()
}

fn all() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().chain(std::iter::once(&FLAGS_FIELD))
}

#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    all().map(|field| field.name).collect()
}
