//! `kprobe/__nf_conntrack_confirm`: NAT pairs once per new connection instead of per packet.
//!
//! A kprobe, because nf_conntrack is a module on most kernels and the loader cannot attach fentry to module functions.
//! Sees entries that are confirmed on input too (translation on the server's own host), which no queue hook does.

use aya_ebpf::{macros::kprobe, programs::ProbeContext};

use crate::{kernel::packet::Packet, nat, values::empty};

#[kprobe]
fn conntrack_confirm(ctx: ProbeContext) -> u32 {
    if empty() {
        return 0;
    }
    // unsigned int __nf_conntrack_confirm(struct sk_buff *skb)
    if let Some(skb) = ctx.arg::<Packet>(0) {
        let _ = nat::confirmed(skb);
    }
    0
}
