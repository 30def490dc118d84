//! `fexit/inet_csk_accept`, else `kretprobe/inet_csk_accept`: which process took a connection, and when.
//!
//! Covers accept, accept4 and io_uring alike, at no cost to other system calls.

use aya_ebpf::{
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};
use netprobe_common::{
    ACCEPT_UNKNOWN, AcceptRecord, Header, KNOB_ACCEPT_RET_ARG, KNOB_OWN_TGID, Kind, Process,
};

use crate::{
    count, emit,
    kernel::{
        sock::{self, Sock},
        task,
    },
    values::knob,
};

#[fexit(function = "inet_csk_accept")]
fn accept_exit(ctx: FExitContext) -> i32 {
    // (sk, arg) since 6.10, (sk, flags, err, kern) before: the agent counts the arguments in BTF.
    let sk: Sock = if knob(KNOB_ACCEPT_RET_ARG) == 2 {
        ctx.arg(2)
    } else {
        ctx.arg(4)
    };
    accepted(sk);
    0
}

#[kretprobe]
fn accept_return(ctx: RetProbeContext) -> u32 {
    accepted(ctx.ret());
    0
}

/// Publishes who accepted `sk` (null: accept failed).
#[inline(always)]
pub fn accepted(sk: Sock) {
    if sk.is_null() {
        return;
    }
    if u64::from(task::tgid()) == knob(KNOB_OWN_TGID) {
        return;
    }
    let cookie = sock::cookie_if_set(sk);
    if cookie == 0 {
        // Its ESTABLISHED was not seen, so the connection is not followed.
        count::one(ACCEPT_UNKNOWN);
        return;
    }
    let mut record = AcceptRecord {
        header: Header::default(),
        cookie,
        process: Process::default(),
    };
    task::fill(&mut record.process);
    emit::publish(Kind::Accept, &mut record, emit::now());
}
