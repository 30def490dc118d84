//! What others ask of the pipeline thread, and its answers.
//!
//! The pipeline thread owns the flow table and all counters; nothing else reads them. It takes [`Query`]s from a
//! bounded channel between two drains and answers through the one-shot channel in each.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::{event::Event, probe_report::ProbeReport};

/// A question to the pipeline thread. An asker that has gone away is no error.
#[derive(Debug)]
pub enum Query {
    /// A part of the live flow table.
    Flows {
        /// Only flows at positions above this one; `None`: from the start.
        after: Option<u64>,
        /// Most flows to answer with: bounds the time the pipeline spends on it.
        limit: usize,
        /// Where the answer goes.
        reply: oneshot::Sender<FlowPage>,
    },
    /// The whole report, also what a scrape shows of kernel and ledger.
    Probe {
        /// Where the answer goes.
        reply: oneshot::Sender<Box<ProbeReport>>,
    },
}

/// A part of the live flow table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowPage {
    /// Live flows as events of kind `flow`, state `open` or `update`, `seq` null, each with its position in the
    /// table. Positions rise; a flow that lives through all pages is in exactly one of them.
    pub flows: Vec<(u64, Event)>,
    /// Whether flows follow.
    pub more: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The pipeline did not answer in time.
    #[error("the pipeline did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The pipeline has ended.
    #[error("the pipeline has ended")]
    Ended,
}

/// How long an asker waits.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Questions that may wait; further ones wait outside.
const BACKLOG: usize = 32;

/// The asking side.
#[derive(Clone, Debug)]
pub struct Handle {
    queries: mpsc::Sender<Query>,
}

/// A handle and the side the pipeline thread reads with `try_recv`.
pub fn channel() -> (Handle, mpsc::Receiver<Query>) {
    let (queries, receiver) = mpsc::channel(BACKLOG);
    (Handle { queries }, receiver)
}

impl Handle {
    /// Asks for a part of the live flow table.
    pub async fn flows(&self, after: Option<u64>, limit: usize) -> Result<FlowPage, QueryError> {
        self.ask(|reply| Query::Flows { after, limit, reply }).await
    }

    /// Asks for the whole report.
    pub async fn probe(&self) -> Result<Box<ProbeReport>, QueryError> {
        self.ask(|reply| Query::Probe { reply }).await
    }

    /// Whether the pipeline thread still reads questions.
    pub fn is_alive(&self) -> bool {
        !self.queries.is_closed()
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, QueryError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.queries
                .send(query(reply))
                .await
                .map_err(|_| QueryError::Ended)?;
            answer.await.map_err(|_| QueryError::Ended)
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or(Err(QueryError::Timeout))
    }
}
