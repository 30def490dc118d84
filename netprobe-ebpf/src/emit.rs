//! The only place that writes to the ring and counts what did not fit.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_NOEXIST as NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    maps::RingBuf,
};
use netprobe_common::{
    AcceptRecord, ConnectFailedRecord, DatagramRecord, FORCED_WAKEUPS, FlowRecord, ForwardRecord, Header,
    HopRecord, KNOB_PAYLOAD_WAKE_BYTES, KNOB_WAKE_BYTES, Kind, LOST_BYTES_RECEIVED, LOST_BYTES_SENT,
    LOST_OVERFLOW_FULL, LOST_UNNAMED, OVERFLOWED, PayloadRecord, READ_FAULT, UdpRecord, WIRE_VERSION,
    lost_ring_full, seen,
};

use crate::{
    conn::Conn,
    count,
    kernel::tcp,
    maps::{OVERFLOW, PAYLOADS, RECORDS},
    values::knob,
};

/// A second final record of one socket (it reconnected) must not replace the first.
const BPF_NOEXIST: u64 = NOEXIST as u64;

/// A struct that may go into the ring.
///
/// # Safety
/// `repr(C)`, starts with a [`Header`], no padding, at most 8-byte alignment.
pub unsafe trait Record {
    /// The record's header.
    fn header(&mut self) -> &mut Header;
}

macro_rules! records {
    ($($record:ty),+) => { $(
        // SAFETY: layout asserted in netprobe-common.
        unsafe impl Record for $record {
            #[inline(always)]
            fn header(&mut self) -> &mut Header {
                &mut self.header
            }
        }
    )+ };
}
records!(
    FlowRecord,
    AcceptRecord,
    ConnectFailedRecord,
    HopRecord,
    ForwardRecord,
    UdpRecord,
    PayloadRecord,
    DatagramRecord
);

/// Publishes a record made in the ring itself: the stack is too short for most. `fill` gets it zeroed, with its header;
/// when it returns false there is nothing to publish. False when the ring was full (counted: whether there would
/// have been something to publish is not known then).
#[inline(always)]
pub fn publish_in_place<R: Record + 'static>(
    kind: Kind,
    now: u64,
    fill: impl FnOnce(&mut R) -> bool,
) -> bool {
    let Some(mut entry) = RECORDS.reserve::<R>(0) else {
        count::one(seen(kind));
        count::one(lost_ring_full(kind));
        return false;
    };
    // SAFETY: the reserved memory is as large as `R`, for which all bytes zero is a value.
    let record = unsafe {
        core::ptr::write_bytes(entry.as_mut_ptr(), 0, 1);
        &mut *entry.as_mut_ptr()
    };
    if !fill(record) {
        entry.discard(BPF_RB_NO_WAKEUP.into());
        return false;
    }
    *record.header() = header::<R>(kind, now);
    count::one(seen(kind));
    entry.submit(wakeup());
    true
}

/// A record behind whose struct bytes stand.
pub trait WithBytes: Record {
    /// What it is.
    const KIND: Kind;

    /// How many bytes.
    fn captured(&mut self) -> &mut u16;
}

macro_rules! with_bytes {
    ($($record:ident $kind:ident),+) => { $(
        impl WithBytes for $record {
            const KIND: Kind = Kind::$kind;

            #[inline(always)]
            fn captured(&mut self) -> &mut u16 {
                &mut self.captured
            }
        }
    )+ };
}
with_bytes!(PayloadRecord Payload, DatagramRecord Datagram);

/// A record and room for its bytes.
#[repr(C)]
struct WithRoom<R, const N: usize> {
    record: R,
    bytes: [u8; N],
}

/// Publishes up to `N` of `len` bytes in the ring for payload. `read` puts as many as it is told to where it is told to, and
/// returns 0, or an error. Made in the ring itself; of the room, what is not written is what was there before: the agent
/// looks at the captured bytes alone.
#[inline(always)]
pub fn publish_bytes<R: WithBytes + 'static, const N: usize>(
    len: u32,
    now: u64,
    fill: impl FnOnce(&mut R),
    read: impl FnOnce(*mut c_void, u32) -> i64,
) {
    count::one(seen(R::KIND));
    let Some(mut entry) = PAYLOADS.reserve::<WithRoom<R, N>>(0) else {
        count::one(lost_ring_full(R::KIND));
        return;
    };
    let room = entry.as_mut_ptr();
    // SAFETY: the reserved memory is as large as the struct; the record is written whole before it is used, and `read`
    // writes at most the room.
    let loaded = unsafe {
        core::ptr::write_bytes(&raw mut (*room).record, 0, 1);
        let record = &mut (*room).record;
        fill(record);
        *record.header() = header::<WithRoom<R, N>>(R::KIND, now);
        let captured = within::<N>(len.into());
        *record.captured() = captured as u16;
        read((&raw mut (*room).bytes).cast(), captured as u32)
    };
    if loaded != 0 {
        // What is there of it is told; none of its bytes.
        count::one(READ_FAULT);
        // SAFETY: as above.
        unsafe { *(*room).record.captured() = 0 };
    }
    entry.submit(wakeup_of(&PAYLOADS, knob(KNOB_PAYLOAD_WAKE_BYTES)));
}

/// Publishes the final record of a connection: ring, else overflow hash, else lost-bytes counters.
///
/// The header in the socket's storage is only ever written here: others may copy the record at the same time.
#[inline(always)]
pub fn publish_final(conn: &mut Conn, now: u64) {
    conn.record.header = header::<FlowRecord>(Kind::Closed, now);
    count::one(seen(Kind::Closed));
    if let Some(mut entry) = RECORDS.reserve::<FlowRecord>(0) {
        // SAFETY: the reserved memory is as large as the record, which is plain data.
        unsafe { core::ptr::copy_nonoverlapping(&raw const conn.record, entry.as_mut_ptr(), 1) };
        entry.submit(wakeup());
        return;
    }
    if OVERFLOW
        .insert(&conn.record.cookie, &conn.record, BPF_NOEXIST)
        .is_ok()
    {
        count::one(OVERFLOWED);
        return;
    }
    count::one(LOST_OVERFLOW_FULL);
    lost_bytes(conn);
}

/// Counts a record that cannot be published because its socket has no cookie.
#[inline(always)]
pub fn unnamed(kind: Kind) {
    count::one(seen(kind));
    count::one(LOST_UNNAMED);
}

/// Counts the bytes of a connection whose final record is lost.
#[inline(always)]
pub fn lost_bytes(conn: &Conn) {
    let (sent, received) = tcp::payload(&conn.record);
    count::add(LOST_BYTES_SENT, sent.saturating_sub(conn.told_sent));
    count::add(LOST_BYTES_RECEIVED, received.saturating_sub(conn.told_received));
}

#[inline(always)]
fn header<R>(kind: Kind, now: u64) -> Header {
    Header {
        version: WIRE_VERSION,
        kind: kind as u8,
        len: size_of::<R>() as u16,
        reserved: 0,
        ts_ns: now,
    }
}

/// `value`, at least 1 and at most `N`, in a way that every verifier follows: the compiler knows half of it already and
/// would take that test away, and it compares copies, of which verifiers before 6.12 learn nothing for the original.
#[inline(always)]
fn within<const N: usize>(mut value: u64) -> u64 {
    // SAFETY: jumps only to the next test and its own end, and writes the one register it is given.
    unsafe {
        core::arch::asm!(
            "if {value} <= {most} goto +1",
            "{value} = {most}",
            "if {value} > 0 goto +1",
            "{value} = 1",
            value = inout(reg) value,
            most = const N,
        );
    }
    value
}

#[inline(always)]
fn wakeup() -> u64 {
    wakeup_of(&RECORDS, knob(KNOB_WAKE_BYTES))
}

/// The reader sleeps on a timer; it is woken early only when a ring fills up.
#[inline(always)]
fn wakeup_of(ring: &RingBuf, from: u64) -> u64 {
    if ring.query(BPF_RB_AVAIL_DATA.into()) >= from {
        count::one(FORCED_WAKEUPS);
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    }
}
