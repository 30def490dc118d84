//! The figures.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netprobe_agent::{
    archive::{
        Archive,
        disk::Folder,
        read::{self, Span},
        spool::{self, Limits, Writer},
        store::Store,
    },
    event::{Event, Nanos},
    fanout::Fanout,
};
use netprobe_tests::bench::{Interval, bootstrap, quantile};
use serde::Serialize;

use crate::{
    host::{Host, service},
    pass::{Syncs, Unsynced, config, pass, start},
};

/// From an event to its durability, at a rate.
#[derive(Debug, Serialize)]
pub(crate) struct Durable {
    /// Events a second.
    pub(crate) rate: u64,
    pub(crate) events: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) longest_ms: f64,
}

/// Time between two looks at what is durable; the figures are that coarse.
const LOOK: Duration = Duration::from_micros(500);

pub(crate) fn durable(rate: u64, length: Duration) -> Result<Durable> {
    let folder = tempfile::tempdir()?;
    let mut host = Host::new(1);
    let started = start(folder.path(), &host.origin, Syncs::Yes)?;
    let mut fanout = Fanout::new(host.origin.clone());
    fanout.add(started.sink);
    let archive: &Archive = &started.archive;
    let events = (rate as f64 * length.as_secs_f64()) as usize;
    let (emitted, seen) = std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let mut seen: Vec<(u64, Instant)> = Vec::new();
            while seen.last().is_none_or(|(seq, _)| *seq < events as u64) {
                let durable = archive.report().durable_seq;
                if seen.last().is_none_or(|(seq, _)| *seq < durable) {
                    seen.push((durable, Instant::now()));
                }
                std::thread::sleep(LOOK);
            }
            seen
        });
        let begin = Instant::now();
        let mut emitted = Vec::with_capacity(events);
        while emitted.len() < events {
            let due = (begin.elapsed().as_secs_f64() * rate as f64) as usize;
            for _ in emitted.len()..due.min(events) {
                emitted.push(Instant::now());
                fanout.emit(host.event(Nanos::now()));
            }
            std::thread::sleep(LOOK);
        }
        (emitted, watch.join())
    });
    let seen = seen.ok().context("the watcher panicked")?;
    fanout.shutdown(Duration::from_secs(60));
    let lost: u64 = fanout.ledger()[0].lost.values().sum();
    ensure!(lost == 0, "{:?}", fanout.ledger());
    let mut ms = Vec::with_capacity(events);
    for (seq, at) in seen {
        let news = &emitted[ms.len()..(seq as usize).max(ms.len())];
        ms.extend(news.iter().map(|emitted| (at - *emitted).as_secs_f64() * 1e3));
    }
    ms.sort_by(f64::total_cmp);
    Ok(Durable {
        rate,
        events,
        p50_ms: quantile(&ms, 0.5),
        p99_ms: quantile(&ms, 0.99),
        longest_ms: quantile(&ms, 1.0),
    })
}

/// How fast spool and upload are, with syncs and without.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    /// Of one pass.
    pub(crate) events: u64,
    /// Events a second, by pair.
    pub(crate) synced: Vec<f64>,
    pub(crate) unsynced: Vec<f64>,
    pub(crate) ratio: Interval,
    /// Processor time of writing, sealing and uploading an event, microseconds, by pair.
    pub(crate) cpu_us: Vec<f64>,
}

pub(crate) fn throughput(pairs: u32, events: u64) -> Result<Throughput> {
    let mut host = Host::new(1);
    let (mut synced, mut unsynced, mut cpu_us) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let orders = [[Syncs::Yes, Syncs::No], [Syncs::No, Syncs::Yes]];
        for syncs in orders[pair as usize % 2] {
            let folder = tempfile::tempdir()?;
            let took = pass(
                folder.path(),
                &mut host,
                events,
                syncs,
                (Nanos::now(), 1000),
                |_| {},
            )?;
            let rate = events as f64 / took.seconds;
            match syncs {
                Syncs::Yes => {
                    synced.push(rate);
                    cpu_us.push(took.cpu_seconds * 1e6 / events as f64);
                }
                Syncs::No => unsynced.push(rate),
            }
        }
    }
    let ratios: Vec<f64> = synced.iter().zip(&unsynced).map(|(a, b)| a / b).collect();
    Ok(Throughput {
        events,
        ratio: bootstrap(&ratios),
        synced,
        unsynced,
        cpu_us,
    })
}

/// What a start takes that finds a full spool, all of it not sealed yet.
#[derive(Debug, Serialize)]
pub(crate) struct Recovery {
    pub(crate) bytes: u64,
    pub(crate) segments: usize,
    /// Until the agent goes on.
    pub(crate) ready_seconds: f64,
    /// Until all of it is in the archive.
    pub(crate) archived_seconds: f64,
}

pub(crate) fn recovery(wanted: u64) -> Result<Recovery> {
    let folder = tempfile::tempdir()?;
    let config = config(folder.path());
    let mut host = Host::new(1);
    let limits = Limits {
        bytes: config.segment_bytes as u64,
        age: Duration::from_secs(3600),
    };
    let disk = Unsynced(Folder::take(&config.spool)?);
    spool::begin_run(&disk, &host.origin.run)?;
    let mut writer = Writer::new(Arc::new(disk), host.origin.run.clone(), limits, None);
    let (mut bytes, mut seq, mut segments) = (0, 0, 0);
    let now = Nanos::now();
    while bytes < wanted {
        let batch: Vec<Arc<Event>> = (0..1000)
            .map(|_| {
                seq += 1;
                let mut event = host.event(now);
                (event.ts, event.seq) = (now, Some(seq));
                Arc::new(event)
            })
            .collect();
        let done = writer.commit(&batch);
        ensure!(
            done.count == batch.len(),
            "the spool cannot be written: {:?}",
            done.error
        );
        bytes += done.rolled.iter().map(|rolled| rolled.len).sum::<u64>();
        segments += done.rolled.len();
    }
    // A kill leaves just this: the last one is not ended.
    segments += usize::from(writer.content().is_some());
    drop(writer);
    forget(&config.spool)?;
    let bytes = size(&config.spool)?;
    let begin = Instant::now();
    let started = start(folder.path(), &Host::new(2).origin, Syncs::Yes)?;
    let ready_seconds = begin.elapsed().as_secs_f64();
    let archived = || started.archive.report().segments.get("archived").copied();
    while archived() != Some(segments as u64) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let archived_seconds = begin.elapsed().as_secs_f64();
    let mut fanout = Fanout::new(Host::new(2).origin);
    fanout.add(started.sink);
    fanout.shutdown(Duration::from_secs(60));
    Ok(Recovery {
        bytes,
        segments,
        ready_seconds,
        archived_seconds,
    })
}

/// Sees to it that files have to be read from the disk.
fn forget(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// A whole day of a host, and what it takes to ask for a part of it.
#[derive(Debug, Serialize)]
pub(crate) struct Day {
    pub(crate) events: u64,
    pub(crate) segments: usize,
    /// Bytes of the events as JSON, and of the objects.
    pub(crate) lines_bytes: u64,
    pub(crate) object_bytes: u64,
    /// Events of one service in one hour, and seconds until `archive query` has printed them, three times.
    pub(crate) found: u64,
    pub(crate) query_seconds: Vec<f64>,
    /// Seconds of `archive verify` and of `archive restore` into an empty folder.
    pub(crate) verify_seconds: f64,
    pub(crate) restore_seconds: f64,
    /// Seconds of `sla` of the whole day, and of `timeline` of that hour.
    pub(crate) sla_seconds: f64,
    pub(crate) timeline_seconds: f64,
}

/// Whose hour is asked for, and which.
const ASKED: (u64, &str, &str) = (7, "2026-01-02T10:00:00Z", "2026-01-02T11:00:00Z");

/// That day.
const DAY: [&str; 4] = [
    "--since",
    "2026-01-02T00:00:00Z",
    "--until",
    "2026-01-03T00:00:00Z",
];

pub(crate) fn day(events: u64) -> Result<Day> {
    let folder = tempfile::tempdir()?;
    let (begin, step) = (
        Nanos::parse("2026-01-02T00:00:00Z")?,
        86_400_000_000_000 / events as i64,
    );
    let (since, until) = (Nanos::parse(ASKED.1)?, Nanos::parse(ASKED.2)?);
    let name = service(ASKED.0);
    let mut found = 0;
    pass(
        folder.path(),
        &mut Host::new(1),
        events,
        Syncs::No,
        (begin, step),
        |event| {
            let asked = event.service.as_deref() == Some(&name) && event.ts >= since && event.ts < until;
            found += u64::from(asked);
        },
    )?;
    ensure!(
        found > 0,
        "a day of {events} events has none of {name} in its hour"
    );
    let config = config(folder.path());
    let store = Store::open(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let segments = runtime.block_on(async {
        let entries = read::entries(&store, &Span::default()).await?;
        read::manifests(&store, entries, || {}).await
    })?;
    let (mut lines_bytes, mut object_bytes) = (0, 0);
    for segment in &segments {
        let manifest = segment
            .manifest
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        lines_bytes += manifest.document.content.lines_bytes;
        object_bytes += manifest.document.bytes;
    }
    let url = ["--url", &config.url];
    let asked = [
        "archive",
        "query",
        "-o",
        "json",
        "--since",
        ASKED.1,
        "--until",
        ASKED.2,
        "--service",
        &name,
    ];
    let mut query_seconds = Vec::new();
    for _ in 0..3 {
        let (seconds, lines) = netprobe(&[&asked[..], &url].concat())?;
        ensure!(lines as u64 == found, "{lines} events found instead of {found}");
        query_seconds.push(seconds);
    }
    let (verify_seconds, _) = netprobe(&[&["archive", "verify"], &url[..]].concat())?;
    let (sla_seconds, lines) = netprobe(&[&["sla", "-o", "json"], &DAY[..], &url].concat())?;
    ensure!(lines > 1000, "a report of {lines} lines");
    let hour = ["timeline", "-o", "json", "--since", ASKED.1, "--until", ASKED.2];
    let (timeline_seconds, _) = netprobe(&[&hour[..], &url].concat())?;
    let copy = format!("file://{}/copy", folder.path().display());
    let (restore_seconds, _) = netprobe(&["archive", "restore", "--from", &config.url, "--url", &copy])?;
    Ok(Day {
        events,
        segments: segments.len(),
        lines_bytes,
        object_bytes,
        found,
        query_seconds,
        verify_seconds,
        restore_seconds,
        sla_seconds,
        timeline_seconds,
    })
}

/// Runs `netprobe …`; seconds, and lines on its standard output.
fn netprobe(arguments: &[&str]) -> Result<(f64, usize)> {
    let program = std::env::var_os("NETPROBE_BIN").map(PathBuf::from);
    let program =
        program.context("NETPROBE_BIN does not name the agent; start this by `cargo xtask bench`")?;
    let begin = Instant::now();
    let output = Command::new(program)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "`netprobe archive {arguments:?}` ended with {}",
        output.status
    );
    Ok((
        seconds,
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
    ))
}
