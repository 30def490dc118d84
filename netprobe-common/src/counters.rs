//! Index of every counter in the `COUNTERS` per-CPU array. Counters only grow.

use crate::Kind;

/// First index of the records seen, one per [`Kind`] wire value.
pub const SEEN: u32 = 0;
/// First index of records lost because the ring was full, one per [`Kind`] wire value.
pub const LOST_RING_FULL: u32 = 16;

/// Final records that went into the overflow hash instead of the ring (seen, not lost).
pub const OVERFLOWED: u32 = 32;
/// Final records lost because the overflow hash was full as well.
pub const LOST_OVERFLOW_FULL: u32 = 33;
/// Payload bytes sent by connections whose final record was lost.
pub const LOST_BYTES_SENT: u32 = 34;
/// Payload bytes received by connections whose final record was lost.
pub const LOST_BYTES_RECEIVED: u32 = 35;
/// Connections left out because they are the agent's own.
pub const SUPPRESSED_OWN: u32 = 36;
/// Connections left out by the kernel-side filter.
pub const SUPPRESSED_FILTER: u32 = 37;
/// Connections not followed because socket storage could not be had.
pub const LOST_STORAGE: u32 = 38;
/// Connections whose CLOSE was missed and found when the socket was destroyed.
pub const MISSED_CLOSE: u32 = 39;
/// Connections whose ESTABLISHED was missed.
pub const MISSED_ESTABLISHED: u32 = 40;
/// Connections whose call sums and kernel counters differ beyond what is explained.
pub const BYTE_DISAGREEMENT: u32 = 41;
/// Connections left out of that check: splice, zerocopy, older than the agent, multipath.
pub const BYTE_CHECK_SKIPPED: u32 = 42;
/// Connections that passed that check.
pub const BYTE_CHECK_PASSED: u32 = 43;
/// Handshakes not followed across namespaces because the table was full.
pub const LOST_HANDSHAKE_TABLE: u32 = 44;
/// UDP flows not followed because the table was full.
pub const LOST_UDP_TABLE: u32 = 45;
/// UDP payload bytes sent that belong to no followed flow.
pub const LOST_UDP_BYTES_SENT: u32 = 46;
/// UDP payload bytes received that belong to no followed flow.
pub const LOST_UDP_BYTES_RECEIVED: u32 = 47;
/// Resets sent for a connection.
pub const RESETS_SENT: u32 = 48;
/// Resets received.
pub const RESETS_RECEIVED: u32 = 49;
/// Resets sent without a socket (nobody listens).
pub const RESETS_NO_SOCKET: u32 = 50;
/// Reads of kernel memory that failed.
pub const READ_FAULT: u32 = 51;
/// SYN segments sent again.
pub const SYN_RETRANSMITS: u32 = 52;
/// Accepted connections whose identity could not be read.
pub const ACCEPT_UNKNOWN: u32 = 53;
/// Forced wakeups of the reader.
pub const FORCED_WAKEUPS: u32 = 54;

/// UDP datagrams left out on purpose: the agent's own, or filtered.
pub const SUPPRESSED_DATAGRAMS: u32 = 55;
/// Accepts that came before their connection had a cookie, and wait for it.
pub const ACCEPT_EARLY: u32 = 56;
/// Of these, those whose connection came.
pub const ACCEPT_EARLY_TOLD: u32 = 57;
/// Records lost because their socket had no cookie yet to name its connection.
pub const LOST_UNNAMED: u32 = 58;
/// Packets of connections that are read whose payload could not be found behind their headers.
pub const PAYLOAD_UNREADABLE: u32 = 59;
/// Connections older than the programs in which no message began for so long that they are not looked at any more.
pub const PAYLOAD_GIVEN_UP: u32 = 60;
/// Changes of state whose run the kernel had skipped, and that the second program made up for.
pub const MADE_UP: u32 = 61;

/// Entries of the array.
pub const COUNTERS: u32 = 64;

/// Index of the seen counter of `kind`.
pub const fn seen(kind: Kind) -> u32 {
    SEEN + kind as u32
}

/// Index of the ring-full counter of `kind`.
pub const fn lost_ring_full(kind: Kind) -> u32 {
    LOST_RING_FULL + kind as u32
}
