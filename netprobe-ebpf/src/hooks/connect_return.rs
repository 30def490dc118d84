//! `kprobe` and `kretprobe` on `__inet_stream_connect`: connects that failed before any SYN, where neither fexit nor the
//! system call's exit is to be had.
//!
//! What a call is about is known at its entry, how it ended at its return. The kernel keeps room for few returns at once:
//! with many connects that block, some are missed, so this is the last choice.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::bpf_probe_read_kernel,
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use netprobe_common::SOCKET_SK;

use super::connect_exit::{Address, failed, is_failure};
use crate::{
    count,
    kernel::{probe_at, task},
    maps::CONNECT_CALLS,
    values::empty,
};

/// A connect call that is under way: addresses of its socket and of what it was given.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnectCall {
    socket: u64,
    address: u64,
}

#[kprobe]
fn connect_entry(ctx: ProbeContext) -> u32 {
    if empty() {
        return 0;
    }
    // int __inet_stream_connect(struct socket *, struct sockaddr *, int addr_len, int flags, int is_sendmsg)
    let (Some(socket), Some(address)) = (ctx.arg(0), ctx.arg(1)) else {
        return 0;
    };
    let call = ConnectCall { socket, address };
    if CONNECT_CALLS.insert(task::thread(), call, 0).is_err() {
        count::one(netprobe_common::READ_FAULT);
    }
    0
}

#[kretprobe]
fn connect_return(ctx: RetProbeContext) -> u32 {
    if empty() {
        return 0;
    }
    let thread = task::thread();
    let Some(call) = CONNECT_CALLS.get_ptr(thread) else {
        return 0;
    };
    // SAFETY: a live map value of this thread alone.
    let call = unsafe { *call };
    // Recycled meanwhile at worst: the map forgets its oldest.
    let _ = CONNECT_CALLS.remove(thread);
    let ret: i32 = ctx.ret();
    if !is_failure(ret) {
        return 0;
    }
    let Some(sk) = probe_at::<*const c_void>(call.socket as *const c_void, SOCKET_SK) else {
        return 0;
    };
    // SAFETY: the helper tolerates any address; the caller's is alive until this function has returned.
    if let Ok(address) = unsafe { bpf_probe_read_kernel(call.address as *const Address) } {
        let _ = failed(sk, &address, ret);
    }
    0
}
