//! Diagnostics, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::{filter::LevelFilter, fmt};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Starts writing. The first call wins; there is one process and one log.
pub(super) fn start(config: &LogConfig) {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = fmt().with_max_level(level).with_writer(std::io::stderr);
    // An error means that something in this process logs already.
    let _ = match config.format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
