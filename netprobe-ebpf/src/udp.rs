//! UDP: flows of one socket and one peer, counted in a map the agent reads. No handshake, so no latency.
//!
//! The length hooks know the socket and the size; of an unconnected socket they do not know the peer. The address hooks of
//! the cgroup run inside the same call before, so they leave it in the socket's storage, with the thread's id: another
//! thread's address is not ours.

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::generated::bpf_sk_storage_get};
use netprobe_common::*;

use crate::{
    count, emit, filter,
    kernel::{
        clock,
        sock::{self, Sock},
        task,
    },
    maps::{UDP_FLOWS, UDP_PEERS},
    values::knob,
};

/// The peer of the call a thread is in.
#[repr(C)]
pub struct Peer {
    thread: u64,
    address: [u8; 16],
    port: u16,
    reserved: [u16; 3],
}

/// Which way a datagram went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the socket.
    Sent,
    /// To the socket.
    Received,
}

/// Remembers whom the current call is about.
///
/// # Safety
/// `sk` is the socket of a socket-address context.
#[inline(always)]
pub unsafe fn remember(sk: Sock, address: [u8; 16], port: u16) {
    // SAFETY: by contract.
    let peer = unsafe { peer_of(sk, BPF_SK_STORAGE_GET_F_CREATE.into()) };
    if let Some(peer) = peer {
        peer.address = address;
        peer.port = port;
        peer.thread = task::thread();
    }
}

/// Accounts a datagram: a call returned `ret`.
///
/// # Safety
/// `sk` is a typed, non-null socket pointer.
#[inline(always)]
pub unsafe fn moved(sk: Sock, ret: i32, direction: Direction) {
    if ret < 0 {
        return;
    }
    let mut key = FlowKey::default();
    // SAFETY: by contract.
    let cookie = unsafe {
        sock::read_key(sk, &mut key);
        sock::cookie(sk)
    };
    if key.remote_port == 0 {
        // SAFETY: by contract.
        if let Some(peer) = unsafe { peer_of(sk, 0) }
            && peer.thread == task::thread()
        {
            key.remote_addr = peer.address;
            key.remote_port = peer.port;
            // The next call may name nobody.
            peer.thread = 0;
        }
    }
    let udp = UdpKey {
        cookie,
        remote_addr: key.remote_addr,
        remote_port: key.remote_port,
        reserved: [0; 3],
    };
    let now = clock::now();
    if UDP_FLOWS.get_ptr_mut(udp).is_none() {
        if left_out(&key, direction) {
            count::one(SUPPRESSED_DATAGRAMS);
            return;
        }
        if !begin(&udp, &key, direction, now) {
            lost(ret as u64, direction);
            return;
        }
    }
    let Some(flow) = UDP_FLOWS.get_ptr_mut(udp) else {
        lost(ret as u64, direction);
        return;
    };
    // SAFETY: a live map value; adds are atomic because two threads may use one socket.
    unsafe {
        (*flow).last_ns = now;
        let (bytes, datagrams) = match direction {
            Direction::Sent => (&raw mut (*flow).sent_bytes, &raw mut (*flow).sent),
            Direction::Received => (&raw mut (*flow).received_bytes, &raw mut (*flow).received),
        };
        count::atomic_add(bytes, ret as u64);
        count::atomic_add(datagrams, 1);
    }
}

/// Whether the datagram is the agent's own, or filtered.
#[inline(always)]
fn left_out(key: &FlowKey, direction: Direction) -> bool {
    let service_port = match direction {
        Direction::Sent => key.remote_port,
        Direction::Received => key.local_port,
    };
    let own = knob(KNOB_OWN_TGID);
    (own != 0 && u64::from(task::tgid()) == own)
        || filter::excluded(key.netns, &key.remote_addr, service_port)
}

/// Enters a new flow and publishes it; an entry whose record was lost is taken back. False: not followed.
#[inline(always)]
fn begin(udp: &UdpKey, key: &FlowKey, direction: Direction, now: u64) -> bool {
    let counters = UdpCounters {
        started_ns: now,
        last_ns: now,
        ..UdpCounters::default()
    };
    if UDP_FLOWS.insert(udp, &counters, BPF_NOEXIST).is_err() {
        // Another processor was first, or there is no room.
        if UDP_FLOWS.get_ptr(udp).is_some() {
            return true;
        }
        count::one(LOST_UDP_TABLE);
        return false;
    }
    let role = match direction {
        Direction::Sent => Role::Client,
        Direction::Received => Role::Server,
    };
    let published = emit::publish_in_place(Kind::Udp, now, |record: &mut UdpRecord| {
        record.udp = *udp;
        record.key = *key;
        record.role = role as u8;
        task::fill(&mut record.process);
        true
    });
    if !published && UDP_FLOWS.remove(udp).is_err() {
        count::one(READ_FAULT);
    }
    published
}

const BPF_NOEXIST: u64 = 1;

#[inline(always)]
fn lost(bytes: u64, direction: Direction) {
    match direction {
        Direction::Sent => count::add(LOST_UDP_BYTES_SENT, bytes),
        Direction::Received => count::add(LOST_UDP_BYTES_RECEIVED, bytes),
    }
}

/// # Safety
/// `sk` is a socket pointer this program type may use for storage.
#[inline(always)]
unsafe fn peer_of<'a>(sk: Sock, flags: u64) -> Option<&'a mut Peer> {
    // SAFETY: by contract; the value lives as long as the socket.
    unsafe {
        bpf_sk_storage_get(
            (&raw const UDP_PEERS).cast_mut().cast(),
            sk.cast_mut(),
            core::ptr::null_mut(),
            flags,
        )
        .cast::<Peer>()
        .as_mut()
    }
}
