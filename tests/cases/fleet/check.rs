//! What must agree: the hosts with conntrack and each other, Kafka with the archive, DuckDB with both, the story with the script.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::*;
use netprobe_tests::event::Event;
use netprobe_tests::tools;
use netprobe_tests::truth::{ConntrackEntry, conntrack};
use serde_json::Value;

/// Each connection as conntrack of the gateway has it.
pub(super) fn truth(lab: &Lab, fetches: &[Fetch]) -> Result<Vec<ConntrackEntry>> {
    let entries = conntrack(lab, "gw")?;
    fetches
        .iter()
        .map(|fetch| {
            let from = addr(
                lab::CLIENT,
                fetch.port.context("a fetch failed though all was well")?,
            );
            let mut of = entries.iter().filter(|entry| entry.orig.src() == from);
            match (of.next(), of.next()) {
                (Some(entry), None) => Ok(entry.clone()),
                _ => Err(anyhow!(
                    "conntrack has not just one entry from {from}: {entries:?}"
                )),
            }
        })
        .collect()
}

/// Runs `netprobe observe` on an archive.
fn observe(url: &str, more: &[&str]) -> Result<String> {
    history::netprobe(&[&["observe", "--input-file", url], more].concat())
}

fn events(url: &str, more: &[&str]) -> Result<Vec<Event>> {
    let text = observe(url, &[more, &["-o", "json"]].concat())?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The client's event of a connection from this port.
fn of_client(url: &str, port: u16) -> Result<String> {
    let filter = format!("host==client-1,kind==flow,role==client,internal_port=={port}");
    let found = events(url, &["--filter", &filter])?;
    let mut ids: BTreeSet<String> = found
        .into_iter()
        .filter_map(|event| event.connection_id)
        .collect();
    ensure!(ids.len() == 1, "the client's connection from {port}: {ids:?}");
    ids.pop_first().context("none")
}

/// One connection as the client's, the gateway's and the server's host saw it, by any of their ids; and one that the server's
/// host did not see. The story of the first one.
pub(super) fn stories(url: &str, entries: &[ConntrackEntry], unseen: &[Fetch]) -> Result<String> {
    for entry in [entries.first(), entries.last()].into_iter().flatten() {
        let id = of_client(url, entry.orig.src().port())?;
        let path = events(url, &["--connection", &id])?;
        one_story(entry, &path).with_context(|| format!("{path:?}"))?;
        for leg in path.iter().filter(|event| event.kind == "flow") {
            let id = leg.connection_id.as_deref().context("no id")?;
            let same = events(url, &["--connection", id])?;
            ensure!(
                same.iter()
                    .map(|event| (&event.run, event.seq))
                    .eq(path.iter().map(|event| (&event.run, event.seq))),
                "asked for {id} of {} it is another way: {same:?}",
                leg.host
            );
        }
    }
    let port = unseen
        .first()
        .and_then(|fetch| fetch.port)
        .context("nothing was fetched unseen")?;
    let id = of_client(url, port)?;
    let story = observe(url, &["--connection", &id])?;
    ensure!(
        story.contains("gateway-1") && !story.contains("\nserver server-1"),
        "the server's host had no agent: {story}"
    );
    for said in [
        "not known: the server's side",
        "not known: what server-1 lost from",
        "agent not_running",
    ] {
        ensure!(story.contains(said), "no word of it ({said}): {story}");
    }
    let id = of_client(url, entries[0].orig.src().port())?;
    observe(url, &["--connection", &id])
}

/// The three hosts' events agree with conntrack and with each other.
fn one_story(entry: &ConntrackEntry, path: &[Event]) -> Result<()> {
    let flows: Vec<&Event> = path.iter().filter(|event| event.kind == "flow").collect();
    let who: Vec<_> = flows
        .iter()
        .map(|event| (&*event.host, event.role.as_deref()))
        .collect();
    ensure!(
        who == [
            ("client-1", Some("client")),
            ("gateway-1", Some("forwarded")),
            ("server-1", Some("server"))
        ],
        "other hosts: {who:?}"
    );
    let (before, after) = (
        (entry.orig.src(), entry.orig.dst()),
        (entry.reply.dst(), entry.reply.src()),
    );
    let status = |event: &Event| event.nat.as_ref().map(|nat| nat.status.clone());
    let sides = |event: &Event| {
        (
            (event.internal(), event.peer()),
            (event.external(), event.actual_peer()),
            status(event),
        )
    };
    let both = |pair: (SocketAddr, SocketAddr)| (Some(pair.0), Some(pair.1));
    // The ends know of no translation: it is another host's.
    let none = Some("none".to_owned());
    ensure!(
        sides(flows[0]) == (both(before), both(before), none.clone()),
        "the client's host"
    );
    let translated = Some("snat+dnat".to_owned());
    ensure!(
        sides(flows[1]) == (both(before), both(after), translated),
        "the gateway's host"
    );
    let reply = (after.1, after.0);
    ensure!(
        sides(flows[2]) == (both(reply), both(reply), none),
        "the server's host"
    );
    ensure!(
        flows[0].bytes_sent.is_some()
            && flows[0].bytes_sent == flows[2].bytes_received
            && flows[0].bytes_received == flows[2].bytes_sent,
        "the ends moved other bytes"
    );
    // The gateway counts packets with their headers.
    ensure!(
        flows[1].bytes_sent > flows[0].bytes_sent,
        "the gateway saw less than the client sent"
    );
    let read: Vec<_> = path
        .iter()
        .filter(|event| event.kind == "request")
        .map(|event| &*event.host)
        .collect();
    ensure!(read == ["client-1", "server-1"], "requests were read by {read:?}");
    Ok(())
}

const COUNT: &str = r"
import duckdb, json, sys
print(json.dumps(duckdb.sql(f'''
    SELECT host, count(*), count(DISTINCT (run, seq)) FROM read_json('{sys.argv[1]}/v1/*/*/*/*.jsonl.zst', hive_partitioning = true,
    hive_types = {{'host': VARCHAR}}, columns = {{host: 'VARCHAR', run: 'VARCHAR', seq: 'UBIGINT'}}) GROUP BY host''').fetchall()))
";

/// Kafka, without what came twice, has the archive's lines; DuckDB counts them; the chains verify. How many.
pub(super) fn contents(fleet: &mut Fleet) -> Result<String> {
    let url = fleet.url();
    let verdict = history::netprobe(&["archive", "verify", "--url", &url])?;
    ensure!(verdict.contains("\nverified: 3 chains, 0 findings"), "{verdict}");
    let text = history::netprobe(&["archive", "query", "--url", &url, "-o", "json"])?;
    let archived: BTreeSet<&str> = text.lines().collect();
    ensure!(
        archived.len() == text.lines().count(),
        "the archive has something twice"
    );
    let messages = fleet.brokers.read("netprobe.events", 0)?;
    let inodes: BTreeMap<&str, u64> = HOSTS
        .iter()
        .map(|(name, netns)| Ok((*name, fleet.lab.inode(netns)?)))
        .collect::<Result<_>>()?;
    let mut by_number: BTreeMap<(String, String, u64), &str> = BTreeMap::new();
    for message in &messages {
        let event: Event = serde_json::from_str(&message.value)?;
        ensure!(
            event
                .netns
                .is_none_or(|netns| inodes.get(&*event.host) == Some(&netns)),
            "of another host's namespace: {}",
            message.value
        );
        let number = (event.host, event.run, event.seq.context("no seq")?);
        let first = by_number.entry(number).or_insert(&message.value);
        ensure!(
            *first == message.value,
            "told twice, and otherwise: {first} {}",
            message.value
        );
    }
    let deduplicated: BTreeSet<&str> = by_number.values().copied().collect();
    ensure!(
        deduplicated == archived,
        "Kafka has {} of {} events, the archive {}: {:?}",
        deduplicated.len(),
        messages.len(),
        archived.len(),
        deduplicated
            .symmetric_difference(&archived)
            .take(3)
            .collect::<Vec<_>>()
    );
    let mut of: BTreeMap<String, u64> = BTreeMap::new();
    for (host, ..) in by_number.keys() {
        *of.entry(host.clone()).or_default() += 1;
    }
    let python = python("duckdb").context("no DuckDB")?;
    let said = tools::run_command(Command::new(python).args(["-c", COUNT]).arg(fleet.archive()))?;
    let rows: Vec<(String, u64, u64)> = serde_json::from_str(&said)?;
    let counted: BTreeMap<String, u64> = rows
        .into_iter()
        .map(|(host, _, distinct)| (host, distinct))
        .collect();
    ensure!(
        counted == of && of.len() == HOSTS.len(),
        "DuckDB counts {counted:?}, Kafka has {of:?}"
    );
    let by_host: Vec<_> = of
        .iter()
        .map(|(host, count)| format!("{count} of {host}"))
        .collect();
    Ok(format!(
        "Prometheus has {} targets up\n{verdict}Kafka has {} messages: {} events and {} again\nthe archive has the same {} events, and \
         so counts DuckDB: {}",
        HOSTS.len(),
        messages.len(),
        deduplicated.len(),
        messages.len() - deduplicated.len(),
        archived.len(),
        by_host.join(", ")
    ))
}

/// The timeline of the fleet agrees with what curl saw. Its text.
pub(super) fn incident(fleet: &Fleet, script: &[Fetch], (since, until): (&str, &str)) -> Result<String> {
    let url = fleet.url();
    let told = |form: &str| {
        history::netprobe(&[
            "timeline", "--url", &url, "--since", since, "--until", until, "-o", form,
        ])
    };
    let json: Value = serde_json::from_str(&told("json")?)?;
    let refused = script.iter().filter(|fetch| fetch.port.is_none());
    let episodes = json["incidents"].as_array().into_iter().flatten();
    let mut of_curl = episodes
        .flat_map(|incident| incident["episodes"].as_array().into_iter().flatten())
        .filter(|episode| episode["cause"] == "refused");
    let (Some(episode), None) = (of_curl.next(), of_curl.next()) else {
        anyhow::bail!("not one episode of refused connects: {json}");
    };
    ensure!(
        episode["host"] == "client-1"
            && episode["destination"] == format!("{}:80", lab::VIRTUAL)
            && episode["count"] == refused.clone().count(),
        "curl was refused {} times: {episode}",
        refused.clone().count()
    );
    let first = history::of_day(&episode["from"])?;
    let truth = refused.clone().next().context("nothing was refused")?.done;
    ensure!(
        (truth - first).abs() < 0.5,
        "the first at {truth}, told as {first}"
    );
    ensure!(!episode["recovered_at"].is_null(), "it recovered: {episode}");
    fs::write(fleet.folder.join("timeline.html"), told("html")?)?;
    told("markdown")
}
