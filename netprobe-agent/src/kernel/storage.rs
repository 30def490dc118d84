//! Whether sockets can hold what the programs keep of them.
//!
//! That a program with socket storage loads does not say so: newer kernels (7.3 was seen to) make its memory with an
//! allocator that may be called anywhere, which has none to give on processors without `cmpxchg16b`. Every program runs
//! then, and finds nothing.

use std::os::fd::AsRawFd;

use aya::{Ebpf, maps::SkStorage};
use netprobe_common::CONN_BYTES;
use rustix::net::{AddressFamily, SocketType, socket};

/// The map of the connections' state.
const CONNS: &str = "CONNS";

/// Puts a value into a socket made for it, which nobody sees: it is neither bound nor connected.
pub fn check(ebpf: &mut Ebpf) -> Result<(), String> {
    let told = |what: &str, error: &dyn std::error::Error| {
        let cause = error
            .source()
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        format!("{what}: {error}{cause}")
    };
    let own = socket(AddressFamily::INET, SocketType::STREAM, None)
        .map_err(|error| told("socket storage cannot be tried, no socket can be made", &error))?;
    let map = ebpf
        .map_mut(CONNS)
        .ok_or("the BPF object has no map for socket storage")?;
    let mut storage: SkStorage<_, [u8; CONN_BYTES]> =
        SkStorage::try_from(map).map_err(|error| told("socket storage cannot be tried", &error))?;
    storage
        .insert(&own.as_raw_fd(), [0; CONN_BYTES], 0)
        .map_err(|error| told("sockets have no storage here", &error))
}
