//! `struct nf_conn`: tuples, zone, state, accounting.

use core::ffi::c_void;

use netprobe_common::*;

use super::{probe, probe_at, probe_into, sock::map};
use crate::values::{has, offset};

/// A `struct nf_conn *`.
pub type Conntrack = *const c_void;

/// conntrack's TCP states.
pub mod state {
    #![allow(missing_docs, reason = "the kernel's own names")]
    pub const SYN_SENT: u8 = 1;
    pub const SYN_RECV: u8 = 2;
    pub const TIME_WAIT: u8 = 7;
    pub const CLOSE: u8 = 8;
}

const AF_INET: u16 = 2;

/// State of a TCP entry; `None` for other protocols.
#[inline(always)]
pub fn tcp_state(ct: Conntrack) -> Option<u8> {
    let protocol: u8 = probe(tuple_at(ct, 0).wrapping_byte_add(offset(TUPLE_PROTONUM)))?;
    if protocol != super::sock::TCP as u8 {
        return None;
    }
    probe_at(ct, CT_TCP_STATE)
}

#[inline(always)]
fn tuple_at(ct: Conntrack, direction: usize) -> *const c_void {
    ct.wrapping_byte_add(offset(CT_TUPLEHASH) + direction * offset(CT_TUPLEHASH_SIZE) + offset(CT_TUPLE))
}

/// Reads the tuple of one direction, 0 original, 1 reply, into `out`: in place, the stack is short.
#[inline(always)]
pub fn read_tuple(ct: Conntrack, direction: usize, out: &mut Tuple) -> Option<()> {
    let at = tuple_at(ct, direction);
    if probe_at::<u16>(at, TUPLE_L3NUM)? == AF_INET {
        map(&mut out.src, probe_at(at, TUPLE_SRC)?);
        map(&mut out.dst, probe_at(at, TUPLE_DST_U3)?);
    } else {
        probe_into(at, TUPLE_SRC, &mut out.src)?;
        probe_into(at, TUPLE_DST_U3, &mut out.dst)?;
    }
    out.src_port = u16::from_be(probe_at(at, TUPLE_SRC_U)?);
    out.dst_port = u16::from_be(probe_at(at, TUPLE_DST_U)?);
    Some(())
}

/// Whether replies do not simply mirror the original. The status bits of the entry miss cases.
#[inline(always)]
pub fn translated(original: &Tuple, reply: &Tuple) -> bool {
    original.src_port != reply.dst_port
        || original.dst_port != reply.src_port
        || !same(&original.src, &reply.dst)
        || !same(&original.dst, &reply.src)
}

#[inline(always)]
fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// Zone of the entry; 0 where the kernel has no zones.
#[inline(always)]
pub fn zone(ct: Conntrack) -> u16 {
    if has(CT_ZONE) {
        probe_at(ct, CT_ZONE).unwrap_or(0)
    } else {
        0
    }
}

/// Inode number of the entry's namespace.
#[inline(always)]
pub fn netns(ct: Conntrack) -> Option<u32> {
    let net: *const c_void = probe_at(ct, CT_NET)?;
    probe_at(net, NET_INUM)
}

/// Reads packets and IP bytes of both directions; `None` when accounting is off or not readable.
#[inline(always)]
pub fn read_accounting(ct: Conntrack, packets: &mut [u64; 2], bytes: &mut [u64; 2]) -> Option<()> {
    if !has(CT_EXT) || !has(CT_EXT_ACCT) {
        return None;
    }
    let ext: *const c_void = probe_at(ct, CT_EXT)?;
    if ext.is_null() {
        return None;
    }
    // One byte per extension, indexed by the kernel's `enum nf_ct_ext_id`: the agent adds the index of the
    // accounting extension to the member's offset.
    let at: u8 = probe_at(ext, CT_EXT_ACCT)?;
    if at == 0 {
        return None;
    }
    // struct nf_conn_acct: two counters of { packets, bytes }.
    let acct: [u64; 4] = probe(ext.wrapping_byte_add(at as usize))?;
    *packets = [acct[0], acct[2]];
    *bytes = [acct[1], acct[3]];
    Some(())
}
