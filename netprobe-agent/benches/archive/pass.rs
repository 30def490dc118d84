//! Events through spool and upload into a folder, as fast as they are taken.

use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use netprobe_agent::{
    archive::{
        Archive, Started,
        disk::{Disk, DiskFile, Folder},
        store::Store,
    },
    config::ArchiveConfig,
    event::{Event, Nanos, Origin},
    fanout::Fanout,
};
use object_store::local::LocalFileSystem;
use rustix::time::{ClockId, clock_gettime};

use crate::host::Host;

/// Events that may wait for the disk, and segments for what comes after: the archive is to be busy, not to refuse.
const WAITING: u64 = 16_000;
const SEGMENTS: u64 = 8;
/// Events between two looks at how many wait.
const STRIDE: u64 = 512;

/// Whether what is written is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syncs {
    Yes,
    No,
}

/// The archive in a folder, as by default.
pub(crate) fn config(folder: &Path) -> ArchiveConfig {
    ArchiveConfig {
        url: format!("file://{}/archive", folder.display()),
        spool: folder.join("spool"),
        ..ArchiveConfig::default()
    }
}

/// Starts it.
pub(crate) fn start(folder: &Path, origin: &Origin, syncs: Syncs) -> Result<Started> {
    let config = config(folder);
    let folder = Folder::take(&config.spool)?;
    let started = match syncs {
        Syncs::Yes => {
            let opener = config.clone();
            let open = Box::new(move || Store::open(&opener));
            Archive::start_on(&config, origin, Arc::new(folder), open, None)
        }
        Syncs::No => {
            // Makes the folder.
            Store::open(&config)?;
            let path = config.url.trim_start_matches("file://");
            let store = Store::over(Arc::new(LocalFileSystem::new_with_prefix(path)?), true);
            let open = Box::new(move || Ok(store.clone()));
            Archive::start_on(&config, origin, Arc::new(Unsynced(folder)), open, None)
        }
    };
    Ok(started?)
}

/// What a pass took.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    /// Processor time of the archive's threads.
    pub(crate) cpu_seconds: f64,
}

/// Sends so many events through an archive of their own, the first at `begin` and then one every `step` nanoseconds,
/// until it has them all. `seen` is shown each.
pub(crate) fn pass(
    folder: &Path,
    host: &mut Host,
    events: u64,
    syncs: Syncs,
    (begin, step): (Nanos, i64),
    mut seen: impl FnMut(&Event),
) -> Result<Took> {
    let started = start(folder, &host.origin, syncs)?;
    let now = Arc::new(AtomicI64::new(begin.0));
    let clock = now.clone();
    let mut fanout = Fanout::with_clock(
        host.origin.clone(),
        Box::new(move || Nanos(clock.load(Ordering::Relaxed))),
    );
    fanout.add(started.sink);
    let (process, thread) = (cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime));
    let clock = Instant::now();
    for index in 0..events {
        let event = host.event(Nanos(now.load(Ordering::Relaxed)));
        seen(&fanout.emit(event));
        now.fetch_add(step, Ordering::Relaxed);
        if index % STRIDE == 0 {
            let busy = || {
                let report = started.archive.report();
                report.waiting > WAITING || report.segments_waiting > SEGMENTS
            };
            while busy() {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }
    fanout.shutdown(Duration::from_secs(600));
    let seconds = clock.elapsed().as_secs_f64();
    let (process, thread) = (
        cpu(ClockId::ProcessCPUTime) - process,
        cpu(ClockId::ThreadCPUTime) - thread,
    );
    let ledger = fanout.ledger().remove(0);
    ensure!(
        ledger.delivered == events,
        "not all of {events} are archived: {ledger:?}"
    );
    Ok(Took {
        seconds,
        cpu_seconds: process - thread,
    })
}

fn cpu(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A folder whose syncs do nothing.
#[derive(Debug)]
pub(crate) struct Unsynced(pub(crate) Folder);

impl Disk for Unsynced {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnsyncedFile(self.0.create(name)?)))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.0.open(name)
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.0.truncate(name, len)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.list()
    }
    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }
}

struct UnsyncedFile(Box<dyn DiskFile>);

impl DiskFile for UnsyncedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
