//! The kernel side's counters, by meaning.

use std::collections::BTreeMap;

use netprobe_common as wire;
use netprobe_common::Kind;

use crate::probe_report::{BYTE_DISAGREEMENTS, LossReport};

/// A snapshot of all counters, summed over processors.
#[derive(Clone, Copy, Debug)]
pub struct Counters(pub [u64; wire::COUNTERS as usize]);

/// Name and index of everything that is neither seen nor lost records.
const OTHERS: &[(&str, u32)] = &[
    ("overflowed_finals", wire::OVERFLOWED),
    ("missed_closes", wire::MISSED_CLOSE),
    ("missed_established", wire::MISSED_ESTABLISHED),
    ("runs_made_up", wire::MADE_UP),
    (BYTE_DISAGREEMENTS, wire::BYTE_DISAGREEMENT),
    ("byte_checks_skipped", wire::BYTE_CHECK_SKIPPED),
    ("byte_checks_passed", wire::BYTE_CHECK_PASSED),
    ("handshake_table_full", wire::LOST_HANDSHAKE_TABLE),
    ("storage_failures", wire::LOST_STORAGE),
    ("udp_table_full", wire::LOST_UDP_TABLE),
    ("resets_sent", wire::RESETS_SENT),
    ("resets_received", wire::RESETS_RECEIVED),
    ("resets_without_socket", wire::RESETS_NO_SOCKET),
    ("read_faults", wire::READ_FAULT),
    ("syn_retransmits", wire::SYN_RETRANSMITS),
    ("accepts_unreadable", wire::ACCEPT_UNKNOWN),
    ("accepts_early", wire::ACCEPT_EARLY),
    ("accepts_early_told", wire::ACCEPT_EARLY_TOLD),
    ("forced_wakeups", wire::FORCED_WAKEUPS),
    ("datagrams_suppressed", wire::SUPPRESSED_DATAGRAMS),
    ("payload_unreadable", wire::PAYLOAD_UNREADABLE),
    ("payload_given_up", wire::PAYLOAD_GIVEN_UP),
];

impl Counters {
    /// Value of one counter.
    pub const fn get(&self, index: u32) -> u64 {
        self.0[index as usize]
    }

    /// Records made, by kind.
    pub fn seen(&self) -> BTreeMap<Kind, u64> {
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, self.get(wire::seen(kind))))
            .collect()
    }

    /// Records lost in the kernel, by kind, and why.
    pub fn lost(&self) -> Vec<LossReport> {
        let full: u64 = Kind::ALL
            .into_iter()
            .filter(|kind| !kind.carries_bytes())
            .map(|kind| self.get(wire::lost_ring_full(kind)))
            .sum();
        let payload_full: u64 = Kind::ALL
            .into_iter()
            .filter(|kind| kind.carries_bytes())
            .map(|kind| self.get(wire::lost_ring_full(kind)))
            .sum();
        [
            ("ring_full", full),
            ("payload_ring_full", payload_full),
            ("overflow_full", self.get(wire::LOST_OVERFLOW_FULL)),
            ("unnamed", self.get(wire::LOST_UNNAMED)),
        ]
        .into_iter()
        .map(|(reason, count)| LossReport {
            stage: "kernel".to_owned(),
            reason: reason.to_owned(),
            count,
        })
        .collect()
    }

    /// What was not followed because something was full: no record was made, so the equation has nothing of it.
    pub fn unfollowed(&self) -> Vec<LossReport> {
        [
            ("storage", wire::LOST_STORAGE),
            ("handshake_table", wire::LOST_HANDSHAKE_TABLE),
            ("udp_table", wire::LOST_UDP_TABLE),
        ]
        .into_iter()
        .map(|(reason, index)| LossReport {
            stage: "kernel".to_owned(),
            reason: reason.to_owned(),
            count: self.get(index),
        })
        .collect()
    }

    /// Connections left out on purpose.
    pub fn suppressed(&self) -> BTreeMap<String, u64> {
        [("own", wire::SUPPRESSED_OWN), ("filter", wire::SUPPRESSED_FILTER)]
            .into_iter()
            .map(|(reason, index)| (reason.to_owned(), self.get(index)))
            .collect()
    }

    /// Payload bytes that no event will tell, by direction.
    pub fn lost_bytes(&self) -> BTreeMap<String, u64> {
        let sent = self.get(wire::LOST_BYTES_SENT) + self.get(wire::LOST_UDP_BYTES_SENT);
        let received = self.get(wire::LOST_BYTES_RECEIVED) + self.get(wire::LOST_UDP_BYTES_RECEIVED);
        [("sent", sent), ("received", received)]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect()
    }

    /// Everything else, by name.
    pub fn others(&self) -> BTreeMap<String, u64> {
        OTHERS
            .iter()
            .map(|&(name, index)| (name.to_owned(), self.get(index)))
            .collect()
    }
}
