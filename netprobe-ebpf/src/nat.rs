//! NAT pairs: conntrack entries met by handshake packets, bound to the local socket across namespaces.
//!
//! A SYN keeps its packet address while it crosses veth pairs. Where it leaves its own namespace the socket is known:
//! remember address → socket. Where the same packet later carries a conntrack entry, that entry is a hop of that
//! socket's connection. The SYN-ACK does the same for the server's side.

use core::ffi::c_void;

use netprobe_common::*;

use crate::{
    count, emit, filter,
    kernel::{
        clock,
        conntrack::{self, Conntrack},
        packet::{self, Packet},
        probe_at,
        sock::{self, state},
    },
    maps::HANDSHAKES,
    values::knob,
};

/// A packet address is reused soon after the packet is freed.
const FORGET_NS: u64 = 1_000_000_000;

/// A handshake packet on its way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handshake {
    key: FlowKey,
    cookie: u64,
    seen_ns: u64,
    /// Last entry met: a packet passes several devices of one namespace.
    conntrack: u64,
    sequence: u32,
    role: u8,
    reserved: [u8; 3],
}

/// A packet is queued to a device. Nearly every packet of the host comes here: leave early.
///
/// # Safety
/// `skb` is a typed, non-null packet pointer.
#[inline(always)]
pub unsafe fn queued(skb: Packet) {
    // SAFETY: by contract; `owner` is null-checked before it is read.
    unsafe {
        let owner = packet::owner(skb);
        if !owner.is_null() {
            match sock::tcp_state(owner) {
                state::SYN_SENT => leaves(skb, owner, Role::Client),
                state::NEW_SYN_RECV => leaves(skb, owner, Role::Server),
                _ => {}
            }
            return;
        }
        let ct = packet::conntrack(skb);
        if ct.is_null() {
            return;
        }
        match conntrack::tcp_state(ct) {
            Some(conntrack::state::SYN_SENT) => {
                if knob(KNOB_HOPS_AT_QUEUE) != 0 {
                    crosses(skb, ct);
                }
                forwarded(ct, conntrack::state::SYN_SENT);
            }
            // The entry of a SYN is confirmed elsewhere or here; that of a SYN-ACK only ever passes here.
            Some(conntrack::state::SYN_RECV) => crosses(skb, ct),
            Some(ended @ (conntrack::state::TIME_WAIT | conntrack::state::CLOSE)) => {
                forwarded(ct, ended);
            }
            _ => {}
        }
    }
}

/// A new entry is confirmed, its tuples are final (kprobe on `__nf_conntrack_confirm`).
#[inline(always)]
pub fn confirmed(skb: Packet) -> Option<()> {
    let ct = packet::probe_conntrack(skb)?;
    if ct.is_null() || conntrack::tcp_state(ct)? != conntrack::state::SYN_SENT {
        return None;
    }
    let owner: *const c_void = probe_at(skb, SKB_SK)?;
    if owner.is_null() {
        crosses(skb, ct);
    } else if probe_at::<u8>(owner, SK_STATE)? == state::SYN_SENT {
        let mut key = FlowKey::default();
        sock::probe_key(owner, &mut key)?;
        hop(ct, &key, sock::cookie_if_set(owner), Role::Client);
    }
    Some(())
}

/// A handshake packet of a local socket leaves its namespace's stack.
#[inline(always)]
unsafe fn leaves(skb: Packet, owner: *const c_void, role: Role) {
    let mut handshake = Handshake {
        key: FlowKey::default(),
        cookie: 0,
        seen_ns: clock::now(),
        conntrack: 0,
        sequence: 0,
        role: role as u8,
        reserved: [0; 3],
    };
    if sock::probe_key(owner, &mut handshake.key).is_none() || filter::elsewhere(handshake.key.netns) {
        return;
    }
    if matches!(role, Role::Client) {
        handshake.cookie = sock::cookie_if_set(owner);
    }
    // SAFETY: by the caller's contract.
    let ct = unsafe { packet::conntrack(skb) };
    if !ct.is_null() && (matches!(role, Role::Server) || knob(KNOB_HOPS_AT_QUEUE) != 0) {
        hop(ct, &handshake.key, handshake.cookie, role);
    }
    if packet::on_loopback(skb) {
        return;
    }
    let Some(sequence) = packet::sequence(skb) else {
        return;
    };
    handshake.sequence = sequence;
    handshake.conntrack = ct as u64;
    if HANDSHAKES.insert(skb as u64, handshake, 0).is_err() {
        count::one(LOST_HANDSHAKE_TABLE);
    }
}

/// A handshake packet that carries `ct` may be one remembered in another namespace.
#[inline(always)]
fn crosses(skb: Packet, ct: Conntrack) {
    let Some(handshake) = HANDSHAKES.get_ptr_mut(skb as u64) else {
        return;
    };
    // SAFETY: a map value; an LRU may recycle it under us, the sequence number and age below then do not fit.
    let handshake = unsafe { &mut *handshake };
    if handshake.conntrack == ct as u64
        || clock::now().wrapping_sub(handshake.seen_ns) > FORGET_NS
        || packet::sequence(skb) != Some(handshake.sequence)
    {
        return;
    }
    handshake.conntrack = ct as u64;
    let role = if handshake.role == Role::Client as u8 {
        Role::Client
    } else {
        Role::Server
    };
    hop(ct, &handshake.key, handshake.cookie, role);
}

/// Publishes `ct` as a hop of the connection of a local socket, if it translates.
#[inline(always)]
fn hop(ct: Conntrack, key: &FlowKey, cookie: u64, role: Role) {
    let netns = conntrack::netns(ct).unwrap_or(0);
    if filter::elsewhere(netns) || filter::elsewhere(key.netns) {
        return;
    }
    emit::publish_in_place(Kind::Hop, clock::now(), |record: &mut HopRecord| {
        if conntrack::read_tuple(ct, 0, &mut record.original).is_none()
            || conntrack::read_tuple(ct, 1, &mut record.reply).is_none()
            || !conntrack::translated(&record.original, &record.reply)
        {
            return false;
        }
        record.cookie = cookie;
        record.key = *key;
        record.conntrack = ct as u64;
        record.netns = netns;
        record.zone = conntrack::zone(ct);
        record.role = role as u8;
        true
    });
}

/// Publishes a change of an entry that no local socket sends through.
#[inline(always)]
fn forwarded(ct: Conntrack, state: u8) {
    emit::publish_in_place(Kind::Forward, clock::now(), |record: &mut ForwardRecord| {
        if conntrack::read_tuple(ct, 0, &mut record.original).is_none()
            || conntrack::read_tuple(ct, 1, &mut record.reply).is_none()
        {
            return false;
        }
        record.netns = conntrack::netns(ct).unwrap_or(0);
        if filter::excluded(record.netns, &record.original.dst, record.original.dst_port) {
            if state == conntrack::state::SYN_SENT {
                count::one(SUPPRESSED_FILTER);
            }
            return false;
        }
        record.conntrack = ct as u64;
        record.zone = conntrack::zone(ct);
        record.state = state;
        if conntrack::read_accounting(ct, &mut record.packets, &mut record.bytes).is_some() {
            record.accounted = 1;
        }
        true
    });
}
