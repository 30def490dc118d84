//! Every map, with its capacity reasoned.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use netprobe_common::{COUNTERS as COUNTER_COUNT, FlowKey, FlowRecord, UdpCounters, UdpKey};

use crate::{
    accept::Early, conn::Conn, hooks::connect_return::ConnectCall, hooks::set_state::Change, nat::Handshake,
    payload::Talk, tls, udp::Peer,
};

/// The one way of records to the agent. The agent sets the size (`probe.ring_bytes`) before load.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);

/// State of every followed socket; lives and dies with the socket, so it has no capacity to run out of.
#[btf_map]
pub static CONNS: SkStorage<Conn> = SkStorage::new();

/// The same by the socket's address, where sockets have no storage for tracing programs. The agent gives it its size
/// (`kernel/load.rs`) when it is used. Without preallocation: it takes memory for live sockets only.
#[map]
pub static CONNS_BY_ADDRESS: HashMap<u64, Conn> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Entry 0: a state of all zeros, for a new entry of the map above. Never written.
#[map]
pub static NEW_CONN: Array<Conn> = Array::with_max_entries(1, 0);

/// Final records that found the ring full. 8,192 × 0.3 KiB: half a second of closes at 16,000 a second; past it,
/// bytes go into the lost-bytes counters.
#[map]
pub static OVERFLOW: HashMap<u64, FlowRecord> = HashMap::with_max_entries(8192, 0);

/// Payload for requests, apart from the records of flows: a flood of requests must not push those out. The agent sets the
/// size (`probe.payload_ring_bytes`) before load.
#[map]
pub static PAYLOADS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// What is known of each socket that moved payload, for the payload hooks alone.
#[btf_map]
pub static TALKS: SkStorage<Talk> = SkStorage::new();

/// Calls into a TLS library under way, by thread. LRU because the return of one may be missed.
#[map]
pub static TLS_CALLS: LruHashMap<u64, tls::Call> = LruHashMap::with_max_entries(16384, 0);

/// What is known of each handle of a TLS library. One that is recycled is met again as an older one.
#[map]
pub static TLS_SESSIONS: LruHashMap<tls::Handle, tls::Session> = LruHashMap::with_max_entries(65536, 0);

/// Entry 0: the state change that `set_state` began with last on this processor, for `set_state_again`.
#[map]
pub static LAST_CHANGE: PerCpuArray<Change> = PerCpuArray::with_max_entries(1, 0);

/// See `netprobe_common::counters`.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// Handshake packets on their way between namespaces, by packet address. Each is wanted for microseconds, and
/// an entry is checked by TCP sequence number and age before use, so recycling the oldest is right.
#[map]
pub static HANDSHAKES: LruHashMap<u64, Handshake> = LruHashMap::with_max_entries(16384, 0);

/// Sockets whose connect ended after its SYN, with the errno: the connect call that returns it next is no failure of its
/// own. Wanted until that call; LRU because an application need not make one.
#[map]
pub static REFUSED: LruHashMap<u64, u32> = LruHashMap::with_max_entries(16384, 0);

/// Connect calls under way, by thread, where only kprobes tell how they end. LRU because the return of one may be missed.
#[map]
pub static CONNECT_CALLS: LruHashMap<u64, ConnectCall> = LruHashMap::with_max_entries(4096, 0);

/// Accepts that overtook their connection's ESTABLISHED, by its addresses. Wanted for microseconds, with fast open for a
/// round trip; LRU because the ESTABLISHED may never come.
#[map]
pub static EARLY_ACCEPTS: LruHashMap<FlowKey, Early> = LruHashMap::with_max_entries(4096, 0);

/// Whom a thread is sending to or receiving from on an unconnected UDP socket.
#[btf_map]
pub static UDP_PEERS: SkStorage<Peer> = SkStorage::new();

/// Counters of UDP flows; the agent removes idle ones. 65,536 × 0.1 KiB: a resolver's minute; past it, bytes
/// go into the lost-bytes counters.
#[map]
pub static UDP_FLOWS: HashMap<UdpKey, UdpCounters> = HashMap::with_max_entries(65536, 0);

/// 1 once the agent has attached every program; until then all return at once.
#[map]
pub static RUNNING: Array<u32> = Array::with_max_entries(1, 0);

/// Entry 0: whether debug lines are wanted. The agent changes it at run time.
#[map]
pub static LOG: Array<u32> = Array::with_max_entries(1, 0);

/// Ports of the kernel-side filter: 1 is listed, by port number.
#[map]
pub static FILTER_PORTS: Array<u8> = Array::with_max_entries(65536, 0);

/// Networks of the kernel-side filter; prefix lengths count in the 128-bit mapped form.
#[map]
pub static FILTER_NETWORKS: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(1024, 0);
