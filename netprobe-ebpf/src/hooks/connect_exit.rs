//! `fexit/__inet_stream_connect` (5.5, no lockdown): connects that failed before any SYN.
//!
//! No route, a prohibiting rule, no free port: no state change happens, only the call knows. At no cost to other
//! system calls, and io_uring passes here too.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::fexit, programs::FExitContext};
use netprobe_common::{
    ConnectFailedRecord, FlowKey, KNOB_OWN_TGID, Kind, SK_PROTOCOL, SOCKET_SK, SUPPRESSED_FILTER,
    SUPPRESSED_OWN,
};

use crate::{
    count, emit, filter,
    kernel::{
        clock, probe_at,
        sock::{self, map},
        task,
    },
    maps::REFUSED,
    values::{empty, knob},
};

const EINPROGRESS: i32 = 115;
const EALREADY: i32 = 114;
const EISCONN: i32 = 106;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
/// First and last of the kernel's own "call again" codes.
const ERESTARTSYS: i32 = 512;
const ERESTART_RESTARTBLOCK: i32 = 516;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Largest part of a `sockaddr` that is wanted: `sockaddr_in6` without its scope.
pub type Address = [u8; 24];

#[fexit(function = "__inet_stream_connect")]
fn connect_exit(ctx: FExitContext) -> i32 {
    if empty() {
        return 0;
    }
    // int __inet_stream_connect(struct socket *, struct sockaddr *, int addr_len, int flags, int is_sendmsg)
    let socket: *const c_void = ctx.arg(0);
    let address: *const Address = ctx.arg(1);
    let ret: i32 = ctx.arg(5);
    if !is_failure(ret) {
        return 0;
    }
    let Some(sk) = probe_at::<*const c_void>(socket, SOCKET_SK) else {
        return 0;
    };
    // SAFETY: the helper tolerates any address.
    if let Ok(address) = unsafe { bpf_probe_read_kernel(address) } {
        let _ = failed(sk, &address, ret);
    }
    0
}

/// Whether a connect call that returned `ret` failed, and not only waits or was interrupted.
#[inline(always)]
pub fn is_failure(ret: i32) -> bool {
    ret < 0
        && !matches!(
            -ret,
            EINPROGRESS | EALREADY | EISCONN | EINTR | EAGAIN | ERESTARTSYS..=ERESTART_RESTARTBLOCK
        )
}

/// Publishes the failure of `sk`'s connect to `address`.
#[inline(always)]
pub fn failed(sk: *const c_void, address: &Address, ret: i32) -> Option<()> {
    if probe_at::<u16>(sk, SK_PROTOCOL)? != sock::TCP {
        return None;
    }
    let cookie = sock::cookie_if_set(sk);
    // Its SYN was sent and the connection ended by its state: told already.
    if cookie != 0 && REFUSED.remove(cookie).is_ok() {
        return None;
    }
    let family = u16::from_ne_bytes([address[0], address[1]]);
    let mut key = FlowKey::default();
    sock::probe_key(sk, &mut key)?;
    match family {
        AF_INET => map(
            &mut key.remote_addr,
            u32::from_ne_bytes([address[4], address[5], address[6], address[7]]),
        ),
        AF_INET6 => key.remote_addr.copy_from_slice(&address[8..24]),
        _ => return None,
    }
    key.remote_port = u16::from_be_bytes([address[2], address[3]]);
    if u64::from(task::tgid()) == knob(KNOB_OWN_TGID) {
        count::one(SUPPRESSED_OWN);
        return None;
    }
    if filter::excluded(key.netns, &key.remote_addr, key.remote_port) {
        count::one(SUPPRESSED_FILTER);
        return None;
    }
    emit::publish_in_place(
        Kind::ConnectFailed,
        clock::now(),
        |record: &mut ConnectFailedRecord| {
            record.cookie = cookie;
            record.key = key;
            record.error = ret.unsigned_abs();
            task::fill(&mut record.process);
            true
        },
    );
    Some(())
}
