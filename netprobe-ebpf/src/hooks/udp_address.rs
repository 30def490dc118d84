//! `cgroup/sendmsg4`, `sendmsg6`, `recvmsg4`, `recvmsg6` (4.18, 5.2): the peer of calls on unconnected UDP sockets.
//!
//! A stable interface that TCP never passes. Attached to the root of cgroup v2 beside others; always lets the call
//! go on, unchanged.

use core::ffi::c_void;

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{kernel::sock::map, udp, values::empty};

const ALLOW: i32 = 1;

#[cgroup_sock_addr(sendmsg4)]
fn udp_sendmsg4(ctx: SockAddrContext) -> i32 {
    if empty() {
        return ALLOW;
    }
    v4(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
fn udp_recvmsg4(ctx: SockAddrContext) -> i32 {
    if empty() {
        return ALLOW;
    }
    v4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
fn udp_sendmsg6(ctx: SockAddrContext) -> i32 {
    if empty() {
        return ALLOW;
    }
    v6(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
fn udp_recvmsg6(ctx: SockAddrContext) -> i32 {
    if empty() {
        return ALLOW;
    }
    v6(&ctx)
}

#[inline(always)]
fn v4(ctx: &SockAddrContext) -> i32 {
    let mut bytes = [0; 16];
    // SAFETY: the context is valid for the program's run.
    unsafe {
        map(&mut bytes, (*ctx.sock_addr).user_ip4);
        remember(ctx, bytes, (*ctx.sock_addr).user_port);
    }
    ALLOW
}

#[inline(always)]
fn v6(ctx: &SockAddrContext) -> i32 {
    let mut bytes = [0; 16];
    // SAFETY: as in `v4`; the four words are read one by one, as the verifier wants it.
    unsafe {
        let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        let out = bytes.as_mut_ptr().cast::<u32>();
        let mut i = 0;
        while i < 4 {
            out.add(i).write_unaligned(core::ptr::read_volatile(words.add(i)));
            i += 1;
        }
        remember(ctx, bytes, (*ctx.sock_addr).user_port);
    }
    ALLOW
}

/// # Safety
/// The context is valid.
#[inline(always)]
unsafe fn remember(ctx: &SockAddrContext, address: [u8; 16], port: u32) {
    // SAFETY: by contract.
    unsafe {
        let sk: *const c_void = (*ctx.sock_addr).__bindgen_anon_1.sk.cast();
        if !sk.is_null() {
            udp::remember(sk, address, u16::from_be(port as u16));
        }
    }
}
