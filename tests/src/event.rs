//! What the agent says, read by a reader of its own: the schema as published, not the agent's types.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event. Fields as in schema `netprobe.event/1`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Event {
    pub schema: String,
    pub kind: String,
    pub host: String,
    pub boot_id: String,
    pub run: String,
    pub seq: Option<u64>,
    pub ts: String,
    pub started_at: Option<String>,
    pub elapsed_ms: Option<f64>,
    pub severity: String,
    pub connection_id: Option<String>,
    pub trace_id: String,
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub trace_origin: String,
    pub request_id: Option<String>,
    pub service: Option<String>,
    pub protocol: Option<String>,
    pub family: Option<String>,
    pub role: Option<String>,
    pub netns: Option<u64>,
    pub internal_ip: Option<IpAddr>,
    pub internal_port: Option<u16>,
    pub external_ip: Option<IpAddr>,
    pub external_port: Option<u16>,
    pub peer_ip: Option<IpAddr>,
    pub peer_port: Option<u16>,
    pub actual_peer_ip: Option<IpAddr>,
    pub actual_peer_port: Option<u16>,
    pub nat: Option<Nat>,
    pub process: Option<Process>,
    pub io_process: Option<Process>,
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    pub flags: Vec<String>,
    pub flow: Option<Flow>,
    pub request: Option<Value>,
    pub gap: Option<Gap>,
    pub agent: Option<Value>,
}

/// Translation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Nat {
    pub status: String,
    pub method: Option<String>,
    pub hops: Vec<Hop>,
}

/// A conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Hop {
    pub netns: u64,
    pub zone: u16,
    pub orig: Tuple,
    pub reply: Tuple,
}

/// One direction of a conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Tuple {
    pub src_ip: IpAddr,
    pub src_port: u16,
    pub dst_ip: IpAddr,
    pub dst_port: u16,
}

impl Tuple {
    /// A tuple from two socket addresses.
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            src_ip: src.ip(),
            src_port: src.port(),
            dst_ip: dst.ip(),
            dst_port: dst.port(),
        }
    }

    /// Its source.
    pub fn src(&self) -> SocketAddr {
        SocketAddr::from((self.src_ip, self.src_port))
    }

    /// Its destination.
    pub fn dst(&self) -> SocketAddr {
        SocketAddr::from((self.dst_ip, self.dst_port))
    }
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Process {
    pub pid: u32,
    pub comm: Option<String>,
    pub exe: Option<String>,
    pub uid: Option<u32>,
    pub cgroup: Option<String>,
    pub unit: Option<String>,
    pub container_id: Option<String>,
}

/// Body of a flow event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Flow {
    pub state: String,
    pub connect_ms: Option<f64>,
    pub syn_retransmits: Option<u64>,
    pub rtt_ms: Option<f64>,
    pub rtt_var_ms: Option<f64>,
    pub retransmits: Option<u64>,
    pub segments_out: Option<u64>,
    pub segments_in: Option<u64>,
    pub accept_wait_ms: Option<f64>,
    pub close_reason: Option<String>,
    pub error: Option<String>,
}

/// Body of a gap event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema documents its fields")]
pub struct Gap {
    pub stage: String,
    pub reason: String,
    pub count: Option<u64>,
    pub from_seq: Option<u64>,
    pub to_seq: Option<u64>,
    pub scope: String,
}

fn pair(ip: Option<IpAddr>, port: Option<u16>) -> Option<SocketAddr> {
    Some(SocketAddr::from((ip?, port?)))
}

impl Event {
    /// `internal_ip:internal_port`.
    pub fn internal(&self) -> Option<SocketAddr> {
        pair(self.internal_ip, self.internal_port)
    }

    /// `external_ip:external_port`.
    pub fn external(&self) -> Option<SocketAddr> {
        pair(self.external_ip, self.external_port)
    }

    /// `peer_ip:peer_port`.
    pub fn peer(&self) -> Option<SocketAddr> {
        pair(self.peer_ip, self.peer_port)
    }

    /// `actual_peer_ip:actual_peer_port`.
    pub fn actual_peer(&self) -> Option<SocketAddr> {
        pair(self.actual_peer_ip, self.actual_peer_port)
    }

    /// Whether it is a flow event in this state.
    pub fn is_state(&self, state: &str) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.state == state)
    }

    /// Whether it is the last one of a connection.
    pub fn is_final(&self) -> bool {
        self.is_state("closed") || self.is_state("failed")
    }

    /// Whether a flag is set.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// The cookie in `connection_id`.
    pub fn cookie(&self) -> Option<u64> {
        self.connection_id.as_ref()?.rsplit('-').next()?.parse().ok()
    }
}

/// `::ffff:a.b.c.d` as the IPv4 address it is.
pub fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Fields of every event, in any order, as published.
const FIELDS: &[&str] = &[
    "schema",
    "kind",
    "host",
    "boot_id",
    "run",
    "seq",
    "ts",
    "started_at",
    "elapsed_ms",
    "severity",
    "connection_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "trace_origin",
    "request_id",
    "service",
    "protocol",
    "family",
    "role",
    "netns",
    "internal_ip",
    "internal_port",
    "external_ip",
    "external_port",
    "peer_ip",
    "peer_port",
    "actual_peer_ip",
    "actual_peer_port",
    "nat",
    "process",
    "io_process",
    "bytes_sent",
    "bytes_received",
    "flags",
    "flow",
    "request",
    "gap",
];

/// What is wrong with one line of output, if anything is.
pub fn schema_fault(line: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => return Some(format!("not JSON: {error}")),
    };
    let Some(object) = value.as_object() else {
        return Some("not an object".to_owned());
    };
    if let Some(missing) = FIELDS.iter().find(|field| !object.contains_key(**field)) {
        return Some(format!("field {missing} is left out"));
    }
    let event: Event = match serde_json::from_value(value) {
        Ok(event) => event,
        Err(error) => return Some(format!("not the schema: {error}")),
    };
    event.fault()
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Event {
    /// What is wrong with the values of this event, if anything is.
    fn fault(&self) -> Option<String> {
        let one_of = |name: &str, value: &str, allowed: &[&str]| {
            (!allowed.contains(&value)).then(|| format!("{name} is {value:?}"))
        };
        if self.schema != "netprobe.event/1" {
            return Some(format!("schema is {:?}", self.schema));
        }
        if !is_hex(&self.run, 16) || !is_hex(&self.trace_id, 32) || !is_hex(&self.span_id, 16) {
            return Some("run, trace_id or span_id is not hex of its length".to_owned());
        }
        if self.trace_id.bytes().all(|b| b == b'0') {
            return Some("trace_id is all zero".to_owned());
        }
        if self.seq.is_none() {
            return Some("seq is null".to_owned());
        }
        for ts in [Some(&self.ts), self.started_at.as_ref()].into_iter().flatten() {
            if !ts.ends_with('Z') || ts.len() != "2026-01-01T00:00:00.000000000Z".len() {
                return Some(format!("time {ts:?} is not UTC with nanoseconds"));
            }
        }
        one_of("kind", &self.kind, &["flow", "request", "gap", "agent"])
            .or_else(|| {
                one_of(
                    "severity",
                    &self.severity,
                    &["debug", "info", "warning", "error", "critical"],
                )
            })
            .or_else(|| one_of("trace_origin", &self.trace_origin, &["propagated", "generated"]))
            .or_else(|| (self.kind == "flow").then(|| self.flow_fault()).flatten())
            .or_else(|| {
                (self.kind == "gap" && self.gap.is_none()).then(|| "a gap event without gap".to_owned())
            })
    }

    fn flow_fault(&self) -> Option<String> {
        let Some(flow) = &self.flow else {
            return Some("a flow event without flow".to_owned());
        };
        if !["open", "update", "closed", "failed"].contains(&flow.state.as_str()) {
            return Some(format!("flow.state is {:?}", flow.state));
        }
        let Some(id) = &self.connection_id else {
            return Some("a flow without connection_id".to_owned());
        };
        if !id.starts_with(&self.boot_id) {
            return Some(format!("connection_id {id} does not begin with the boot id"));
        }
        let role = self.role.as_deref();
        if !matches!(role, Some("client" | "server" | "forwarded")) {
            return Some(format!("role is {role:?}"));
        }
        let Some(nat) = &self.nat else {
            return Some("a flow without nat".to_owned());
        };
        let known = ["none", "snat", "dnat", "snat+dnat", "unresolved", "unavailable"];
        if !known.contains(&nat.status.as_str()) {
            return Some(format!("nat.status is {:?}", nat.status));
        }
        if role == Some("forwarded") && self.process.is_some() {
            return Some("a forwarded flow with a process".to_owned());
        }
        if flow.state == "closed" && flow.close_reason.is_none() {
            return Some("closed without close_reason".to_owned());
        }
        for ip in [
            self.internal_ip,
            self.external_ip,
            self.peer_ip,
            self.actual_peer_ip,
        ] {
            if ip.is_some_and(|ip| ip != ip.to_canonical()) {
                return Some(format!("address {ip:?} is not normalised"));
            }
        }
        None
    }
}
