//! The ladder itself: every fact, its methods, best first, and the programs of each.

use netprobe_common::*;

use super::{
    Attach, Fact, Hook, Method, REQUESTS, SECOND_CHANCE, STATE_IN_HASH, TLS,
    members::{CONNTRACK, FD, SOCK},
};

const FEW_RETURNS: &str =
    "the kernel keeps room for few returns at once: while many calls block, some are missed";

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
