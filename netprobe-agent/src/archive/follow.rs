//! Another sink that goes by the spool: it reads what is durable, in the order of the chain, and notes how far it came.
//!
//! Segments are read where they are: open ones as far as they are synced, sealed ones, and those the archive has and
//! this follower has not. The last are *kept* for it: object and `.done.json` stay until it is past them. The archive
//! never waits for a follower. What is kept gives way when the spool has no room for what is new, or is older than
//! `archive.max_age`: the archive has it, the follower has lost it, and its books say so.
//!
//! Its place is one number a run, up to which it is done, in `NAME.cursor`. It is written behind: what was done since
//! the last time is done again after a crash. Files that are gone need no place, so nothing waits for it to be synced.

mod lines;
mod reader;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

pub(super) use reader::Follower;

use super::{
    disk::{self, Disk},
    manifest::Content,
    spool::{self, Sealed},
    state::{DEADLINE, LOSES_BY, QUEUE_FULL, Refuses, SPOOL_FULL, Shared, State, UNWRITABLE},
};
use crate::{
    fanout::{Outcome, Settled},
    journal::Books,
};

/// What the archive keeps in mind for a follower.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// Done up to this number, by run.
    cursor: BTreeMap<Arc<str>, u64>,
    /// Of this run.
    settled: Settled,
    /// Events of this run in the segments below, and those before them.
    ended: u64,
    /// Segments of this run that nobody writes to any more and that the follower is not past.
    ends: VecDeque<End>,
    /// In the archive, and kept for the follower.
    pub(super) kept: VecDeque<Sealed>,
}

/// A segment of this run.
#[derive(Clone, Debug)]
struct End {
    first: u64,
    last: u64,
    /// Events up to its end, from the begin of the run.
    until: u64,
    /// Why it was given up.
    gone: Option<&'static str>,
}

impl Follow {
    pub(super) fn new(cursor: BTreeMap<Arc<str>, u64>, kept: Vec<Sealed>) -> Follow {
        Follow {
            cursor,
            kept: kept.into(),
            ..Follow::default()
        }
    }

    /// A segment of this run has ended.
    pub(super) fn end(&mut self, content: &Content) {
        self.ended += content.events;
        self.ends.push_back(End {
            first: content.first_seq,
            last: content.last_seq,
            until: self.ended,
            gone: None,
        });
    }

    /// Whether a segment is not done.
    pub(super) fn wants(&self, content: &Content) -> bool {
        self.done(&content.run) < content.last_seq
    }

    fn done(&self, run: &str) -> u64 {
        self.cursor.get(run).copied().unwrap_or(0)
    }

    /// Gives up the oldest segment that is only kept; its number in the spool and its length.
    pub(super) fn give_up(&mut self, run: &str, reason: &'static str) -> Option<(u64, u64)> {
        let sealed = self.kept.pop_front()?;
        let content = &sealed.manifest.content;
        tracing::error!(
            key = sealed.manifest.key,
            events = content.events,
            reason,
            "a segment that is in the archive is not kept for Kafka any longer"
        );
        if *content.run == *run {
            let end = self.ends.iter_mut().find(|end| end.first == content.first_seq);
            if let Some(end) = end {
                end.gone = Some(reason);
            }
        }
        Some((sealed.number, sealed.manifest.bytes))
    }

    /// Events of this run that came to an end here.
    fn passed(&self) -> u64 {
        self.settled.delivered + self.settled.lost.values().sum::<u64>()
    }
}

/// Name of the file with the place of a follower.
pub(super) fn file(follower: &str) -> String {
    format!("{follower}.cursor")
}

/// The place in a file; none yet is the begin.
pub(super) fn load(disk: &dyn Disk, file: &str) -> BTreeMap<Arc<str>, u64> {
    match disk::read_whole(disk, file).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(cursor)) => cursor,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Ok(Err(_)) | Err(_) => {
            tracing::error!(
                file,
                "cannot be read: what is in the spool is sent to Kafka from its begin"
            );
            BTreeMap::new()
        }
    }
}

/// What a follower's sink asks.
#[derive(Debug)]
pub(super) struct FollowerBooks(pub(super) Arc<Shared>);

impl Books for FollowerBooks {
    fn outcome(&self) -> Outcome {
        self.0.lock().outcome.unwrap_or(Outcome::Lost(QUEUE_FULL))
    }

    fn has_room(&self) -> bool {
        self.0.lock().has_room()
    }

    fn settled(&self) -> Settled {
        let state = self.0.lock();
        let Some(follow) = &state.follow else {
            return Settled::default();
        };
        let mut settled = follow.settled.clone();
        let unread = state.written.saturating_sub(follow.passed());
        settled.queued = state.queue.len() as u64 + state.in_hand + unread;
        // What the archive lost on the way to the disk never came here.
        for reason in [UNWRITABLE, DEADLINE] {
            let lost = state.settled.lost.get(reason).copied().unwrap_or(0);
            if lost > 0 {
                *settled.lost.entry(reason).or_default() += lost;
            }
        }
        settled
    }

    fn loses_by(&self) -> &'static [&'static str] {
        LOSES_BY
    }
}

/// What is only kept gives way when the spool has too little room for what is new; the bytes that are left.
pub(super) fn make_room(shared: &Shared, disk: &dyn Disk, run: &str, mut bytes: u64, most: u64) -> u64 {
    while bytes >= most {
        let mut state = shared.lock();
        let given = state
            .follow
            .as_mut()
            .and_then(|follow| follow.give_up(run, SPOOL_FULL));
        drop(state);
        let Some((number, len)) = given else { break };
        if let Err(error) = spool::forget(disk, number) {
            tracing::warn!(%error, number, "a segment of the spool cannot be removed");
        }
        bytes = bytes.saturating_sub(len);
    }
    bytes
}

impl State {
    /// Whether an event that must be kept would be taken.
    pub(super) fn has_room(&self) -> bool {
        self.ended.is_none() && self.refuses != Refuses::Everything && self.queued_bytes < super::sink::ROOM
    }
}
