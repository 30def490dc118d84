//! The agent's first moments on a busy host: older connections are listed while new ones pour in.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, LineSink, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{Lab, addr};
use netprobe_tests::tools;
use netprobe_tests::traffic::load::{self, Line, Plan};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Case;

pub(crate) const CASES: &[Case] = &[Case::new("start_amid_a_storm_of_connects", storm).alone()];

/// Connections older than the agent, and those that come once it is there: an emulated machine makes fewer.
fn volume() -> (usize, usize) {
    if super::emulated() {
        (500, 1_500)
    } else {
        (3_000, 10_000)
    }
}

/// Connections at most, should the agent never start.
const MOST: usize = 400_000;

/// A breath for the agent, on a machine that has other work.
fn breathe() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Connections, gust after gust, until the agent is there, and `after` more: how long a start takes is the machine's
/// affair. One thread, so that the log is in the order of time.
fn blow(plan: &Plan, agent_is_there: &AtomicBool, after: usize) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut end = MOST;
    while lines.len() < end {
        if end == MOST && agent_is_there.load(Ordering::Acquire) {
            end = lines.len() + after;
        }
        let seed = plan.seed + lines.len() as u64;
        lines.extend(load::run(&Plan { seed, ..plan.clone() }, 1)?);
        breathe();
    }
    Ok(lines)
}

fn storm() -> Result<()> {
    let (older_pairs, after) = volume();
    let mut lab = Lab::new()?;
    lab.add("storm")?;
    let (path, netns) = (lab.path("storm"), lab.inode("storm")?);
    let pairs = tools::within(&path, || older_connections(older_pairs))?;
    let plan = Plan {
        client_netns: Some(path.clone()),
        server_netns: Some(path),
        client_ip: None,
        ways: (0..8)
            .map(|i| (addr("127.0.0.1", 7000 + i), addr("127.0.0.1", 7000 + i)))
            .collect(),
        refusing: None,
        connections: 500,
        seed: 11,
    };
    let agent_is_there = AtomicBool::new(false);
    // Kept as they come, looked at in the end: a reader too slow is told what it missed, and this case needs all.
    let out = Arc::new(Mutex::new(Vec::<String>::new()));
    let keep = out.clone();
    let sink: LineSink = Box::new(move |line| said(&keep).push(line.to_owned()));
    let (lines, agent) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| blow(&plan, &agent_is_there, after));
        let agent = Agent::start_into(&Settings::default(), sink);
        agent_is_there.store(true, Ordering::Release);
        let lines = storm.join().map_err(|_| anyhow::anyhow!("the storm panicked"))?;
        Ok::<_, anyhow::Error>((lines?, agent?))
    })?;
    let mut pairs = pairs;
    while !pairs.is_empty() {
        pairs.truncate(pairs.len().saturating_sub(100));
        breathe();
    }
    let ledger = agent.ledger_at_rest(Duration::from_secs(300))?;
    ensure!(ledger.lost == 0, "records were lost: {ledger:?}");
    // Once the ledger is at rest on the agent's side, the reader of its output may still be behind.
    let (ours, mut read, mut ended) = (format!("\"netns\":{netns},"), 0, 0);
    netprobe_tests::wait_for("the older connections' ends", Duration::from_secs(120), || {
        let lines = said(&out);
        let older = |line: &&String| {
            line.contains(&ours) && line.contains("\"partial\"") && line.contains("\"state\":\"closed\"")
        };
        ended += lines[read..].iter().filter(older).count();
        read = lines.len();
        (ended >= 2 * older_pairs).then_some(())
    })
    .with_context(|| {
        let gaps: Vec<_> = said(&out)
            .iter()
            .filter(|line| line.contains("\"kind\":\"gap\""))
            .cloned()
            .collect();
        format!("{ended} of {} ends came; gaps: {gaps:?}", 2 * older_pairs)
    })?;
    agent.stop_well()?;

    let mut finals: HashMap<u64, &Event> = HashMap::new();
    let events: Vec<Event> = said(&out)
        .iter()
        .map(|line| serde_json::from_str(line).with_context(|| line.clone()))
        .collect::<Result<_>>()?;
    for event in events.iter().filter(|event| event.netns == Some(netns)) {
        let cookie = event.cookie().context("an event without a cookie")?;
        // A list that is older than an end must not bring the connection back.
        ensure!(
            !finals.contains_key(&cookie),
            "an event after the final one: {event:?}"
        );
        ensure!(
            super::reason(event) != Some("vanished"),
            "a connection vanished: {event:?}"
        );
        if event.is_final() {
            finals.insert(cookie, event);
        }
    }
    let first = lines
        .iter()
        .position(|line| {
            finals
                .get(&line.client)
                .is_some_and(|event| !event.has_flag("partial"))
        })
        .context("the storm was over before the agent was there")?;
    let whole = &lines[first + 1..];
    ensure!(
        first > 0 && whole.len() >= after,
        "the agent did not start amid the storm: at {first} of {}",
        lines.len()
    );
    for line in whole {
        for (cookie, sent, received) in [
            (line.client, line.to_server, line.to_client),
            (line.server, line.to_client, line.to_server),
        ] {
            let event = finals
                .remove(&cookie)
                .with_context(|| format!("no final event of socket {cookie}: {line:?}"))?;
            super::check(event, "flag partial", event.has_flag("partial"), false)?;
            super::check_bytes(event, sent.into(), received.into())?;
        }
    }
    // What is left is older than the agent, or of the connection it was attached in the midst of.
    let idle = finals
        .values()
        .filter(|event| event.has_flag("partial") && event.bytes_sent == Some(0));
    let idle = idle
        .filter(|event| event.role.is_some() && event.process.is_some())
        .count();
    ensure!(
        idle >= 2 * older_pairs && finals.len() <= 2 * older_pairs + 4,
        "{idle} older sockets of {} were taken over, {} are left in all",
        2 * older_pairs,
        finals.len()
    );
    Ok(())
}

fn said(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections that do nothing, both ends held here.
fn older_connections(count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(1 << 16)), hard)?;
    let listener = TcpListener::bind("127.0.0.1:6999")?;
    let at = listener.local_addr()?;
    (0..count)
        .map(|_| {
            let client = TcpStream::connect(at)?;
            Ok((client, listener.accept()?.0))
        })
        .collect()
}
