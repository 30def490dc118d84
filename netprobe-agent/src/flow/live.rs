//! One live connection as the agent holds it: compact, since there may be a million.

use netprobe_common::{FlowKey, FlowRecord, Role, flow_flags};

use super::{nat::Path, process::Identity};
use crate::event::Flags;

/// Totals since the connection began; of one older than the agent, since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Payload sent at least once.
    pub sent: u64,
    /// Payload received.
    pub received: u64,
    /// Segments sent.
    pub segments_out: u32,
    /// Segments received.
    pub segments_in: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

impl Totals {
    /// Totals of a record: SYN and FIN taken off.
    pub fn of(record: &FlowRecord) -> Totals {
        let fin = u64::from(record.flags & flow_flags::FIN_RECEIVED != 0);
        Totals {
            sent: record.tcp.bytes_sent.saturating_sub(record.tcp.bytes_retrans),
            received: record.tcp.bytes_received.saturating_sub(fin),
            segments_out: record.tcp.segs_out,
            segments_in: record.tcp.segs_in,
            retransmits: record.tcp.retransmits,
        }
    }

    /// The larger of each: both were true, counters only grow.
    pub fn max(self, other: Totals) -> Totals {
        Totals {
            sent: self.sent.max(other.sent),
            received: self.received.max(other.received),
            segments_out: self.segments_out.max(other.segments_out),
            segments_in: self.segments_in.max(other.segments_in),
            retransmits: self.retransmits.max(other.retransmits),
        }
    }

    /// What came since `earlier`.
    pub fn since(self, earlier: Totals) -> Totals {
        Totals {
            sent: self.sent.saturating_sub(earlier.sent),
            received: self.received.saturating_sub(earlier.received),
            segments_out: self.segments_out.saturating_sub(earlier.segments_out),
            segments_in: self.segments_in.saturating_sub(earlier.segments_in),
            retransmits: self.retransmits.saturating_sub(earlier.retransmits),
        }
    }
}

/// A live connection.
#[derive(Clone, Debug)]
pub struct Live {
    /// Socket cookie.
    pub cookie: u64,
    /// Addresses, ports, namespace.
    pub key: FlowKey,
    /// Who opened it.
    pub role: Role,
    /// Marks for events.
    pub flags: Flags,
    /// Whether `open` was told.
    pub opened: bool,
    /// Whether it was counted as established.
    pub announced: bool,
    /// Whether the last list of sockets missed it.
    pub absent: bool,
    /// Begin, `CLOCK_MONOTONIC` nanoseconds; of an older connection: when it was first seen.
    pub started_ns: u64,
    /// 0: not seen.
    pub established_ns: u64,
    /// 0: not accepted, or not seen.
    pub accepted_ns: u64,
    /// Time of the newest record.
    pub touched_ns: u64,
    /// Connector or acceptor.
    pub process: Option<Identity>,
    /// First to send or receive.
    pub io_process: Option<Identity>,
    /// Counters, raw.
    pub totals: Totals,
    /// What is not to be charged: counters of an older connection when the agent began.
    pub base: Option<Box<Totals>>,
    /// Smoothed round-trip time, microseconds × 8.
    pub srtt_us: u32,
    /// Round-trip variation, microseconds × 4.
    pub mdev_us: u32,
    /// SYN segments sent again.
    pub syn_retransmits: u32,
    /// Translation.
    pub path: Option<Box<Path>>,
}

impl Live {
    /// A connection first seen through `record`.
    pub fn new(record: &FlowRecord) -> Live {
        let mut live = Live {
            cookie: record.cookie,
            key: record.key,
            role: role(record.role),
            flags: Flags::default(),
            opened: false,
            announced: false,
            absent: false,
            started_ns: record.started_ns,
            established_ns: record.established_ns,
            accepted_ns: 0,
            touched_ns: record.header.ts_ns,
            process: None,
            io_process: None,
            totals: Totals::default(),
            base: None,
            srtt_us: 0,
            mdev_us: 0,
            syn_retransmits: 0,
            path: None,
        };
        if record.flags & flow_flags::PARTIAL != 0 {
            live.flags.insert(Flags::PARTIAL);
        }
        live
    }

    /// Takes over the counters of a newer record; returns what came since the last.
    pub fn update(&mut self, record: &FlowRecord) -> Totals {
        // A list of sockets may have been newer than this record: never back.
        let totals = Totals::of(record).max(self.totals);
        let delta = totals.since(self.totals);
        self.totals = totals;
        self.touched_ns = record.header.ts_ns;
        self.srtt_us = record.tcp.srtt_us;
        self.mdev_us = record.tcp.mdev_us;
        self.syn_retransmits = record.syn_retransmits;
        if self.established_ns == 0 {
            self.established_ns = record.established_ns;
        }
        if record.flags & flow_flags::TFO != 0 {
            self.flags.insert(Flags::TFO);
        }
        if record.flags & flow_flags::MPTCP != 0 {
            self.flags.insert(Flags::MPTCP);
        }
        if record.flags & flow_flags::KTLS != 0 {
            self.flags.insert(Flags::KTLS);
        }
        delta
    }

    /// Totals to report.
    pub fn charged(&self) -> Totals {
        match &self.base {
            Some(base) => self.totals.since(**base),
            None => self.totals,
        }
    }

    /// Nanoseconds from ESTABLISHED to accept; none when it was accepted before (another processor was faster, or fast
    /// open). `None` when one of both was not seen.
    pub fn accept_wait_ns(&self) -> Option<u64> {
        let seen = self.accepted_ns != 0 && self.established_ns != 0;
        seen.then(|| self.accepted_ns.saturating_sub(self.established_ns))
    }

    /// Service of its process; unknown until there is one.
    pub fn service(&self) -> Option<&std::sync::Arc<str>> {
        self.process
            .as_ref()
            .or(self.io_process.as_ref())
            .map(|identity| &identity.service)
    }
}

/// The role of its wire value.
pub const fn role(wire: u8) -> Role {
    match wire {
        1 => Role::Client,
        2 => Role::Server,
        _ => Role::Unknown,
    }
}
