//! Record header and one struct per kind.

/// Version of the wire format: the agent rejects records of any other.
pub const WIRE_VERSION: u8 = 1;

/// What a record tells. The numbers are the wire values of [`Header::kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A TCP connection reached ESTABLISHED; body [`FlowRecord`].
    Established = 1,
    /// Counters of a live TCP connection; body [`FlowRecord`].
    Sample = 2,
    /// A TCP connection ended, or a connect failed after its SYN; body [`FlowRecord`]. Final.
    Closed = 3,
    /// A connection left the accept queue; body [`AcceptRecord`].
    Accept = 4,
    /// A connect failed before any SYN; body [`ConnectFailedRecord`]. Final.
    ConnectFailed = 5,
    /// A conntrack entry that translates a local connection; body [`HopRecord`].
    Hop = 6,
    /// A conntrack entry without local socket changed state; body [`ForwardRecord`].
    Forward = 7,
    /// First datagram between a UDP socket and a peer; body [`UdpRecord`].
    Udp = 8,
    /// Payload of one packet that is read for requests; body [`PayloadRecord`], then bytes. In a ring of its own.
    Payload = 9,
    /// A datagram that is read for requests; body [`DatagramRecord`], then bytes. In the ring for payload.
    Datagram = 10,
}

impl Kind {
    /// Every kind, in wire order.
    pub const ALL: [Kind; 10] = [
        Kind::Established,
        Kind::Sample,
        Kind::Closed,
        Kind::Accept,
        Kind::ConnectFailed,
        Kind::Hop,
        Kind::Forward,
        Kind::Udp,
        Kind::Payload,
        Kind::Datagram,
    ];

    /// The kind of a wire value, if there is one.
    pub const fn from_wire(value: u8) -> Option<Kind> {
        if value >= 1 && value as usize <= Self::ALL.len() {
            Some(Self::ALL[value as usize - 1])
        } else {
            None
        }
    }

    /// Name used in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Established => "established",
            Kind::Sample => "sample",
            Kind::Closed => "closed",
            Kind::Accept => "accept",
            Kind::ConnectFailed => "connect_failed",
            Kind::Hop => "hop",
            Kind::Forward => "forward",
            Kind::Udp => "udp",
            Kind::Payload => "payload",
            Kind::Datagram => "datagram",
        }
    }

    /// Size in bytes of a whole record of this kind, header included; of one that [`Kind::carries_bytes`], without them.
    pub const fn size(self) -> usize {
        match self {
            Kind::Established | Kind::Sample | Kind::Closed => size_of::<FlowRecord>(),
            Kind::Accept => size_of::<AcceptRecord>(),
            Kind::ConnectFailed => size_of::<ConnectFailedRecord>(),
            Kind::Hop => size_of::<HopRecord>(),
            Kind::Forward => size_of::<ForwardRecord>(),
            Kind::Udp => size_of::<UdpRecord>(),
            Kind::Payload => size_of::<PayloadRecord>(),
            Kind::Datagram => size_of::<DatagramRecord>(),
        }
    }

    /// Whether bytes of a packet stand behind the record's struct. Such records come through the ring for payload.
    pub const fn carries_bytes(self) -> bool {
        matches!(self, Kind::Payload | Kind::Datagram)
    }
}

/// First 16 bytes of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`WIRE_VERSION`].
    pub version: u8,
    /// [`Kind`] as its wire value.
    pub kind: u8,
    /// Bytes of the whole record, header included.
    pub len: u16,
    /// Zero.
    pub reserved: u32,
    /// When the record was made.
    pub ts_ns: u64,
}

/// One end-to-end address pair as a local socket sees it, in its network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Local address.
    pub local_addr: [u8; 16],
    /// Remote address.
    pub remote_addr: [u8; 16],
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
}

/// One direction of a conntrack entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// A process, as the kernel saw it at the moment of the fact. All zero: not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Effective user id in the initial user namespace.
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
    /// Id of the cgroup v2 folder.
    pub cgroup_id: u64,
    /// Command name, NUL padded.
    pub comm: [u8; 16],
}

/// Counters of `tcp_sock`, raw: SYN and FIN are not yet taken off.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
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
    /// Smoothed round-trip time, microseconds × 8.
    pub srtt_us: u32,
    /// Round-trip variation, microseconds × 4.
    pub mdev_us: u32,
    /// `rcv_nxt − copied_seq`: received and not read, +1 for a processed FIN.
    pub unread: u32,
    /// `write_seq − snd_una`: written and not acknowledged, +1 for an unacknowledged FIN.
    pub unacked: u32,
    /// Zero.
    pub reserved: u32,
}

/// Sums of what send and receive calls returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounters {
    /// Bytes that send calls took.
    pub sent_bytes: u64,
    /// Bytes that receive calls gave, peeks left out.
    pub received_bytes: u64,
    /// Send calls that moved data.
    pub sends: u32,
    /// Receive calls that moved data.
    pub receives: u32,
    /// Send calls that failed.
    pub send_errors: u32,
    /// Receive calls that failed, `EAGAIN` left out.
    pub receive_errors: u32,
}

/// A TCP connection. Lives in the socket's storage and is copied whole into the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRecord {
    /// Header of kind `Established`, `Sample` or `Closed`.
    pub header: Header,
    /// Socket cookie.
    pub cookie: u64,
    /// Addresses, ports, namespace.
    pub key: FlowKey,
    /// SYN sent (client) or handshake done (server); first sight for older connections.
    pub started_ns: u64,
    /// When ESTABLISHED was reached; 0: never seen.
    pub established_ns: u64,
    /// When CLOSE was reached; 0: not yet.
    pub closed_ns: u64,
    /// Client: the connecting process. Server: unknown here, see [`AcceptRecord`].
    pub process: Process,
    /// First process that sent or received.
    pub io_process: Process,
    /// Counters of the kernel's socket.
    pub tcp: TcpCounters,
    /// Sums of calls.
    pub calls: CallCounters,
    /// [`flow_flags`].
    pub flags: u32,
    /// Retransmits while in SYN_SENT.
    pub syn_retransmits: u32,
    /// `sk_err` at CLOSE, positive errno; 0: none.
    pub error: u32,
    /// TCP state left for CLOSE.
    pub last_state: u8,
    /// [`Role`] as its wire value.
    pub role: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl FlowRecord {
    /// The latest of its begin and its ESTABLISHED.
    #[inline(always)]
    pub const fn latest_ns(&self) -> u64 {
        if self.established_ns > self.started_ns {
            self.established_ns
        } else {
            self.started_ns
        }
    }
}

/// Who opened a connection. Wire values of [`FlowRecord::role`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not known: older than the agent.
    Unknown = 0,
    /// The local socket connected.
    Client = 1,
    /// The local socket was accepted from a listener.
    Server = 2,
}

/// Bits of [`FlowRecord::flags`].
pub mod flow_flags {
    /// First seen after it was established: counters need a baseline.
    pub const PARTIAL: u32 = 1 << 0;
    /// Suppressed: own traffic or filtered out. Never published.
    pub const EXCLUDED: u32 = 1 << 2;
    /// A reset was sent.
    pub const RESET_SENT: u32 = 1 << 3;
    /// A reset was received.
    pub const RESET_RECEIVED: u32 = 1 << 4;
    /// Opened with TCP fast open data.
    pub const TFO: u32 = 1 << 5;
    /// Closed state was seen only when the socket was destroyed.
    pub const MISSED_CLOSE: u32 = 1 << 6;
    /// The peer's FIN was processed.
    pub const FIN_RECEIVED: u32 = 1 << 7;
    /// Multipath TCP subflow.
    pub const MPTCP: u32 = 1 << 9;
    /// The local side ended its direction.
    pub const FIN_SENT: u32 = 1 << 10;
    /// TLS in the kernel sits on the socket.
    pub const KTLS: u32 = 1 << 11;
}

/// A connection was handed to a process by accept.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptRecord {
    /// Header of kind `Accept`.
    pub header: Header,
    /// Cookie of the accepted socket; 0: not set.
    pub cookie: u64,
    /// The acceptor.
    pub process: Process,
}

/// A connect call failed before any SYN was sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectFailedRecord {
    /// Header of kind `ConnectFailed`.
    pub header: Header,
    /// Socket cookie; 0: the socket has none yet.
    pub cookie: u64,
    /// Addresses: remote from the call's argument, local as far as bound.
    pub key: FlowKey,
    /// The caller.
    pub process: Process,
    /// Positive errno.
    pub error: u32,
    /// Zero.
    pub reserved: u32,
}

/// A conntrack entry met by a handshake packet of a local socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopRecord {
    /// Header of kind `Hop`.
    pub header: Header,
    /// Cookie of the client socket; 0 for a server socket, which is bound by `key`.
    pub cookie: u64,
    /// The local socket's addresses in its own namespace.
    pub key: FlowKey,
    /// Address of the conntrack entry: identity while it lives.
    pub conntrack: u64,
    /// Namespace of the entry.
    pub netns: u32,
    /// Conntrack zone.
    pub zone: u16,
    /// [`Role`] of the local socket.
    pub role: u8,
    /// Zero.
    pub reserved: u8,
    /// As the originator sent it.
    pub original: Tuple,
    /// As replies come.
    pub reply: Tuple,
}

/// A forwarded connection: a conntrack entry without a local socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardRecord {
    /// Header of kind `Forward`.
    pub header: Header,
    /// Address of the conntrack entry: identity while it lives.
    pub conntrack: u64,
    /// Namespace of the entry.
    pub netns: u32,
    /// Conntrack zone.
    pub zone: u16,
    /// conntrack's TCP state: 1 SYN_SENT, 3 ESTABLISHED, 7 TIME_WAIT, 8 CLOSE.
    pub state: u8,
    /// 1: the accounting below is real; 0: accounting is off.
    pub accounted: u8,
    /// As the originator sent it.
    pub original: Tuple,
    /// As replies come.
    pub reply: Tuple,
    /// Packets, original and reply direction.
    pub packets: [u64; 2],
    /// IP bytes, original and reply direction.
    pub bytes: [u64; 2],
}

/// Key of a UDP flow in the `UDP_FLOWS` map: one socket, one peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UdpKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Peer address; all zero: not known.
    pub remote_addr: [u8; 16],
    /// Peer port; 0: not known.
    pub remote_port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Counters of a UDP flow in the `UDP_FLOWS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// First datagram.
    pub started_ns: u64,
    /// Last datagram.
    pub last_ns: u64,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
}

/// First datagram between a socket and a peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpRecord {
    /// Header of kind `Udp`.
    pub header: Header,
    /// Where the agent reads the counters.
    pub udp: UdpKey,
    /// Addresses, ports, namespace.
    pub key: FlowKey,
    /// Who sent or received.
    pub process: Process,
    /// [`Role`]: client when the first datagram was sent, server when it was received.
    pub role: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// What the programs keep of a connection: its record, and seven words of their own.
pub const CONN_BYTES: usize = size_of::<FlowRecord>() + 7 * 8;

/// A packet of a connection whose requests are read: where it lies in its stream, and how much of it follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadRecord {
    /// Header of kind `Payload`; its length includes the room for bytes behind this struct.
    pub header: Header,
    /// Socket cookie.
    pub cookie: u64,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Payload bytes of the packet.
    pub payload: u32,
    /// Bytes of it that follow this struct.
    pub captured: u16,
    /// [`Application`] as its wire value.
    pub application: u8,
    /// 1: towards who opened the connection; 2: from there.
    pub side: u8,
    /// 1: sent by the local socket; 2: received.
    pub direction: u8,
    /// [`Begins`] as its wire value.
    pub begins: u8,
    /// 1: read from the library that encrypts it; the place is that in what it was handed.
    pub tls: u8,
    /// Zero.
    pub reserved: u8,
}

/// A datagram that is read for requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramRecord {
    /// Header of kind `Datagram`; its length includes the room for bytes behind this struct.
    pub header: Header,
    /// Socket cookie.
    pub cookie: u64,
    /// Addresses and ports, as the socket has them or else as the packet has; no namespace.
    pub key: FlowKey,
    /// Bytes of the datagram.
    pub payload: u32,
    /// Bytes of it that follow this struct.
    pub captured: u16,
    /// 1: sent by the local socket; 2: received.
    pub direction: u8,
    /// Zero.
    pub reserved: u8,
}

/// What the first bytes of a connection say it carries. Wire values of [`PayloadRecord::application`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Application {
    /// Too few bytes to tell.
    Unknown = 0,
    /// HTTP/1.
    Http = 1,
    /// TLS: its first message alone is read.
    Tls = 2,
    /// DNS over TCP, messages behind their length.
    Dns = 3,
}

/// Whether a packet is the first of its direction. Wire values of [`PayloadRecord::begins`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Begins {
    /// It is not, or it came before the first.
    No = 0,
    /// It begins the stream.
    Stream = 1,
    /// What came before it was not seen: the socket is older than the programs, or its first data came with the handshake.
    Sight = 2,
}

/// Bytes of a packet that are copied at most towards a server: a request's head with its cookies.
pub const PAYLOAD_TO_SERVER: usize = 2048;
/// Bytes of a packet that are copied at most towards a client: a response's head.
pub const PAYLOAD_TO_CLIENT: usize = 512;
/// Room of the records of most packets of requests and acknowledgements of them.
pub const PAYLOAD_SMALL: usize = 192;

/// Largest record.
pub const MAX_RECORD: usize = size_of::<FlowRecord>();

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Tuple>() == 36);
    assert!(size_of::<Process>() == 40);
    assert!(size_of::<TcpCounters>() == 64);
    assert!(size_of::<CallCounters>() == 32);
    assert!(size_of::<FlowRecord>() == 16 + 8 + 40 + 24 + 80 + 64 + 32 + 16);
    assert!(size_of::<AcceptRecord>() == 64);
    assert!(size_of::<ConnectFailedRecord>() == 112);
    assert!(size_of::<HopRecord>() == 16 + 8 + 40 + 8 + 8 + 72);
    assert!(size_of::<ForwardRecord>() == 16 + 8 + 8 + 72 + 32);
    assert!(size_of::<UdpKey>() == 32);
    assert!(size_of::<UdpRecord>() == 16 + 32 + 40 + 40 + 8);
    assert!(size_of::<UdpCounters>() == 48);
    assert!(size_of::<PayloadRecord>() == 16 + 8 + 8 + 8);
    assert!(size_of::<DatagramRecord>() == 16 + 8 + 40 + 8);
};
