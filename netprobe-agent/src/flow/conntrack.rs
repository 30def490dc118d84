//! Translations that the kernel knows, from `ctnetlink`: the dump at start, the last NAT method, and truth for
//! tests. Events are in [`super::conntrack_events`].
//!
//! Requests are built with netlink-packet-netfilter. Answers are decoded here, straight from the attributes:
//! counters, zone, id and timestamps are plain bytes to that crate, and it makes about twenty allocations an entry.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, NlaBuffer, NlasIterator};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, IPTuple, ProtoTuple, Protocol, Tuple as TupleAttribute,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::kernel::{
    netlink::{Netlink, NetlinkError},
    netns::{NetNs, in_netns},
};

/// `NFNL_SUBSYS_CTNETLINK` in the upper byte of a message type.
pub(crate) const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const GET_STATS: u16 = SUBSYSTEM | 5;

/// One direction of an entry. The port is 0 for protocols that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

impl Tuple {
    /// The same packets on their way back, if nothing is translated.
    pub fn reversed(self) -> Tuple {
        Tuple {
            src: self.dst,
            dst: self.src,
        }
    }
}

/// Packets and IP bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// An entry of the connection tracking table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the originator sent it.
    pub orig: Tuple,
    /// As replies come.
    pub reply: Tuple,
    /// IP protocol number.
    pub proto: u8,
    /// Zone of the original direction; 0 is the default zone.
    pub zone: u16,
    /// Zone of the reply direction; differs only where a rule sets one direction's.
    pub reply_zone: u16,
    /// `IPS_*` bits.
    pub status: Option<u32>,
    /// conntrack's TCP state: 1 SYN_SENT, 3 ESTABLISHED, 7 TIME_WAIT, 8 CLOSE. TCP only; DESTROY events of older kernels lack it.
    pub tcp_state: Option<u8>,
    /// Counted in the original direction; `None`: accounting was off when the entry was made.
    pub orig_count: Option<Counters>,
    /// Counted in the reply direction.
    pub reply_count: Option<Counters>,
    /// When the entry was made, nanoseconds since 1970; `None`: `nf_conntrack_timestamp` is off.
    pub start_ns: Option<u64>,
    /// Number of the entry: tells it from a later one with the same addresses.
    pub id: Option<u32>,
}

impl Entry {
    /// True when the reply is not the exact reverse of the original direction.
    pub fn translated(&self) -> bool {
        self.reply != self.orig.reversed()
    }
}

/// What a question to connection tracking comes to where the kernel may have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Connection tracking is there.
    Present(T),
    /// This kernel has no connection tracking, or its module is not loaded: nothing is translated by it.
    Absent,
}

/// Why the table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The namespace could not be entered, or its files not read.
    #[error(transparent)]
    Namespace(#[from] io::Error),
    /// CAP_NET_ADMIN is missing.
    #[error("the kernel does not let us read connection tracking; run with CAP_NET_ADMIN")]
    Forbidden,
    /// A tuple of one IPv4 and one IPv6 address matches nothing.
    #[error("source and destination of a tuple must be of one address family")]
    MixedFamilies,
    /// The request failed or stayed incomplete.
    #[error(transparent)]
    Netlink(NetlinkError),
}

impl From<NetlinkError> for ConntrackError {
    fn from(error: NetlinkError) -> ConntrackError {
        match error.errno() {
            Some(libc::EPERM) => ConntrackError::Forbidden,
            _ => ConntrackError::Netlink(error),
        }
    }
}

/// What the kernel says when nobody serves connection tracking: no nfnetlink, or no ctnetlink in it.
pub(crate) fn means_absent(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)
    )
}

/// A way to read the table of one namespace, from any thread. It keeps the namespace alive.
#[derive(Debug)]
pub struct Conntrack {
    netlink: Netlink,
}

impl Conntrack {
    /// Opens it in `ns` and asks whether connection tracking is there.
    pub fn open(ns: &NetNs) -> Result<Answer<Conntrack>, ConntrackError> {
        let mut netlink = match in_netns(ns, || Netlink::open(NETLINK_NETFILTER))? {
            Ok(netlink) => netlink,
            Err(e) if means_absent(e.errno()) => return Ok(Answer::Absent),
            Err(e) => return Err(e.into()),
        };
        // A fixed and correct request: a refusal says that there is nobody to serve it.
        match netlink.get(GET_STATS, &header(0), |_, _| Ok(())) {
            Ok(_) => Ok(Answer::Present(Conntrack { netlink })),
            Err(e) if means_absent(e.errno()) => Ok(Answer::Absent),
            Err(e) => Err(e.into()),
        }
    }

    /// All entries, IPv4 and IPv6. Entries that come or go meanwhile may be in it or not.
    pub fn dump(&mut self) -> Result<Vec<Entry>, ConntrackError> {
        Ok(self
            .netlink
            .dump(GET, &header(0), |_, body| decode(body).map(Some))?)
    }

    /// The entry that has `tuple` as one of its two directions.
    pub fn get(&mut self, proto: u8, tuple: Tuple, zone: u16) -> Result<Option<Entry>, ConntrackError> {
        let request = lookup(proto, tuple, zone).ok_or(ConntrackError::MixedFamilies)?;
        match self.netlink.get(GET, &request, |_, body| decode(body)) {
            Ok(found) => Ok(found),
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Whether a namespace counts packets and bytes of new entries; `None`: it has no connection tracking.
pub fn accounting(ns: &NetNs) -> io::Result<Option<bool>> {
    // Below /proc/sys/net the kernel shows the reader's own namespace.
    match in_netns(ns, || {
        fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_acct")
    })? {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// `struct nfgenmsg`.
fn header(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

fn lookup(proto: u8, tuple: Tuple, zone: u16) -> Option<Vec<u8>> {
    let family = match (tuple.src, tuple.dst) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => libc::AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => libc::AF_INET6,
        _ => return None,
    };
    let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(vec![
        TupleAttribute::Ip(vec![
            IPTuple::SourceAddress(tuple.src.ip()),
            IPTuple::DestinationAddress(tuple.dst.ip()),
        ]),
        TupleAttribute::Proto(vec![
            ProtoTuple::Protocol(Protocol::from(proto)),
            ProtoTuple::SourcePort(tuple.src.port()),
            ProtoTuple::DestinationPort(tuple.dst.port()),
        ]),
    ])];
    if zone != 0 {
        attributes.push(ConntrackAttribute::Other(DefaultNla::new(
            CTA_ZONE,
            zone.to_be_bytes().to_vec(),
        )));
    }
    let mut bytes = header(family as u8);
    let at = bytes.len();
    bytes.resize(at + attributes.as_slice().buffer_len(), 0);
    attributes.as_slice().emit(&mut bytes[at..]);
    Some(bytes)
}

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TIMESTAMP: u16 = 20;

/// Decodes the payload of one `ctnetlink` message about an entry. Unknown attributes are passed over.
pub fn decode(body: &[u8]) -> Result<Entry, DecodeError> {
    let attributes = body
        .get(4..)
        .ok_or_else(|| DecodeError::from("shorter than its header"))?;
    let (mut orig, mut reply, mut zone) = (None, None, 0);
    let (mut status, mut tcp_state, mut start_ns, mut id) = (None, None, None, None);
    let (mut orig_count, mut reply_count) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            CTA_TUPLE_ORIG => orig = Some(decode_tuple(value)?),
            CTA_TUPLE_REPLY => reply = Some(decode_tuple(value)?),
            CTA_STATUS => status = Some(u32::from_be_bytes(number(value)?)),
            CTA_PROTOINFO => tcp_state = decode_tcp_state(value)?,
            CTA_COUNTERS_ORIG => orig_count = Some(decode_counters(value)?),
            CTA_COUNTERS_REPLY => reply_count = Some(decode_counters(value)?),
            CTA_ID => id = Some(u32::from_be_bytes(number(value)?)),
            CTA_ZONE => zone = u16::from_be_bytes(number(value)?),
            // CTA_TIMESTAMP_START
            CTA_TIMESTAMP => {
                start_ns = find(value, 1)?
                    .map(|v| number(v).map(u64::from_be_bytes))
                    .transpose()?
            }
            _ => {}
        }
    }
    let orig = orig.ok_or_else(|| DecodeError::from("an entry without its original tuple"))?;
    let reply = reply.ok_or_else(|| DecodeError::from("an entry without its reply tuple"))?;
    if orig.proto != reply.proto {
        return Err(DecodeError::from("an entry of two protocols"));
    }
    Ok(Entry {
        orig: orig.tuple,
        reply: reply.tuple,
        proto: orig.proto,
        zone: orig.zone.unwrap_or(zone),
        reply_zone: reply.zone.unwrap_or(zone),
        status,
        tcp_state,
        orig_count,
        reply_count,
        start_ns,
        id,
    })
}

struct Direction {
    tuple: Tuple,
    proto: u8,
    zone: Option<u16>,
}

fn decode_tuple(value: &[u8]) -> Result<Direction, DecodeError> {
    const IP: u16 = 1;
    const PROTO: u16 = 2;
    const ZONE: u16 = 3;
    let (mut src, mut dst) = (None::<IpAddr>, None::<IpAddr>);
    let (mut proto, mut src_port, mut dst_port, mut zone) = (None, 0, 0, None);
    for attribute in NlasIterator::new(value) {
        let attribute = attribute?;
        match attribute.kind() {
            IP => {
                for address in NlasIterator::new(attribute.value()) {
                    let address = address?;
                    let octets = address.value();
                    match address.kind() {
                        1 => src = Some(Ipv4Addr::from(number::<4>(octets)?).into()),
                        2 => dst = Some(Ipv4Addr::from(number::<4>(octets)?).into()),
                        3 => src = Some(Ipv6Addr::from(number::<16>(octets)?).into()),
                        4 => dst = Some(Ipv6Addr::from(number::<16>(octets)?).into()),
                        _ => {}
                    }
                }
            }
            PROTO => {
                for part in NlasIterator::new(attribute.value()) {
                    let part = part?;
                    match part.kind() {
                        1 => proto = Some(u8::from_be_bytes(number(part.value())?)),
                        2 => src_port = u16::from_be_bytes(number(part.value())?),
                        3 => dst_port = u16::from_be_bytes(number(part.value())?),
                        _ => {}
                    }
                }
            }
            ZONE => zone = Some(u16::from_be_bytes(number(attribute.value())?)),
            _ => {}
        }
    }
    match (src, dst, proto) {
        (Some(src), Some(dst), Some(proto)) if src.is_ipv4() == dst.is_ipv4() => {
            let tuple = Tuple {
                src: SocketAddr::new(src, src_port),
                dst: SocketAddr::new(dst, dst_port),
            };
            Ok(Direction { tuple, proto, zone })
        }
        _ => Err(DecodeError::from(
            "a tuple without two addresses of one family and a protocol",
        )),
    }
}

fn decode_tcp_state(value: &[u8]) -> Result<Option<u8>, DecodeError> {
    const TCP: u16 = 1;
    const STATE: u16 = 1;
    let Some(tcp) = find(value, TCP)? else {
        return Ok(None);
    };
    find(tcp, STATE)?
        .map(|state| number(state).map(u8::from_be_bytes))
        .transpose()
}

fn decode_counters(value: &[u8]) -> Result<Counters, DecodeError> {
    let counter = |kind| -> Result<u64, DecodeError> {
        let value = find(value, kind)?.ok_or_else(|| DecodeError::from("counters with one missing"))?;
        Ok(u64::from_be_bytes(number(value)?))
    };
    Ok(Counters {
        packets: counter(1)?,
        bytes: counter(2)?,
    })
}

/// The value of the first attribute of a kind.
fn find(nested: &[u8], kind: u16) -> Result<Option<&[u8]>, DecodeError> {
    for attribute in NlasIterator::new(nested) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        if attribute.kind() == kind {
            let length = attribute.value_length();
            return Ok(attribute.into_inner().get(4..4 + length));
        }
    }
    Ok(None)
}

fn number<const N: usize>(value: &[u8]) -> Result<[u8; N], DecodeError> {
    value
        .try_into()
        .map_err(|_| DecodeError::invalid_number(N, value.len()))
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
