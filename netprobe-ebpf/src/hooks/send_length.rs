//! `tp_btf/sock_send_length` (6.3): what each send call returned.
//!
//! After the fact, so partial sends count what was taken; one hook for send, write, writev, sendmmsg, sendfile and
//! splice to the socket. Fires for every protocol.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::KNOB_UDP;

use crate::{
    calls,
    kernel::sock::{self, Sock},
    udp::{self, Direction},
    values::{empty, knob},
};

#[btf_tracepoint(function = "sock_send_length")]
fn send_length(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    let ret: i32 = ctx.arg(1);
    // SAFETY: the tracepoint's first argument is a trusted, non-null socket.
    unsafe {
        match sock::protocol(sk) {
            sock::TCP if sock::is_kind(sk, sock::STREAM) => calls::sent(sk, ret),
            sock::UDP if knob(KNOB_UDP) != 0 && sock::is_kind(sk, sock::DATAGRAM) => {
                udp::moved(sk, ret, Direction::Sent)
            }
            _ => {}
        }
    }
    0
}
