//! The sink: keeps the books. What is sent, the worker reads from the spool.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::thread::CapabilitySet;

use super::{
    NAME,
    state::Shared,
    worker::{REFUSED, TOO_LARGE, UNREADABLE, Worker},
};
use crate::{
    config::KafkaConfig,
    error::AgentError,
    event::{Event, Origin},
    fanout::{Outcome, Settled, Sink},
    journal::{Books, Journal},
    privileges,
    probe_report::KafkaReport,
};

/// The library takes half a second to end after the time is over.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What others see of it; a clone sees the same.
#[derive(Clone, Debug)]
pub struct Kafka {
    shared: Arc<Shared>,
    config: KafkaConfig,
}

impl Kafka {
    /// What it says about itself.
    pub fn report(&self) -> KafkaReport {
        self.shared.lock().report(&self.config)
    }
}

/// Kafka as a sink. It has to be added after the one that keeps the journal.
#[derive(Debug)]
pub struct KafkaSink {
    shared: Arc<Shared>,
    books: Arc<dyn Books>,
    reasons: Vec<&'static str>,
    worker: Option<JoinHandle<()>>,
}

/// Starts the worker. Brokers that cannot be reached are waited for.
pub fn start(
    config: &KafkaConfig,
    origin: &Origin,
    journal: Box<dyn Journal>,
    books: Arc<dyn Books>,
) -> Result<(Kafka, KafkaSink), AgentError> {
    let shared = Arc::new(Shared::default());
    let worker = Worker::new(config.clone(), origin.clone(), journal, shared.clone());
    let thread = std::thread::Builder::new()
        .name("kafka".to_owned())
        .spawn(move || {
            // Files of the spool are all it needs; what it starts has no more.
            privileges::keep(CapabilitySet::DAC_OVERRIDE);
            worker.run();
        })
        .map_err(|error| {
            AgentError::other(
                format!("no thread for Kafka: {error}"),
                "check the limits of processes",
            )
        })?;
    let kafka = Kafka {
        shared: shared.clone(),
        config: config.clone(),
    };
    let reasons = [books.loses_by(), &[TOO_LARGE, REFUSED, UNREADABLE]].concat();
    let sink = KafkaSink {
        shared,
        books,
        reasons,
        worker: Some(thread),
    };
    Ok((kafka, sink))
}

impl Sink for KafkaSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn loses_by(&self) -> &[&'static str] {
        &self.reasons
    }

    /// What the spool has taken, it will send.
    fn consume(&mut self, _event: &Arc<Event>) -> Outcome {
        self.books.outcome()
    }

    fn has_room(&self) -> bool {
        self.books.has_room()
    }

    fn settled(&self) -> Settled {
        self.books.settled()
    }

    /// Sends what brokers take in time. The rest stays in the spool: the next run goes on with it.
    fn shutdown(&mut self, deadline: Instant) {
        let mut state = self.shared.lock();
        state.closing = Some(deadline);
        self.shared.changed.notify_all();
        while !state.ended {
            let left = (deadline + LAST_WORD).saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("the client of Kafka does not end in time");
                return;
            }
            state = match self.shared.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        drop(state);
        if self.worker.take().is_some_and(|worker| worker.join().is_err()) {
            tracing::error!("the thread of Kafka ended by a panic");
        }
    }
}
