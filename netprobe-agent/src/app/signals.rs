//! The signals the agent answers to. They are caught before anything else begins: one that comes while programs are
//! still being attached is answered when they are, and ends nothing half done.

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::error::AgentError;

/// All of them, and the runtime they are waited for in.
pub(super) struct Signals {
    pub(super) runtime: Runtime,
    pub(super) stop: Stop,
    pub(super) steer: Steer,
}

/// What ends the agent.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

/// What changes it while it runs.
pub(super) struct Steer {
    /// SIGHUP: the configuration again.
    pub(super) again: Signal,
    /// SIGUSR1: more in the log.
    pub(super) more: Signal,
    /// SIGUSR2: as configured.
    pub(super) back: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Signals, AgentError> {
        let failed = |error: std::io::Error| {
            AgentError::other(
                format!("signals cannot be caught: {error}"),
                "check the limits of open files",
            )
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let inside = runtime.enter();
        let caught = |kind| signal(kind).map_err(failed);
        let stop = Stop {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
        };
        let steer = Steer {
            again: caught(SignalKind::hangup())?,
            more: caught(SignalKind::user_defined1())?,
            back: caught(SignalKind::user_defined2())?,
        };
        drop(inside);
        Ok(Signals { runtime, stop, steer })
    }
}

impl Stop {
    /// Returns when the agent is told to end.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
