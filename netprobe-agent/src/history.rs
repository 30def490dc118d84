//! Reports on a time, out of the archive alone: [`sla`] and [`timeline`]. The same archive and the same question give the same bytes:
//! order is by key, no clock is read, and what cannot be known is said to be unknown.

mod document;
pub mod latency;
pub mod read;
pub mod sla;
pub mod slots;
pub mod sources;
pub mod timeline;

/// How long after an attempt began its failure may be told, with the kernel's defaults.
const TOLD_LATE_NS: i64 = 180_000_000_000;

#[cfg(test)]
mod sla_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod timeline_tests;
