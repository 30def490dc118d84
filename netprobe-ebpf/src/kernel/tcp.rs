//! `struct tcp_sock`: the kernel's own counters, the truth for totals.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use netprobe_common::*;

use super::{load, probe_at, sock::Sock};
use crate::values::has;

/// Reads the counters of `sk` into `out`; nothing when it is not a full TCP socket.
///
/// # Safety
/// `sk` is a typed, non-null socket pointer.
#[inline(always)]
pub unsafe fn read_counters(sk: Sock, out: &mut TcpCounters) {
    // SAFETY: by contract; the helper checks the socket's kind and gives a typed pointer or null.
    unsafe {
        let tp: *const c_void = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        if tp.is_null() {
            return;
        }
        out.bytes_sent = load(tp, TP_BYTES_SENT);
        out.bytes_acked = load(tp, TP_BYTES_ACKED);
        out.bytes_received = load(tp, TP_BYTES_RECEIVED);
        out.bytes_retrans = load(tp, TP_BYTES_RETRANS);
        out.segs_out = load(tp, TP_SEGS_OUT);
        out.segs_in = load(tp, TP_SEGS_IN);
        out.retransmits = load(tp, TP_TOTAL_RETRANS);
        out.srtt_us = load(tp, TP_SRTT_US);
        out.mdev_us = load(tp, TP_MDEV_US);
        out.unread = load::<u32>(tp, TP_RCV_NXT).wrapping_sub(load(tp, TP_COPIED_SEQ));
        out.unacked = load::<u32>(tp, TP_WRITE_SEQ).wrapping_sub(load(tp, TP_SND_UNA));
    }
}

/// Bytes received and not read now, +1 for a FIN not read.
///
/// # Safety
/// As [`read_counters`].
#[inline(always)]
pub unsafe fn unread(sk: Sock) -> u32 {
    // SAFETY: by contract.
    unsafe {
        let tp: *const c_void = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        if tp.is_null() {
            0
        } else {
            load::<u32>(tp, TP_RCV_NXT).wrapping_sub(load(tp, TP_COPIED_SEQ))
        }
    }
}

/// Whether an upper layer (kTLS, …) sits on the socket: its bytes are not the application's.
///
/// # Safety
/// As [`read_counters`].
#[inline(always)]
pub unsafe fn has_upper_layer(sk: Sock) -> bool {
    if !has(ICSK_ULP_OPS) {
        return false;
    }
    // SAFETY: by contract.
    unsafe {
        let tp: *const c_void = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        !tp.is_null() && load::<u64>(tp, ICSK_ULP_OPS) != 0
    }
}

/// Whether the upper layer is TLS in the kernel.
///
/// # Safety
/// As [`read_counters`].
#[inline(always)]
pub unsafe fn is_ktls(sk: Sock) -> bool {
    const TLS: u32 = u32::from_ne_bytes(*b"tls\0");
    if !has(ICSK_ULP_OPS) || !has(ULP_NAME) {
        return false;
    }
    // SAFETY: by contract.
    unsafe {
        let tp: *const c_void = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        if tp.is_null() {
            return false;
        }
        let layer: u64 = load(tp, ICSK_ULP_OPS);
        layer != 0 && probe_at::<u32>(layer as *const c_void, ULP_NAME) == Some(TLS)
    }
}

/// Payload sent at least once and payload received, of a record whose counters are filled.
#[inline(always)]
pub fn payload(record: &FlowRecord) -> (u64, u64) {
    let fin = u64::from(record.flags & flow_flags::FIN_RECEIVED != 0);
    (
        record.tcp.bytes_sent.saturating_sub(record.tcp.bytes_retrans),
        record.tcp.bytes_received.saturating_sub(fin),
    )
}

/// Whether the socket is a subflow of a multipath connection.
///
/// # Safety
/// As [`read_counters`].
#[inline(always)]
pub unsafe fn is_multipath(sk: Sock) -> bool {
    // SAFETY: by contract.
    unsafe {
        let tp: *const c_void = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        !tp.is_null() && load::<u8>(tp, TP_IS_MPTCP) != 0
    }
}

/// Local port as kept after CLOSE, when the port proper may be 0 already.
///
/// # Safety
/// As [`read_counters`].
#[inline(always)]
pub unsafe fn source_port(sk: Sock) -> u16 {
    // SAFETY: by contract.
    unsafe {
        let tp: *const c_void = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        if tp.is_null() {
            0
        } else {
            u16::from_be(load(tp, INET_SPORT))
        }
    }
}
