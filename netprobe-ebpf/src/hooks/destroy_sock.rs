//! `tp_btf/tcp_destroy_sock` (4.16): the last sight of a socket.
//!
//! Catches a connection whose → CLOSE was missed (a program interrupted by itself is skipped), and is the place of the byte
//! self-check: the application's last receive may come after → CLOSE, but never after this.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{conn, kernel::sock::Sock, store, values::empty};

#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroy_sock(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    // SAFETY: the tracepoint's argument is a trusted, non-null socket.
    unsafe { conn::destroyed(&ctx, sk) };
    store::forget(sk);
    0
}
