//! What is durable on this host, in order, for a sink that follows it: the archive keeps it, Kafka reads it.
//!
//! A follower has no queue of its own, only a place up to which it is done. What it has not done stays on disk, and is
//! read again after a failure or a restart: at least once, and `(host, run, seq)` tells what comes twice.

use std::{collections::BTreeMap, fmt::Debug, io, sync::Arc, time::Duration};

use crate::{
    fanout::{Outcome, Settled},
    probe_report::ChainHead,
};

/// What a journal has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event {
        /// Its run.
        run: Arc<str>,
        /// Its number.
        seq: u64,
        /// Its line of JSON, with the newline.
        line: Vec<u8>,
    },
    /// Events of this run were durable and cannot be read any more.
    Lost {
        /// The run.
        run: Arc<str>,
        /// The last number they can have had.
        seq: u64,
        /// Why.
        reason: &'static str,
        /// How many.
        count: u64,
    },
}

/// What became of items, up to one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Events delivered.
    pub delivered: u64,
    /// Events lost, by reason.
    pub lost: BTreeMap<&'static str, u64>,
}

/// Reads what is durable and notes how much of it is done.
pub trait Journal: Debug + Send {
    /// What comes next, about so many bytes of it; nothing, when there is nothing yet.
    fn read(&mut self, bytes: usize) -> io::Result<Vec<Item>>;

    /// Waits until there may be more, or for so long.
    fn wait(&self, most: Duration);

    /// Everything read of a run up to a number is done: it is never read again.
    fn settle(&mut self, run: &Arc<str>, seq: u64, done: Done);

    /// What was read and is not settled is read again.
    fn rewind(&mut self);

    /// Makes the place last.
    fn save(&mut self) -> io::Result<()>;

    /// Where the chain of the archive ends.
    fn head(&self) -> Option<ChainHead>;
}

/// The follower's books, for its sink.
pub trait Books: Debug + Send + Sync {
    /// What became of the event that the fan-out offered last.
    fn outcome(&self) -> Outcome;

    /// Whether the next one would be taken.
    fn has_room(&self) -> bool;

    /// What the follower did, and how many events wait for it.
    fn settled(&self) -> Settled;

    /// Why events are lost that never come to the follower.
    fn loses_by(&self) -> &'static [&'static str];
}
