//! `fexit/tcp_recvmsg` (5.5, no lockdown): what each receive returned, where `sock_recv_length` is missing.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use netprobe_common::KNOB_RECV_RET_ARG;

use crate::{
    calls,
    hooks::fexit_word,
    kernel::sock::Sock,
    values::{empty, knob},
};

const MSG_PEEK: i32 = 2;

#[fexit(function = "tcp_recvmsg")]
fn receive_exit(ctx: FExitContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    // (sk, msg, len, flags): so in 7.3; with `addr_len` behind before, until 5.18 also with `nonblock` before the flags.
    let (flags, ret) = match knob(KNOB_RECV_RET_ARG) {
        4 => (fexit_word!(ctx, 24) as i32, fexit_word!(ctx, 32) as i32),
        5 => (fexit_word!(ctx, 24) as i32, fexit_word!(ctx, 40) as i32),
        _ => (fexit_word!(ctx, 32) as i32, fexit_word!(ctx, 48) as i32),
    };
    // SAFETY: the function's first argument is a typed, non-null socket.
    unsafe { calls::received(sk, ret, flags & MSG_PEEK != 0) };
    0
}
