//! `tp_btf/inet_sock_set_state` (5.5): the life of every TCP connection.
//!
//! Every state change of every TCP socket passes here, so connect latency is SYN_SENT → ESTABLISHED, never the time of
//! a system call: a non-blocking connect returns at once. Runs in the process at connect and often in softirq else:
//! only at CLOSE → SYN_SENT is the current task the connection's process.
//!
//! Two programs on one tracepoint, because the kernel skips a run of a program that is running on the same processor: a
//! packet that comes in the middle of a run changes the state of another socket, unseen; from Linux 7.0 on, so does every
//! process that runs while another is preempted inside the program. The second program does what the first could not, and
//! nothing else.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{MADE_UP, flow_flags};

use crate::{
    conn, count,
    kernel::sock::{self, Sock, state},
    maps::LAST_CHANGE,
    store,
    values::empty,
};

/// A change of state.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Address of the socket.
    sk: u64,
    /// State left.
    from: u32,
    /// State entered.
    to: u32,
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let (sk, change) = read(&ctx);
    if let Some(last) = LAST_CHANGE.get_ptr_mut(0) {
        // SAFETY: a live map value of this processor. Whoever interrupts us here does not write it: it is us it would be.
        unsafe { *last = change };
    }
    // SAFETY: the tracepoint's first argument is a trusted, non-null socket.
    unsafe { apply(sk, change) };
    0
}

/// Attached after the other, so it runs after it.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state_again(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let (sk, change) = read(&ctx);
    let last = LAST_CHANGE.get_ptr(0);
    // SAFETY: a live map value.
    if last.is_some_and(|last| unsafe { *last } == change) {
        return 0;
    }
    // Skipped; or another change came between the two of us, and then the socket's state tells that this one is done.
    // SAFETY: the tracepoint's first argument is a trusted, non-null socket.
    unsafe {
        if !is_done(sk, change) {
            apply(sk, change);
            if is_done(sk, change) {
                count::one(MADE_UP);
            }
        }
    }
    0
}

#[inline(always)]
fn read(ctx: &BtfTracePointContext) -> (Sock, Change) {
    let sk: Sock = ctx.arg(0);
    let (from, to): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let change = Change {
        sk: sk as u64,
        from: from as u32,
        to: to as u32,
    };
    (sk, change)
}

/// Whether the socket is followed and this was its last change.
#[inline(always)]
unsafe fn is_done(sk: Sock, change: Change) -> bool {
    // SAFETY: by the caller's contract.
    unsafe { store::get(sk).is_some_and(|conn| conn.state == u64::from(change.to)) }
}

#[inline(always)]
unsafe fn apply(sk: Sock, change: Change) {
    let (from, to) = (change.from as u8, change.to as u8);
    // SAFETY: by the caller's contract.
    unsafe {
        if sock::protocol(sk) != sock::TCP {
            return;
        }
        match (from, to) {
            (_, state::SYN_SENT) => conn::connecting(sk),
            (state::SYN_SENT | state::SYN_RECV, state::ESTABLISHED) => conn::established(sk, from),
            (_, state::FIN_WAIT1 | state::LAST_ACK) => {
                if let Some(conn) = store::get(sk) {
                    conn.record.flags |= flow_flags::FIN_SENT;
                    conn.state = to.into();
                }
            }
            (_, state::CLOSE) => conn::closed(sk, from),
            _ => {}
        }
    }
}
