//! The archive in a bucket of a real Ceph, whose parts die under the agent and come back.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::ceph::Cluster;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::wait_for;
use serde_json::Value;

use super::super::Pair;
use super::{command, numbers, to_be_archived};

/// Long enough for the waits of an uploader that failed some times in a row.
const PATIENCE: Duration = Duration::from_secs(90);

/// `[archive]` for a bucket of the cluster, beside the spool.
pub(super) fn section(cluster: &Cluster, bucket: &str, credentials: &Path) -> String {
    format!(
        "url = \"s3://{bucket}/fleet\"\nendpoint = \"{}\"\ncredentials = \"{}\"\n\
         seal_after = \"300ms\"\nsync_interval = \"10ms\"\ntimeout = \"3s\"",
        cluster.endpoint(),
        credentials.display()
    )
}

/// Runs `netprobe archive …` on what a section names.
pub(super) fn configured(folder: &Path, section: &str, arguments: &[&str]) -> Result<String> {
    let config = folder.join("reader.toml");
    std::fs::write(&config, format!("[archive]\n{section}\n"))?;
    let config = config.to_str().context("a path in UTF-8")?;
    command(&[arguments, &["--config", config]].concat())
}

pub(super) fn start(section: &str) -> Result<Arc<Agent>> {
    Ok(Arc::new(Agent::start(&Settings {
        archive: section.to_owned(),
        // Its own uploads are connections like any others: they would never come to an end.
        probe: "cidrs_except = [\"127.0.0.0/8\"]\nudp = false".to_owned(),
        ..Settings::default()
    })?))
}

fn status(agent: &Agent, key: &str) -> Option<Value> {
    agent.probe().ok().map(|probe| probe["archive"][key].clone())
}

/// Waits until the agent says something of its archive.
fn until(agent: &Agent, what: &str, key: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    let mut last = None;
    wait_for(what, PATIENCE, || {
        last = status(agent, key);
        last.as_ref().is_some_and(&holds).then_some(())
    })
    .with_context(|| format!("{key} is {last:?}: {}", agent.log()))
}

/// Makes connections, and waits for their final events.
pub(super) fn traffic(agent: &Arc<Agent>, port: u16, count: usize) -> Result<()> {
    let lab = lab::gateway()?;
    let to = addr(lab::SERVER, port);
    let mut pair = Pair::over(lab, agent.clone(), "rgw", "cli", "srv", to)?;
    for _ in 0..count {
        let (client, server) = pair.open()?;
        pair.finish(client, server)?;
    }
    Ok(())
}

pub(super) fn all_archived(agent: &Agent) -> Result<()> {
    until(agent, "everything to be archived", "spooled", |value| *value == 0)?;
    until(agent, "the circuit to close", "circuit", |value| {
        value == "closed"
    })
}

/// Ends the agent; what it saw, and what the archive has to hold.
fn ended(agent: &Agent) -> Result<BTreeSet<u64>> {
    Ok(to_be_archived(&agent.stop_well()?))
}

/// The archive verifies, and has just these events.
fn holds(folder: &Path, section: &str, seen: &BTreeSet<u64>) -> Result<()> {
    let verdict = configured(folder, section, &["verify"])?;
    ensure!(verdict.contains("\nverified: 1 chains, 0 findings"), "{verdict}");
    let have = numbers(&configured(folder, section, &["query", "-o", "json"])?)?;
    let have: BTreeSet<u64> = have.into_values().flatten().collect();
    ensure!(
        have == *seen,
        "archived and not seen, or the other way round: {:?}",
        have.symmetric_difference(seen).collect::<Vec<_>>()
    );
    Ok(())
}

/// Gateway and store are killed, one after the other, and come back; nothing in the bucket can be replaced, and nothing
/// is there twice.
pub(super) fn outlives() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start()?;
    cluster.bucket("locked", true)?;
    let section = section(&cluster, "locked", &cluster.credentials()?);
    let agent = start(&section)?;
    traffic(&agent, 18_480, 5)?;
    until(&agent, "a segment in the bucket", "segments", |value| {
        value["archived"].as_u64() > Some(0)
    })?;
    for part in [Cluster::GATEWAY, Cluster::STORE] {
        cluster.kill(part);
        let durable = || status(&agent, "durable_seq")?.as_u64();
        let before = durable().context("no durable_seq")?;
        traffic(&agent, 18_480, 20)?;
        until(&agent, "the agent to notice", "circuit", |value| {
            value != "closed"
        })?;
        // Without the archive, what it saw is as durable as with it.
        until(&agent, "the events to be durable", "durable_seq", |value| {
            value.as_u64() >= Some(before + 40)
        })?;
        cluster.start_again(part)?;
        all_archived(&agent)?;
    }
    let seen = ended(&agent)?;
    ensure!(seen.len() >= 90, "only {} events", seen.len());
    holds(folder.path(), &section, &seen)?;
    let versions = cluster.ask(&[], "locked?versions=")?;
    let mut keys: Vec<_> = versions.split("<Key>").skip(1).collect();
    keys.sort_unstable();
    let (count, distinct) = (
        keys.len(),
        BTreeSet::from_iter(keys.iter().map(|key| key.split('<').next())),
    );
    ensure!(
        count > 4 && count == distinct.len(),
        "{count} versions of {} objects",
        distinct.len()
    );
    Ok(())
}

/// Wrong credentials, then no bucket: the agent says what it is, keeps everything, and goes on by itself. A second bucket
/// is restored from the first.
pub(super) fn waits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start()?;
    let credentials = folder.path().join("credentials.toml");
    std::fs::write(
        &credentials,
        "access_key_id = \"netprobe\"\nsecret_access_key = \"not this\"\n",
    )?;
    let section = section(&cluster, "late", &credentials);
    let agent = start(&section)?;
    traffic(&agent, 18_481, 20)?;
    let says =
        |word: &'static str| move |value: &Value| value.as_str().is_some_and(|text| text.contains(word));
    until(&agent, "the refusal", "last_error", says("403"))?;
    std::fs::copy(cluster.credentials()?, &credentials)?;
    until(&agent, "the missing bucket", "last_error", says("NoSuchBucket"))?;
    cluster.bucket("late", false)?;
    all_archived(&agent)?;
    let seen = ended(&agent)?;
    ensure!(seen.len() >= 40, "only {} events", seen.len());
    holds(folder.path(), &section, &seen)?;
    cluster.bucket("second", false)?;
    let second = section.replace("s3://late/fleet", "s3://second/copy")
        + &format!("\nencryption = \"aws:kms:{}\"", Cluster::KEY);
    configured(folder.path(), &second, &["restore", "--from", "s3://late/fleet"])?;
    holds(folder.path(), &second, &seen)?;
    let listing = cluster.ask(&[], "second")?;
    let key = listing
        .split("<Key>")
        .nth(1)
        .and_then(|rest| rest.split('<').next());
    // As it is signed.
    let path = key.context("no objects")?.replace('=', "%3D");
    let head = cluster.ask(&["-I"], &format!("second/{path}"))?;
    ensure!(
        head.contains("x-amz-server-side-encryption: aws:kms") && head.contains(Cluster::KEY),
        "not encrypted by the service: {head}"
    );
    Ok(())
}
