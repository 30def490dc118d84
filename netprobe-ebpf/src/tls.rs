//! What goes into a TLS library and comes out of it, in clear, and which connection it belongs to.
//!
//! A thread that is in a call of the library leaves a mark; the hooks of send and receive, which run inside that call, write the
//! connection's cookie into it. So a handle is bound to its socket whatever made the one know the other, from the
//! handshake on. What is moved without such a call (it lay in the library's buffer) belongs to the connection the handle
//! was bound to last.

use aya_ebpf::helpers::{bpf_probe_read_user, generated};
use netprobe_common::*;

use crate::{
    conn::Conn,
    count,
    kernel::task,
    maps::{TLS_CALLS, TLS_SESSIONS},
    payload::{Direction, HTTP, MISSES, OPAQUE, UNKNOWN, fit, http},
};

/// A call that a thread is in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    /// The library's handle of the connection.
    pub handle: u64,
    /// What is written, or where to it is read.
    pub buffer: u64,
    /// Where the number of bytes will be; 0: it is what the call returns.
    pub moved_at: u64,
    /// Cookie of the connection that was used inside; 0: none was.
    pub cookie: u64,
    /// [`Direction`], or [`HANDSHAKE`].
    pub way: u64,
}

/// The call moves no data of the application.
pub const HANDSHAKE: u64 = 2;

/// A handle: an address of a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handle {
    tgid: u64,
    address: u64,
}

/// What is known of a handle.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Session {
    cookie: u64,
    /// Bytes moved so far, by direction.
    next: [u32; 2],
    /// As of a socket: `HTTP`, `OPAQUE`, or not known yet.
    carries: u32,
    /// Direction of requests.
    requests: u32,
    /// 1: its handshake was not seen.
    older: u32,
    /// Calls of an older one that began nothing that is read.
    misses: u32,
}

/// The thread enters a call.
#[inline(always)]
pub fn enter(call: Call) {
    if TLS_CALLS.insert(task::thread(), call, 0).is_err() {
        count::one(READ_FAULT);
    }
}

/// A connection sends or receives: if its thread is in a call of the library, that is about it.
#[inline(always)]
pub fn bind(conn: &Conn) {
    if conn.tls == 0 {
        return;
    }
    if let Some(call) = TLS_CALLS.get_ptr_mut(task::thread()) {
        // SAFETY: a live map value of this thread alone.
        unsafe { (*call).cookie = conn.record.cookie };
    }
}

/// The handle goes; its address may be another's next.
#[inline(always)]
pub fn free(address: u64) {
    // Few handles that go were read.
    let _ = TLS_SESSIONS.remove(handle(address));
}

/// The thread's call returned `ret`.
#[inline(always)]
pub fn leave(ret: i32) {
    let thread = task::thread();
    let Some(call) = TLS_CALLS.get_ptr(thread) else {
        return;
    };
    // SAFETY: a live map value of this thread alone.
    let call = unsafe { *call };
    // Recycled meanwhile at worst: the map forgets its oldest.
    let _ = TLS_CALLS.remove(thread);
    let Some(session) = session(&call) else { return };
    if call.way == HANDSHAKE || session.carries == OPAQUE || ret <= 0 {
        return;
    }
    let moved = if call.moved_at == 0 {
        ret as u32
    } else {
        // SAFETY: the helper tolerates any address.
        let Ok(moved) = (unsafe { bpf_probe_read_user(call.moved_at as *const u64) }) else {
            count::one(READ_FAULT);
            return;
        };
        moved as u32
    };
    if moved != 0 {
        data(session, &call, moved);
    }
}

#[inline(always)]
fn handle(address: u64) -> Handle {
    Handle {
        tgid: u64::from(task::tgid()),
        address,
    }
}

/// The handle's session: a new one when it is bound to another connection than before.
#[inline(always)]
fn session<'a>(call: &Call) -> Option<&'a mut Session> {
    let handle = handle(call.handle);
    // SAFETY: a live map value; calls on one handle come one after another.
    let known = TLS_SESSIONS
        .get_ptr_mut(handle)
        .and_then(|session| unsafe { session.as_mut() });
    if let Some(session) = known
        && (call.cookie == 0 || session.cookie == call.cookie)
    {
        return Some(session);
    }
    if call.cookie == 0 {
        return None;
    }
    let new = Session {
        cookie: call.cookie,
        next: [0; 2],
        carries: UNKNOWN,
        requests: call.way as u32 & 1,
        older: u32::from(call.way != HANDSHAKE),
        misses: 0,
    };
    if TLS_SESSIONS.insert(handle, new, 0).is_err() {
        count::one(LOST_STORAGE);
        return None;
    }
    // SAFETY: as above.
    TLS_SESSIONS
        .get_ptr_mut(handle)
        .and_then(|session| unsafe { session.as_mut() })
}

/// `moved` bytes of the application went through the library.
#[inline(always)]
fn data(session: &mut Session, call: &Call, moved: u32) {
    let way = call.way as u32 & 1;
    let sequence = session.next[(way & 1) as usize];
    session.next[(way & 1) as usize] = sequence.wrapping_add(moved);
    if session.carries == UNKNOWN && !decide(session, call, moved, way) {
        return;
    }
    let begins = match (session.older, sequence) {
        (1, _) => Begins::Sight,
        (_, 0) => Begins::Stream,
        _ => Begins::No,
    };
    let towards_server = way == session.requests;
    let cookie = session.cookie;
    let fill = |record: &mut PayloadRecord| {
        record.cookie = cookie;
        record.sequence = sequence;
        record.payload = moved;
        record.application = Application::Http as u8;
        record.side = if towards_server { 1 } else { 2 };
        record.direction = way as u8 + 1;
        record.begins = begins as u8;
        record.tls = 1;
    };
    let most = if towards_server {
        PAYLOAD_TO_SERVER
    } else {
        PAYLOAD_TO_CLIENT
    };
    let buffer = call.buffer;
    // SAFETY: `fit` hands over memory of that many bytes; the helper tolerates any address to read from.
    fit(moved, most, fill, |to, bytes| unsafe {
        generated::bpf_probe_read_user(to, bytes, buffer as *const _)
    });
}

/// Whether the first bytes are to be told.
#[inline(always)]
fn decide(session: &mut Session, call: &Call, moved: u32, way: u32) -> bool {
    if moved < 4 {
        // Too few to tell: the agent puts them together. In the middle of something they are of no use.
        if session.older == 0 && session.next[(way & 1) as usize] == moved {
            session.requests = way;
        }
        return session.older == 0;
    }
    // SAFETY: the helper tolerates any address.
    let Ok(first) = (unsafe { bpf_probe_read_user(call.buffer as *const u32) }) else {
        count::one(READ_FAULT);
        return false;
    };
    if let Some(is_request) = http(first) {
        session.carries = HTTP;
        session.requests = if is_request { way } else { 1 - way };
        return true;
    }
    if session.older == 0 && session.next[(way & 1) as usize] != moved {
        // It goes on after a begin that was too short to tell.
        session.carries = HTTP;
        return true;
    }
    if session.older == 0 {
        // Another protocol: the agent counts the connection as opaque.
        session.carries = OPAQUE;
    } else if session.misses >= MISSES {
        session.carries = OPAQUE;
        count::one(PAYLOAD_GIVEN_UP);
    }
    session.misses += 1;
    false
}

/// The way of a call that writes.
pub const WRITE: u64 = Direction::Sent as u64;
/// The way of a call that reads.
pub const READ: u64 = Direction::Received as u64;
