//! `fexit/tcp_sendmsg` (5.5, no lockdown): what each send returned, where `sock_send_length` is missing.
//!
//! Before 6.5 sendfile and splice went through `tcp_sendpage`, so there that is hooked, too.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{calls, kernel::sock::Sock, values::empty};

#[fexit(function = "tcp_sendmsg")]
fn send_exit(ctx: FExitContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    // int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)
    let ret: i32 = ctx.arg(3);
    // SAFETY: the function's first argument is a typed, non-null socket.
    unsafe { calls::sent(sk, ret) };
    0
}

#[fexit(function = "tcp_sendpage")]
fn send_page_exit(ctx: FExitContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: Sock = ctx.arg(0);
    // int tcp_sendpage(struct sock *sk, struct page *page, int offset, size_t size, int flags)
    let ret: i32 = ctx.arg(5);
    // SAFETY: the function's first argument is a typed, non-null socket.
    unsafe { calls::sent(sk, ret) };
    0
}
