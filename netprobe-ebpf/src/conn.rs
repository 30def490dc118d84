//! The life of a TCP connection, from SYN or accept queue to its one final record.

use aya_ebpf::programs::BtfTracePointContext;
use netprobe_common::*;

use crate::{
    accept, byte_check, count, debug, emit, filter,
    kernel::{
        clock,
        sock::{self, Sock, state},
        task, tcp,
    },
    maps::REFUSED,
    store,
    values::{has, knob},
};

/// What is kept for a followed socket, see `store.rs`.
#[repr(C)]
pub struct Conn {
    /// What is published, always up to date but for the counters.
    pub record: FlowRecord,
    /// Payload sent, as of the last sample the agent got.
    pub told_sent: u64,
    /// Payload received, as of the last sample the agent got.
    pub told_received: u64,
    /// Time of the last sample.
    pub sampled_ns: u64,
    /// 1: the final record is out. A word of its own: flags of the record are written by interrupts too.
    pub finished: u64,
    /// Ticks when the clock was last asked whether a sample is due.
    pub asked_ticks: u64,
    /// 1: it is encrypted by TLS.
    pub tls: u64,
    /// The last state change of interest that was dealt with. Only changes write it, and they hold the socket's lock.
    pub state: u64,
}

const _: () = assert!(size_of::<Conn>() == CONN_BYTES);

/// Starts over: the same socket, with its storage, may connect again after a failure.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn begin(conn: &mut Conn, sk: Sock, role: Role, now: u64) {
    // SAFETY: a live map value, for which all bytes zero is a value. Not by assignment: that goes through the stack.
    unsafe { core::ptr::write_bytes(&raw mut conn.record, 0, 1) };
    conn.told_sent = 0;
    conn.told_received = 0;
    conn.finished = 0;
    conn.sampled_ns = now;
    conn.asked_ticks = clock::ticks();
    conn.tls = 0;
    conn.state = 0;
    let record = &mut conn.record;
    // SAFETY: by the caller's contract.
    unsafe {
        record.cookie = store::cookie(sk);
        sock::read_key(sk, &mut record.key);
        if has(TP_IS_MPTCP) && tcp::is_multipath(sk) {
            record.flags |= flow_flags::MPTCP;
        }
    }
    record.role = role as u8;
    record.started_ns = now;
}

/// CLOSE → SYN_SENT: a process connects.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn connecting(sk: Sock) {
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = store::get_or_create(sk) else {
            return;
        };
        let now = clock::now();
        begin(conn, sk, Role::Client, now);
        conn.state = state::SYN_SENT.into();
        task::fill(&mut conn.record.process);
        let own = knob(KNOB_OWN_TGID);
        if own != 0 && (u64::from(conn.record.process.tgid) == own || to_own_listener(&conn.record.key)) {
            conn.record.flags |= flow_flags::EXCLUDED;
            count::one(SUPPRESSED_OWN);
        } else if filter::excluded(
            conn.record.key.netns,
            &conn.record.key.remote_addr,
            conn.record.key.remote_port,
        ) {
            conn.record.flags |= flow_flags::EXCLUDED;
            count::one(SUPPRESSED_FILTER);
        }
    }
}

/// Whether a connect goes to the agent's own listener: talk with the probe is not the host's traffic, from neither side.
#[inline(always)]
fn to_own_listener(key: &FlowKey) -> bool {
    let port = knob(KNOB_OWN_PORT);
    port != 0
        && u64::from(key.remote_port) == port
        && u64::from(key.netns) == knob(KNOB_OWN_NETNS)
        && is_loopback(&key.remote_addr)
}

/// Whether a connection older than the programs is one with the agent's own listener.
#[inline(always)]
pub fn is_own(key: &FlowKey) -> bool {
    knob(KNOB_OWN_TGID) != 0
        && (to_own_listener(key)
            || (knob(KNOB_OWN_PORT) == u64::from(key.local_port)
                && knob(KNOB_OWN_NETNS) == u64::from(key.netns)))
}

/// `::1` or `::ffff:127.0.0.0/104`.
#[inline(always)]
fn is_loopback(address: &[u8; 16]) -> bool {
    let address = u128::from_be_bytes(*address);
    address == 1 || address >> 24 == 0x00ff_ff7f
}

/// SYN_SENT → ESTABLISHED or SYN_RECV → ESTABLISHED.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn established(sk: Sock, from: u8) {
    // SAFETY: by contract.
    unsafe {
        let conn = if from == state::SYN_SENT {
            // The connect was missed, or is older than the programs: nothing to time.
            let Some(conn) = store::get(sk) else { return };
            conn
        } else {
            let Some(conn) = store::get_or_create(sk) else {
                return;
            };
            conn
        };
        let now = clock::now();
        if from == state::SYN_RECV && conn.record.role != Role::Client as u8 {
            if conn.record.flags & flow_flags::TFO == 0 {
                begin(conn, sk, Role::Server, now);
            }
            let key = &conn.record.key;
            let own_port = knob(KNOB_OWN_PORT);
            if own_port != 0
                && u64::from(key.local_port) == own_port
                && u64::from(key.netns) == knob(KNOB_OWN_NETNS)
            {
                conn.record.flags |= flow_flags::EXCLUDED;
                count::one(SUPPRESSED_OWN);
            } else if filter::excluded(key.netns, &key.remote_addr, key.local_port) {
                conn.record.flags |= flow_flags::EXCLUDED;
                count::one(SUPPRESSED_FILTER);
            }
        }
        conn.state = state::ESTABLISHED.into();
        if conn.record.flags & flow_flags::EXCLUDED != 0 {
            return;
        }
        let now = clock::not_before(now, conn.record.started_ns);
        sock::read_key(sk, &mut conn.record.key);
        conn.record.established_ns = now;
        measure(conn, sk);
        if from == state::SYN_SENT {
            conn.record.syn_retransmits = conn.record.tcp.retransmits;
            // The SYN alone counts one byte; more was data in the SYN.
            if conn.record.tcp.bytes_acked > 1 {
                conn.record.flags |= flow_flags::TFO;
            }
        } else if conn.record.tcp.bytes_received > 0 {
            conn.record.flags |= flow_flags::TFO;
        }
        if !store::identify(&mut conn.record, sk) {
            emit::unnamed(Kind::Established);
            return;
        }
        emit::publish_in_place(Kind::Established, now, |record: &mut FlowRecord| {
            copy(&conn.record, record);
            true
        });
        if from == state::SYN_RECV {
            accept::tell_early(&conn.record, now);
        }
    }
}

/// → CLOSE: the final record, unless the socket never was a connection.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn closed(sk: Sock, from: u8) {
    if from == state::LISTEN || from == state::CLOSE {
        return;
    }
    // SAFETY: by contract.
    unsafe {
        let conn = match store::get(sk) {
            Some(conn) => conn,
            // A handshake that never was established: no connection of an application.
            None if from == state::SYN_RECV => return,
            None => {
                let Some(conn) = adopt(sk) else { return };
                conn
            }
        };
        conn.state = state::CLOSE.into();
        let error = sock::error(sk);
        // Here too, for what is remembered of a failed connect; whether it worked is asked when the record goes out.
        let _ = store::identify(&mut conn.record, sk);
        if from == state::SYN_SENT && error != 0 && REFUSED.insert(conn.record.cookie, error, 0).is_err() {
            count::one(READ_FAULT);
        }
        if conn.record.flags & flow_flags::EXCLUDED != 0 || conn.finished != 0 {
            return;
        }
        conn.record.last_state = from;
        conn.record.error = error;
        if from == state::SYN_SENT && error == 0 && knob(KNOB_CONNECT_EXIT) != 0 {
            measure(conn, sk);
            if conn.record.tcp.segs_out == 0 {
                // No SYN left (no free port, …): the connect call returns the reason and its exit tells it.
                conn.finished = 1;
                return;
            }
        }
        if conn.record.key.local_port == 0 {
            conn.record.key.local_port = tcp::source_port(sk);
        }
        finish(conn, sk);
    }
}

/// The socket goes: catch a missed CLOSE, then compare our sums with the kernel's.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn destroyed(ctx: &BtfTracePointContext, sk: Sock) {
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = store::get(sk) else { return };
        if conn.record.flags & flow_flags::EXCLUDED != 0 || conn.record.started_ns == 0 {
            return;
        }
        if conn.finished == 0 {
            conn.record.flags |= flow_flags::MISSED_CLOSE;
            count::one(MISSED_CLOSE);
            debug::missed_close(ctx, &conn.record);
            finish(conn, sk);
        }
        if knob(KNOB_BYTE_CHECK) != 0 && conn.record.established_ns != 0 {
            byte_check::check(ctx, conn, sk);
        }
    }
}

/// Starts to follow a socket that is older than the programs.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn adopt<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // SAFETY: by contract.
    unsafe {
        let conn = store::get_or_create(sk)?;
        begin(conn, sk, Role::Unknown, clock::now());
        conn.record.flags |= flow_flags::PARTIAL;
        measure(conn, sk);
        let (sent, received) = tcp::payload(&conn.record);
        conn.told_sent = sent;
        conn.told_received = received;
        let key = &conn.record.key;
        if is_own(key) {
            conn.record.flags |= flow_flags::EXCLUDED;
        }
        if filter::excluded_older(key) {
            conn.record.flags |= flow_flags::EXCLUDED;
            count::one(SUPPRESSED_FILTER);
        }
        if conn.record.flags & flow_flags::EXCLUDED == 0 {
            accept::tell_early(&conn.record, conn.record.started_ns);
        }
        Some(conn)
    }
}

/// One copy of a record, not through the stack.
#[inline(always)]
pub fn copy(from: &FlowRecord, to: &mut FlowRecord) {
    // SAFETY: both are whole records; one lies in socket storage, one in the ring.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}

/// Mark, then publish: publishing cannot fail in silence, and no sample may follow.
#[inline(always)]
unsafe fn finish(conn: &mut Conn, sk: Sock) {
    let now = clock::not_before(clock::now(), conn.record.latest_ns());
    conn.record.closed_ns = now;
    // SAFETY: by the caller's contract.
    unsafe { measure(conn, sk) };
    if conn.record.last_state == state::SYN_SENT {
        conn.record.syn_retransmits = conn.record.tcp.retransmits;
    } else if conn.record.established_ns == 0 && conn.record.flags & flow_flags::PARTIAL == 0 {
        count::one(MISSED_ESTABLISHED);
    }
    // SAFETY: a field of a live map value.
    unsafe { core::ptr::write_volatile(&raw mut conn.finished, 1) };
    // SAFETY: by the caller's contract.
    if unsafe { store::identify(&mut conn.record, sk) } {
        emit::publish_final(conn, now);
    } else {
        emit::unnamed(Kind::Closed);
        emit::lost_bytes(conn);
    }
}

/// Brings counters and flags of the record up to date.
#[inline(always)]
unsafe fn measure(conn: &mut Conn, sk: Sock) {
    // SAFETY: by the caller's contract.
    unsafe {
        tcp::read_counters(sk, &mut conn.record.tcp);
        conn.record.flags |= marks(sk);
    }
}

/// What the socket itself says of flags.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn marks(sk: Sock) -> u32 {
    // SAFETY: by the caller's contract.
    let (fin, ktls) = unsafe { (sock::fin_received(sk), tcp::is_ktls(sk)) };
    let mut flags = 0;
    if fin {
        flags |= flow_flags::FIN_RECEIVED;
    }
    if ktls {
        flags |= flow_flags::KTLS;
    }
    flags
}
