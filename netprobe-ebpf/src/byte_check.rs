//! The self-check: what send and receive calls moved against the kernel's own counters.

use aya_ebpf::programs::BtfTracePointContext;
use netprobe_common::*;

use crate::{
    conn::Conn,
    count, debug,
    kernel::{sock::Sock, tcp},
};

/// Compares the sums of calls with the counters taken at CLOSE. Explained differences: what was never read
/// (it is still in the receive queue) and what was never acknowledged (it is still in the send queue).
///
/// # Safety
/// `sk` is a typed, non-null socket pointer.
#[inline(always)]
pub unsafe fn check(ctx: &BtfTracePointContext, conn: &Conn, sk: Sock) {
    let record = &conn.record;
    // SAFETY: by the caller's contract.
    let upper_layer = unsafe { tcp::has_upper_layer(sk) };
    if upper_layer || record.flags & (flow_flags::PARTIAL | flow_flags::MPTCP | flow_flags::MISSED_CLOSE) != 0
    {
        count::one(BYTE_CHECK_SKIPPED);
        return;
    }
    let syn = u64::from(record.role == Role::Client as u8);
    let fin_sent = u64::from(record.flags & flow_flags::FIN_SENT != 0);
    let written = (record.tcp.bytes_acked + u64::from(record.tcp.unacked)).wrapping_sub(syn + fin_sent);
    let (_, received) = tcp::payload(record);
    if record.calls.sent_bytes != written || record.calls.received_bytes > received {
        count::one(BYTE_DISAGREEMENT);
        debug::disagreement(ctx, record, written, received);
        return;
    }
    // Calls gave less than TCP received. Left unread is explained; the rest was read without a receive call
    // (splice, zerocopy receive), which no hook counts.
    // SAFETY: by the caller's contract.
    let unread = u64::from(unsafe { tcp::unread(sk) });
    let missing = received - record.calls.received_bytes;
    let at_close = u64::from(record.tcp.unread);
    if missing == 0
        || missing == unread
        || missing + 1 == unread
        || missing == at_close
        || missing + 1 == at_close
    {
        count::one(BYTE_CHECK_PASSED);
    } else {
        count::one(BYTE_CHECK_SKIPPED);
    }
}
