//! Debug lines through aya-log. Switched at run time by the agent, off by default; asked for only on rare paths.

use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::info;
use netprobe_common::FlowRecord;

use crate::maps::LOG;

/// Whether lines are wanted now.
#[inline(always)]
fn on() -> bool {
    LOG.get(0).is_some_and(|&on| on != 0)
}

/// The byte self-check failed for one connection.
#[inline(always)]
pub fn disagreement(ctx: &BtfTracePointContext, record: &FlowRecord, written: u64, received: u64) {
    if on() {
        info!(
            ctx,
            "bytes disagree: cookie {} port {} to {}: calls sent {} of {}, received {} of {}, flags {:x}",
            record.cookie,
            record.key.local_port,
            record.key.remote_port,
            record.calls.sent_bytes,
            written,
            record.calls.received_bytes,
            received,
            record.flags
        );
    }
}

/// The close of a connection was found only as its socket went.
#[inline(always)]
pub fn missed_close(ctx: &BtfTracePointContext, record: &FlowRecord) {
    if on() {
        info!(ctx, "missed the close of cookie {}", record.cookie);
    }
}
