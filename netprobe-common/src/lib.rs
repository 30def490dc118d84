//! The wire format between the BPF programs and the agent, and nothing else.
//!
//! Every struct here crosses the kernel boundary: `#[repr(C)]`, integers and byte arrays only, explicit
//! padding, layout asserted at compile time. All times are nanoseconds of `CLOCK_MONOTONIC`
//! (`bpf_ktime_get_ns`), all ports are in host byte order, all addresses are 16 bytes in network order with
//! IPv4 stored as `::ffff:a.b.c.d`, so an IPv4 peer of an IPv6 socket and of an IPv4 socket look alike.
#![no_std]

mod counters;
mod knobs;
mod offsets;
mod record;

pub use counters::*;
pub use knobs::*;
pub use offsets::*;
pub use record::*;
