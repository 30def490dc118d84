//! What an endpoint can be told, and what it answers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// First argument that turns a program of this package into an endpoint.
pub const ENDPOINT_ARG: &str = "--traffic-endpoint";

/// Names a socket of one endpoint.
pub type Socket = u32;

/// How a connect is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectMode {
    /// `connect` blocks until the answer.
    #[default]
    Blocking,
    /// `connect` returns at once, `poll` waits, `SO_ERROR` tells.
    NonBlocking,
    /// `connect` returns at once and nothing waits.
    StartOnly,
    /// `connect` through an io_uring.
    Uring,
    /// `sendto` with `MSG_FASTOPEN` and this many bytes.
    FastOpen(usize),
}

/// Options of a connect.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ConnectOptions {
    /// How.
    pub mode: ConnectMode,
    /// Local address to bind first, with `SO_REUSEADDR`.
    pub bind: Option<SocketAddr>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout_ms: Option<u32>,
    /// `TCP_SYNCNT`.
    pub syn_retries: Option<u32>,
}

/// Which system call sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendHow {
    /// `send`.
    Send,
    /// `writev` of three parts.
    Writev,
    /// `sendmmsg` of up to eight messages.
    Sendmmsg,
    /// `send` with `MSG_ZEROCOPY`, completions collected.
    ZeroCopy,
    /// `sendfile` from a memory file.
    Sendfile,
    /// `splice` from a pipe.
    Splice,
    /// io_uring `SEND`.
    Uring,
}

/// Which system call receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecvHow {
    /// `recv`.
    Recv,
    /// `recv` with `MSG_PEEK`, then without; only the second counts.
    PeekFirst,
    /// `recvmmsg`.
    Recvmmsg,
    /// `splice` into a pipe.
    Splice,
    /// `recv` with `MSG_TRUNC`: consumed without a copy.
    Discard,
    /// io_uring `RECV`.
    Uring,
}

/// One thing to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Cmd {
    /// Tell who this endpoint is.
    Info,
    /// Become another user.
    BecomeUser {
        /// Its id.
        uid: u32,
    },
    /// Open a TCP listener.
    Listen {
        /// Where; port 0 lets the kernel choose.
        addr: SocketAddr,
        /// Backlog.
        backlog: i32,
        /// Allow TCP fast open.
        fast_open: bool,
    },
    /// Take one connection from a listener.
    Accept {
        /// Which.
        listener: Socket,
        /// Take it through an io_uring.
        uring: bool,
    },
    /// Open a TCP connection.
    Connect {
        /// Where to; an IPv4-mapped address uses an IPv6 socket.
        addr: SocketAddr,
        /// How.
        options: ConnectOptions,
    },
    /// Send payload.
    Send {
        /// On which socket.
        socket: Socket,
        /// How many bytes.
        bytes: u64,
        /// Bytes a call at most.
        chunk: usize,
        /// With which call.
        how: SendHow,
    },
    /// Receive payload.
    Recv {
        /// On which socket.
        socket: Socket,
        /// Exactly so many bytes; `None`: until the end.
        bytes: Option<u64>,
        /// With which call.
        how: RecvHow,
    },
    /// One `send` call, which may take less.
    SendOnce {
        /// On which socket.
        socket: Socket,
        /// How many bytes to offer.
        bytes: usize,
    },
    /// `SO_SNDTIMEO`.
    SendTimeout {
        /// Which.
        socket: Socket,
        /// Milliseconds.
        ms: u64,
    },
    /// `shutdown(SHUT_WR)`.
    ShutdownWrite {
        /// Which.
        socket: Socket,
    },
    /// `SO_LINGER` with zero: the close will send a reset.
    LingerZero {
        /// Which.
        socket: Socket,
    },
    /// `TCP_ULP`: put TLS of the kernel on the socket, without keys: payload passes as it is.
    KernelTls {
        /// Which.
        socket: Socket,
    },
    /// Close.
    Close {
        /// Which.
        socket: Socket,
    },
    /// Read `TCP_INFO`.
    TcpInfo {
        /// Which.
        socket: Socket,
    },
    /// Wait until the peer has acknowledged everything and `rcv` bytes are there unread.
    Settle {
        /// Which.
        socket: Socket,
        /// Bytes waiting to be read.
        unread: u32,
    },
    /// Send a socket to another process over a Unix socket and close it here.
    GiveSocket {
        /// Which.
        socket: Socket,
        /// Path of the Unix socket.
        path: String,
    },
    /// Receive a socket from another process.
    TakeSocket {
        /// Path of the Unix socket.
        path: String,
    },
    /// Fork; the child takes this name, does these things with the inherited sockets, and ends.
    Fork {
        /// Command name of the child.
        comm: String,
        /// What the child does.
        cmds: Vec<Cmd>,
    },
    /// Open a UDP socket.
    Udp {
        /// Local address, if to be bound.
        bind: Option<SocketAddr>,
        /// Peer, if to be connected.
        peer: Option<SocketAddr>,
    },
    /// Send datagrams.
    SendTo {
        /// On which socket.
        socket: Socket,
        /// Where to; `None`: the connected peer.
        addr: Option<SocketAddr>,
        /// How many.
        count: u32,
        /// Payload bytes of each.
        bytes: usize,
    },
    /// Receive datagrams.
    RecvFrom {
        /// On which socket.
        socket: Socket,
        /// How many.
        count: u32,
    },
    /// Do nothing for a while.
    Sleep {
        /// Milliseconds.
        ms: u64,
    },
}

/// Who an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Process id in this pid namespace.
    pub pid: u32,
    /// Command name.
    pub comm: String,
    /// Executable.
    pub exe: String,
    /// Effective user id.
    pub uid: u32,
    /// Path in the cgroup v2 tree, if there is one.
    pub cgroup: Option<String>,
    /// Inode of the network namespace.
    pub netns: u64,
}

/// `TCP_INFO`, the parts that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpInfo {
    /// State number.
    pub state: u8,
    /// Segments sent again.
    pub total_retrans: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Bytes acknowledged, +1 for a client's SYN.
    pub bytes_acked: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// `tcpi_options`, bit 5: data in the SYN was acknowledged.
    pub options: u8,
}

/// What came of a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// 0, or the error number of the call that failed.
    pub errno: i32,
    /// The socket made, if one was made (also when a connect on it failed).
    pub socket: Option<Socket>,
    /// Its local address.
    pub local: Option<SocketAddr>,
    /// Its remote address.
    pub remote: Option<SocketAddr>,
    /// Its cookie, which the kernel never gives twice between two boots.
    pub cookie: Option<u64>,
    /// Payload bytes moved, sum of return values.
    pub bytes: u64,
    /// System calls that moved payload.
    pub calls: u64,
    /// Zero copy sends the kernel turned into copies.
    pub copied: u64,
    /// Start, nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// End.
    pub ended_ns: u64,
    /// Process that did it.
    pub pid: u32,
    /// For [`Cmd::Info`].
    pub info: Option<Info>,
    /// For [`Cmd::TcpInfo`] and [`Cmd::Settle`].
    pub tcp: Option<TcpInfo>,
    /// For [`Cmd::Fork`]: what came of each command of the child.
    pub child: Vec<Reply>,
}
