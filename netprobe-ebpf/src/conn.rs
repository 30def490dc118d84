//! The life of a TCP connection, from SYN or accept queue to its one final record.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::generated::bpf_sk_storage_get,
    programs::BtfTracePointContext,
};
use netprobe_common::*;

use crate::{
    accept, count, debug, emit, filter,
    kernel::{
        clock,
        sock::{self, Sock, state},
        task, tcp,
    },
    maps::{CONNS, REFUSED},
    values::{has, knob},
};

/// What is kept for a followed socket, in the socket's own storage.
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
}

/// The socket's state, if it is followed.
///
/// # Safety
/// `sk` is a typed, non-null socket pointer; so for every function here.
#[inline(always)]
pub unsafe fn get<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // SAFETY: by contract; the value lives as long as the socket, which outlives the program run.
    unsafe {
        let value = bpf_sk_storage_get(
            (&raw const CONNS).cast_mut().cast(),
            sk.cast_mut(),
            core::ptr::null_mut(),
            0,
        );
        value.cast::<Conn>().as_mut()
    }
}

/// The socket's state, made if it is not followed yet; `None` (counted) when the socket has no room left for it.
///
/// # Safety
/// See [`get`].
#[inline(always)]
unsafe fn get_or_create<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // SAFETY: as in `get`.
    let conn = unsafe {
        bpf_sk_storage_get(
            (&raw const CONNS).cast_mut().cast(),
            sk.cast_mut(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast::<Conn>()
        .as_mut()
    };
    if conn.is_none() {
        count::one(LOST_STORAGE);
    }
    conn
}

/// Starts over: the same socket, with its storage, may connect again after a failure.
#[inline(always)]
unsafe fn begin(conn: &mut Conn, sk: Sock, role: Role, now: u64) {
    // SAFETY: a live map value, for which all bytes zero is a value. Not by assignment: that goes through the stack.
    unsafe { core::ptr::write_bytes(&raw mut conn.record, 0, 1) };
    conn.told_sent = 0;
    conn.told_received = 0;
    conn.finished = 0;
    conn.sampled_ns = now;
    conn.asked_ticks = clock::ticks();
    let record = &mut conn.record;
    // SAFETY: by the caller's contract.
    unsafe {
        record.cookie = sock::cookie(sk);
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
/// See [`get`].
#[inline(always)]
pub unsafe fn connecting(sk: Sock) {
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = get_or_create(sk) else { return };
        let now = clock::now();
        begin(conn, sk, Role::Client, now);
        task::fill(&mut conn.record.process);
        let own = knob(KNOB_OWN_TGID);
        if own != 0 && (u64::from(conn.record.process.tgid) == own || to_own_listener(&conn.record.key)) {
            conn.record.flags |= flow_flags::EXCLUDED;
            count::one(SUPPRESSED_OWN);
        } else if filter::excluded(&conn.record.key.remote_addr, conn.record.key.remote_port) {
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

/// `::1` or `::ffff:127.0.0.0/104`.
#[inline(always)]
fn is_loopback(address: &[u8; 16]) -> bool {
    let address = u128::from_be_bytes(*address);
    address == 1 || address >> 24 == 0x00ff_ff7f
}

/// SYN_SENT → ESTABLISHED or SYN_RECV → ESTABLISHED.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn established(sk: Sock, from: u8) {
    // SAFETY: by contract.
    unsafe {
        let conn = if from == state::SYN_SENT {
            // The connect was missed, or is older than the programs: nothing to time.
            let Some(conn) = get(sk) else { return };
            conn
        } else {
            let Some(conn) = get_or_create(sk) else { return };
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
            } else if filter::excluded(&key.remote_addr, key.local_port) {
                conn.record.flags |= flow_flags::EXCLUDED;
                count::one(SUPPRESSED_FILTER);
            }
        }
        if conn.record.flags & flow_flags::EXCLUDED != 0 {
            return;
        }
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
/// See [`get`].
#[inline(always)]
pub unsafe fn closed(sk: Sock, from: u8) {
    if from == state::LISTEN || from == state::CLOSE {
        return;
    }
    // SAFETY: by contract.
    unsafe {
        let conn = match get(sk) {
            Some(conn) => conn,
            // A handshake that never was established: no connection of an application.
            None if from == state::SYN_RECV => return,
            None => {
                let Some(conn) = adopt(sk) else { return };
                conn
            }
        };
        let error = sock::error(sk);
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
/// See [`get`].
#[inline(always)]
pub unsafe fn destroyed(ctx: &BtfTracePointContext, sk: Sock) {
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = get(sk) else { return };
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
            check_bytes(ctx, conn, sk);
        }
    }
}

/// Starts to follow a socket that is older than the programs.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn adopt<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // SAFETY: by contract.
    unsafe {
        let conn = get_or_create(sk)?;
        begin(conn, sk, Role::Unknown, clock::now());
        conn.record.flags |= flow_flags::PARTIAL;
        measure(conn, sk);
        let (sent, received) = tcp::payload(&conn.record);
        conn.told_sent = sent;
        conn.told_received = received;
        let key = &conn.record.key;
        if knob(KNOB_OWN_TGID) != 0
            && (to_own_listener(key)
                || (knob(KNOB_OWN_PORT) == u64::from(key.local_port)
                    && knob(KNOB_OWN_NETNS) == u64::from(key.netns)))
        {
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

/// Publishes the counters of a live connection.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn sample(conn: &mut Conn, sk: Sock) {
    let now = clock::now();
    conn.sampled_ns = now;
    let (mut sent, mut received) = (0, 0);
    // Measured into the copy: this runs outside the socket's lock, its end may be measured at the same time.
    let told = emit::publish_in_place(Kind::Sample, now, |record: &mut FlowRecord| {
        copy(&conn.record, record);
        // SAFETY: by contract.
        unsafe {
            tcp::read_counters(sk, &mut record.tcp);
            record.flags |= marks(sk);
        }
        (sent, received) = tcp::payload(record);
        // The final record marks before it takes its place in the ring, so nothing of ours can follow it.
        // SAFETY: a field of a live map value.
        unsafe { core::ptr::read_volatile(&raw const conn.finished) == 0 }
    });
    if told {
        conn.told_sent = sent;
        conn.told_received = received;
    }
}

/// One copy of a record, not through the stack.
#[inline(always)]
fn copy(from: &FlowRecord, to: &mut FlowRecord) {
    // SAFETY: both are whole records; one lies in socket storage, one in the ring.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}

/// Mark, then publish: publishing cannot fail in silence, and no sample may follow.
#[inline(always)]
unsafe fn finish(conn: &mut Conn, sk: Sock) {
    let now = clock::now();
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
    emit::publish_final(conn, now);
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
#[inline(always)]
unsafe fn marks(sk: Sock) -> u32 {
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

/// Compares the sums of calls with the counters taken at CLOSE. Explained differences: what was never read
/// (it is still in the receive queue) and what was never acknowledged (it is still in the send queue).
#[inline(always)]
unsafe fn check_bytes(ctx: &BtfTracePointContext, conn: &Conn, sk: Sock) {
    let record = &conn.record;
    // SAFETY: by the caller's contract.
    let upper_layer = unsafe { tcp::has_upper_layer(sk) };
    if upper_layer || record.flags & (flow_flags::PARTIAL | flow_flags::MPTCP | flow_flags::MISSED_CLOSE) != 0
    {
        count::one(BYTE_CHECK_SKIPPED);
        return;
    }
    let syn = u64::from(record.role == Role::Client as u8);
    let fin_sent = u64::from(record.flags & flow_flags::FIN_SENT != 0);
    let written = (record.tcp.bytes_acked + u64::from(record.tcp.unacked)).wrapping_sub(syn + fin_sent);
    let (_, received) = tcp::payload(record);
    if record.calls.sent_bytes != written || record.calls.received_bytes > received {
        count::one(BYTE_DISAGREEMENT);
        debug::disagreement(ctx, record, written, received);
        return;
    }
    // Calls gave less than TCP received. Left unread is explained; the rest was read without a receive call
    // (splice, zerocopy receive), which no hook counts.
    // SAFETY: by the caller's contract.
    let unread = u64::from(unsafe { tcp::unread(sk) });
    let missing = received - record.calls.received_bytes;
    let at_close = u64::from(record.tcp.unread);
    if missing == 0
        || missing == unread
        || missing + 1 == unread
        || missing == at_close
        || missing + 1 == at_close
    {
        count::one(BYTE_CHECK_PASSED);
    } else {
        count::one(BYTE_CHECK_SKIPPED);
    }
}

/// Accounts a send call that returned `ret`.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn sent(sk: Sock, ret: i32) {
    // SAFETY: by contract. Atomic adds: two threads may send on one socket, and the hook runs outside its lock.
    unsafe {
        let Some(conn) = followed(sk) else { return };
        if ret > 0 {
            count::atomic_add(&raw mut conn.record.calls.sent_bytes, ret as u64);
            count::atomic_increment(&raw mut conn.record.calls.sends);
            after_io(conn, sk);
        } else if ret < 0 {
            count::atomic_increment(&raw mut conn.record.calls.send_errors);
        }
    }
}

/// Accounts a receive call that returned `ret`; `peek`: it consumed nothing.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn received(sk: Sock, ret: i32, peek: bool) {
    const EAGAIN: i32 = 11;
    if ret == -EAGAIN || peek {
        return;
    }
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = followed(sk) else { return };
        if ret > 0 {
            count::atomic_add(&raw mut conn.record.calls.received_bytes, ret as u64);
            count::atomic_increment(&raw mut conn.record.calls.receives);
            after_io(conn, sk);
        } else if ret < 0 {
            count::atomic_increment(&raw mut conn.record.calls.receive_errors);
        }
    }
}

/// The state of a socket that moves data: followed, or older than the programs and adopted now.
#[inline(always)]
unsafe fn followed<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // SAFETY: by the caller's contract.
    unsafe {
        let conn = match get(sk) {
            Some(conn) => conn,
            None => match sock::tcp_state(sk) {
                // Fast open: data moves before the handshake is done.
                state::SYN_RECV => {
                    let conn = get_or_create(sk)?;
                    begin(conn, sk, Role::Server, clock::now());
                    conn.record.flags |= flow_flags::TFO;
                    // Its cookie is new: an accept that came before waits for it.
                    accept::tell_early(&conn.record, conn.record.started_ns);
                    conn
                }
                state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSE_WAIT => {
                    let conn = adopt(sk)?;
                    // The agent knows it from its dump at start, but not that it is alive and whose it is.
                    conn.sampled_ns = 0;
                    conn.asked_ticks = 0;
                    conn
                }
                _ => return None,
            },
        };
        if conn.record.flags & flow_flags::EXCLUDED != 0 {
            None
        } else {
            Some(conn)
        }
    }
}

/// First process to move data, and a sample when one is due.
#[inline(always)]
unsafe fn after_io(conn: &mut Conn, sk: Sock) {
    if conn.record.io_process.tgid == 0 {
        task::fill(&mut conn.record.io_process);
    }
    // Sampling stops at the final record: nothing may follow it.
    if conn.finished == 0 && due(conn, knob(KNOB_SAMPLE_NS)) {
        // SAFETY: by the caller's contract.
        unsafe { sample(conn, sk) };
    }
}

/// Whether the last sample is older than `interval_ns`. The clock costs as much as the rest of the hook, so it is asked
/// ten times a second at most.
#[inline(always)]
fn due(conn: &mut Conn, interval_ns: u64) -> bool {
    const TICKS: u64 = 100;
    let ticks = clock::ticks();
    if ticks.wrapping_sub(conn.asked_ticks) < TICKS {
        return false;
    }
    conn.asked_ticks = ticks;
    clock::now().wrapping_sub(conn.sampled_ns) > interval_ns
}

/// A data or SYN segment was sent again.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn retransmitted(sk: Sock) {
    const AT_MOST_EVERY_NS: u64 = 1_000_000_000;
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = get(sk) else { return };
        if conn.record.flags & flow_flags::EXCLUDED != 0 || conn.finished != 0 {
            return;
        }
        if sock::tcp_state(sk) == state::SYN_SENT {
            count::one(SYN_RETRANSMITS);
            return;
        }
        if due(conn, AT_MOST_EVERY_NS) {
            sample(conn, sk);
        }
    }
}
