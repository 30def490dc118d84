//! The netprobe agent.

pub mod config;
pub mod error;
pub mod event;
pub mod fanout;
pub mod probe_report;
pub mod query;
