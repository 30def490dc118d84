//! Values patched in by the agent before load. The map that holds them is frozen, so the verifier knows every
//! one of them as a constant: it checks each struct access and removes what a knob switches off.

use core::ptr;

use netprobe_common::{KNOB_COUNT, KNOB_EMPTY, OFFSET_ABSENT, OFFSET_COUNT};

use crate::maps::RUNNING;

/// Offsets of kernel struct members, see `netprobe_common::OFFSET_PATHS`.
#[unsafe(no_mangle)]
pub static OFFSETS: [u32; OFFSET_COUNT] = [OFFSET_ABSENT; OFFSET_COUNT];

/// Settings, see `netprobe_common::KNOB_*`.
#[unsafe(no_mangle)]
pub static KNOBS: [u64; KNOB_COUNT] = [0; KNOB_COUNT];

/// Offset in bytes of member `index`.
#[inline(always)]
pub fn offset(index: usize) -> usize {
    // SAFETY: in bounds of a static; volatile because the loader rewrites it behind the compiler's back.
    unsafe { ptr::read_volatile(&raw const OFFSETS[index]) as usize }
}

/// Whether this kernel has member `index`.
#[inline(always)]
pub fn has(index: usize) -> bool {
    offset(index) != OFFSET_ABSENT as usize
}

/// Value of knob `index`.
#[inline(always)]
pub fn knob(index: usize) -> u64 {
    // SAFETY: as in `offset`.
    unsafe { ptr::read_volatile(&raw const KNOBS[index]) }
}

/// Whether programs are to do nothing: for good, or until all are attached.
#[inline(always)]
pub fn empty() -> bool {
    knob(KNOB_EMPTY) != 0 || RUNNING.get(0).is_none_or(|running| *running == 0)
}
