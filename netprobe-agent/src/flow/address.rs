//! Addresses of the wire format as the standard library's.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netprobe_common::{FlowKey, Tuple};

use crate::event::HopTuple;

/// The address; `::ffff:a.b.c.d` is IPv4.
pub fn ip(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// The 16 bytes of an address, the other way round.
pub fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A key from two addresses.
pub fn key(local: SocketAddr, remote: SocketAddr, netns: u32) -> FlowKey {
    FlowKey {
        local_addr: bytes(local.ip()),
        remote_addr: bytes(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        netns,
    }
}

/// A tuple as events show it.
pub fn hop_tuple(tuple: &Tuple) -> HopTuple {
    HopTuple {
        src_ip: ip(tuple.src),
        src_port: tuple.src_port,
        dst_ip: ip(tuple.dst),
        dst_port: tuple.dst_port,
    }
}

/// What a socket with this key sends: local to remote.
pub const fn outgoing(key: &FlowKey) -> Tuple {
    Tuple {
        src: key.local_addr,
        dst: key.remote_addr,
        src_port: key.local_port,
        dst_port: key.remote_port,
    }
}
