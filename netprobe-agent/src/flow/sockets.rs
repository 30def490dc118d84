//! Sockets that exist now, from `sock_diag`: the baseline of connections older than the agent, the list that
//! reconciliation compares with, and the saturation of listeners.
//!
//! The kernel walks its hash table chain by chain, a reply buffer at a time. When a chain loses a socket between
//! two buffers, another socket of that chain can be left out. So a cookie absent from **one** dump proves
//! nothing; reconcile on two absences in a row.
//!
//! Left out: sockets in TIME_WAIT (also those that wait in FIN_WAIT2 without an owner) and half-open requests.
//! The former have passed CLOSE and hold no counters, the latter are no connections yet.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{DecodeError, Emitable, Parseable};
use netlink_packet_sock_diag::{
    SOCK_DIAG_BY_FAMILY,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_LISTEN},
    inet::{
        ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer, nlas::Nla, nlas::TcpInfo,
    },
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::kernel::{
    netlink::{Netlink, NetlinkError},
    netns::{NetNs, in_netns},
};

/// Which sockets to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// TCP sockets between SYN_SENT and LAST_ACK.
    TcpConnections,
    /// TCP listeners.
    TcpListeners,
    /// UDP sockets, connected or bound.
    Udp,
}

impl Query {
    fn protocol(self) -> u8 {
        match self {
            Query::TcpConnections | Query::TcpListeners => IPPROTO_TCP,
            Query::Udp => IPPROTO_UDP,
        }
    }

    fn states(self) -> StateFlags {
        match self {
            Query::TcpConnections => {
                StateFlags::SYN_SENT
                    | StateFlags::SYN_RECV
                    | StateFlags::ESTABLISHED
                    | StateFlags::FIN_WAIT1
                    | StateFlags::FIN_WAIT2
                    | StateFlags::CLOSE_WAIT
                    | StateFlags::CLOSING
                    | StateFlags::LAST_ACK
            }
            Query::TcpListeners => StateFlags::LISTEN,
            // UDP sockets are ESTABLISHED when connected, CLOSE when not.
            Query::Udp => StateFlags::ESTABLISHED | StateFlags::CLOSE,
        }
    }
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// Socket cookie, as in the records of the BPF programs.
    pub cookie: u64,
    /// Local address; IPv4-mapped IPv6 is given as IPv4.
    pub local: SocketAddr,
    /// Remote address, normalised alike; unspecified and port 0: not connected.
    pub remote: SocketAddr,
    /// Inode of the network namespace.
    pub netns: u64,
    /// State by the kernel's numbers (1 ESTABLISHED, 2 SYN_SENT, … 10 LISTEN), also for UDP.
    pub state: u8,
    /// Owner, in the initial user namespace as far as the reader is in it.
    pub uid: u32,
    /// Inode of the socket file; 0: no process holds it (anymore, or not accepted yet).
    pub inode: u32,
    /// Bytes received and not read (UDP: with overhead); 0 for listeners.
    pub unread: u32,
    /// Bytes written and not acknowledged (UDP: with overhead, not sent yet); 0 for listeners.
    pub unacked: u32,
    /// Counters; `None` for UDP and listeners.
    pub tcp: Option<TcpStats>,
    /// Accept queue; listeners only.
    pub backlog: Option<Backlog>,
}

/// Counters of a TCP connection since it was opened, raw as in `tcp_info`: SYN and FIN are not taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpStats {
    /// Data bytes put on the wire, retransmits included.
    pub bytes_sent: u64,
    /// Bytes acknowledged by the peer, +1 for an active SYN, +1 for an acknowledged FIN.
    pub bytes_acked: u64,
    /// Bytes received, +1 for a processed FIN.
    pub bytes_received: u64,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments retransmitted, SYN retries included.
    pub retransmits: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Round-trip variation, microseconds.
    pub rttvar_us: u32,
}

/// Accept queue of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Connections that wait to be accepted.
    pub now: u32,
    /// How many may wait.
    pub max: u32,
}

/// Why there is no complete list.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] io::Error),
    /// The kernel has no `sock_diag` for this protocol.
    #[error("the kernel cannot list {0} sockets; load the module {0}_diag")]
    Unsupported(&'static str),
    /// The request failed or stayed incomplete.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A way to list the sockets of one namespace, from any thread and without entering it again.
///
/// It keeps the namespace alive, so do not hold it longer than the namespace is of interest.
#[derive(Debug)]
pub struct SockDiag {
    netlink: Netlink,
    netns: u64,
}

impl SockDiag {
    /// Opens it in `ns`; CAP_SYS_ADMIN is needed unless that is the own namespace.
    pub fn open(ns: &NetNs) -> Result<SockDiag, SocketsError> {
        let netlink = in_netns(ns, || Netlink::open(NETLINK_SOCK_DIAG))?.map_err(|e| match e.errno() {
            Some(libc::EPROTONOSUPPORT) => SocketsError::Unsupported("inet"),
            _ => e.into(),
        })?;
        Ok(SockDiag {
            netlink,
            netns: ns.inode,
        })
    }

    /// Lists sockets, IPv4 and IPv6. Complete but for what the module documentation says, or an error.
    pub fn dump(&mut self, query: Query) -> Result<Vec<SocketInfo>, SocketsError> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = request(query, family);
            let netns = self.netns;
            let found = self
                .netlink
                .dump(SOCK_DIAG_BY_FAMILY, &request, |_, body| decode(body, netns));
            match found {
                Ok(mut found) => all.append(&mut found),
                // No handler for the family: a kernel without IPv6 has no IPv6 sockets.
                Err(e) if e.errno() == Some(libc::ENOENT) && family == AF_INET6 => {}
                Err(e) if e.errno() == Some(libc::ENOENT) => {
                    return Err(SocketsError::Unsupported(match query {
                        Query::Udp => "udp",
                        _ => "tcp",
                    }));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(all)
    }
}

/// Lists sockets of a namespace once.
pub fn dump(ns: &NetNs, query: Query) -> Result<Vec<SocketInfo>, SocketsError> {
    SockDiag::open(ns)?.dump(query)
}

fn request(query: Query, family: u8) -> Vec<u8> {
    let request = InetRequest {
        family,
        protocol: query.protocol(),
        extensions: match query {
            Query::TcpConnections => ExtensionFlags::INFO,
            _ => ExtensionFlags::empty(),
        },
        states: query.states(),
        socket_id: if family == AF_INET {
            SocketId::new_v4()
        } else {
            SocketId::new_v6()
        },
    };
    let mut bytes = vec![0; request.buffer_len()];
    request.emit(&mut bytes);
    bytes
}

/// Decodes the payload of one `SOCK_DIAG_BY_FAMILY` answer; `None` for sockets in TIME_WAIT.
pub fn decode(body: &[u8], netns: u64) -> Result<Option<SocketInfo>, DecodeError> {
    let InetResponse { header, nlas } = InetResponse::parse(body)?;
    if header.timer == Some(Timer::TimeWait) {
        return Ok(None);
    }
    let id = header.socket_id;
    // Two native words, the low one first.
    let [a, b, c, d, e, f, g, h] = id.cookie;
    let cookie =
        u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32;
    let listening = header.state == TCP_LISTEN;
    let tcp = nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) if !listening => Some(TcpStats::from(info)),
        _ => None,
    });
    Ok(Some(SocketInfo {
        cookie,
        local: address(id.source_address, id.source_port),
        remote: address(id.destination_address, id.destination_port),
        netns,
        state: header.state,
        uid: header.uid,
        inode: header.inode,
        unread: if listening { 0 } else { header.recv_queue },
        unacked: if listening { 0 } else { header.send_queue },
        tcp,
        backlog: listening.then_some(Backlog {
            now: header.recv_queue,
            max: header.send_queue,
        }),
    }))
}

fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

impl From<&TcpInfo> for TcpStats {
    fn from(info: &TcpInfo) -> TcpStats {
        TcpStats {
            bytes_sent: info.bytes_sent,
            bytes_acked: info.bytes_acked,
            bytes_received: info.bytes_received,
            bytes_retrans: info.bytes_retrans,
            segs_out: info.segs_out,
            segs_in: info.segs_in,
            retransmits: info.total_retrans,
            rtt_us: info.rtt,
            rttvar_us: info.rttvar,
        }
    }
}

/// What listeners of a namespace refused since it was made. `None`: this kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenDrops {
    /// Connections refused because the accept queue was full.
    pub overflows: Option<u64>,
    /// SYNs and handshakes dropped by listeners for any reason, overflows included.
    pub drops: Option<u64>,
}

/// Reads the counters of listeners of a namespace.
pub fn listen_drops(ns: &NetNs) -> io::Result<ListenDrops> {
    // Not /proc/net: that is the view of the process's first thread.
    let text = in_netns(ns, || fs::read_to_string("/proc/thread-self/net/netstat"))??;
    Ok(ListenDrops {
        overflows: tcp_ext(&text, "ListenOverflows"),
        drops: tcp_ext(&text, "ListenDrops"),
    })
}

/// A value of the `TcpExt` pair of lines, names first, values below.
fn tcp_ext(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    names
        .split(' ')
        .zip(values.split(' '))
        .find(|(n, _)| *n == name)?
        .1
        .parse()
        .ok()
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
