//! Datagrams of DNS, to be read whole: they have no stream to be put together.
//!
//! A connected socket of other ports costs two loads a packet. Of an unconnected one the packet's header tells the peer.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::bpf_get_socket_cookie,
    programs::SkBuffContext,
};
use netprobe_common::*;

use super::{DNS_PORT, Direction, IPV6, OPAQUE, UDP, fit, key, load, load_into, talk};
use crate::{
    count, filter,
    kernel::{sock, task},
    values::knob,
};

/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;

/// A datagram.
///
/// # Safety
/// `sk` is the full socket of the context.
#[inline(always)]
pub unsafe fn read(ctx: &SkBuffContext, sk: *mut bpf_sock, direction: Direction) -> Option<()> {
    // SAFETY: by contract.
    let mut key = unsafe { key(sk) };
    let connected = key.remote_port != 0;
    if connected && key.remote_port != DNS_PORT && key.local_port != DNS_PORT {
        return None;
    }
    let mut ip = [0u8; 20];
    if load(ctx, 0, &mut ip).is_none() {
        // Of another socket it is not known whether it is about names.
        if connected {
            count::one(PAYLOAD_UNREADABLE);
        }
        return None;
    }
    let v6 = ip[0] >> 4 == IPV6;
    let at = if v6 {
        if u32::from(ip[6]) != UDP {
            return None;
        }
        40
    } else {
        u32::from(ip[0] & 15) * 4
    };
    if !connected {
        let mut udp = [0u8; 4];
        load(ctx, at, &mut udp)?;
        let (source, destination) = (
            u16::from_be_bytes([udp[0], udp[1]]),
            u16::from_be_bytes([udp[2], udp[3]]),
        );
        if source != DNS_PORT && destination != DNS_PORT {
            return None;
        }
        let mut addresses = [[0u8; 16]; 2];
        if v6 {
            load(ctx, 8, &mut addresses[0])?;
            load(ctx, 24, &mut addresses[1])?;
        } else {
            sock::map(
                &mut addresses[0],
                u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]),
            );
            sock::map(
                &mut addresses[1],
                u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]),
            );
        }
        let [from, to] = addresses;
        if direction == Direction::Sent {
            (key.local_addr, key.remote_addr) = (from, to);
            (key.local_port, key.remote_port) = (source, destination);
        } else {
            (key.local_addr, key.remote_addr) = (to, from);
            (key.local_port, key.remote_port) = (destination, source);
        }
    }
    // Not to be had here, see `payload.rs`: where one namespace alone is followed, none of them is read.
    key.netns = 0;
    // SAFETY: by contract.
    if unsafe { is_own(sk, direction) } || filter::excluded(key.netns, &key.remote_addr, DNS_PORT) {
        return None;
    }
    let offset = at + UDP_HEADER;
    let len = ctx.len().saturating_sub(offset);
    if len == 0 {
        return None;
    }
    let fill = |record: &mut DatagramRecord| {
        // SAFETY: the helper takes this program's context.
        record.cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        record.key = key;
        record.payload = len;
        record.direction = direction as u8 + 1;
    };
    fit(len, PAYLOAD_TO_SERVER, fill, |to, bytes| {
        load_into(ctx, offset, to, bytes)
    });
    Some(())
}

/// Whether the socket is the agent's: seen when it sends, and remembered for what it gets.
///
/// # Safety
/// `sk` is the full socket of the context.
#[inline(always)]
unsafe fn is_own(sk: *mut bpf_sock, direction: Direction) -> bool {
    let own = knob(KNOB_OWN_TGID);
    if own == 0 {
        return false;
    }
    // SAFETY: by contract.
    unsafe {
        if direction == Direction::Sent && u64::from(task::tgid()) == own {
            if let Some(talk) = talk(sk, BPF_SK_STORAGE_GET_F_CREATE.into()) {
                talk.carries = OPAQUE;
            }
            return true;
        }
        talk(sk, 0).is_some_and(|talk| talk.carries == OPAQUE)
    }
}
