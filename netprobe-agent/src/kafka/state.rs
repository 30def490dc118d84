//! What the worker tells of itself.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    config::KafkaConfig,
    event::Nanos,
    probe_report::{ChainHead, Circuit, KafkaReport},
};

/// What becomes of messages: each is shown from 0 on.
const FATES: [&str; 3] = ["delivered", "lost", "failed"];
/// Failures in a row before it is told as an error, not as a warning.
const ALARM: u64 = 3;

#[derive(Debug, Default)]
pub(super) struct State {
    /// Set at the end: until when there is time.
    pub(super) closing: Option<Instant>,
    /// The worker has ended.
    pub(super) ended: bool,
    pub(super) in_flight: u64,
    pub(super) oldest: Option<Nanos>,
    messages: BTreeMap<&'static str, u64>,
    bytes: u64,
    pub(super) circuit: Circuit,
    failures: u64,
    last_success: Option<Nanos>,
    last_error: Option<String>,
    pub(super) witness: Option<ChainHead>,
}

impl State {
    pub(super) fn count(&mut self, fate: &'static str, count: u64) {
        if count > 0 {
            *self.messages.entry(fate).or_default() += count;
        }
    }

    /// Brokers have confirmed something.
    pub(super) fn succeeded(&mut self, bytes: u64) {
        if self.failures >= ALARM {
            tracing::info!("Kafka takes events again");
        }
        self.bytes += bytes;
        self.failures = 0;
        self.circuit = Circuit::Closed;
        self.last_error = None;
        self.last_success = Some(Nanos::now());
    }

    /// Something failed.
    pub(super) fn failed(&mut self, error: &str) {
        self.failures += 1;
        self.circuit = Circuit::Open;
        if self.failures == ALARM {
            tracing::error!(error, "Kafka does not take events; they stay in the spool");
        } else if self.last_error.as_deref() != Some(error) {
            tracing::warn!(error, "events could not be sent to Kafka; trying again");
        }
        self.last_error = Some(error.to_owned());
    }

    pub(super) fn report(&self, config: &KafkaConfig) -> KafkaReport {
        let age = |oldest: Nanos| Nanos::now().0.saturating_sub(oldest.0).max(0) as f64 / 1e9;
        KafkaReport {
            brokers: config.brokers.clone(),
            topic: config.topic.clone(),
            in_flight: self.in_flight,
            oldest_seconds: self.oldest.map_or(0.0, age),
            messages: FATES
                .map(|fate| (fate.to_owned(), self.messages.get(fate).copied().unwrap_or(0)))
                .into(),
            bytes: self.bytes,
            circuit: self.circuit,
            failures: self.failures,
            last_success: self.last_success,
            last_error: self.last_error.clone(),
            witness: self.witness.clone(),
        }
    }
}

/// The state, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
