//! `struct sk_buff`: owner, conntrack entry, device, TCP header.

use core::ffi::c_void;

use netprobe_common::*;

use super::{load, probe, probe_at};

/// A `struct sk_buff *`.
pub type Packet = *const c_void;

/// Bits of `_nfct` that are not the address of the entry.
const NFCT_INFO: u64 = 7;
const IFF_LOOPBACK: u32 = 8;

/// The socket that sent the packet; null: none of this namespace.
///
/// # Safety
/// `skb` is typed and not null.
#[inline(always)]
pub unsafe fn owner(skb: Packet) -> *const c_void {
    // SAFETY: by contract.
    unsafe { load(skb, SKB_SK) }
}

/// The packet's conntrack entry; null: none.
///
/// # Safety
/// `skb` is typed and not null.
#[inline(always)]
pub unsafe fn conntrack(skb: Packet) -> *const c_void {
    // SAFETY: by contract.
    (unsafe { load::<u64>(skb, SKB_NFCT) } & !NFCT_INFO) as *const c_void
}

/// As [`conntrack`], for a pointer the verifier does not know.
#[inline(always)]
pub fn probe_conntrack(skb: Packet) -> Option<*const c_void> {
    let nfct: u64 = probe_at(skb, SKB_NFCT)?;
    Some((nfct & !NFCT_INFO) as *const c_void)
}

/// Sequence number of the packet's TCP header.
#[inline(always)]
pub fn sequence(skb: Packet) -> Option<u32> {
    let head: *const c_void = probe_at(skb, SKB_HEAD)?;
    let transport: u16 = probe_at(skb, SKB_TRANSPORT_HEADER)?;
    probe::<u32>(head.wrapping_byte_add(transport as usize + 4)).map(u32::from_be)
}

/// Whether the packet leaves on a loopback device: it crosses no namespace.
#[inline(always)]
pub fn on_loopback(skb: Packet) -> bool {
    let device: Option<*const c_void> = probe_at(skb, SKB_DEV);
    match device {
        Some(device) if !device.is_null() => {
            probe_at::<u32>(device, DEV_FLAGS).is_some_and(|flags| flags & IFF_LOOPBACK != 0)
        }
        _ => false,
    }
}
