//! Harness of netprobe's truth tests.
//!
//! Real traffic runs in network namespaces ([`lab`]), driven call by call ([`traffic`]); the agent under test
//! runs beside it ([`agent`]); what it says is held against what the endpoints did and what other tools saw
//! ([`truth`], [`capture`]).

pub mod agent;
pub mod bench;
pub mod capture;
pub mod ceph;
pub mod event;
pub mod gate;
pub mod http;
pub mod lab;
pub mod ladder;
pub mod nodes;
pub mod parity;
pub mod power;
pub mod proxy;
pub mod sandbox;
pub mod tools;
pub mod traffic;
pub mod truth;
pub mod validate;

use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// Polls `probe` until it gives a value or `limit` is over; then fails with what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            anyhow::bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of the programs in the kernel.
pub fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
