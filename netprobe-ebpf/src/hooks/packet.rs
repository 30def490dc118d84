//! `cgroup_skb` at the root of cgroup v2, ingress and egress (4.10; socket storage 5.2, ring 5.8): payload for requests.
//!
//! A stable interface that needs no kernel struct, sees every packet of every local socket with that socket, whatever call
//! made it (`write`, `sendfile`, `splice`, io_uring), and gives its place in the stream. Hooks on calls would see the
//! application's buffers instead: there is no stable one, and in-kernel senders pass none. Runs for every packet of a
//! local socket: one storage look-up and a test for most. Always lets the packet pass, unchanged.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

use crate::{
    payload::{self, Direction},
    values::empty,
};

const PASS: i32 = 1;

#[cgroup_skb]
fn packet_out(ctx: SkBuffContext) -> i32 {
    if !empty() {
        payload::packet(&ctx, Direction::Sent);
    }
    PASS
}

#[cgroup_skb]
fn packet_in(ctx: SkBuffContext) -> i32 {
    if !empty() {
        payload::packet(&ctx, Direction::Received);
    }
    PASS
}
