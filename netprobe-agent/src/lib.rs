//! The netprobe agent.

pub mod config;
pub mod event;
pub mod fanout;
pub mod probe_report;
