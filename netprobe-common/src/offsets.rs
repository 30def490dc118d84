//! Kernel struct members whose byte offsets the agent reads from the running kernel's BTF and patches into
//! the programs (`OFFSETS: [u32; OFFSET_COUNT]`). An offset compiled in would be silently wrong on another
//! kernel: Rust's BPF target emits no CO-RE relocations.

/// Value of an offset whose member this kernel does not have.
pub const OFFSET_ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident = $path:literal),+ $(,)?) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "private counter for the constants")]
        #[repr(usize)]
        enum Index { $($name),+ }
        $($(#[$doc])* pub const $name: usize = Index::$name as usize;)+
        /// BTF path of every member, `struct.member.member`, in index order.
        pub const OFFSET_PATHS: &[&str] = &[$($path),+];
    };
}

offsets! {
    /// Address family.
    SK_FAMILY = "sock.__sk_common.skc_family",
    /// TCP state.
    SK_STATE = "sock.__sk_common.skc_state",
    /// Local port, host order.
    SK_NUM = "sock.__sk_common.skc_num",
    /// Remote port, network order.
    SK_DPORT = "sock.__sk_common.skc_dport",
    /// Remote IPv4 address.
    SK_DADDR = "sock.__sk_common.skc_daddr",
    /// Local IPv4 address.
    SK_RCV_SADDR = "sock.__sk_common.skc_rcv_saddr",
    /// Remote IPv6 address.
    SK_V6_DADDR = "sock.__sk_common.skc_v6_daddr",
    /// Local IPv6 address.
    SK_V6_RCV_SADDR = "sock.__sk_common.skc_v6_rcv_saddr",
    /// Socket cookie.
    SK_COOKIE = "sock.__sk_common.skc_cookie",
    /// Network namespace.
    SK_NET = "sock.__sk_common.skc_net",
    /// Socket error.
    SK_ERR = "sock.sk_err",
    /// Protocol.
    SK_PROTOCOL = "sock.sk_protocol",
    /// Socket type.
    SK_TYPE = "sock.sk_type",
    /// Local port, network order, kept after CLOSE.
    INET_SPORT = "inet_sock.inet_sport",
    /// Namespace inode.
    NET_INUM = "net.ns.inum",
    /// See [`crate::TcpCounters`].
    TP_BYTES_SENT = "tcp_sock.bytes_sent",
    /// See [`crate::TcpCounters`].
    TP_BYTES_ACKED = "tcp_sock.bytes_acked",
    /// See [`crate::TcpCounters`].
    TP_BYTES_RECEIVED = "tcp_sock.bytes_received",
    /// See [`crate::TcpCounters`].
    TP_BYTES_RETRANS = "tcp_sock.bytes_retrans",
    /// See [`crate::TcpCounters`].
    TP_SEGS_OUT = "tcp_sock.segs_out",
    /// See [`crate::TcpCounters`].
    TP_SEGS_IN = "tcp_sock.segs_in",
    /// See [`crate::TcpCounters`].
    TP_TOTAL_RETRANS = "tcp_sock.total_retrans",
    /// See [`crate::TcpCounters`].
    TP_SRTT_US = "tcp_sock.srtt_us",
    /// See [`crate::TcpCounters`].
    TP_MDEV_US = "tcp_sock.mdev_us",
    /// Next byte expected.
    TP_RCV_NXT = "tcp_sock.rcv_nxt",
    /// First byte not read.
    TP_COPIED_SEQ = "tcp_sock.copied_seq",
    /// End of what was written.
    TP_WRITE_SEQ = "tcp_sock.write_seq",
    /// First byte not acknowledged.
    TP_SND_UNA = "tcp_sock.snd_una",
    /// Socket flags.
    SK_FLAGS = "sock.__sk_common.skc_flags",
    /// Upper-layer protocol (kTLS, …).
    ICSK_ULP_OPS = "inet_connection_sock.icsk_ulp_ops",
    /// Name of an upper-layer protocol.
    ULP_NAME = "tcp_ulp_ops.name",
    /// Owner of a packet.
    SKB_SK = "sk_buff.sk",
    /// conntrack entry and state of a packet.
    SKB_NFCT = "sk_buff._nfct",
    /// Start of a packet's memory.
    SKB_HEAD = "sk_buff.head",
    /// Offset of the transport header.
    SKB_TRANSPORT_HEADER = "sk_buff.transport_header",
    /// Device of a packet.
    SKB_DEV = "sk_buff.dev",
    /// Flags of a device.
    DEV_FLAGS = "net_device.flags",
    /// Both tuples of a conntrack entry.
    CT_TUPLEHASH = "nf_conn.tuplehash",
    /// Second tuple node: the agent patches in its distance from the first, `sizeof(nf_conntrack_tuple_hash)`.
    CT_TUPLEHASH_SIZE = "sizeof nf_conntrack_tuple_hash",
    /// Tuple within its hash node.
    CT_TUPLE = "nf_conntrack_tuple_hash.tuple",
    /// Source of a tuple.
    TUPLE_SRC = "nf_conntrack_tuple.src",
    /// Address family of a tuple.
    TUPLE_L3NUM = "nf_conntrack_tuple.src.l3num",
    /// Source port or id of a tuple.
    TUPLE_SRC_U = "nf_conntrack_tuple.src.u",
    /// Destination address of a tuple.
    TUPLE_DST_U3 = "nf_conntrack_tuple.dst.u3",
    /// Destination port or type of a tuple.
    TUPLE_DST_U = "nf_conntrack_tuple.dst.u",
    /// Protocol of a tuple.
    TUPLE_PROTONUM = "nf_conntrack_tuple.dst.protonum",
    /// Conntrack zone.
    CT_ZONE = "nf_conn.zone.id",
    /// Namespace of an entry.
    CT_NET = "nf_conn.ct_net",
    /// TCP state of an entry.
    CT_TCP_STATE = "nf_conn.proto.tcp.state",
    /// Extensions of an entry.
    CT_EXT = "nf_conn.ext",
    /// Offset byte of the accounting extension: array start plus `enum nf_ct_ext_id::NF_CT_EXT_ACCT`.
    CT_EXT_ACCT = "nf_ct_ext.offset + NF_CT_EXT_ACCT",
    /// Files of a task.
    TASK_FILES = "task_struct.files",
    /// Descriptor table of a task.
    FILES_FDT = "files_struct.fdt",
    /// Descriptors of a table.
    FDT_FD = "fdtable.fd",
    /// Length of a table.
    FDT_MAX_FDS = "fdtable.max_fds",
    /// What a file belongs to.
    FILE_PRIVATE_DATA = "file.private_data",
    /// File of a socket.
    SOCKET_FILE = "socket.file",
    /// Network part of a socket.
    SOCKET_SK = "socket.sk",
    /// Saved system call number (x86-64).
    REGS_ORIG_AX = "pt_regs.orig_ax",
    /// Saved first argument (x86-64).
    REGS_DI = "pt_regs.di",
    /// Saved second argument (x86-64).
    REGS_SI = "pt_regs.si",
    /// Saved third argument (x86-64).
    REGS_DX = "pt_regs.dx",
    /// Whether a TCP socket is a multipath subflow.
    TP_IS_MPTCP = "tcp_sock.is_mptcp",
    /// Saved code segment (x86-64): tells 32-bit callers.
    REGS_CS = "pt_regs.cs",
}

/// Entries of the array.
pub const OFFSET_COUNT: usize = OFFSET_PATHS.len();
