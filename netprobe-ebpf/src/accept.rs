//! Who accepted a connection, also when that is known before the connection has its cookie.
//!
//! A child is in the accept queue before it becomes ESTABLISHED: an instant before on another processor, a round trip
//! before with fast open. An accept of that time waits here for the connection, found by its addresses.

use netprobe_common::{
    ACCEPT_EARLY, ACCEPT_EARLY_TOLD, ACCEPT_UNKNOWN, AcceptRecord, FlowKey, FlowRecord, KNOB_OWN_TGID, Kind,
    Process,
};

use crate::{
    count, emit, filter,
    kernel::{
        clock,
        sock::{self, Sock},
        task,
    },
    maps::EARLY_ACCEPTS,
    values::knob,
};

/// As long as a handshake may take; past it, the same addresses are another connection.
const FORGET_NS: u64 = 60_000_000_000;

/// An accept that waits for its connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Early {
    accepted_ns: u64,
    process: Process,
}

/// Publishes who accepted `sk` (null: accept failed).
#[inline(always)]
pub fn accepted(sk: Sock) {
    if sk.is_null() || u64::from(task::tgid()) == knob(KNOB_OWN_TGID) {
        return;
    }
    if sock::cookie_if_set(sk) == 0 || filter::active() {
        let mut key = FlowKey::default();
        if sock::probe_key(sk, &mut key).is_none() {
            count::one(ACCEPT_UNKNOWN);
            return;
        }
        // Counted as suppressed where the connection is established.
        if filter::excluded(key.netns, &key.remote_addr, key.local_port) {
            return;
        }
        if sock::cookie_if_set(sk) == 0 && waits(sk, &key) {
            return;
        }
    }
    emit::publish_in_place(Kind::Accept, clock::now(), |record: &mut AcceptRecord| {
        record.cookie = sock::cookie_if_set(sk);
        task::fill(&mut record.process);
        true
    });
}

/// Leaves the accept for the connection to find; false when it must be published after all.
#[inline(always)]
fn waits(sk: Sock, key: &FlowKey) -> bool {
    let mut early = Early {
        accepted_ns: clock::now(),
        process: Process::default(),
    };
    task::fill(&mut early.process);
    if EARLY_ACCEPTS.insert(key, early, 0).is_err() {
        count::one(ACCEPT_UNKNOWN);
        return true;
    }
    count::one(ACCEPT_EARLY);
    // The cookie may have come meanwhile, and whoever made it looked too early: exactly one of us takes the entry out.
    if sock::cookie_if_set(sk) == 0 || EARLY_ACCEPTS.remove(key).is_err() {
        return true;
    }
    count::one(ACCEPT_EARLY_TOLD);
    false
}

/// Publishes the accept that came before the connection's cookie, if there was one. To be called whenever a connection
/// that can be accepted has got its cookie.
#[inline(always)]
pub fn tell_early(record: &FlowRecord, now: u64) {
    if record.cookie == 0 {
        // Its name comes later (`store.rs`), and so does another chance.
        return;
    }
    let Some(early) = EARLY_ACCEPTS.get_ptr(&record.key) else {
        return;
    };
    // SAFETY: a live map value; recycled while it is copied, the entry is not there any more to be removed.
    let early = unsafe { *early };
    if EARLY_ACCEPTS.remove(&record.key).is_err() || now.saturating_sub(early.accepted_ns) > FORGET_NS {
        return;
    }
    count::one(ACCEPT_EARLY_TOLD);
    emit::publish_in_place(Kind::Accept, early.accepted_ns, |accept: &mut AcceptRecord| {
        accept.cookie = record.cookie;
        accept.process = early.process;
        true
    });
}
