//! Values the agent patches into the programs before they are loaded (`KNOBS: [u64; KNOB_COUNT]`).
//! They are constants to the verifier: code they switch off is removed.

/// Thread group of the agent; its own traffic is suppressed. 0: nothing is.
pub const KNOB_OWN_TGID: usize = 0;
/// Namespace inode of the agent's listener.
pub const KNOB_OWN_NETNS: usize = 1;
/// Port of the agent's listener; 0: none.
pub const KNOB_OWN_PORT: usize = 2;
/// Nanoseconds between two samples of a live connection.
pub const KNOB_SAMPLE_NS: usize = 3;
/// Bytes waiting in the ring from which on a submit wakes the reader.
pub const KNOB_WAKE_BYTES: usize = 4;
/// 0: no port filter. 1: only listed ports. 2: all but listed ports.
pub const KNOB_PORT_FILTER: usize = 5;
/// 0: no address filter. 1: only listed networks. 2: all but listed networks.
pub const KNOB_CIDR_FILTER: usize = 6;
/// 1: NAT hops are read at `net_dev_queue`; 0: another method reads them.
pub const KNOB_HOPS_AT_QUEUE: usize = 7;
/// Argument index of `inet_csk_accept`'s return value at function exit.
pub const KNOB_ACCEPT_RET_ARG: usize = 8;
/// Argument index of `tcp_recvmsg`'s return value at function exit.
pub const KNOB_RECV_RET_ARG: usize = 9;
/// 1: per-call hooks report calls on sockets of every protocol; 0: only TCP ones.
pub const KNOB_UDP: usize = 10;
/// 1: the byte self-check is possible (receive flags are known to it).
pub const KNOB_BYTE_CHECK: usize = 11;
/// 1: a method serves the failed-connect fact.
pub const KNOB_CONNECT_EXIT: usize = 12;
/// 1: `sys_exit` serves the accept fact.
pub const KNOB_SYS_EXIT_ACCEPT: usize = 13;
/// 1: `sys_exit` serves the failed-connect fact.
pub const KNOB_SYS_EXIT_CONNECT: usize = 14;
/// 1: every program returns at once, so that the price of the hooks alone can be measured.
pub const KNOB_EMPTY: usize = 15;
/// 1: the state of connections is in a hash by socket address, and cookies are made by a program of their own; 0: it is
/// in the sockets' storage.
pub const KNOB_STATE_IN_HASH: usize = 16;
/// Bytes waiting in the ring for payload from which on a submit wakes the reader.
pub const KNOB_PAYLOAD_WAKE_BYTES: usize = 17;
/// 1: datagrams of DNS are read.
pub const KNOB_DATAGRAMS: usize = 18;
/// Inode of the one network namespace that is followed; 0: all are.
pub const KNOB_NETNS: usize = 19;
/// Entries of the array.
pub const KNOB_COUNT: usize = 20;
