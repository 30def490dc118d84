//! Reports out of the archive alone: [`sla`] and [`timeline`] on a time, [`path`] on one connection. The same archive and the same question give the same bytes:
//! order is by key, no clock is read, and what cannot be known is said to be unknown.

use std::net::IpAddr;

mod document;
pub mod latency;
pub mod path;
pub mod read;
pub mod sla;
pub mod slots;
pub mod sources;
pub mod timeline;

/// How long after an attempt began its failure may be told, with the kernel's defaults.
const TOLD_LATE_NS: i64 = 180_000_000_000;

/// Whether an address means another machine on each host.
fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod sla_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod timeline_tests;
