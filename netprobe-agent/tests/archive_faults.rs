//! The archive in a bucket of a real Ceph behind a network that breaks requests, one way after the other: everything
//! acknowledged is there in the end, once, and the chain verifies.

#[path = "common/history.rs"]
mod history;

use std::{path::Path, time::Instant};

use history::{NONE, Running, history, missing};
use netprobe_agent::config::{ArchiveConfig, Period};
use netprobe_tests::{
    ceph::Cluster,
    proxy::{Fault, Proxy},
};

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
