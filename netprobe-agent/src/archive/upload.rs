//! The thread that brings sealed segments to the archive, in the order of the chain, and gives up on none.
//!
//! Object first, then manifest. A failure is tried again with a wait that doubles and is spread at random; while it
//! waits the circuit is open. Nobody but this thread ever waits for the archive.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::{
    disk::{Disk, read_whole},
    layout,
    manifest::{TOMBSTONE_SCHEMA, Tombstone},
    signing::{self, Key},
    spool::{self, Name, Sealed},
    state::{EXPIRED, SPOOL_CORRUPT, Shared, State},
    store::{Put, Store, StoreError},
};
use crate::{error::AgentError, event::Nanos, probe_report::Circuit};

/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Failures in a row before it is told as an error, not as a warning.
const ALARM: u64 = 3;
/// Time between two looks for something to do.
const LOOK: Duration = Duration::from_millis(500);

/// Opens the archive; called again as long as it fails.
pub(super) type Opener = Box<dyn Fn() -> Result<Store, AgentError> + Send>;

/// What the uploader needs.
pub(super) struct Uploader {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) key: Arc<Key>,
    pub(super) run: Arc<str>,
    pub(super) open: Opener,
    pub(super) runtime: Runtime,
    /// Segments older than this are dropped, with a tombstone.
    pub(super) max_age: Option<Duration>,
}

/// What became of a segment.
enum Fate {
    /// The archive has it.
    Archived { bytes: u64 },
    /// It is gone, and the archive has a tombstone.
    GivenUp(&'static str),
}

/// Why a segment is not in the archive yet.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Open(#[from] AgentError),
    #[error("the spool cannot be read or changed: {0}")]
    Spool(#[from] io::Error),
}

impl Uploader {
    /// Uploads until the sealer has ended and nothing is left, or until told to end.
    pub(super) fn run(self) {
        let mut store = None;
        let mut wait = FIRST_WAIT;
        while let Some(sealed) = self.next() {
            match self.bring(&mut store, &sealed) {
                Ok((fate, kept)) => {
                    wait = FIRST_WAIT;
                    self.book(&sealed, &fate, kept);
                }
                Err(error) => {
                    // A store that failed is opened anew: its credentials or its folder may have been set right.
                    store = None;
                    if self.failed(&error, &mut wait) {
                        break;
                    }
                }
            }
        }
        self.shared.lock().uploaded_all = true;
        self.shared.further.notify_all();
    }

    /// The oldest segment; `None` when there will be no more.
    fn next(&self) -> Option<Sealed> {
        let mut state = self.shared.lock();
        loop {
            if state.ended.is_some() {
                return None;
            }
            if let Some(sealed) = state.sealed.front() {
                return Some(sealed.clone());
            }
            if state.sealed_all {
                return None;
            }
            state = Shared::wait(&self.shared.further, state, LOOK);
        }
    }

    /// Brings a segment to its end; whether its object is kept for a follower.
    fn bring(&self, store: &mut Option<Store>, sealed: &Sealed) -> Result<(Fate, bool), UploadError> {
        let store = match store {
            Some(store) => store,
            None => store.insert((self.open)()?),
        };
        let name = Name::Object(sealed.number).text();
        let object = match read_whole(&*self.disk, &name) {
            Ok(object) => (signing::sha256(&object) == sealed.manifest.sha256).then_some(object),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let fate = match object {
            None => Fate::GivenUp(SPOOL_CORRUPT),
            Some(_) if self.expired(sealed) => Fate::GivenUp(EXPIRED),
            Some(object) => {
                let bytes = object.len() as u64;
                let put = self
                    .runtime
                    .block_on(store.put(&sealed.manifest.key, Bytes::from(object)))?;
                tracing::debug!(
                    key = sealed.manifest.key,
                    bytes,
                    there = put == Put::WasThere,
                    "uploaded"
                );
                Fate::Archived { bytes }
            }
        };
        let stem = layout::stem(&sealed.manifest.key);
        if let Fate::GivenUp(reason) = fate {
            let tombstone = Tombstone {
                schema: TOMBSTONE_SCHEMA.to_owned(),
                chain_id: sealed.manifest.chain_id.clone(),
                index: sealed.number,
                key: sealed.manifest.key.clone(),
                manifest_sha256: signing::sha256(&sealed.manifest_bytes),
                events: sealed.manifest.content.events,
                reason: reason.to_owned(),
                // Not the time of this try: a retry writes the same bytes.
                at: sealed.manifest.sealed_at,
            };
            let bytes = self.key.sign(&tombstone).map_err(io::Error::from)?;
            let key = format!("{stem}{}", layout::TOMBSTONE);
            self.runtime.block_on(store.put(&key, bytes.into()))?;
        }
        let manifest = Bytes::from(sealed.manifest_bytes.to_vec());
        self.runtime
            .block_on(store.put(&format!("{stem}{}", layout::MANIFEST), manifest))?;
        if matches!(fate, Fate::GivenUp(SPOOL_CORRUPT)) {
            // What is left of it is kept for whoever can read more out of it.
            match spool::quarantine(&*self.disk, &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let follow = |state: &State| {
            let follow = state.follow.as_ref();
            follow.is_some_and(|follow| follow.wants(&sealed.manifest.content))
        };
        let keep = !matches!(fate, Fate::GivenUp(SPOOL_CORRUPT)) && follow(&self.shared.lock());
        spool::confirm(&*self.disk, sealed.number, keep)?;
        Ok((fate, keep))
    }

    fn expired(&self, sealed: &Sealed) -> bool {
        let age = Nanos::now().0.saturating_sub(sealed.manifest.content.ts_max.0);
        self.max_age
            .is_some_and(|most| u128::try_from(age).is_ok_and(|age| age > most.as_nanos()))
    }

    fn book(&self, sealed: &Sealed, fate: &Fate, kept: bool) {
        let mut state = self.shared.lock();
        state.sealed.pop_front();
        if let Some(follow) = state.follow.as_mut().filter(|_| kept) {
            follow.kept.push_back(sealed.clone());
        }
        let own = sealed.manifest.content.run == self.run;
        let events = sealed.manifest.content.events;
        if own {
            state.spooled = state.spooled.saturating_sub(events);
        }
        match fate {
            Fate::Archived { bytes } => {
                if own {
                    state.settled.delivered += events;
                }
                state.count_segment("archived");
                state.archived_bytes += bytes;
            }
            Fate::GivenUp(reason) => {
                tracing::error!(
                    key = sealed.manifest.key,
                    events,
                    reason,
                    "a segment was given up; the archive has a tombstone"
                );
                if own {
                    state.lost(reason, events);
                }
                state.quarantined += u64::from(*reason == SPOOL_CORRUPT);
                state.count_segment("dropped");
            }
        }
        recovered(&mut state);
    }

    /// Books a failure and waits; whether it is time to end.
    fn failed(&self, error: &UploadError, wait: &mut Duration) -> bool {
        let mut state = self.shared.lock();
        state.failures += 1;
        state.count_segment("failed");
        let text = error.to_string();
        let waiting = state.sealed.len();
        if state.failures == ALARM {
            tracing::error!(
                error = text,
                waiting,
                "the archive does not take segments; they stay in the spool"
            );
        } else {
            tracing::warn!(
                error = text,
                waiting,
                "a segment could not be archived; trying again"
            );
        }
        state.last_error = Some(text);
        state.circuit = Circuit::Open;
        if state.closing {
            return true;
        }
        // Half of the wait is fixed, half is chance: a fleet does not come back all at once.
        let nanos = wait.as_nanos() as u64;
        let chance = Nanos::now().0.unsigned_abs() % (nanos / 2).max(1);
        let end = std::time::Instant::now() + Duration::from_nanos(nanos / 2 + chance);
        *wait = (*wait * 2).min(LONGEST_WAIT);
        while !state.closing && state.ended.is_none() {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                break;
            }
            state = Shared::wait(&self.shared.further, state, left);
        }
        state.circuit = Circuit::HalfOpen;
        false
    }
}

fn recovered(state: &mut State) {
    if state.failures >= ALARM {
        tracing::info!(waiting = state.sealed.len(), "the archive takes segments again");
    }
    state.failures = 0;
    state.circuit = Circuit::Closed;
    state.last_error = None;
    state.last_success = Some(Nanos::now());
}
