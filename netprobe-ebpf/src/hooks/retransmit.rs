//! `tp_btf/tcp_retransmit_skb` (4.15): segments sent again, SYN retries among them.
//!
//! The counts come from the socket; this makes them visible soon on a connection that moves no other data.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{calls, kernel::sock::Sock, values::empty};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmit(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    // SAFETY: the tracepoint's first argument is a trusted, non-null socket.
    unsafe { calls::retransmitted(sk) };
    0
}
