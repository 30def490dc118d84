//! Payload for requests: whether a connection carries something that is read, decided by its first bytes, and the copy.
//!
//! What is not read costs a test per packet from then on. A connection that begins under observation is decided at once; one
//! that is older may be in the middle of a body, so it gets some packets to come to the begin of a message.

mod datagram;
mod decide;

use core::{arch::asm, ffi::c_void, mem::offset_of, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_load_bytes, bpf_tcp_sock,
    },
    programs::SkBuffContext,
};
use netprobe_common::*;

use decide::decide;
pub use decide::{MISSES, http};

use crate::{
    conn, count, emit, filter,
    kernel::{
        clock,
        sock::{self, state},
    },
    maps::TALKS,
    store,
    values::knob,
};

const TCP: u32 = sock::TCP as u32;
const UDP: u32 = sock::UDP as u32;
const DNS_PORT: u16 = 53;
const IPV6: u8 = 6;
/// Bytes of headers without options.
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
/// Which way a packet goes, as its index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the socket.
    Sent = 0,
    /// To the socket.
    Received = 1,
}

/// What is known of what a socket carries.
#[repr(C)]
pub struct Talk {
    /// [`Application`], or [`OPAQUE`].
    carries: u32,
    /// Direction of requests, as [`Direction`].
    requests: u32,
    /// 1: older than the programs.
    older: u32,
    /// Packets of an older connection that begin nothing that is read, or bytes of a first TLS message yet to come.
    left: u32,
    /// First bytes of each direction.
    first: [First; 2],
}

#[repr(C)]
struct First {
    bytes: u32,
    have: u32,
    /// Sequence number of the byte after them.
    next: u32,
    /// 1: its first packet was seen.
    begun: u32,
}

/// Nothing of it is read.
pub const OPAQUE: u32 = 255;
pub const UNKNOWN: u32 = Application::Unknown as u32;
pub const HTTP: u32 = Application::Http as u32;
const TLS: u32 = Application::Tls as u32;
const DNS: u32 = Application::Dns as u32;

/// Where the payload of a packet is.
pub struct Payload {
    /// Of the payload in the packet.
    pub offset: u32,
    /// Its length.
    pub len: u32,
    sequence: u32,
    direction: Direction,
}

/// Looks at a packet of a local socket.
#[inline(always)]
pub fn packet(ctx: &SkBuffContext, direction: Direction) {
    // SAFETY: the context is valid; what helpers return is checked for null before it is read.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let sk = bpf_sk_fullsock(sk.cast()).cast::<bpf_sock>();
        if sk.is_null() {
            return;
        }
        match (*sk).protocol {
            TCP => {
                let _ = segment(ctx, sk, direction);
            }
            UDP if knob(KNOB_DATAGRAMS) != 0 && (*sk).type_ == u32::from(sock::DATAGRAM) => {
                let _ = datagram::read(ctx, sk, direction);
            }
            _ => {}
        }
    }
}

/// A TCP segment.
///
/// # Safety
/// `sk` is the full socket of the context.
#[inline(always)]
unsafe fn segment(ctx: &SkBuffContext, sk: *mut bpf_sock, direction: Direction) -> Option<()> {
    // SAFETY: by contract.
    unsafe {
        let packet = find(ctx, direction);
        // Half of all packets carry nothing: to see that is cheaper than to find what is known of their connection.
        if packet.as_ref().is_some_and(|packet| packet.len == 0) {
            return None;
        }
        let known = talk(sk, 0);
        if let Some(known) = &known
            && known.carries == OPAQUE
        {
            return None;
        }
        let Some(packet) = packet else {
            count::one(PAYLOAD_UNREADABLE);
            return None;
        };
        let talk = match known {
            Some(talk) => talk,
            None => begin(sk)?,
        };
        let begins = begin_direction(sk, talk, &packet);
        if talk.carries == UNKNOWN {
            decide(ctx, sk, talk, &packet);
        }
        let towards_server = direction as u32 == talk.requests;
        match talk.carries {
            UNKNOWN if talk.older != 0 => return None,
            OPAQUE => return None,
            TLS => {
                if !towards_server {
                    return None;
                }
                if talk.left <= packet.len {
                    // The last of it: published below, nothing after it.
                    talk.carries = OPAQUE;
                } else {
                    talk.left -= packet.len;
                }
                publish(ctx, TLS, begins, &packet, true);
                return None;
            }
            _ => {}
        }
        publish(ctx, talk.carries, begins, &packet, towards_server);
    }
    Some(())
}

/// Finds the payload of a TCP packet behind its headers. The kernel has them in one piece wherever these programs run.
#[inline(always)]
fn find(ctx: &SkBuffContext, direction: Direction) -> Option<Payload> {
    // SAFETY: the context is valid; every byte read of the packet is checked to be before its end.
    unsafe {
        let skb = ctx.skb.skb;
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + IP_HEADER > end {
            return None;
        }
        let ip = data as *const u8;
        let at = if *ip >> 4 == IPV6 {
            if u32::from(*ip.add(6)) != TCP {
                // Extension headers: rare, and not read.
                return None;
            }
            40
        } else {
            usize::from(*ip & 15) * 4
        };
        let tcp = data + at;
        if tcp + TCP_HEADER > end {
            return None;
        }
        let tcp = tcp as *const u8;
        let offset = at as u32 + u32::from(*tcp.add(12) >> 4) * 4;
        Some(Payload {
            offset,
            len: ctx.len().saturating_sub(offset),
            sequence: u32::from_be(tcp.add(4).cast::<u32>().read_unaligned()),
            direction,
        })
    }
}

/// First payload of a socket.
///
/// # Safety
/// `sk` is a full socket of the context.
#[inline(always)]
unsafe fn begin<'a>(sk: *mut bpf_sock) -> Option<&'a mut Talk> {
    // SAFETY: by contract.
    unsafe {
        let socket_state = (*sk).state;
        if socket_state == u32::from(state::LISTEN) {
            // Data with the end of the handshake: its connection does not exist yet.
            return None;
        }
        let Some(talk) = talk(sk, BPF_SK_STORAGE_GET_F_CREATE.into()) else {
            count::one(LOST_STORAGE);
            return None;
        };
        let ports = ((*sk).src_port as u16, u16::from_be((*sk).dst_port));
        match store::get(sk.cast()) {
            Some(conn) => {
                talk.older = u32::from(conn.record.flags & flow_flags::PARTIAL != 0);
                talk.requests = u32::from(conn.record.role == Role::Server as u8);
                if conn.record.flags & flow_flags::EXCLUDED != 0 {
                    talk.carries = OPAQUE;
                }
            }
            None => {
                talk.older = 1;
                let key = key(sk);
                // Where one namespace alone is followed: whose it is cannot be told.
                if filter::one_namespace() || conn::is_own(&key) || filter::excluded_older(&key) {
                    talk.carries = OPAQUE;
                }
            }
        }
        if talk.carries == UNKNOWN {
            if ports.1 == DNS_PORT {
                talk.carries = DNS;
                talk.requests = Direction::Sent as u32;
            } else if ports.0 == DNS_PORT {
                talk.carries = DNS;
                talk.requests = Direction::Received as u32;
            }
        }
        Some(talk)
    }
}

/// Addresses and ports of a socket. Its namespace is not to be had here before 6.18: the agent's own is taken for it, so
/// that of connections older than the programs none with the agent's port is read.
///
/// # Safety
/// `sk` is a full socket of the context.
#[inline(always)]
unsafe fn key(sk: *mut bpf_sock) -> FlowKey {
    const AF_INET6: u32 = 10;
    let mut key = FlowKey::default();
    /// A word of the socket by its place in an instruction: of two branches that load different ones the compiler would make one
    /// load from a changed pointer, which the verifier refuses.
    macro_rules! word {
        ($field:ident $([$i:literal])?) => {{
            let word: u64;
            // SAFETY: within the struct; the verifier checks it.
            unsafe {
                asm!(
                    "{word} = *(u32 *)({sk} + {at})",
                    word = out(reg) word,
                    sk = in(reg) sk,
                    at = const offset_of!(bpf_sock, $field) $(+ 4 * $i)?,
                    options(nostack, readonly),
                );
            }
            word as u32
        }};
    }
    macro_rules! words {
        ($to:ident, $from:ident) => {{
            let words = [word!($from[0]), word!($from[1]), word!($from[2]), word!($from[3])];
            // SAFETY: four words are its 16 bytes.
            unsafe { key.$to.as_mut_ptr().cast::<[u32; 4]>().write_unaligned(words) };
        }};
    }
    if word!(family) == AF_INET6 {
        words!(local_addr, src_ip6);
        words!(remote_addr, dst_ip6);
    } else {
        sock::map(&mut key.local_addr, word!(src_ip4));
        sock::map(&mut key.remote_addr, word!(dst_ip4));
    }
    key.local_port = word!(src_port) as u16;
    // SAFETY: by contract.
    key.remote_port = u16::from_be(unsafe { read_volatile(&raw const (*sk).dst_port) });
    key.netns = knob(KNOB_OWN_NETNS) as u32;
    key
}

/// Whether the packet is the first of its direction. The kernel's own place in the stream tells: one that comes too early
/// is not.
///
/// # Safety
/// `sk` is a full socket of the context.
#[inline(always)]
unsafe fn begin_direction(sk: *mut bpf_sock, talk: &mut Talk, packet: &Payload) -> Begins {
    let first = &mut talk.first[(packet.direction as u32 & 1) as usize];
    if first.begun != 0 {
        // Of an older connection the agent may get to know any packet first.
        return if talk.older != 0 {
            Begins::Sight
        } else {
            Begins::No
        };
    }
    // SAFETY: by contract; checked for null before it is read.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        if tcp.is_null() {
            return Begins::No;
        }
        let next = match packet.direction {
            Direction::Sent => (*tcp).snd_una,
            Direction::Received if (*tcp).bytes_received != 0 => {
                talk.older = 1;
                packet.sequence
            }
            Direction::Received => (*tcp).rcv_nxt,
        };
        if talk.older != 0 {
            first.begun = 1;
            return Begins::Sight;
        }
        if next != packet.sequence {
            return Begins::No;
        }
    }
    first.begun = 1;
    Begins::Stream
}

/// Publishes a packet.
#[inline(always)]
fn publish(ctx: &SkBuffContext, carries: u32, begins: Begins, packet: &Payload, towards_server: bool) {
    let fill = |record: &mut PayloadRecord| {
        // SAFETY: the helper takes this program's context.
        record.cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        record.sequence = packet.sequence;
        record.payload = packet.len;
        record.application = carries as u8;
        record.side = if towards_server { 1 } else { 2 };
        record.direction = packet.direction as u8 + 1;
        record.begins = begins as u8;
    };
    let most = if towards_server {
        PAYLOAD_TO_SERVER
    } else {
        PAYLOAD_TO_CLIENT
    };
    fit(packet.len, most, fill, |to, bytes| {
        load_into(ctx, packet.offset, to, bytes)
    });
}

/// Publishes `len` bytes, or the first `most` of them, in the smallest record that has room for them.
#[inline(always)]
pub fn fit<R: emit::WithBytes + 'static>(
    len: u32,
    most: usize,
    fill: impl FnOnce(&mut R),
    read: impl FnOnce(*mut c_void, u32) -> i64,
) {
    let now = clock::now();
    if len <= PAYLOAD_SMALL as u32 {
        emit::publish_bytes::<R, PAYLOAD_SMALL>(len, now, fill, read);
    } else if most <= PAYLOAD_TO_CLIENT || len <= PAYLOAD_TO_CLIENT as u32 {
        emit::publish_bytes::<R, PAYLOAD_TO_CLIENT>(len, now, fill, read);
    } else {
        emit::publish_bytes::<R, PAYLOAD_TO_SERVER>(len, now, fill, read);
    }
}

/// Bytes of the packet, through the helper.
#[inline(always)]
fn load_into(ctx: &SkBuffContext, at: u32, to: *mut c_void, bytes: u32) -> i64 {
    // SAFETY: callers hand over memory of that many bytes; the helper writes all of them or fails.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), at, to, bytes) }
}

#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, at: u32, out: &mut [u8; N]) -> Option<()> {
    (load_into(ctx, at, out.as_mut_ptr().cast(), N as u32) == 0).then_some(())
}

/// # Safety
/// `sk` is a full socket of the context.
#[inline(always)]
unsafe fn talk<'a>(sk: *mut bpf_sock, flags: u64) -> Option<&'a mut Talk> {
    // SAFETY: by contract; the value lives as long as the socket.
    unsafe {
        bpf_sk_storage_get(
            (&raw const TALKS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            flags,
        )
        .cast::<Talk>()
        .as_mut()
    }
}
