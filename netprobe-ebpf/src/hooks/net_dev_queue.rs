//! `tp_btf/net_dev_queue` (5.5): NAT pairs and forwarded connections, on kernels without kprobes too.
//!
//! The one per-packet hook: every packet queued to any device, loopback and veth included. Packets of established local
//! connections leave after two loads. Forwarded packets cost the read of their conntrack entry's state.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{kernel::packet::Packet, nat, values::empty};

#[btf_tracepoint(function = "net_dev_queue")]
fn net_dev_queue(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let skb: Packet = ctx.arg(0);
    // SAFETY: the tracepoint's argument is a trusted, non-null packet.
    unsafe { nat::queued(skb) };
    0
}
