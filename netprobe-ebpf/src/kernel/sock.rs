//! `struct sock`: identity, addresses, state.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use netprobe_common::*;

use super::{load, probe, probe_at};
use crate::values::offset;

/// A `struct sock *` whose type the verifier knows.
pub type Sock = *const c_void;

/// `IPPROTO_TCP`.
pub const TCP: u16 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u16 = 17;

/// TCP states of the kernel.
pub mod state {
    #![allow(missing_docs, dead_code, reason = "the kernel's own names")]
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;
}

const AF_INET6: u16 = 10;
/// Set by the kernel when the peer's FIN is processed, `enum sock_flags`.
const SOCK_DONE: u64 = 1 << 1;

/// The address in the 16-byte form of the wire format.
#[inline(always)]
pub fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// Protocol number.
///
/// # Safety
/// `sk` is a typed, non-null socket pointer; so for every function here.
#[inline(always)]
pub unsafe fn protocol(sk: Sock) -> u16 {
    // SAFETY: by contract.
    unsafe { load(sk, SK_PROTOCOL) }
}

/// TCP state.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn tcp_state(sk: Sock) -> u8 {
    // SAFETY: by contract.
    unsafe { load(sk, SK_STATE) }
}

/// The cookie, made if there is none yet.
///
/// # Safety
/// See [`protocol`]; the verifier must trust `sk`.
#[inline(always)]
pub unsafe fn cookie(sk: Sock) -> u64 {
    // SAFETY: by contract.
    unsafe { bpf_get_socket_cookie(sk.cast_mut()) }
}

/// The cookie if one was made before, else 0; for pointers the cookie helper refuses.
#[inline(always)]
pub fn cookie_if_set(sk: Sock) -> u64 {
    probe_at(sk, SK_COOKIE).unwrap_or(0)
}

/// Inode number of the socket's network namespace.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn netns(sk: Sock) -> u32 {
    // SAFETY: by contract; a live socket's namespace pointer is never null.
    unsafe {
        let net: *const c_void = load(sk, SK_NET);
        load(net, NET_INUM)
    }
}

/// `sk_err`.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn error(sk: Sock) -> u32 {
    // SAFETY: by contract.
    unsafe { load(sk, SK_ERR) }
}

/// Whether the peer's FIN was processed.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn fin_received(sk: Sock) -> bool {
    // SAFETY: by contract.
    unsafe { load::<u64>(sk, SK_FLAGS) & SOCK_DONE != 0 }
}

/// Addresses, ports and namespace. Ports may be 0 early and late in the socket's life.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn key(sk: Sock) -> FlowKey {
    // SAFETY: by contract.
    unsafe {
        let (local_addr, remote_addr) = if load::<u16>(sk, SK_FAMILY) == AF_INET6 {
            (load_v6(sk, SK_V6_RCV_SADDR), load_v6(sk, SK_V6_DADDR))
        } else {
            (mapped(load(sk, SK_RCV_SADDR)), mapped(load(sk, SK_DADDR)))
        };
        FlowKey {
            local_addr,
            remote_addr,
            local_port: load(sk, SK_NUM),
            remote_port: u16::from_be(load(sk, SK_DPORT)),
            netns: netns(sk),
        }
    }
}

/// Four word loads: the member is an array of words, and the verifier refuses wider ones.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
unsafe fn load_v6(sk: Sock, index: usize) -> [u8; 16] {
    let at = sk.wrapping_byte_add(offset(index)).cast::<u32>();
    let mut out = [0u8; 16];
    let mut i = 0;
    while i < 4 {
        // SAFETY: by contract, within the 16 bytes of the member.
        let word = unsafe { core::ptr::read_volatile(at.add(i)) }.to_ne_bytes();
        out[i * 4] = word[0];
        out[i * 4 + 1] = word[1];
        out[i * 4 + 2] = word[2];
        out[i * 4 + 3] = word[3];
        i += 1;
    }
    out
}

/// As [`key`], for a pointer the verifier does not know. `request` sockets hold their ports in other members.
#[inline(always)]
pub fn probe_key(sk: Sock) -> Option<FlowKey> {
    let family: u16 = probe_at(sk, SK_FAMILY)?;
    let (local_addr, remote_addr) = if family == AF_INET6 {
        (probe_at(sk, SK_V6_RCV_SADDR)?, probe_at(sk, SK_V6_DADDR)?)
    } else {
        (
            mapped(probe_at(sk, SK_RCV_SADDR)?),
            mapped(probe_at(sk, SK_DADDR)?),
        )
    };
    let net: *const c_void = probe_at(sk, SK_NET)?;
    Some(FlowKey {
        local_addr,
        remote_addr,
        local_port: probe_at(sk, SK_NUM)?,
        remote_port: u16::from_be(probe_at(sk, SK_DPORT)?),
        netns: probe(net.wrapping_byte_add(offset(NET_INUM)))?,
    })
}
