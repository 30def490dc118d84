//! What an operator changes while the agent runs, by signals: SIGHUP reads the configuration again, SIGUSR1 makes the
//! log tell more, SIGUSR2 takes it back to the configuration.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::signals::Steer;
use crate::{
    api::Control,
    config::{Config, Loaded, LogLevel},
    error::AgentError,
    logging::{self, Levels},
};

/// The configuration that runs, and what it steers.
pub(super) struct Steering {
    loaded: Loaded,
    /// As it is in force: keys that need a restart keep their old values.
    running: Config,
    api: Control,
    kernel_log: Arc<AtomicBool>,
}

impl Steering {
    pub(super) fn new(loaded: Loaded, api: Control, kernel_log: Arc<AtomicBool>) -> Steering {
        Steering {
            running: loaded.config.clone(),
            loaded,
            api,
            kernel_log,
        }
    }

    /// Answers the signals; never ends.
    pub(super) async fn listen(&mut self, signals: &mut Steer) {
        loop {
            tokio::select! {
                _ = signals.again.recv() => self.reload(),
                _ = signals.more.recv() => self.tell_more(),
                _ = signals.back.recv() => self.tell_as_configured(),
            }
        }
    }

    fn tell_more(&self) {
        self.kernel_log.store(true, Ordering::Relaxed);
        let levels = logging::levels();
        logging::set_levels(&Levels {
            level: levels.level.max(LogLevel::Debug),
            ..levels
        });
    }

    fn tell_as_configured(&self) {
        self.kernel_log.store(false, Ordering::Relaxed);
        logging::set_levels(&Levels::of(&self.running.log));
    }

    /// On an error everything stays as it was.
    fn reload(&mut self) {
        if let Err(error) = self.try_reload() {
            tracing::error!(
                advice = error.advice(),
                "the configuration was not reloaded, the old one stays: {error}"
            );
        }
    }

    fn try_reload(&mut self) -> Result<(), AgentError> {
        let loaded = self.loaded.again()?;
        // The one step that can fail comes first.
        self.api.reload(&loaded.config.api)?;
        let changes = self.running.changes(&loaded.config);
        self.running = self.running.with_live_keys_of(&loaded.config)?;
        tracing::info!(changed = ?changes.live, "the configuration was reloaded");
        if !changes.restart.is_empty() {
            tracing::warn!(keys = ?changes.restart, "changed keys wait for a restart of the agent");
        }
        logging::set_levels(&Levels::of(&loaded.config.log));
        logging::set_max_repeats(loaded.config.log.max_repeats);
        self.loaded = loaded;
        Ok(())
    }
}
