//! The sink from end to end on a real folder: ledger, recovery, an archive that fails.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    config::Period,
    event::{Event, EventKind, FlowState, Origin, fixture},
    fanout::Fanout,
    probe_report::{Circuit, SinkLedger},
};

fn config(folder: &Path) -> ArchiveConfig {
    ArchiveConfig {
        url: format!("file://{}/archive", folder.display()),
        spool: folder.join("spool"),
        sync_interval: Period::millis(1),
        ..ArchiveConfig::default()
    }
}

fn origin(run: u64) -> Origin {
    Origin::new("web-1", "boot", &format!("{run:016x}"))
}

struct Running {
    fanout: Fanout,
    archive: Archive,
    gaps: Vec<Gap>,
}

fn start(config: &ArchiveConfig, run: u64) -> Running {
    let started = Archive::start(config, &origin(run), None);
    assert_eq!(started.notice, None);
    let mut fanout = Fanout::new(origin(run));
    fanout.add(started.sink);
    Running {
        fanout,
        archive: started.archive,
        gaps: started.gaps,
    }
}

impl Running {
    fn emit(&mut self, count: usize) {
        for _ in 0..count {
            let mut event = fixture::flow();
            event.run = self.fanout.origin().run.clone();
            self.fanout.emit(event);
        }
    }

    fn until(&self, what: &str, done: impl Fn(&ArchiveReport) -> bool) {
        let begin = Instant::now();
        while !done(&self.archive.report()) {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{what}: {:?}",
                self.archive.report()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(mut self) -> SinkLedger {
        self.fanout.shutdown(Duration::from_secs(20));
        assert_eq!(self.fanout.check(), Ok(()));
        self.fanout.ledger().remove(0)
    }
}

/// Files below a folder whose name ends so, in order of their names.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn archived(folder: &Path) -> Vec<Event> {
    files(&folder.join("archive"), layout::OBJECT)
        .iter()
        .flat_map(|file| zstd::decode_all(&std::fs::read(file).unwrap()[..]).unwrap())
        .collect::<Vec<u8>>()
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn what_is_emitted_is_archived_and_the_books_close() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(&config(folder.path()), 1);
    assert!(running.gaps.is_empty());
    running.emit(1000);
    let mut update = fixture::flow();
    update.flow.as_mut().unwrap().state = FlowState::Update;
    running.fanout.emit(update);
    running.until("durable", |report| report.durable_seq == 1001);
    assert_eq!(running.fanout.check(), Ok(()));
    let ledger = running.stop();
    assert_eq!((ledger.delivered, ledger.queued), (1000, 0));
    assert_eq!(ledger.suppressed["update"], 1);
    assert!(ledger.lost.values().all(|count| *count == 0));
    let numbers: Vec<_> = archived(folder.path())
        .iter()
        .map(|event| event.seq.unwrap())
        .collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    let left = files(&folder.path().join("spool"), "");
    let names: Vec<_> = left
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["000000000000.done.json", "lock", "signing.key"]);
}

#[test]
fn a_run_goes_on_where_a_killed_one_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    // Nothing is sealed by itself.
    config.seal_after = Period::seconds(3600);
    let mut killed = start(&config, 1);
    killed.emit(50);
    killed.until("durable", |report| report.durable_seq == 50);
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in files(&config.spool, "") {
        std::fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    drop(killed.stop());
    std::fs::remove_dir_all(folder.path().join("archive")).unwrap();
    // A kill leaves just what the copy is.
    config.spool = copy;
    let mut next = start(&config, 2);
    let reasons: Vec<_> = next.gaps.iter().map(|gap| &*gap.reason).collect();
    assert_eq!(reasons, ["unclean_stop"]);
    next.emit(5);
    let ledger = next.stop();
    assert_eq!(
        (ledger.delivered, ledger.queued),
        (5, 0),
        "events of another run are not ours"
    );
    assert_eq!(archived(folder.path()).len(), 55);
    assert!(start(&config, 3).gaps.is_empty());
}

#[test]
fn an_archive_that_is_down_costs_nothing_but_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.seal_after = Period::millis(100);
    // A file where the folder should be.
    std::fs::write(folder.path().join("archive"), b"").unwrap();
    let mut running = start(&config, 1);
    running.emit(10);
    running.until("two failures", |report| report.failures >= 2);
    let report = running.archive.report();
    assert_ne!(report.circuit, Circuit::Closed);
    assert_eq!((report.durable_seq, report.spooled), (10, 10));
    assert!(report.last_error.unwrap().contains("archive"));
    std::fs::remove_file(folder.path().join("archive")).unwrap();
    running.until("archived", |report| report.segments.get("archived") == Some(&1));
    let report = running.archive.report();
    assert_eq!((report.circuit, report.last_error), (Circuit::Closed, None));
    assert_eq!(running.stop().delivered, 10);
}

#[test]
fn what_the_archive_does_not_take_at_the_end_stays_in_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    std::fs::write(folder.path().join("archive"), b"").unwrap();
    let mut running = start(&config, 1);
    running.emit(10);
    let ledger = running.stop();
    assert_eq!((ledger.delivered, ledger.queued), (0, 10));
    std::fs::remove_file(folder.path().join("archive")).unwrap();
    let next = start(&config, 2);
    assert!(next.gaps.is_empty(), "it ended in order");
    next.until("archived", |report| report.segments.get("archived") == Some(&1));
    drop(next.stop());
    assert_eq!(archived(folder.path()).len(), 10);
}

#[test]
fn a_full_spool_takes_nothing_more_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.spool_bytes = 1;
    let mut running = start(&config, 1);
    running.until("measured", |report| report.spool_bytes > 0);
    running.emit(3);
    assert_eq!(running.archive.report().durable_seq, 0, "lost and not told yet");
    let ledger = running.stop();
    assert_eq!(ledger.lost[state::SPOOL_FULL], 4, "and the gap itself");
}

#[test]
fn a_spool_somebody_else_has_does_not_keep_the_agent_from_running() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let first = start(&config, 1);
    let second = Archive::start(&config, &origin(2), None);
    assert!(
        second
            .notice
            .unwrap()
            .contains("is in use by another agent; stop that one")
    );
    let mut fanout = Fanout::new(origin(2));
    fanout.add(second.sink);
    fanout.emit(Event::new(
        &origin(2),
        EventKind::Agent,
        crate::event::Severity::Info,
    ));
    assert_eq!(fanout.ledger()[0].lost[state::NO_SPOOL], 1);
    assert!(second.archive.report().disk_error.unwrap().contains("in use"));
    drop(first.stop());
}

#[test]
fn a_damaged_object_is_given_up_with_a_tombstone() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    std::fs::write(folder.path().join("archive"), b"").unwrap();
    let mut running = start(&config, 1);
    running.emit(10);
    drop(running.stop());
    let object = config.spool.join("000000000000.jsonl.zst");
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    std::fs::remove_file(folder.path().join("archive")).unwrap();
    let mut next = start(&config, 2);
    next.emit(1);
    next.until("given up", |report| report.segments.get("dropped") == Some(&1));
    drop(next.stop());
    let tombstone = files(&folder.path().join("archive"), layout::TOMBSTONE).remove(0);
    let opened: signing::Opened<manifest::Tombstone> =
        signing::open(&std::fs::read(tombstone).unwrap()).unwrap();
    assert!(opened.authentic);
    assert_eq!(
        (opened.document.events, &*opened.document.reason),
        (10, "spool_corrupt")
    );
    // The chain goes on over it.
    assert_eq!(files(&folder.path().join("archive"), layout::MANIFEST).len(), 2);
    assert!(config.spool.join("000000000000.jsonl.zst.quarantined").exists());
}

#[test]
fn segments_roll_while_events_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.segment_bytes = 64 << 10;
    let mut running = start(&config, 1);
    for _ in 0..100 {
        running.emit(100);
        assert_eq!(running.fanout.check(), Ok(()));
    }
    let archive = running.archive.clone();
    let ledger = running.stop();
    assert_eq!((ledger.delivered, ledger.queued), (10_000, 0));
    assert!(archive.report().segments["archived"] > 50);
    assert_eq!(archived(folder.path()).len(), 10_000);
}
