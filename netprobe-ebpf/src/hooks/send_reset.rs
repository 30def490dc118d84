//! `tp_btf/tcp_send_reset` (4.15): resets sent, with or without a connection.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{RESETS_NO_SOCKET, RESETS_SENT, flow_flags};

use crate::{count, kernel::sock::Sock, store, values::empty};

#[btf_tracepoint(function = "tcp_send_reset")]
fn send_reset(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    if sk.is_null() {
        count::one(RESETS_NO_SOCKET);
        return 0;
    }
    // SAFETY: null-checked just now; storage of a socket that is not full is refused by the helper.
    match unsafe { store::get(sk) } {
        Some(conn) => {
            conn.record.flags |= flow_flags::RESET_SENT;
            if conn.record.flags & flow_flags::EXCLUDED == 0 {
                count::one(RESETS_SENT);
            }
        }
        None => count::one(RESETS_NO_SOCKET),
    }
    0
}
