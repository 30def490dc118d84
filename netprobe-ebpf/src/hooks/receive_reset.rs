//! `tp_btf/tcp_receive_reset` (4.15): resets received, before the state changes.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{RESETS_RECEIVED, flow_flags};

use crate::{count, kernel::sock::Sock, store, values::empty};

#[btf_tracepoint(function = "tcp_receive_reset")]
fn receive_reset(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    // SAFETY: the tracepoint's argument is a trusted, non-null socket.
    if let Some(conn) = unsafe { store::get(sk) } {
        conn.record.flags |= flow_flags::RESET_RECEIVED;
        if conn.record.flags & flow_flags::EXCLUDED == 0 {
            count::one(RESETS_RECEIVED);
        }
    }
    0
}
