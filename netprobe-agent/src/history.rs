//! Reports on a time, out of the archive alone: [`sla`]. The same archive and the same question give the same bytes:
//! order is by key, no clock is read, and what cannot be known is said to be unknown.

pub mod latency;
pub mod read;
pub mod sla;
pub mod slots;

#[cfg(test)]
mod sla_tests;
#[cfg(test)]
mod testing;
