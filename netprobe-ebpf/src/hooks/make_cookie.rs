//! `sock_ops` at the root of cgroup v2 (4.13): has the kernel give every TCP connection its cookie.
//!
//! Only where tracing programs may not ask for one (before 5.12). A connect passes here right before its SYN, an accepted
//! socket right before it is established, so everything that is published later finds the cookie in the socket. Runs a
//! few times a connection; leaves the answer to the kernel alone.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_CONNECT_CB},
    helpers::generated::bpf_get_socket_cookie,
    macros::sock_ops,
    programs::SockOpsContext,
};

use netprobe_common::KNOB_EMPTY;

use crate::values::knob;

const OK: u32 = 1;

#[sock_ops]
fn make_cookie(ctx: SockOpsContext) -> u32 {
    // From the first moment, and not when all are attached: a cookie is needed by what comes later.
    if knob(KNOB_EMPTY) == 0
        && matches!(
            ctx.op(),
            BPF_SOCK_OPS_TCP_CONNECT_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
        )
    {
        // SAFETY: the helper takes this program's context. Wanted is not its answer but that there is one from now on.
        unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    }
    OK
}
