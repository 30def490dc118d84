//! `tp_btf/inet_sock_set_state` (5.5): the life of every TCP connection.
//!
//! Every state change of every TCP socket passes here, so connect latency is SYN_SENT → ESTABLISHED, never the time of
//! a system call: a non-blocking connect returns at once. Runs in the process at connect and often in softirq else:
//! only at CLOSE → SYN_SENT is the current task the connection's process.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::flow_flags;

use crate::{
    conn,
    kernel::sock::{self, Sock, state},
    store,
    values::empty,
};

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    let from: i32 = ctx.arg(1);
    let to: i32 = ctx.arg(2);
    let (from, to) = (from as u8, to as u8);
    // SAFETY: the tracepoint's first argument is a trusted, non-null socket.
    unsafe {
        if sock::protocol(sk) != sock::TCP {
            return 0;
        }
        match (from, to) {
            (_, state::SYN_SENT) => conn::connecting(sk),
            (state::SYN_SENT | state::SYN_RECV, state::ESTABLISHED) => conn::established(sk, from),
            (_, state::FIN_WAIT1 | state::LAST_ACK) => {
                if let Some(conn) = store::get(sk) {
                    conn.record.flags |= flow_flags::FIN_SENT;
                }
            }
            (_, state::CLOSE) => conn::closed(sk, from),
            _ => {}
        }
    }
    0
}
