//! The power goes, the disk is full, the disk breaks down: on real file systems, whose writes that were not flushed are
//! lost in part. What was acknowledged at that moment has to be there.
//!
//! `NETPROBE_CUTS` is how often the power goes on each file system: a few times by default, more in
//! `cargo xtask validate`. Root is required.

#[path = "common/history.rs"]
mod history;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use history::{NONE, Running, history, missing};
use netprobe_agent::{
    config::{ArchiveConfig, Period},
    event::EventKind,
};
use netprobe_tests::power::{self, Disk, Mounted};

/// Spool and archive on the same disk: what the archive confirmed is held to its word, too.
fn config(folder: &Path) -> ArchiveConfig {
    ArchiveConfig {
        url: format!("file://{}/archive", folder.display()),
        spool: folder.join("spool"),
        sync_interval: Period::millis(2),
        seal_after: Period::millis(100),
        segment_bytes: 64 << 10,
        ..ArchiveConfig::default()
    }
}

/// A disk with a file system of this kind in it.
fn disk(kind: &str, megabytes: u64, folder: &Path) -> Disk {
    let image = folder.join("image");
    power::format(kind, &image, megabytes << 20).expect("mkfs; `cargo xtask setup --test` installs it");
    Disk::start(&image, folder).expect("a disk")
}

/// Starts an agent on what the disk held when the power went: everything acknowledged has to be there.
fn held(image: &Path, folder: &Path, acknowledged: u64) {
    let mounted = Mounted::image(image, folder).expect("the file system repairs itself");
    let config = config(mounted.path());
    Running::start(&config, 2).stop();
    let lost = missing(&history(&config), "0000000000000001", acknowledged);
    assert_eq!(lost, NONE, "acknowledged up to {acknowledged} and not there");
}

#[test]
fn what_was_acknowledged_survives_power_failures() {
    let cuts: u64 = std::env::var("NETPROBE_CUTS").map_or(6, |text| text.parse().expect("a number"));
    let mut unflushed = 0;
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320), ("btrfs", 128)] {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = disk(kind, megabytes, folder.path());
        let mut running = Running::start(&config(disk.path()), 1);
        running.emit(10);
        running.until("durable", |report| report.durable_seq == 10);
        let mut random = fastrand::Rng::with_seed(cuts);
        let (mut promised, mut in_cache) = (0, 0);
        let mut images = Vec::new();
        for cut in 0..cuts {
            let until = Instant::now() + Duration::from_micros(random.u64(1_000..200_000));
            while Instant::now() < until {
                running.emit(10);
                std::thread::sleep(Duration::from_millis(2));
            }
            running.emit(10);
            let acknowledged = running.archive.report().durable_seq;
            let image = folder.path().join(format!("cut-{cut}"));
            in_cache += disk.cut(&mut random, &image).expect("an image");
            promised += acknowledged;
            images.push((image, acknowledged));
        }
        running.stop();
        let flushes = disk.flushes();
        // A file system of the same name must not be mounted twice.
        drop(disk);
        for (image, acknowledged) in images {
            held(&image, &folder.path().join("after"), acknowledged);
            fs::remove_file(&image).expect("it is ours");
        }
        println!(
            "{kind}: {cuts} power failures, {in_cache} writes in the cache then, {flushes} flushes, acknowledged \
             {promised}, missing 0"
        );
        assert!(promised > 0, "an empty campaign proves nothing");
        unflushed += in_cache;
    }
    // On one of them it may well be that every cut fell between two commits.
    assert!(unflushed > 0, "no power failure hit a write");
}

#[test]
fn a_full_disk_costs_no_promise_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = disk("ext4", 16, folder.path());
    let mut config = config(disk.path());
    // Nothing leaves the spool.
    config.seal_after = Period::seconds(3600);
    config.segment_bytes = 64 << 20;
    let mut running = Running::start(&config, 1);
    running.emit(100);
    running.until("durable", |report| report.durable_seq == 100);
    // Until not a block is left.
    let ballast = disk.path().join("ballast");
    let mut file = fs::File::create(&ballast).expect("room for a name");
    let filled = std::iter::repeat_with(|| std::io::Write::write(&mut file, &[0; 4096])).take(1 << 20);
    let full = filled.filter_map(Result::err).next().expect("it is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    let begin = Instant::now();
    while running.archive.report().disk_error.is_none() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it was never full");
        running.emit(50);
        std::thread::sleep(Duration::from_millis(2));
    }
    let report = running.archive.report();
    assert!(report.waiting > 0, "what does not fit waits: {report:?}");
    let mut random = fastrand::Rng::with_seed(7);
    let image = folder.path().join("cut");
    disk.cut(&mut random, &image).expect("an image");
    fs::remove_file(&ballast).expect("it is ours");
    let emitted = running.fanout.emitted(EventKind::Flow);
    running.until("durable again", |report| report.durable_seq == emitted);
    assert_eq!(running.stop(), emitted, "nothing was lost");
    assert_eq!(missing(&history(&config), "0000000000000001", emitted), NONE);
    // Had the power gone while it was full, there would be no room to start in; with some, all is there.
    drop(disk);
    let mounted =
        Mounted::image(&image, &folder.path().join("after")).expect("the file system repairs itself");
    match fs::remove_file(mounted.path().join("ballast")) {
        Ok(()) => {}
        // Its name had not reached the disk yet: there is room.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
    drop(mounted);
    held(&image, &folder.path().join("after"), report.durable_seq);
}

#[test]
fn a_disk_that_breaks_down_costs_no_promise() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = disk("ext4", 32, folder.path());
    let mut running = Running::start(&config(disk.path()), 1);
    running.emit(500);
    running.until("durable", |report| report.durable_seq == 500);
    disk.break_down();
    running.emit(500);
    running.until("the error", |report| report.disk_error.is_some());
    // The file system goes read-only by itself; nothing more is promised, however long it tries.
    std::thread::sleep(Duration::from_secs(3));
    let report = running.archive.report();
    assert_eq!((report.durable_seq, report.waiting), (500, 500));
    let image = folder.path().join("cut");
    disk.cut(&mut fastrand::Rng::with_seed(7), &image)
        .expect("an image");
    held(&image, &folder.path().join("after"), 500);
    running.fanout.shutdown(Duration::from_secs(2));
    let ledger = running.fanout.ledger().remove(0);
    assert_eq!(ledger.lost["deadline"], 500, "counted: {ledger:?}");
}
