//! `struct sock`: identity, addresses, state.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use netprobe_common::*;

use super::{load, probe, probe_at, probe_into};
use crate::values::offset;

/// A `struct sock *` whose type the verifier knows.
pub type Sock = *const c_void;

/// `IPPROTO_TCP`.
pub const TCP: u16 = 6;
/// `SOCK_STREAM`.
pub const STREAM: u16 = 1;
/// `SOCK_DGRAM`.
pub const DATAGRAM: u16 = 2;
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

/// Protocol number.
///
/// # Safety
/// `sk` is a typed, non-null socket pointer; so for every function here.
#[inline(always)]
pub unsafe fn protocol(sk: Sock) -> u16 {
    // SAFETY: by contract.
    unsafe { load(sk, SK_PROTOCOL) }
}

/// Whether the socket is a stream of TCP or datagrams of UDP: a raw socket may carry their numbers too.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn is_kind(sk: Sock, kind: u16) -> bool {
    // SAFETY: by contract.
    unsafe { load::<u16>(sk, SK_TYPE) == kind }
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

/// The cookie if one was made before, else 0.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn made_cookie(sk: Sock) -> u64 {
    // SAFETY: by contract.
    unsafe { load(sk, SK_COOKIE) }
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

/// Reads addresses, ports and namespace into `key`. Ports may be 0 early and late in the socket's life.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
pub unsafe fn read_key(sk: Sock, key: &mut FlowKey) {
    // SAFETY: by contract.
    unsafe {
        if load::<u16>(sk, SK_FAMILY) == AF_INET6 {
            load_v6(sk, SK_V6_RCV_SADDR, &mut key.local_addr);
            load_v6(sk, SK_V6_DADDR, &mut key.remote_addr);
        } else {
            map(&mut key.local_addr, load(sk, SK_RCV_SADDR));
            map(&mut key.remote_addr, load(sk, SK_DADDR));
        }
        key.local_port = load(sk, SK_NUM);
        key.remote_port = u16::from_be(load(sk, SK_DPORT));
        key.netns = netns(sk);
    }
}

/// Four word loads: the member is an array of words, and the verifier refuses wider ones.
///
/// # Safety
/// See [`protocol`].
#[inline(always)]
unsafe fn load_v6(sk: Sock, index: usize, out: &mut [u8; 16]) {
    let at = sk.wrapping_byte_add(offset(index)).cast::<u32>();
    let out = out.as_mut_ptr().cast::<u32>();
    let mut i = 0;
    while i < 4 {
        // SAFETY: by contract, within the 16 bytes of the member and of `out`.
        unsafe { out.add(i).write_unaligned(core::ptr::read_volatile(at.add(i))) };
        i += 1;
    }
}

/// Writes an IPv4 address, as it lies in the kernel, in the form of the wire format.
#[inline(always)]
pub fn map(out: &mut [u8; 16], address: u32) {
    const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let words = out.as_mut_ptr().cast::<u32>();
    // SAFETY: four words are the 16 bytes of `out`.
    unsafe {
        words.write_unaligned(0);
        words.add(1).write_unaligned(0);
        words.add(2).write_unaligned(MAPPED);
        words.add(3).write_unaligned(address);
    }
}

/// As [`read_key`], for a pointer the verifier does not know, request sockets among them.
#[inline(always)]
pub fn probe_key(sk: Sock, key: &mut FlowKey) -> Option<()> {
    if probe_at::<u16>(sk, SK_FAMILY)? == AF_INET6 {
        probe_into(sk, SK_V6_RCV_SADDR, &mut key.local_addr)?;
        probe_into(sk, SK_V6_DADDR, &mut key.remote_addr)?;
    } else {
        map(&mut key.local_addr, probe_at(sk, SK_RCV_SADDR)?);
        map(&mut key.remote_addr, probe_at(sk, SK_DADDR)?);
    }
    let net: *const c_void = probe_at(sk, SK_NET)?;
    key.local_port = probe_at(sk, SK_NUM)?;
    key.remote_port = u16::from_be(probe_at(sk, SK_DPORT)?);
    key.netns = probe(net.wrapping_byte_add(offset(NET_INUM)))?;
    Some(())
}
