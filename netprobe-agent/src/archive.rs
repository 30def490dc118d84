//! Sink: the history. Events go to a [spool] on disk, from there in signed, chained segments to the archive, a local
//! folder or a bucket.
//!
//! ```text
//! pipeline ─► queue ─► writer ─► open segment ─► sealer ─► sealed segment ─► uploader ─► archive
//!             bounded  fsync     DURABLE          zstd, manifest             retries      DELIVERED
//! ```
//!
//! The one promise: an event that has to be kept, with a number up to `durable_seq`, is in the spool or in the archive
//! after any crash. An event is `queued` until the archive has it, and `delivered` then. The pipeline never waits:
//! what a full queue or a full spool does not take is lost, counted, and told by a gap event.

pub mod cipher;
pub mod disk;
mod follow;
pub mod frame;
pub mod layout;
pub mod manifest;
pub mod page;
pub mod read;
pub mod restore;
pub mod signing;
mod sink;
pub mod spool;
mod state;
pub mod store;
mod upload;
pub mod verify;
mod workers;

use std::{io, path::Path, sync::Arc, thread::JoinHandle};

pub use sink::{ArchiveSink, NAME, NoSpool};

use rustix::thread::CapabilitySet;

use crate::{
    config::ArchiveConfig,
    error::AgentError,
    event::{Gap, Origin},
    fanout::Sink,
    journal::{Books, Journal},
    privileges,
    probe_report::ArchiveReport,
};
use cipher::SpoolKey;
use disk::{Disk, Folder};
use follow::{Follow, Follower, FollowerBooks};
use signing::Key;
use spool::{Limits, Sealer, Writer};
use state::Shared;
use store::Store;
use upload::{Opener, Uploader};
use workers::WriteSettings;

/// Events written and synced together at most: so many come together only when the disk is what everything waits for.
const BATCH: usize = 8192;

/// What others see of the running archive; a clone sees the same.
#[derive(Clone, Debug)]
pub struct Archive {
    shared: Option<Arc<Shared>>,
    run: Arc<str>,
    config: ArchiveConfig,
    error: Option<String>,
}

/// The archive, about to run.
#[derive(Debug)]
pub struct Started {
    /// For those who ask.
    pub archive: Archive,
    /// For the fan-out.
    pub sink: Box<dyn Sink>,
    /// What an earlier run lost, to be emitted.
    pub gaps: Vec<Gap>,
    /// What an operator should know.
    pub notice: Option<String>,
    /// For the sink that follows, when there is to be one and a spool.
    pub followed: Option<Followed>,
}

/// What a sink that goes by the spool needs.
#[derive(Debug)]
pub struct Followed {
    /// To read by.
    pub journal: Box<dyn Journal>,
    /// To keep its side of the ledger by.
    pub books: Arc<dyn Books>,
}

impl std::fmt::Debug for Box<dyn Sink> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Archive {
    /// Starts the archive of a run, and if there is one, for a follower of this name. A spool that cannot be used does not keep the agent from running: then every event
    /// counts as lost, and a sentence says why.
    pub fn start(config: &ArchiveConfig, origin: &Origin, follower: Option<&'static str>) -> Started {
        let opener: Opener = Box::new({
            let config = config.clone();
            move || Store::open(&config)
        });
        let started = Folder::take(&config.spool)
            .map_err(|error| unusable(&config.spool, &error))
            .and_then(|folder| Archive::start_on(config, origin, Arc::new(folder), opener, follower));
        started.unwrap_or_else(|error| {
            let notice = format!("nothing is archived: {error}; {}", error.advice());
            tracing::error!("{notice}");
            Started {
                archive: Archive {
                    shared: None,
                    run: origin.run.clone(),
                    config: config.clone(),
                    error: Some(error.to_string()),
                },
                sink: Box::new(NoSpool {
                    name: NAME,
                    updates: config.updates,
                }),
                gaps: Vec::new(),
                notice: Some(notice),
                followed: None,
            }
        })
    }

    /// The same on another disk and another store.
    pub fn start_on(
        config: &ArchiveConfig,
        origin: &Origin,
        disk: Arc<dyn Disk>,
        open: Opener,
        follower: Option<&'static str>,
    ) -> Result<Started, AgentError> {
        let spool_error = |error: io::Error| unusable(&config.spool, &error);
        let key_path = config.key_path();
        let key = Arc::new(Key::load(&key_path).map_err(|error| {
            AgentError::other(
                format!("the signing key {} cannot be used: {error}", key_path.display()),
                "put 64 hex digits into it, or remove it to have one made",
            )
        })?);
        let spool_key = spool_key(config)?;
        let recovered = spool::recover(&*disk, spool_key.as_deref()).map_err(spool_error)?;
        let run = origin.run.clone();
        spool::begin_run(&*disk, &run).map_err(spool_error)?;
        let shared = Arc::new(Shared::default());
        let follow = follow(&*disk, follower, recovered.kept);
        {
            let mut state = shared.lock();
            state.follow = follow;
            state.head = Some(recovered.head.clone());
            state.rolled = recovered.rolled.into();
            state.sealed = recovered.sealed.into();
            state.quarantined = recovered.quarantined;
        }
        let limits = Limits {
            bytes: config.segment_bytes as u64,
            age: config.seal_after.0,
        };
        let writer = Writer::new(disk.clone(), run.clone(), limits, spool_key.clone());
        let sealer = Sealer::new(
            disk.clone(),
            key.clone(),
            config.compression,
            recovered.head,
            spool_key.clone(),
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(spool_error)?;
        let uploader = Uploader {
            shared: shared.clone(),
            disk: disk.clone(),
            key,
            run: run.clone(),
            open,
            runtime,
            max_age: (!config.max_age.0.is_zero()).then_some(config.max_age.0),
        };
        let followed = follower.map(|name| Followed {
            journal: Box::new(Follower::new(
                shared.clone(),
                disk.clone(),
                spool_key,
                run.clone(),
                follow::file(name),
                uploader.max_age,
            )),
            books: Arc::new(FollowerBooks(shared.clone())),
        });
        let settings = WriteSettings {
            delay: config.sync_interval.0,
            batch: BATCH,
            room: config.spool_bytes as u64,
        };
        let mut workers = Workers::default();
        workers.spawn("archive-write", {
            let (shared, run) = (shared.clone(), run.clone());
            move || workers::write(&shared, &*disk, &run, writer, settings)
        })?;
        workers.spawn("archive-seal", {
            let (shared, run) = (shared.clone(), run.clone());
            move || workers::seal(&shared, &run, sealer)
        })?;
        workers.spawn("archive-upload", move || uploader.run())?;
        let archive = Archive {
            shared: Some(shared.clone()),
            run,
            config: config.clone(),
            error: None,
        };
        Ok(Started {
            archive,
            sink: Box::new(ArchiveSink {
                shared,
                workers,
                updates: config.updates,
                batch: BATCH,
            }),
            gaps: recovered.gaps,
            notice: None,
            followed,
        })
    }

    /// The archive itself, to be read. A folder that nothing was written to yet is an empty history.
    pub fn store(&self) -> Result<Store, AgentError> {
        Store::open(&self.config)
    }

    /// What it says about itself.
    pub fn report(&self) -> ArchiveReport {
        match &self.shared {
            Some(shared) => shared.lock().status(&self.run, &self.config.url),
            None => ArchiveReport {
                run: self.run.clone(),
                url: self.config.url.clone(),
                disk_error: self.error.clone(),
                ..ArchiveReport::default()
            },
        }
    }
}

/// Takes over what was kept for a follower. Without one it is let go: whoever switched it off wanted that.
fn follow(disk: &dyn Disk, follower: Option<&str>, kept: Vec<spool::Sealed>) -> Option<Follow> {
    if let Some(name) = follower {
        return Some(Follow::new(follow::load(disk, &follow::file(name)), kept));
    }
    for sealed in kept {
        if let Err(error) = spool::forget(disk, sealed.number) {
            tracing::warn!(%error, number = sealed.number, "a segment of the spool that is done cannot be removed");
        }
    }
    None
}

/// The key of the open segments, if there is to be one.
fn spool_key(config: &ArchiveConfig) -> Result<Option<Arc<SpoolKey>>, AgentError> {
    let path = &config.spool_key;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    SpoolKey::load(path)
        .map(|key| Some(Arc::new(key)))
        .map_err(|error| {
            AgentError::other(
                format!(
                    "the key of the spool, {}, cannot be used: {error}",
                    path.display()
                ),
                "put 64 hex digits into it (`openssl rand -hex 32`), or leave `archive.spool_key` empty",
            )
        })
}

fn unusable(spool: &Path, error: &io::Error) -> AgentError {
    if error.kind() == io::ErrorKind::WouldBlock {
        return AgentError::other(
            format!("the spool {} is in use by another agent", spool.display()),
            "stop that one, or name another folder in `archive.spool`",
        );
    }
    AgentError::other(
        format!("the spool {} cannot be used: {error}", spool.display()),
        "make the folder writable, name another in `archive.spool`, or set `archive.enabled = false`",
    )
}

/// The threads.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), AgentError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Files are all it needs, also in a folder of another user; what talks to the network least of all.
                privileges::keep(CapabilitySet::DAC_OVERRIDE);
                work();
            })
            .map_err(|error| {
                AgentError::other(
                    format!("no thread for the archive: {error}"),
                    "check the limits of processes",
                )
            })?;
        self.threads.push(thread);
        Ok(())
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the archive ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests;
