//! Clocks.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};

/// `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// A time that was read, but not before one that was read for the same connection already. The clock may be asked
/// anywhere, so it takes no lock: while the kernel corrects its rate, another processor can read a little less than was
/// read before.
#[inline(always)]
pub fn not_before(now: u64, earlier: u64) -> u64 {
    if now < earlier { earlier } else { now }
}

/// Timer ticks, 1 to 10 ms each: nearly free. For "is it worth asking the clock" only.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}
