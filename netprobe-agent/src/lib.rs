//! The netprobe agent.

pub mod config;
pub mod error;
pub mod event;
pub mod fanout;
pub mod flow;
pub mod kernel;
pub mod probe_report;
pub mod query;
