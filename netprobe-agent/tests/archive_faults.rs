//! The archive in a bucket of a real Ceph: behind a network that breaks requests, one way after the other; behind a
//! certificate that has expired; not there for a day. Everything acknowledged is there in the end, once, or its loss is
//! declared, and the chain verifies.

#[path = "common/history.rs"]
mod history;
#[path = "common/terminator.rs"]
mod terminator;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use history::{NONE, Running, archived, history, missing};
use netprobe_agent::{
    config::{ArchiveConfig, Period},
    event::Nanos,
};
use netprobe_tests::{
    ceph::Cluster,
    proxy::{Fault, Proxy},
};
use terminator::Terminator;

/// Name, fault, method and part of the path of the requests it strikes, and how many of them.
const FAULTS: &[(&str, Fault, &str, &str, u32)] = &[
    ("reset in a body", Fault::Reset(100), "PUT", ".jsonl.zst", 2),
    ("reset in a part", Fault::Reset(1 << 20), "PUT", "partNumber=2", 1),
    ("complete lost", Fault::Swallow, "POST", "uploadId=", 1),
    ("500", Fault::Refuse(500, "InternalError"), "PUT", ".jsonl.zst", 2),
    ("503", Fault::Refuse(503, "SlowDown"), "PUT", ".manifest", 2),
    ("403", Fault::Refuse(403, "AccessDenied"), "HEAD", ".jsonl.zst", 2),
    ("clock skew", Fault::Refuse(403, SKEWED), "PUT", ".jsonl.zst", 2),
    ("answer lost", Fault::Swallow, "PUT", ".jsonl.zst", 1),
    ("answer lost, 2", Fault::Swallow, "PUT", ".manifest", 1),
    ("slow", Fault::Late(1500), "PUT", ".jsonl.zst", 1),
    ("stall", Fault::Stall, "PUT", ".jsonl.zst", 1),
    ("stall, 2", Fault::Stall, "GET", ".manifest", 1),
    ("read back cut", Fault::Cut, "GET", ".jsonl.zst", 2),
    ("read back wrong", Fault::Flip, "GET", ".jsonl.zst", 2),
];

/// What S3 says to a clock that is wrong.
const SKEWED: &str = "RequestTimeTooSkewed";

const EVENTS: u64 = 300;
/// Enough for one full segment, and of whole commits.
const HEAVY_EVENTS: u64 = 8192;

fn config(cluster: &Cluster, endpoint: String, folder: &Path, index: usize, heavy: bool) -> ArchiveConfig {
    ArchiveConfig {
        url: format!("s3://faults/{index}"),
        endpoint,
        credentials: cluster.credentials().expect("written"),
        spool: folder.join(index.to_string()),
        timeout: Period::seconds(2),
        sync_interval: Period::millis(if heavy { 10_000 } else { 1 }),
        seal_after: Period::millis(if heavy { 30_000 } else { 300 }),
        segment_bytes: 20 << 20,
        compression: 1,
        ..ArchiveConfig::default()
    }
}

/// Archives events while requests are broken. How many were acknowledged.
fn suffer(config: &ArchiveConfig, proxy: &Proxy, hits: u32, heavy: bool) -> u64 {
    let mut running = Running::start(config, 1);
    let mut random = fastrand::Rng::with_seed(7);
    let events = if heavy { HEAVY_EVENTS } else { EVENTS };
    for _ in 0..events {
        let mut event = running.event();
        if heavy {
            // What hardly compresses.
            let text: String = std::iter::repeat_with(|| random.alphanumeric())
                .take(2000)
                .collect();
            event.request_id = Some(text.into());
        }
        running.fanout.emit(event);
    }
    running.until("durable", |report| report.durable_seq == events);
    running.until("archived", |report| report.spooled == 0);
    assert_eq!(proxy.hits(), hits, "every fault happened");
    assert_eq!(running.archive.report().failures, 0, "and is over");
    assert_eq!(running.stop(), events);
    events
}

#[test]
fn nothing_acknowledged_is_lost_by_a_broken_network() {
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start().expect("Ceph; `cargo xtask setup --test` installs it");
    cluster.bucket("faults", false).expect("a bucket");
    for (index, (name, fault, method, path, times)) in FAULTS.iter().enumerate() {
        // Parts there are of large objects only.
        let heavy = path.contains('=');
        let proxy = Proxy::start(cluster.address()).expect("a proxy");
        proxy.inject(*fault, method, path, *times);
        let behind = config(
            &cluster,
            format!("http://{}", proxy.address()),
            folder.path(),
            index,
            heavy,
        );
        let begin = Instant::now();
        let acknowledged = suffer(&behind, &proxy, *times, heavy);
        let found = history(&config(&cluster, cluster.endpoint(), folder.path(), index, false));
        println!(
            "{name}: broken {times}, acknowledged {acknowledged}, recovered {}, {:.1} s",
            found.values().map(std::collections::BTreeSet::len).sum::<usize>(),
            begin.elapsed().as_secs_f64()
        );
        assert_eq!(missing(&found, "0000000000000001", acknowledged), NONE, "{name}");
    }
}

#[test]
fn an_expired_certificate_costs_nothing_but_time_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start().expect("Ceph; `cargo xtask setup --test` installs it");
    cluster.bucket("faults", false).expect("a bucket");
    let terminator = Terminator::start(cluster.address(), 2020);
    let mut behind = config(&cluster, terminator.endpoint(), folder.path(), 0, false);
    behind.ca = folder.path().join("ca.pem");
    std::fs::write(&behind.ca, terminator.certificate()).expect("written");
    let mut running = Running::start(&behind, 1);
    running.emit(EVENTS);
    running.until("durable", |report| report.durable_seq == EVENTS);
    running.until("the cause", |report| {
        let error = report.last_error.as_deref().unwrap_or_default();
        error.contains("certificate expired")
    });
    assert_eq!(running.archive.report().spooled, EVENTS, "none of it left");
    terminator.renew(4000);
    running.until("archived", |report| report.spooled == 0);
    assert_eq!(running.stop(), EVENTS);
    let found = history(&config(&cluster, cluster.endpoint(), folder.path(), 0, false));
    println!(
        "certificate expired: acknowledged {EVENTS}, recovered {}",
        found.values().flatten().count()
    );
    assert_eq!(missing(&found, "0000000000000001", EVENTS), NONE);
}

/// Events of an hour of the day.
const HOURLY: u64 = 500;
const HOUR: i64 = 3_600_000_000_000;

/// A day, and what the archive may keep of it while nobody takes it: name, bytes of the spool, and age at which a segment
/// is given up.
const DAYS: &[(&str, usize, u64)] = &[
    ("room for all of it", 64 << 20, 0),
    ("a spool too small for it", 300 << 10, 0),
    ("half of it is too old", 64 << 20, 12 * 3600),
];

#[test]
fn a_day_without_the_gateway_costs_no_promise() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut cluster = Cluster::start().expect("Ceph; `cargo xtask setup --test` installs it");
    cluster.bucket("faults", false).expect("a bucket");
    cluster.kill(Cluster::GATEWAY);
    let now = Arc::new(AtomicI64::new(Nanos::now().0 - 24 * HOUR));
    let configs: Vec<ArchiveConfig> = DAYS
        .iter()
        .enumerate()
        .map(|(index, (_, spool_bytes, max_age))| ArchiveConfig {
            spool_bytes: *spool_bytes,
            max_age: Period::seconds(*max_age),
            ..config(&cluster, cluster.endpoint(), folder.path(), index, false)
        })
        .collect();
    let mut days: Vec<Running> = configs
        .iter()
        .map(|config| {
            let now = now.clone();
            Running::start_at(config, 1, move || Nanos(now.load(Ordering::Relaxed)))
        })
        .collect();
    for _ in 0..24 {
        days.iter_mut().for_each(|day| day.emit(HOURLY));
        now.fetch_add(HOUR, Ordering::Relaxed);
        // The room is measured twice a second.
        std::thread::sleep(Duration::from_millis(250));
    }
    let promised: Vec<u64> = days.iter().map(|day| day.archive.report().durable_seq).collect();
    let uploaded: u64 = days
        .iter()
        .filter_map(|day| day.archive.report().segments.get("archived").copied())
        .sum();
    assert_eq!(uploaded, 0, "there is no gateway");
    cluster.start_again(Cluster::GATEWAY).expect("it comes back");
    for (((name, ..), config), (mut day, promised)) in
        DAYS.iter().zip(&configs).zip(days.into_iter().zip(promised))
    {
        day.until("archived", |report| {
            report.segments_waiting == 0 && report.spooled == 0
        });
        // What was lost is told as soon as there is room, before what comes then.
        day.until("room", |report| {
            report.spool_bytes < config.spool_bytes as u64 / 2
        });
        day.fanout.tick();
        day.emit(1);
        let last = day.fanout.next_seq() - 1;
        day.until("all of it durable", |report| report.durable_seq == last);
        day.fanout.shutdown(Duration::from_secs(20));
        assert_eq!(day.fanout.check(), Ok(()));
        let ledger = day.fanout.ledger().remove(0);
        let lost: u64 = ledger.lost.values().sum();
        let found = history(config);
        let events = archived(config);
        let gaps = || {
            events
                .iter()
                .filter_map(|event| Some((event.seq, event.gap.as_deref()?)))
        };
        let told: u64 = gaps().filter_map(|(_, gap)| gap.count).sum();
        let count = events.len() as u64;
        println!(
            "a day down, {name}: emitted {last}, acknowledged {promised}, recovered {count}, lost {:?}",
            ledger.lost
        );
        assert_eq!((count, told), (last - lost, lost), "what is not there is told");
        // What was acknowledged is there, or a gap that was acknowledged, too, is about it. That it grew too old is told
        // afterwards.
        let mut missing = missing(&found, "0000000000000001", promised);
        missing.retain(|seq| {
            !gaps().any(|(of, gap)| {
                (of <= Some(promised) || gap.reason == "expired")
                    && gap.from_seq <= Some(*seq)
                    && gap.to_seq >= Some(*seq)
            })
        });
        assert_eq!(missing, NONE, "{name}");
        let of = |reason: &str| ledger.lost.get(reason).copied().unwrap_or(0);
        let (full, expired) = (of("spool_full"), of("expired"));
        assert_eq!(full + expired, lost, "{ledger:?}");
        match *name {
            "room for all of it" => assert_eq!((promised, lost), (24 * HOURLY, 0)),
            "a spool too small for it" => assert!(full >= HOURLY && promised >= HOURLY, "{ledger:?}"),
            _ => assert!((12 * HOURLY..=13 * HOURLY).contains(&expired), "{ledger:?}"),
        }
    }
}
