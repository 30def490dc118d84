//! `tp_btf/sock_recv_length` (6.3): what each receive call returned.
//!
//! Not `tcp_cleanup_rbuf`, which is called several times per receive with cumulative counts. Splice from a socket does not
//! pass here; the totals come from the kernel's counters, which see it. Fires for every protocol.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::KNOB_UDP;

use crate::{
    calls,
    kernel::sock::{self, Sock},
    udp::{self, Direction},
    values::{empty, knob},
};

const MSG_PEEK: i32 = 2;

#[btf_tracepoint(function = "sock_recv_length")]
fn recv_length(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    let ret: i32 = ctx.arg(1);
    let flags: i32 = ctx.arg(2);
    // SAFETY: the tracepoint's first argument is a trusted, non-null socket.
    unsafe {
        match sock::protocol(sk) {
            sock::TCP if sock::is_kind(sk, sock::STREAM) => calls::received(sk, ret, flags & MSG_PEEK != 0),
            sock::UDP
                if knob(KNOB_UDP) != 0 && sock::is_kind(sk, sock::DATAGRAM) && flags & MSG_PEEK == 0 =>
            {
                udp::moved(sk, ret, Direction::Received)
            }
            _ => {}
        }
    }
    0
}
