//! The per-CPU counters.

use core::arch::asm;

use crate::maps::COUNTERS;

/// Adds one to counter `index`.
#[inline(always)]
pub fn one(index: u32) {
    add(index, 1);
}

/// Adds `n` to counter `index`.
///
/// Atomic although the array is per CPU: a softirq can interrupt a program on its own CPU between load and store.
#[inline(always)]
pub fn add(index: u32, n: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a live, aligned map value.
        unsafe { atomic_add(counter, n) };
    }
}

/// `*counter += n` in one instruction. The target has no compare-and-swap, so core offers it no atomics.
///
/// # Safety
/// `counter` is aligned and lies in a live map value.
#[inline(always)]
pub unsafe fn atomic_add(counter: *mut u64, n: u64) {
    // SAFETY: by contract.
    unsafe { asm!("lock *(u64 *)({counter} + 0) += {n}", counter = in(reg) counter, n = in(reg) n) };
}

/// As [`atomic_add`], by one, on 32 bits.
///
/// # Safety
/// As [`atomic_add`].
#[inline(always)]
pub unsafe fn atomic_increment(counter: *mut u32) {
    // SAFETY: by contract.
    unsafe { asm!("lock *(u32 *)({counter} + 0) += {n}", counter = in(reg) counter, n = in(reg) 1u64) };
}
