//! Where the state of a followed socket is kept: in the socket's own storage or, on kernels that give tracing programs
//! neither storage nor the cookie helper (before 5.12), in a hash by the socket's address.
//!
//! An address is reused, so there every entry goes when its socket does (`hooks/destroy_sock.rs`), and the cookie, which
//! names the connection, is made by a hook that may ask for one (`hooks/make_cookie.rs`).

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::generated::bpf_sk_storage_get,
};
use netprobe_common::{FlowRecord, KNOB_STATE_IN_HASH, LOST_STORAGE};

use crate::{
    conn::Conn,
    count,
    kernel::sock::{self, Sock},
    maps::{CONNS, CONNS_BY_ADDRESS, NEW_CONN},
    values::knob,
};

#[inline(always)]
fn in_hash() -> bool {
    knob(KNOB_STATE_IN_HASH) != 0
}

/// The socket's state, if it is followed.
///
/// # Safety
/// `sk` is a typed, non-null socket pointer; so for every function here.
#[inline(always)]
pub unsafe fn get<'a>(sk: Sock) -> Option<&'a mut Conn> {
    if in_hash() {
        // SAFETY: a live map value; it is removed only when nobody can use the socket any more.
        return unsafe { CONNS_BY_ADDRESS.get_ptr_mut(sk as u64)?.as_mut() };
    }
    // SAFETY: by contract.
    unsafe { stored(sk, 0) }
}

/// The socket's state, made if it is not followed yet; `None` (counted) when there is no room left for it.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn get_or_create<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // SAFETY: by contract.
    let conn = unsafe {
        if in_hash() {
            match get(sk) {
                Some(conn) if is_of(conn, sk) => Some(conn),
                other => {
                    if other.is_some() {
                        forget(sk);
                    }
                    created(sk)
                }
            }
        } else {
            stored(sk, BPF_SK_STORAGE_GET_F_CREATE.into())
        }
    };
    if conn.is_none() {
        count::one(LOST_STORAGE);
    }
    conn
}

/// Whether the state found under a socket's address is of this socket: the end of the one before may have been missed,
/// where the kernel skips programs that interrupt themselves.
#[inline(always)]
unsafe fn is_of(conn: &Conn, sk: Sock) -> bool {
    // SAFETY: by the caller's contract.
    conn.record.cookie == 0 || conn.record.cookie == unsafe { sock::made_cookie(sk) }
}

/// The value lives as long as the socket, which outlives the program run.
#[inline(always)]
unsafe fn stored<'a>(sk: Sock, flags: u64) -> Option<&'a mut Conn> {
    // SAFETY: by the caller's contract.
    unsafe {
        bpf_sk_storage_get(
            (&raw const CONNS).cast_mut().cast(),
            sk.cast_mut(),
            core::ptr::null_mut(),
            flags,
        )
        .cast::<Conn>()
        .as_mut()
    }
}

#[inline(always)]
unsafe fn created<'a>(sk: Sock) -> Option<&'a mut Conn> {
    // From a map, not from the stack: that is too short for it.
    let empty = NEW_CONN.get(0)?;
    // A failure may mean that another processor was first: the look-up tells.
    let _ = CONNS_BY_ADDRESS.insert(&(sk as u64), empty, BPF_NOEXIST.into());
    // SAFETY: by the caller's contract.
    unsafe { get(sk) }
}

/// The socket goes, its address will be another's.
#[inline(always)]
pub fn forget(sk: Sock) {
    if in_hash() {
        // Not every socket that goes is followed.
        let _ = CONNS_BY_ADDRESS.remove(&(sk as u64));
    }
}

/// The socket's cookie; 0 when none was made yet, which happens only while state is in the hash.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn cookie(sk: Sock) -> u64 {
    // SAFETY: by contract.
    unsafe {
        if in_hash() {
            sock::made_cookie(sk)
        } else {
            sock::cookie(sk)
        }
    }
}

/// Makes sure that a record that is to be published names its connection.
///
/// # Safety
/// See [`get`].
#[inline(always)]
pub unsafe fn identify(record: &mut FlowRecord, sk: Sock) -> bool {
    if in_hash() && record.cookie == 0 {
        // SAFETY: by contract.
        record.cookie = unsafe { sock::made_cookie(sk) };
        return record.cookie != 0;
    }
    true
}
