//! The nested objects of an event.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize, de::Error as _, ser::SerializeSeq as _};

use super::vocabulary;

vocabulary! {
    /// What is known about address translation of a connection: the union of the hops seen on this host.
    NatStatus {
        /// Not translated here.
        None = "none",
        /// Source translated.
        Snat = "snat",
        /// Destination translated.
        Dnat = "dnat",
        /// Both translated.
        SnatDnat = "snat+dnat",
        /// There may be a translation and it could not be told which.
        Unresolved = "unresolved",
        /// No method of finding out works on this host.
        Unavailable = "unavailable",
    }
}

/// Translation of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Nat {
    /// The union of the hops.
    pub status: NatStatus,
    /// How it was found; `null` when it was not.
    pub method: Option<Cow<'static, str>>,
    /// Conntrack entries met on the way, in order.
    pub hops: Vec<Hop>,
}

/// One conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hop {
    /// Namespace of the entry.
    pub netns: u64,
    /// Conntrack zone.
    pub zone: u16,
    /// As the originator sent it.
    pub orig: HopTuple,
    /// As replies come.
    pub reply: HopTuple,
}

/// One direction of a conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HopTuple {
    /// Source address.
    #[schema(value_type = String)]
    pub src_ip: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    #[schema(value_type = String)]
    pub dst_ip: IpAddr,
    /// Destination port.
    pub dst_port: u16,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Process {
    /// Thread group in the initial pid namespace.
    pub pid: u32,
    /// Command name.
    pub comm: Option<Arc<str>>,
    /// Path of the executable.
    pub exe: Option<Arc<str>>,
    /// User id in the initial user namespace.
    pub uid: Option<u32>,
    /// Path in the cgroup v2 tree.
    pub cgroup: Option<Arc<str>>,
    /// systemd unit.
    pub unit: Option<Arc<str>>,
    /// Container.
    pub container_id: Option<Arc<str>>,
}

/// A set of marks; a list of names in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// Older than the agent, or truncated.
    pub const PARTIAL: Flags = Flags(1);
    /// The agent stopped while the connection lived.
    pub const AGENT_STOP: Flags = Flags(1 << 1);
    /// TCP fast open.
    pub const TFO: Flags = Flags(1 << 2);
    /// Multipath TCP subflow.
    pub const MPTCP: Flags = Flags(1 << 3);
    /// Kernel TLS.
    pub const KTLS: Flags = Flags(1 << 4);
    /// A duration is an upper bound.
    pub const UPPER_BOUND: Flags = Flags(1 << 5);

    /// Names, in the order they are listed.
    pub const NAMES: [(Flags, &'static str); 6] = [
        (Flags::PARTIAL, "partial"),
        (Flags::AGENT_STOP, "agent_stop"),
        (Flags::TFO, "tfo"),
        (Flags::MPTCP, "mptcp"),
        (Flags::KTLS, "ktls"),
        (Flags::UPPER_BOUND, "upper_bound"),
    ];

    /// Adds marks.
    pub fn insert(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the marks that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(flag, _)| self.contains(*flag))
            .map(|(_, name)| name)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl Serialize for Flags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.count_ones() as usize))?;
        for name in self.names() {
            list.serialize_element(name)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flags = Flags::default();
        for name in Vec::<Cow<'_, str>>::deserialize(deserializer)? {
            match Flags::NAMES.iter().find(|(_, known)| *known == name) {
                Some((flag, _)) => flags.insert(*flag),
                None => return Err(D::Error::custom(format_args!("flag `{name}` is not known"))),
            }
        }
        Ok(flags)
    }
}

vocabulary! {
    /// Where a connection stands.
    FlowState {
        /// Alive for longer than `flow.open_after`.
        Open = "open",
        /// Alive, counters so far.
        Update = "update",
        /// Ended. Final.
        Closed = "closed",
        /// Never established. Final.
        Failed = "failed",
    }
}

impl FlowState {
    /// Whether no event of the connection follows.
    pub const fn is_final(self) -> bool {
        matches!(self, FlowState::Closed | FlowState::Failed)
    }
}

vocabulary! {
    /// Why a connection ended.
    CloseReason {
        /// Both sides ended it in order.
        Fin = "fin",
        /// Reset by this side.
        ResetLocal = "reset_local",
        /// Reset by the other side.
        ResetRemote = "reset_remote",
        /// No answer in time.
        Timeout = "timeout",
        /// The connect was given up by the application.
        Abandoned = "abandoned",
        /// Ended in the accept queue.
        Unaccepted = "unaccepted",
        /// The connect was refused.
        Refused = "refused",
        /// There was no way to the destination.
        Unreachable = "unreachable",
        /// The connect failed for another reason, see `error`.
        Error = "error",
        /// UDP: silent for longer than `flow.udp_idle`.
        Idle = "idle",
        /// The end was not seen: the socket was gone at reconciliation.
        Vanished = "vanished",
    }
}

/// Body of a flow event. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Flow {
    /// Where the connection stands.
    pub state: FlowState,
    /// Time to establish it, from the first SYN.
    pub connect_ms: Option<f64>,
    /// SYN segments sent again.
    pub syn_retransmits: Option<u64>,
    /// Smoothed round-trip time.
    pub rtt_ms: Option<f64>,
    /// Its variation.
    pub rtt_var_ms: Option<f64>,
    /// Segments sent again.
    pub retransmits: Option<u64>,
    /// Segments (UDP: datagrams, forwarded: packets) sent.
    pub segments_out: Option<u64>,
    /// Segments (UDP: datagrams, forwarded: packets) received.
    pub segments_in: Option<u64>,
    /// Time in the accept queue.
    pub accept_wait_ms: Option<f64>,
    /// Why it ended.
    pub close_reason: Option<CloseReason>,
    /// Name of the errno.
    pub error: Option<Cow<'static, str>>,
}

impl Flow {
    /// A flow in `state` of which nothing else is known.
    pub const fn new(state: FlowState) -> Flow {
        Flow {
            state,
            connect_ms: None,
            syn_retransmits: None,
            rtt_ms: None,
            rtt_var_ms: None,
            retransmits: None,
            segments_out: None,
            segments_in: None,
            accept_wait_ms: None,
            close_reason: None,
            error: None,
        }
    }
}

/// Body of a request event. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Request {
    /// Application protocol.
    pub protocol: Option<Cow<'static, str>>,
    /// Method or command.
    pub method: Option<Arc<str>>,
    /// Route template.
    pub route: Option<Arc<str>>,
    /// Status.
    pub status_code: Option<u16>,
    /// First byte sent to first byte received.
    pub ttfb_ms: Option<f64>,
    /// Time to send.
    pub send_ms: Option<f64>,
    /// Time from sent to first byte received.
    pub wait_ms: Option<f64>,
    /// Time to receive.
    pub receive_ms: Option<f64>,
    /// What went wrong.
    pub error: Option<Cow<'static, str>>,
    /// Whether it was read through TLS.
    pub tls: Option<bool>,
}

vocabulary! {
    /// Whom a gap concerns.
    GapScope {
        /// Everyone.
        Agent = "agent",
        /// One slow client alone: no `seq`, never archived.
        Client = "client",
    }
}

/// Body of a gap event: what was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Gap {
    /// Where it was lost.
    pub stage: Cow<'static, str>,
    /// Why.
    pub reason: Cow<'static, str>,
    /// How many; `null` when it cannot be known.
    pub count: Option<u64>,
    /// First number lost; `null` for losses before numbers existed.
    pub from_seq: Option<u64>,
    /// Last number lost.
    pub to_seq: Option<u64>,
    /// Whom it concerns.
    pub scope: GapScope,
}

vocabulary! {
    /// What the agent did.
    AgentAction {
        /// A run began.
        Start = "start",
        /// A run ended in order: its end mark.
        Stop = "stop",
        /// Something the operator should know.
        Notice = "notice",
    }
}

/// Body of an agent event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Agent {
    /// What the agent did.
    pub action: AgentAction,
    /// Version of the agent.
    pub version: Cow<'static, str>,
    /// A sentence.
    pub message: Option<Cow<'static, str>>,
}
