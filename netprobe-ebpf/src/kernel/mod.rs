//! The only readers of kernel memory.

pub mod clock;
pub mod conntrack;
pub mod packet;
pub mod sock;
pub mod task;
pub mod tcp;

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use netprobe_common::READ_FAULT;

use crate::{count, values::offset};

/// Loads member `index` through a pointer whose type the verifier knows: a plain load, checked at load time.
///
/// # Safety
/// `base` is such a pointer (a tracepoint argument or reached from one), not null, and points to the struct that
/// the member's path starts with.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const c_void, index: usize) -> T {
    // SAFETY: by contract; volatile so that no two members are merged into one wider load, which the verifier
    // would refuse.
    unsafe { ptr::read_volatile(base.byte_add(offset(index)).cast::<T>()) }
}

/// Reads `T` at `address` through the fault-tolerant helper; `None` is counted.
#[inline(always)]
pub fn probe<T: Copy>(address: *const c_void) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of `value` or fails; any address is allowed.
    unsafe {
        if bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address) == 0 {
            return Some(value.assume_init());
        }
    }
    count::one(READ_FAULT);
    None
}

/// Reads member `index` of the struct at `base` through the fault-tolerant helper.
#[inline(always)]
pub fn probe_at<T: Copy>(base: *const c_void, index: usize) -> Option<T> {
    probe(base.wrapping_byte_add(offset(index)))
}

/// As [`probe_at`], into `out`: no copy through the stack.
#[inline(always)]
pub fn probe_into<T: Copy>(base: *const c_void, index: usize, out: &mut T) -> Option<()> {
    let from = base.wrapping_byte_add(offset(index));
    // SAFETY: the helper writes all of `out` or fails; any address is allowed.
    if unsafe { bpf_probe_read_kernel(core::ptr::from_mut(out).cast(), size_of::<T>() as u32, from) } == 0 {
        return Some(());
    }
    count::one(READ_FAULT);
    None
}
