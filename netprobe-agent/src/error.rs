//! Why the agent or a command ended: an exit code, a sentence, and what to do.

use std::{io, path::PathBuf};

use crate::config::ConfigError;

/// Exit codes of `netprobe`. Scripts may rely on them.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something else went wrong.
    Other = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Privileges are missing.
    NoPrivilege = 3,
    /// The kernel has no type information (BTF).
    NoBtf = 4,
    /// The kernel is older than the floor.
    KernelTooOld = 5,
    /// A required fact has no method on this kernel.
    MissingHook = 6,
    /// The address or the socket is taken.
    AddressInUse = 7,
    /// The output cannot be written.
    UnwritableOutput = 8,
    /// No agent answers.
    AgentUnreachable = 9,
}

/// What went wrong. `Display` is one sentence; [`AgentError::advice`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A filter or an argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// Privileges are missing.
    #[error("{action} is not permitted: {error}")]
    NoPrivilege {
        /// What was tried.
        action: String,
        /// What the system said.
        error: String,
    },
    /// No type information.
    #[error("the kernel's type information {path} cannot be read: {error}")]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The kernel is too old.
    #[error("kernel {release} is older than {floor}, the oldest netprobe works on")]
    KernelTooOld {
        /// The running kernel.
        release: String,
        /// The floor.
        floor: String,
    },
    /// A required fact has no method.
    #[error("no method for the required fact `{fact}` works on this kernel ({reasons})")]
    MissingHook {
        /// The fact.
        fact: String,
        /// Each method with why it was refused.
        reasons: String,
    },
    /// The address is taken.
    #[error("cannot listen on {address}: {error}")]
    AddressInUse {
        /// Address or path.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write to {output}: {error}")]
    UnwritableOutput {
        /// Name of the output.
        output: String,
        /// What the system said.
        error: io::Error,
    },
    /// No agent answers.
    #[error("no agent answers on {socket}: {error}")]
    AgentUnreachable {
        /// Path of the socket.
        socket: PathBuf,
        /// What went wrong.
        error: String,
    },
    /// Something else.
    #[error("{what}")]
    Other {
        /// What went wrong.
        what: String,
        /// What to do.
        advice: String,
    },
}

impl AgentError {
    /// Something that has no code of its own.
    pub fn other(what: impl Into<String>, advice: impl Into<String>) -> AgentError {
        AgentError::Other {
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// The exit code of the process.
    pub const fn exit(&self) -> Exit {
        match self {
            AgentError::Config(_) | AgentError::Usage(_) => Exit::Usage,
            AgentError::NoPrivilege { .. } => Exit::NoPrivilege,
            AgentError::NoBtf { .. } => Exit::NoBtf,
            AgentError::KernelTooOld { .. } => Exit::KernelTooOld,
            AgentError::MissingHook { .. } => Exit::MissingHook,
            AgentError::AddressInUse { .. } => Exit::AddressInUse,
            AgentError::UnwritableOutput { .. } => Exit::UnwritableOutput,
            AgentError::AgentUnreachable { .. } => Exit::AgentUnreachable,
            AgentError::Other { .. } => Exit::Other,
        }
    }

    /// What to do, in one sentence.
    pub fn advice(&self) -> &str {
        match self {
            AgentError::Config(_) => "`netprobe config show` prints every key with its value",
            AgentError::Usage(_) => "see `netprobe help`",
            AgentError::NoPrivilege { .. } => {
                "run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE"
            }
            AgentError::NoBtf { .. } => "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            AgentError::KernelTooOld { .. } => "upgrade the kernel",
            AgentError::MissingHook { .. } => {
                "`netprobe doctor` shows every method; drop a forced one from `probe.methods`, if there is one"
            }
            AgentError::AddressInUse { .. } => {
                "stop the other agent, or choose another `api.listen` or `api.socket`"
            }
            AgentError::UnwritableOutput { .. } => "check that the output is open and its disk has room",
            AgentError::AgentUnreachable { .. } => {
                "start it with `netprobe run`, or name its socket with `--socket`"
            }
            AgentError::Other { advice, .. } => advice,
        }
    }
}
