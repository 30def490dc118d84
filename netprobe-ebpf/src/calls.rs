//! Send and receive calls of a followed connection, and the samples they give rise to.

use netprobe_common::*;

use crate::{
    accept,
    conn::{Conn, adopt, begin, copy, marks},
    count, emit,
    kernel::{
        clock,
        sock::{self, Sock, state},
        task, tcp,
    },
    store, tls,
    values::knob,
};

/// Accounts a send call that returned `ret`.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn sent(sk: Sock, ret: i32) {
    // SAFETY: by contract. Atomic adds: two threads may send on one socket, and the hook runs outside its lock.
    unsafe {
        let Some(conn) = followed(sk) else { return };
        tls::bind(conn);
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
/// See [`store::get`].
#[inline(always)]
pub unsafe fn received(sk: Sock, ret: i32, peek: bool) {
    const EAGAIN: i32 = 11;
    if ret == -EAGAIN || peek {
        return;
    }
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = followed(sk) else { return };
        tls::bind(conn);
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
        let conn = match store::get(sk) {
            Some(conn) => conn,
            None => match sock::tcp_state(sk) {
                // Fast open: data moves before the handshake is done.
                state::SYN_RECV => {
                    let conn = store::get_or_create(sk)?;
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
/// See [`store::get`].
#[inline(always)]
pub unsafe fn retransmitted(sk: Sock) {
    const AT_MOST_EVERY_NS: u64 = 1_000_000_000;
    // SAFETY: by contract.
    unsafe {
        let Some(conn) = store::get(sk) else { return };
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

/// Publishes the counters of a live connection.
///
/// # Safety
/// See [`store::get`].
#[inline(always)]
pub unsafe fn sample(conn: &mut Conn, sk: Sock) {
    let now = clock::not_before(clock::now(), conn.record.latest_ns());
    conn.sampled_ns = now;
    // SAFETY: by contract.
    if !unsafe { store::identify(&mut conn.record, sk) } {
        // Older than the agent, which gives it its name when it lists the sockets: the next sample tells.
        return;
    }
    let (mut sent, mut received) = (0, 0);
    // Measured into the copy: this runs outside the socket's lock, its end may be measured at the same time.
    let told = emit::publish_in_place(Kind::Sample, now, |record: &mut FlowRecord| {
        copy(&conn.record, record);
        // It ended on another processor since: the final record has all of it, and a later time.
        if record.closed_ns != 0 {
            return false;
        }
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
