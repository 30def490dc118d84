//! `fexit/inet_csk_accept`, else `kretprobe/inet_csk_accept`: which process took a connection, and when.
//!
//! Covers accept, accept4 and io_uring alike, at no cost to other system calls.

use aya_ebpf::{
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};
use netprobe_common::KNOB_ACCEPT_RET_ARG;

use crate::{
    accept::accepted,
    hooks::fexit_word,
    kernel::sock::Sock,
    values::{empty, knob},
};

#[fexit(function = "inet_csk_accept")]
fn accept_exit(ctx: FExitContext) -> i32 {
    if empty() {
        return 0;
    }
    // (sk, arg) since 6.10, (sk, flags, err, kern) before: the agent counts the arguments in BTF.
    let sk = if knob(KNOB_ACCEPT_RET_ARG) == 2 {
        fexit_word!(ctx, 16)
    } else {
        fexit_word!(ctx, 32)
    };
    accepted(sk as Sock);
    0
}

#[kretprobe]
fn accept_return(ctx: RetProbeContext) -> u32 {
    if empty() {
        return 0;
    }
    accepted(ctx.ret());
    0
}
