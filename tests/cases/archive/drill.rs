//! The drill: a host is lost with its spool, then the bucket, too. What is gone is the tail that had not got away yet, and
//! nothing else; the rest comes back from a backup.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::ceph::Cluster;
use nix::sys::signal::Signal;

use super::gateway::{all_archived, configured, section, start, traffic};
use super::{is_update, numbers};

/// Numbers of what an agent said so far and an archive is to hold.
fn said(agent: &Agent) -> BTreeSet<u64> {
    let events = agent.events();
    let kept = events.iter().filter(|event| !is_update(event));
    kept.filter_map(|event| event.seq).collect()
}

pub(super) fn lost() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start()?;
    for bucket in ["live", "backup", "new"] {
        cluster.bucket(bucket, false)?;
    }
    let credentials = cluster.credentials()?;
    let of = |bucket: &str| section(&cluster, bucket, &credentials);
    let copy = |from: &str, to: &str| {
        let from = format!("s3://{from}/fleet");
        configured(folder.path(), &of(to), &["restore", "--from", &from])
    };
    let held = |bucket: &str| -> Result<BTreeSet<u64>> {
        let lines = configured(folder.path(), &of(bucket), &["query", "-o", "json"])?;
        Ok(numbers(&lines)?.into_values().flatten().collect())
    };

    let agent = start(&of("live"))?;
    traffic(&agent, 18_482, 20)?;
    all_archived(&agent)?;
    // The backup, as a timer would make it.
    let saved = said(&agent);
    copy("live", "backup")?;
    traffic(&agent, 18_482, 20)?;
    all_archived(&agent)?;
    let delivered = said(&agent);
    traffic(&agent, 18_482, 20)?;
    // The host is gone, and its spool with it.
    agent.signal(Signal::SIGKILL)?;
    let killed = Instant::now();
    std::thread::sleep(Duration::from_millis(200));
    let all = said(&agent);
    drop(agent);
    let live = held("live")?;
    ensure!(live.is_superset(&delivered), "delivered, and not in the bucket");
    let gone: BTreeSet<u64> = all.difference(&live).copied().collect();
    ensure!(
        gone.is_empty() || gone.first() > live.last(),
        "not only the tail is gone: {gone:?} of {:?}",
        live.last()
    );

    // The bucket is gone, too: another one, and another host, whose chain is a new one.
    let begun = Instant::now();
    let told = copy("backup", "new")?;
    let restored = begun.elapsed();
    let back = held("new")?;
    ensure!(
        back.is_superset(&saved) && back.is_subset(&live),
        "restored is not what was saved: {:?}",
        back.symmetric_difference(&saved).collect::<Vec<_>>()
    );
    let second = start(&of("new"))?;
    traffic(&second, 18_482, 5)?;
    all_archived(&second)?;
    let again = killed.elapsed();
    second.stop_well()?;
    let verdict = configured(folder.path(), &of("new"), &["verify"])?;
    ensure!(verdict.contains("\nverified: 2 chains, 0 findings"), "{verdict}");
    println!(
        "drill: emitted {}, delivered {}, gone with the host {}; saved {}, restored {} in {:.2} s ({}); history and a new \
         agent {:.1} s after the loss",
        all.len(),
        delivered.len(),
        gone.len(),
        saved.len(),
        back.len(),
        restored.as_secs_f64(),
        told.trim(),
        again.as_secs_f64()
    );
    ensure!(
        told.split_whitespace().nth(3).context("no count")?.parse() == Ok(back.len()),
        "it restored something else than it says: {told}"
    );
    Ok(())
}
