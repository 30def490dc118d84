//! The one place that looks at bytes as wire structs, with the proof that this is sound.

use netprobe_common::{
    AcceptRecord, ConnectFailedRecord, DatagramRecord, FlowRecord, ForwardRecord, Header, HopRecord,
    PayloadRecord, UdpRecord,
};

use super::Reject;

/// A struct any bytes of its size are a value of, and that has no padding.
///
/// # Safety
/// `repr(C)`, only integers and arrays of integers, size equal to the sum of the fields' sizes.
#[expect(unsafe_code, reason = "the proof obligation is the point of this file")]
pub(crate) unsafe trait Wire: Copy {}

macro_rules! wire {
    ($($record:ty),+) => { $(
        // SAFETY: declared so in netprobe-common, which asserts the sizes at compile time.
        #[expect(unsafe_code, reason = "see the trait")]
        unsafe impl Wire for $record {}
    )+ };
}
wire!(
    Header,
    FlowRecord,
    AcceptRecord,
    ConnectFailedRecord,
    HopRecord,
    ForwardRecord,
    UdpRecord,
    PayloadRecord,
    DatagramRecord
);

/// The bytes as a struct, in place.
pub(super) fn view<T: Wire>(bytes: &[u8]) -> Result<&T, Reject> {
    if bytes.len() < size_of::<T>() {
        return Err(Reject::Short);
    }
    if !bytes.as_ptr().addr().is_multiple_of(align_of::<T>()) {
        return Err(Reject::Misaligned);
    }
    // SAFETY: long enough and aligned, checked just now; any bytes are a `T`; the lifetime is that of the bytes.
    #[expect(unsafe_code, reason = "see the trait")]
    Ok(unsafe { &*bytes.as_ptr().cast::<T>() })
}

/// The struct as bytes.
#[cfg(test)]
pub(crate) fn bytes<T: Wire>(record: &T) -> &[u8] {
    // SAFETY: no padding, so every byte is initialised.
    #[expect(unsafe_code, reason = "see the trait")]
    unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), size_of::<T>())
    }
}
