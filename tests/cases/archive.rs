//! The archive of a real agent: what it says it kept is there, byte for byte, also after a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::{Agent, Settings, Stopped, binary};
use netprobe_tests::{event, wait_for};
use nix::sys::signal::Signal;

use super::{Case, Need};

mod drill;
mod engine;
mod files;
mod gateway;
pub(crate) mod kafka;

/// What a real Ceph of one node takes.
const CEPH: &[Need] = &[
    Need::Program("ceph"),
    Need::Program("ceph-mon"),
    Need::Program("ceph-osd"),
    Need::Program("radosgw"),
    Need::Program("curl"),
];

pub(crate) const CASES: &[Case] = &[
    Case::new("archive_holds_what_was_seen", holds).alone(),
    Case::new("archive_keeps_its_promise_over_a_kill", kill).alone(),
    Case::new("archive_waits_for_files", files::none).alone(),
    Case::new("archive_comes_back_from_a_backup", drill::lost)
        .alone()
        .needs(CEPH),
    Case::new("archive_outlives_gateway_and_store", gateway::outlives)
        .alone()
        .needs(CEPH),
    Case::new("archive_waits_for_right_and_bucket", gateway::waits)
        .alone()
        .needs(CEPH),
    Case::new("duckdb_reads_the_archive", engine::duckdb)
        .alone()
        .needs(&[Need::Engine("duckdb")]),
    Case::new("clickhouse_reads_the_archive", engine::clickhouse)
        .alone()
        .needs(&[Need::Engine("clickhouse")]),
    Case::new("kafka_has_what_was_seen", kafka::has)
        .alone()
        .needs(&[Need::Kafka]),
];

/// Where the set-up puts the Python of an engine, or of Kafka's client; a copy of the tree below its target folder finds it
/// there, too.
pub(crate) fn python(of: &str) -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("target").join(of).join("bin/python"))
        .find(|python| python.exists())
}

/// Runs `netprobe archive …` on the archive of a folder; its standard output.
fn archive(folder: &Path, arguments: &[&str]) -> Result<String> {
    let url = format!("file://{}/archive", folder.display());
    command(&[arguments, &["--url", &url]].concat())
}

/// Runs `netprobe archive …`; its standard output.
fn command(arguments: &[&str]) -> Result<String> {
    netprobe(&[&["archive"], arguments].concat())
}

/// Runs `netprobe …`; its standard output.
fn netprobe(arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary()?).args(arguments).env_clear().output()?;
    ensure!(
        output.status.success(),
        "`netprobe {arguments:?}` ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes connections.
fn traffic(name: &str, count: usize) -> Result<()> {
    let mut pair = super::Pair::local(name)?;
    for _ in 0..count {
        let (client, server) = pair.open()?;
        pair.finish(client, server)?;
    }
    Ok(())
}

fn settings(folder: &Path) -> Settings {
    Settings {
        archive: "seal_after = \"500ms\"\nsync_interval = \"10ms\"".to_owned(),
        archive_in: Some(folder.to_owned()),
        ..Settings::default()
    }
}

fn is_update(event: &event::Event) -> bool {
    event.flow.as_ref().is_some_and(|flow| flow.state == "update")
}

fn holds() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let agent = Agent::start(&settings(folder.path()))?;
    traffic("archive", 50)?;
    agent.ledger_at_rest(Duration::from_secs(60))?;
    let stopped = agent.stop_well()?;
    let verdict = archive(folder.path(), &["verify"])?;
    ensure!(verdict.contains("\nverified: 1 chains, 0 findings"), "{verdict}");
    let archived: BTreeSet<u64> = numbers(&archive(folder.path(), &["query", "-o", "json"])?)?
        .into_values()
        .flatten()
        .collect();
    let seen = to_be_archived(&stopped);
    ensure!(seen.len() > 100, "only {} events", seen.len());
    ensure!(
        archived == seen,
        "archived and not seen, or the other way round: {:?}",
        archived.symmetric_difference(&seen).collect::<Vec<_>>()
    );
    // The whole time in two halves is the whole.
    let middle = &stopped.events[stopped.events.len() / 2].ts;
    let count =
        |arguments: &[&str]| Ok::<_, anyhow::Error>(archive(folder.path(), arguments)?.lines().count());
    let (before, after) = (
        count(&["query", "-o", "json", "--until", middle])?,
        count(&["query", "-o", "json", "--since", middle])?,
    );
    ensure!(
        before > 0 && after > 0 && before + after == archived.len(),
        "{before} + {after} of {}",
        archived.len()
    );
    let url = format!("file://{}/archive", folder.path().display());
    let observe = ["observe", "--input-file", &url, "-o", "json"];
    let same = netprobe(&[&observe[..], &["--since", middle]].concat())?;
    ensure!(
        same == archive(folder.path(), &["query", "-o", "json", "--since", middle])?,
        "observe shows something else"
    );
    let last = netprobe(&[&observe[..], &["--last", "3"]].concat())?;
    ensure!(
        last.lines().count() == 3 && same.ends_with(&last),
        "not the last three: {last}"
    );
    let none = count(&["query", "-o", "json", "--service", "no-such-service"])?;
    ensure!(none == 0, "{none} events of a service there is not");
    Ok(())
}

/// Numbers of what an agent said and the archive has to hold.
fn to_be_archived(stopped: &Stopped) -> BTreeSet<u64> {
    let kept = stopped.events.iter().filter(|event| !is_update(event));
    kept.filter_map(|event| event.seq).collect()
}

/// Numbers by run.
fn numbers(lines: &str) -> Result<BTreeMap<String, BTreeSet<u64>>> {
    let mut numbers: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in lines.lines() {
        let event: event::Event = serde_json::from_str(line)?;
        let seq = event.seq.context("no seq")?;
        ensure!(
            numbers.entry(event.run.clone()).or_default().insert(seq),
            "{seq} of {} twice",
            event.run
        );
    }
    Ok(numbers)
}

fn kill() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut settings = settings(folder.path());
    // Nothing is sealed before the kill.
    settings.archive = "seal_after = \"1h\"\nsync_interval = \"10ms\"".to_owned();
    let agent = Agent::start(&settings)?;
    traffic("killed", 30)?;
    let (run, durable) = wait_for("enough to be durable", Duration::from_secs(20), || {
        let probe = agent.probe().ok()?;
        let archive = &probe["archive"];
        let durable = archive["durable_seq"].as_u64()?;
        (durable > 60).then(|| Some((archive["run"].as_str()?.to_owned(), durable)))?
    })?;
    agent.signal(Signal::SIGKILL)?;
    // What it had said by then is what the archive is held against.
    std::thread::sleep(Duration::from_millis(200));
    let promised: BTreeSet<u64> = agent
        .events()
        .iter()
        .filter(|event| !is_update(event))
        .filter_map(|event| event.seq.filter(|seq| *seq <= durable))
        .collect();
    drop(agent);
    ensure!(promised.len() >= 60, "only {} events", promised.len());
    let second = Agent::start(&settings)?;
    let refused = Agent::start(&settings)?;
    let Some(notice) = refused.probe()?["notices"].as_array().and_then(|all| {
        all.iter()
            .filter_map(|notice| notice.as_str())
            .find(|notice| notice.contains("in use by another agent"))
            .map(str::to_owned)
    }) else {
        bail!("two agents share a spool in silence");
    };
    ensure!(
        notice.contains("archive.spool"),
        "no word on what to do: {notice}"
    );
    drop(refused);
    let stopped = second.stop()?;
    let told = stopped
        .events
        .iter()
        .filter_map(|event| event.gap.as_ref())
        .any(|gap| gap.reason == "unclean_stop");
    ensure!(told, "the kill is not told");
    archive(folder.path(), &["verify"])?;
    let archived = numbers(&archive(folder.path(), &["query", "-o", "json"])?)?;
    let have = archived.get(&run).context("nothing of the killed run")?;
    let missing: Vec<_> = promised.difference(have).collect();
    ensure!(
        missing.is_empty(),
        "promised up to {durable}, and missing: {missing:?}"
    );
    Ok(())
}
