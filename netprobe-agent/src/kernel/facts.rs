//! What is measured and by which methods, as data: the ladder. First that attaches wins.

use netprobe_common::*;

/// The method of `lifecycle` for kernels that give tracing programs no socket storage. The state of connections is one for
/// all programs, so this choice is made for the object as a whole.
pub const STATE_IN_HASH: &str = "tp_btf+hash";

/// Methods, by fact, whose programs keep something in the socket's own storage.
pub const IN_STORAGE: &[(&str, &str)] = &[
    ("lifecycle", "tp_btf"),
    ("udp", "tp_btf+cgroup"),
    (REQUESTS, "cgroup_skb"),
    (TLS, "uprobe"),
];

/// The fact that requests are made of.
pub const REQUESTS: &str = "requests";
/// The fact that those in encrypted connections are made of, beside it.
pub const TLS: &str = "tls";

/// The program that does what `set_state` could not because it was running already.
pub const SECOND_CHANCE: &str = "set_state_again";

const FEW_RETURNS: &str =
    "the kernel keeps room for few returns at once: while many calls block, some are missed";

/// How one program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A BTF tracepoint.
    TpBtf(&'static str),
    /// Exit of a function that is in the kernel image.
    FExit(&'static str),
    /// The same where there is such a function; where there is none, nothing passes by it.
    FExitIfAny(&'static str),
    /// Entry of any function, modules too.
    Kprobe(&'static str),
    /// Return of any function.
    Kretprobe(&'static str),
    /// UDP send or receive with an address, at the root of cgroup v2.
    CgroupSockAddr,
    /// Connects and handshakes done, at the root of cgroup v2.
    SockOps,
    /// Packets that local sockets send, at the root of cgroup v2.
    PacketOut,
    /// Packets that local sockets get, at the root of cgroup v2.
    PacketIn,
    /// Entry of this function in every TLS library; one that has none is as good.
    Library(&'static str),
    /// Returns of these functions in every TLS library.
    LibraryReturns(&'static [&'static str]),
}

/// A program of the BPF object and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program.
    pub program: &'static str,
    /// Where it is attached.
    pub attach: Attach,
}

/// One way to learn a fact.
#[derive(Debug)]
pub struct Method {
    /// Name, as in `--method fact=method`.
    pub name: &'static str,
    /// All must attach. Empty: served by the agent without a program.
    pub hooks: &'static [Hook],
    /// Members of kernel structs without which the programs would guess.
    pub members: &'static [usize],
    /// Oldest kernel on which it can work.
    pub floor: &'static str,
    /// What it cannot see, next to the better methods; empty: nothing.
    pub limits: &'static str,
}

/// Something the probe measures.
#[derive(Debug)]
pub struct Fact {
    /// Name.
    pub name: &'static str,
    /// Whether the agent refuses to run without it.
    pub required: bool,
    /// Best first.
    pub methods: &'static [Method],
}

const SOCK: &[usize] = &[
    SK_FAMILY,
    SK_STATE,
    SK_NUM,
    SK_DPORT,
    SK_DADDR,
    SK_RCV_SADDR,
    SK_V6_DADDR,
    SK_V6_RCV_SADDR,
    SK_COOKIE,
    SK_NET,
    SK_ERR,
    SK_PROTOCOL,
    SK_TYPE,
    SK_FLAGS,
    INET_SPORT,
    NET_INUM,
    TP_BYTES_SENT,
    TP_BYTES_ACKED,
    TP_BYTES_RECEIVED,
    TP_BYTES_RETRANS,
    TP_SEGS_OUT,
    TP_SEGS_IN,
    TP_TOTAL_RETRANS,
    TP_SRTT_US,
    TP_MDEV_US,
    TP_RCV_NXT,
    TP_COPIED_SEQ,
    TP_WRITE_SEQ,
    TP_SND_UNA,
];
const FD: &[usize] = &[
    TASK_FILES,
    FILES_FDT,
    FDT_FD,
    FDT_MAX_FDS,
    FILE_PRIVATE_DATA,
    SOCKET_FILE,
    SOCKET_SK,
    REGS_ORIG_AX,
    REGS_DI,
    REGS_SI,
    REGS_CS,
    SK_PROTOCOL,
    SK_COOKIE,
];
const CONNTRACK: &[usize] = &[
    SKB_SK,
    SKB_NFCT,
    SKB_HEAD,
    SKB_TRANSPORT_HEADER,
    SKB_DEV,
    DEV_FLAGS,
    CT_TUPLEHASH,
    CT_TUPLEHASH_SIZE,
    CT_TUPLE,
    TUPLE_SRC,
    TUPLE_L3NUM,
    TUPLE_SRC_U,
    TUPLE_DST_U3,
    TUPLE_DST_U,
    TUPLE_PROTONUM,
    CT_NET,
    CT_TCP_STATE,
    NET_INUM,
];

const fn tp(program: &'static str, tracepoint: &'static str) -> Hook {
    Hook {
        program,
        attach: Attach::TpBtf(tracepoint),
    }
}

const fn entry(program: &'static str, function: &'static str) -> Hook {
    Hook {
        program,
        attach: Attach::Library(function),
    }
}

const SET_STATE: Hook = tp("set_state", "inet_sock_set_state");
/// Attached after the other, to run after it.
const SET_STATE_AGAIN: Hook = tp(SECOND_CHANCE, "inet_sock_set_state");
const DESTROY_SOCK: Hook = tp("destroy_sock", "tcp_destroy_sock");
const MAKE_COOKIE: Hook = Hook {
    program: "make_cookie",
    attach: Attach::SockOps,
};
const SYS_EXIT: Hook = tp("sys_exit", "sys_exit");
const QUEUE: Hook = tp("net_dev_queue", "net_dev_queue");

/// The oldest kernel with a method for every required fact.
pub fn floor() -> Option<(u32, u32)> {
    let oldest = |fact: &Fact| {
        fact.methods
            .iter()
            .filter_map(|method| version(method.floor))
            .min()
    };
    FACTS.iter().filter(|fact| fact.required).filter_map(oldest).max()
}

/// Major and minor number of a kernel's release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Every fact.
pub static FACTS: &[Fact] = &[
    Fact {
        name: "lifecycle",
        required: true,
        methods: &[
            Method {
                name: "tp_btf",
                hooks: &[SET_STATE, SET_STATE_AGAIN],
                members: SOCK,
                floor: "5.12",
                limits: "",
            },
            Method {
                name: STATE_IN_HASH,
                hooks: &[MAKE_COOKIE, SET_STATE, SET_STATE_AGAIN, DESTROY_SOCK],
                members: SOCK,
                floor: "5.10",
                limits: "follows 1,048,576 connections at most; connections older than the agent that end before it has \
                         listed them are counted as lost (`unnamed`)",
            },
        ],
    },
    Fact {
        name: "close_check",
        required: false,
        methods: &[
            Method {
                name: "tp_btf",
                hooks: &[DESTROY_SOCK],
                members: SOCK,
                floor: "5.10",
                limits: "",
            },
            Method {
                name: "sock_diag",
                hooks: &[],
                members: &[],
                floor: "4.19",
                limits: "a connection whose end was missed shows as `vanished` when two lists lack it; calls are not \
                         checked against the kernel's counters",
            },
        ],
    },
    Fact {
        name: "calls",
        required: false,
        methods: &[
            Method {
                name: "tp_btf",
                hooks: &[
                    tp("send_length", "sock_send_length"),
                    tp("recv_length", "sock_recv_length"),
                ],
                members: SOCK,
                floor: "6.3",
                limits: "",
            },
            Method {
                name: "fexit",
                hooks: &[
                    Hook {
                        program: "send_exit",
                        attach: Attach::FExit("tcp_sendmsg"),
                    },
                    Hook {
                        program: "send_page_exit",
                        attach: Attach::FExitIfAny("tcp_sendpage"),
                    },
                    Hook {
                        program: "receive_exit",
                        attach: Attach::FExit("tcp_recvmsg"),
                    },
                ],
                members: SOCK,
                floor: "5.10",
                limits: "",
            },
        ],
    },
    Fact {
        name: "accept",
        required: false,
        methods: &[
            Method {
                name: "fexit",
                hooks: &[Hook {
                    program: "accept_exit",
                    attach: Attach::FExit("inet_csk_accept"),
                }],
                members: &[SK_COOKIE],
                floor: "5.10",
                limits: "",
            },
            Method {
                name: "sys_exit",
                hooks: &[SYS_EXIT],
                members: FD,
                floor: "5.10",
                limits: "runs at every system call of the host; accepts by io_uring or 32-bit programs show the \
                         first process that moves data instead",
            },
            Method {
                name: "kretprobe",
                hooks: &[Hook {
                    program: "accept_return",
                    attach: Attach::Kretprobe("inet_csk_accept"),
                }],
                members: &[SK_COOKIE],
                floor: "5.10",
                limits: FEW_RETURNS,
            },
            Method {
                name: "first_io",
                hooks: &[],
                members: &[],
                floor: "5.10",
                limits: "the first process that moves data stands for the acceptor, its time is an upper bound",
            },
        ],
    },
    Fact {
        name: "connect_failed",
        required: false,
        methods: &[
            Method {
                name: "fexit",
                hooks: &[Hook {
                    program: "connect_exit",
                    attach: Attach::FExit("__inet_stream_connect"),
                }],
                members: &[SK_PROTOCOL, SOCKET_SK],
                floor: "5.10",
                limits: "",
            },
            Method {
                name: "sys_exit",
                hooks: &[SYS_EXIT],
                members: FD,
                floor: "5.10",
                limits: "runs at every system call of the host; connects by io_uring or 32-bit programs are not seen",
            },
            Method {
                name: "kretprobe",
                hooks: &[
                    Hook {
                        program: "connect_entry",
                        attach: Attach::Kprobe("__inet_stream_connect"),
                    },
                    Hook {
                        program: "connect_return",
                        attach: Attach::Kretprobe("__inet_stream_connect"),
                    },
                ],
                members: &[SK_PROTOCOL, SOCKET_SK, SK_COOKIE],
                floor: "5.10",
                limits: FEW_RETURNS,
            },
        ],
    },
    Fact {
        name: "udp",
        required: false,
        methods: &[
            Method {
                name: "tp_btf+cgroup",
                hooks: &[
                    tp("send_length", "sock_send_length"),
                    tp("recv_length", "sock_recv_length"),
                    Hook {
                        program: "udp_sendmsg4",
                        attach: Attach::CgroupSockAddr,
                    },
                    Hook {
                        program: "udp_sendmsg6",
                        attach: Attach::CgroupSockAddr,
                    },
                    Hook {
                        program: "udp_recvmsg4",
                        attach: Attach::CgroupSockAddr,
                    },
                    Hook {
                        program: "udp_recvmsg6",
                        attach: Attach::CgroupSockAddr,
                    },
                ],
                members: SOCK,
                floor: "6.3",
                limits: "",
            },
            Method {
                name: "tp_btf",
                hooks: &[
                    tp("send_length", "sock_send_length"),
                    tp("recv_length", "sock_recv_length"),
                ],
                members: SOCK,
                floor: "6.3",
                limits: "the peers of unconnected sockets are not known",
            },
        ],
    },
    Fact {
        name: "retransmits",
        required: false,
        methods: &[Method {
            name: "tp_btf",
            hooks: &[tp("retransmit", "tcp_retransmit_skb")],
            members: SOCK,
            floor: "5.10",
            limits: "",
        }],
    },
    Fact {
        name: "resets",
        required: false,
        methods: &[Method {
            name: "tp_btf",
            hooks: &[
                tp("send_reset", "tcp_send_reset"),
                tp("receive_reset", "tcp_receive_reset"),
            ],
            members: SOCK,
            floor: "5.10",
            limits: "",
        }],
    },
    Fact {
        name: "nat",
        required: false,
        methods: &[
            Method {
                name: "kprobe",
                hooks: &[
                    Hook {
                        program: "conntrack_confirm",
                        attach: Attach::Kprobe("__nf_conntrack_confirm"),
                    },
                    QUEUE,
                ],
                members: CONNTRACK,
                floor: "5.10",
                limits: "",
            },
            Method {
                name: "net_dev_queue",
                hooks: &[QUEUE],
                members: CONNTRACK,
                floor: "5.10",
                limits: "translation on the server's own host of a connection from another namespace is matched by \
                         its addresses",
            },
            Method {
                name: "ctnetlink",
                hooks: &[],
                members: &[],
                floor: "4.3",
                limits: "matched by addresses; connections shorter than the polling interval are missed",
            },
        ],
    },
    Fact {
        name: "forwarded",
        required: false,
        methods: &[
            Method {
                name: "net_dev_queue",
                hooks: &[QUEUE],
                members: CONNTRACK,
                floor: "5.10",
                limits: "",
            },
            Method {
                name: "ctnetlink",
                hooks: &[],
                members: &[],
                floor: "4.3",
                limits: "connections shorter than the polling interval are missed",
            },
        ],
    },
    Fact {
        name: REQUESTS,
        required: false,
        methods: &[Method {
            name: "cgroup_skb",
            hooks: &[
                Hook {
                    program: "packet_out",
                    attach: Attach::PacketOut,
                },
                Hook {
                    program: "packet_in",
                    attach: Attach::PacketIn,
                },
            ],
            members: &[],
            floor: "5.8",
            limits: "",
        }],
    },
    Fact {
        name: TLS,
        required: false,
        methods: &[Method {
            name: "uprobe",
            hooks: &[
                tp("send_length", "sock_send_length"),
                tp("recv_length", "sock_recv_length"),
                entry("ssl_read", "SSL_read"),
                entry("ssl_write", "SSL_write"),
                entry("ssl_read_ex", "SSL_read_ex"),
                entry("ssl_write_ex", "SSL_write_ex"),
                entry("ssl_handshake", "SSL_do_handshake"),
                entry("ssl_free", "SSL_free"),
                Hook {
                    program: "ssl_return",
                    attach: Attach::LibraryReturns(&[
                        "SSL_read",
                        "SSL_write",
                        "SSL_read_ex",
                        "SSL_write_ex",
                        "SSL_do_handshake",
                    ]),
                },
            ],
            members: SOCK,
            floor: "6.3",
            limits: "shared libraries of OpenSSL (libssl.so) alone; a library used for the first time after the start is read from \
                     its second connection on",
        }],
    },
    Fact {
        name: "older_connections",
        required: false,
        methods: &[Method {
            name: "sock_diag",
            hooks: &[],
            members: &[],
            floor: "4.19",
            limits: "",
        }],
    },
];

/// The fact called `name`.
pub fn fact(name: &str) -> Option<&'static Fact> {
    FACTS.iter().find(|fact| fact.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_floor_is_a_version_and_some_kernel_is_too_old() {
        for method in FACTS.iter().flat_map(|fact| fact.methods) {
            assert!(version(method.floor).is_some(), "{method:?}");
        }
        assert!(floor() > version("4.19.0-test"));
    }
}
