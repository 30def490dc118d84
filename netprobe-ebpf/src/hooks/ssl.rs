//! uprobes on OpenSSL's `SSL_read`, `SSL_write`, their `_ex`, `SSL_do_handshake` and `SSL_free` (4.17, with a socket's cookie
//! inside a call 6.3): what applications hand to the library and get from it.
//!
//! There the data is in clear, whatever the connection negotiated; the socket below it is encrypted. Not `SSL_set_fd`, which
//! many applications do not call. Probes on functions that do not begin with a `push` are the dear ones (docs/performance.md has
//! what all of them cost a server). One program serves all returns: what a call was is in the thread's mark.

use aya_ebpf::{
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{
    tls::{self, Call, HANDSHAKE, READ, WRITE},
    values::empty,
};

/// int SSL_read(SSL *, void *, int)
#[uprobe]
fn ssl_read(ctx: ProbeContext) -> u32 {
    enter(&ctx, READ, false)
}

/// int SSL_write(SSL *, const void *, int)
#[uprobe]
fn ssl_write(ctx: ProbeContext) -> u32 {
    enter(&ctx, WRITE, false)
}

/// int SSL_read_ex(SSL *, void *, size_t, size_t *)
#[uprobe]
fn ssl_read_ex(ctx: ProbeContext) -> u32 {
    enter(&ctx, READ, true)
}

/// int SSL_write_ex(SSL *, const void *, size_t, size_t *)
#[uprobe]
fn ssl_write_ex(ctx: ProbeContext) -> u32 {
    enter(&ctx, WRITE, true)
}

/// int SSL_do_handshake(SSL *)
#[uprobe]
fn ssl_handshake(ctx: ProbeContext) -> u32 {
    enter(&ctx, HANDSHAKE, false)
}

/// void SSL_free(SSL *)
#[uprobe]
fn ssl_free(ctx: ProbeContext) -> u32 {
    if let (false, Some(handle)) = (empty(), ctx.arg(0)) {
        tls::free(handle);
    }
    0
}

#[uretprobe]
fn ssl_return(ctx: RetProbeContext) -> u32 {
    if !empty() {
        tls::leave(ctx.ret());
    }
    0
}

#[inline(always)]
fn enter(ctx: &ProbeContext, way: u64, has_size: bool) -> u32 {
    if empty() {
        return 0;
    }
    let (Some(handle), Some(buffer), Some(fourth)) = (ctx.arg(0), ctx.arg(1), ctx.arg(3)) else {
        return 0;
    };
    tls::enter(Call {
        handle,
        buffer,
        moved_at: if has_size { fourth } else { 0 },
        cookie: 0,
        way,
    });
    0
}
