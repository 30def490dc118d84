//! Debug lines of the programs, into the agent's log. Switched while it runs.

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use aya_log::EbpfLogger;

use crate::error::AgentError;

/// The switch and the reader of the lines.
pub struct KernelLog {
    switch: Array<MapData, u32>,
    logger: EbpfLogger<ToTracing>,
    on: bool,
}

/// Lines go where the agent's own go.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "netprobe_ebpf", program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}

impl KernelLog {
    /// Takes the switch and the lines out of the loaded object.
    pub fn open(ebpf: &mut Ebpf) -> Result<KernelLog, AgentError> {
        let switch = super::load::take_map(ebpf, "LOG")?;
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(|error| {
            AgentError::other(
                format!("the programs' log cannot be read: {error}"),
                "rebuild netprobe",
            )
        })?;
        Ok(KernelLog {
            switch,
            logger,
            on: false,
        })
    }

    /// Switches lines on or off.
    pub fn switch(&mut self, on: bool) {
        if on == self.on {
            return;
        }
        match self.switch.set(0, u32::from(on), 0) {
            Ok(()) => {
                self.on = on;
                tracing::info!(on, "debug lines of the programs");
            }
            Err(error) => tracing::error!("debug lines of the programs cannot be switched: {error}"),
        }
    }

    /// Hands over what was written since.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}
