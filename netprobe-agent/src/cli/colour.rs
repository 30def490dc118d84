//! Colours of lines.

use std::io::{self, IsTerminal};

use clap::ValueEnum;

use crate::event::Severity;

/// When lines have colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Whether stdout is a terminal whose user wants colours.
pub(super) fn coloured() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// What begins a line of this severity; nothing where there is nothing to say.
pub(super) fn of(severity: Severity) -> Option<&'static str> {
    match severity {
        Severity::Debug => Some("\x1b[2m"),
        Severity::Info => None,
        Severity::Warning => Some("\x1b[33m"),
        Severity::Error => Some("\x1b[31m"),
        Severity::Critical => Some("\x1b[1;31m"),
    }
}
