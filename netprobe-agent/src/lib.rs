//! The netprobe agent.

pub mod api;
pub mod app;
pub mod archive;
pub mod cli;
pub mod config;
pub mod decode;
pub mod error;
pub mod event;
pub mod fanout;
pub mod filter;
pub mod flow;
pub mod history;
pub mod journal;
pub mod kafka;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod output;
pub mod privileges;
pub mod probe_report;
pub mod query;
pub mod recent;
pub mod request;
pub mod ring;
pub mod stream;
