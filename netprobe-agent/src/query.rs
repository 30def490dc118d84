//! What others ask of the pipeline thread, and its answers.
//!
//! The pipeline thread owns the flow table and all counters; nothing else reads them. It takes [`Query`]s from a
//! bounded channel between two drains and answers through the one-shot channel in each.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
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

/// Wakes the pipeline thread, which sleeps between two drains, when there is a question.
#[derive(Clone, Debug)]
pub struct Bell(Option<Arc<OwnedFd>>);

impl Bell {
    fn new() -> Bell {
        // Without one a question waits for the end of the sleep.
        Bell(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .ok()
                .map(Arc::new),
        )
    }

    /// The descriptor that becomes readable; -1, which `poll` passes over: there is none.
    pub fn fd(&self) -> RawFd {
        self.0.as_ref().map_or(-1, |fd| fd.as_raw_fd())
    }

    fn ring(&self) {
        if let Some(fd) = &self.0 {
            // It fails when it has been rung more often than anyone can count, and nobody has listened yet.
            let _ = rustix::io::write(fd.as_fd(), &1_u64.to_ne_bytes());
        }
    }

    /// Makes it quiet again.
    pub fn hush(&self) {
        if let Some(fd) = &self.0 {
            // It fails when it was quiet.
            let _ = rustix::io::read(fd.as_fd(), &mut [0_u8; 8]);
        }
    }
}

/// The asking side.
#[derive(Clone, Debug)]
pub struct Handle {
    queries: mpsc::Sender<Query>,
    bell: Bell,
}

/// A handle and the side the pipeline thread reads with `try_recv`.
pub fn channel() -> (Handle, mpsc::Receiver<Query>) {
    let (queries, receiver) = mpsc::channel(BACKLOG);
    let bell = Bell::new();
    (Handle { queries, bell }, receiver)
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

    /// What rings when there is a question.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
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
            self.bell.ring();
            answer.await.map_err(|_| QueryError::Ended)
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or(Err(QueryError::Timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_rings() {
        let (handle, mut queries) = channel();
        let bell = handle.bell();
        let rings = || {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                bell.0.as_ref().unwrap().as_fd(),
                rustix::event::PollFlags::IN,
            )];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
        };
        assert!(!rings());
        let asked = tokio::spawn(async move { handle.probe().await });
        let Some(Query::Probe { reply }) = queries.recv().await else {
            panic!("another question");
        };
        // It is rung as soon as the question is there.
        while !rings() {
            tokio::task::yield_now().await;
        }
        bell.hush();
        assert!(!rings());
        reply.send(Box::default()).unwrap();
        assert!(asked.await.unwrap().is_ok());
    }
}
