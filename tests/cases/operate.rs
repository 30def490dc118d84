//! What an operator relies on while things go wrong: detail where it is wanted, a budget, clients that stand still, and
//! figures that are the same for the same traffic.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::traffic::load::{self, Plan};
use netprobe_tests::{http, wait_for};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use super::metrics::Page;
use super::{Case, Need, Pair};

pub(crate) const CASES: &[Case] = &[
    Case::new("updates_are_told_in_full_in_an_incident", incident),
    // Alone: agents of other cases would have to read all of it.
    Case::new("metrics_agree_between_two_runs", two_runs)
        .needs(&[Need::Speed])
        .alone(),
    Case::new("budget_sheds_detail_and_takes_it_back", budget)
        .needs(&[Need::Speed])
        .alone(),
    Case::new("slow_clients_hold_nobody_up", slow_clients)
        .needs(&[Need::Speed])
        .alone(),
];

fn json(agent: &Agent, path: &str) -> Result<Value> {
    let (status, body) = http::get_unix(&agent.socket(), path)?;
    ensure!(status == 200, "{path} answers {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

fn counter(agent: &Agent, name: &str) -> Result<u64> {
    let probe = agent.probe()?;
    probe["counters"][name]
        .as_u64()
        .with_context(|| format!("no counter {name}"))
}

fn updates(agent: &Agent, cookie: u64) -> Vec<Arc<Event>> {
    let mut events = agent.events();
    events.retain(|event| event.is_state("update") && event.cookie() == Some(cookie));
    events
}

/// Of a live connection no update is told, until its destination fails.
fn incident() -> Result<()> {
    let agent = Arc::new(Agent::start(&Settings {
        flow: "open_after = \"100ms\"\nupdate_every = \"200ms\"\nupdate_share = 0.0".to_owned(),
        ..Settings::default()
    })?);
    let at = addr("127.0.0.1", 0);
    let mut pair = Pair::over(lab::gateway()?, agent.clone(), "incident", "cli", "cli", at)?;
    let (client, server) = pair.open()?;
    for end in [&client, &server] {
        agent.wait_event("the open event", |event| {
            event.is_state("open") && event.cookie() == Some(end.cookie)
        })?;
    }
    let before = counter(&agent, "updates_sampled_out")?;
    wait_for("updates to be left out", PATIENCE, || {
        (counter(&agent, "updates_sampled_out").ok()? >= before + 4).then_some(())
    })?;
    ensure!(
        updates(&agent, client.cookie).is_empty(),
        "updates are told of a share of nothing"
    );
    // Nobody listens there any more: who dials again is refused.
    pair.srv.close(pair.listener)?;
    for _ in 0..5 {
        ensure!(pair.cli.connect(pair.addr).is_err(), "{} is served", pair.addr);
    }
    agent.wait_event("an update of the connection to what fails", |event| {
        event.is_state("update") && event.cookie() == Some(client.cookie)
    })?;
    let state = json(&agent, "/resilience/state")?;
    let destinations = state["destinations"].as_array().into_iter().flatten();
    // Other cases dial in vain, too.
    let mut ours = destinations.filter(|of| of["peer"] == pair.addr.to_string());
    ensure!(ours.any(|of| of["state"] == "failing"), "{state}");
    // Whoever serves has no destination.
    ensure!(
        updates(&agent, server.cookie).is_empty(),
        "updates of the server's end are told"
    );
    Ok(())
}

/// Families whose values follow from the traffic alone, not from the time it took.
const OF_TRAFFIC: &[&str] = &[
    "netprobe_tcp_connects_total",
    "netprobe_tcp_bytes_total",
    "netprobe_tcp_connect_duration_seconds_count",
    "netprobe_tcp_connections_active",
    "netprobe_tcp_resets_total",
    "netprobe_tcp_timeouts_total",
    "netprobe_tcp_connect_retries_total",
    "netprobe_nat_lookups_total",
    "netprobe_label_overflow_total",
];

/// The same plan under two agents: the same series with the same values, and those of the plan's own log.
fn two_runs() -> Result<()> {
    const CONNECTIONS: u64 = 1_500;
    const FIRST: u16 = 30_430;
    let ways = (0..5).map(|index| addr(&format!("127.81.0.{}", 1 + index), FIRST + index));
    let plan = Plan {
        client_netns: None,
        server_netns: None,
        client_ip: None,
        ways: ways.map(|at| (at, at)).collect(),
        refusing: Some(addr("127.81.0.9", FIRST + 9)),
        connections: CONNECTIONS,
        seed: 11,
    };
    let run = || -> Result<BTreeMap<String, String>> {
        let ports: Vec<_> = (FIRST..FIRST + 10).map(|port| port.to_string()).collect();
        let agent = Agent::start(&Settings {
            // Nobody else has these ports.
            probe: format!("ports_only = [{}]", ports.join(", ")),
            silent: true,
            ..Settings::default()
        })?;
        let log = load::run(&plan, 1)?;
        agent.ledger_at_rest(Duration::from_secs(60))?;
        let page = Page::scrape(&agent)?;
        let sent = page.sum("netprobe_tcp_bytes_total", &[("direction", "sent")]);
        let moved: u64 = log
            .iter()
            .map(|line| u64::from(line.to_server) + u64::from(line.to_client))
            .sum();
        ensure!(
            sent == Some(moved as f64),
            "{moved} bytes moved, {sent:?} are counted"
        );
        let refused = log.iter().filter(|line| line.server == 0).count();
        let labels = [("role", "client")];
        let counted = page.sum("netprobe_tcp_connects_total", &labels);
        ensure!(
            counted == Some(log.len() as f64),
            "{} connects, {counted:?} are counted",
            log.len()
        );
        let retries = page.sum("netprobe_tcp_connect_retries_total", &[]);
        ensure!(
            retries == Some(refused as f64 - 1.0),
            "{refused} refused one after the other, {retries:?} counted as tried again"
        );
        Ok(page.series(OF_TRAFFIC))
    };
    let (first, second) = (run()?, run()?);
    ensure!(first.len() > 30, "too few series to compare: {first:?}");
    let differ: Vec<_> = first
        .iter()
        .filter(|(name, value)| second.get(*name) != Some(*value))
        .map(|(name, value)| format!("{name}: {value}, then {:?}", second.get(name)))
        .collect();
    ensure!(
        differ.is_empty() && first.len() == second.len(),
        "two runs differ: {differ:?}"
    );
    Ok(())
}

/// Under load detail is shed, in the documented order and told everywhere; afterwards it is taken back.
fn budget() -> Result<()> {
    const PORT: u16 = 30_445;
    let agent = Agent::start(&Settings {
        // What else this machine does is not this agent's load.
        probe: format!("cpu_budget = 0.1\nports_only = [{PORT}]"),
        flow: "update_every = \"200ms\"\nopen_after = \"100ms\"".to_owned(),
        api: "recent_events = 100000\nrecent_bytes = 268435456".to_owned(),
        // Standard output loses what is read too slowly, with a gap that says so. Here events are asked for.
        silent: true,
        ..Settings::default()
    })?;
    let recent = |query: &str| -> Result<Vec<Event>> {
        let mut answer = json(&agent, &format!("/api/v1/events?limit=10000&{query}"))?;
        Ok(serde_json::from_value(answer["events"].take())?)
    };
    let listener = TcpListener::bind(("127.82.0.1", PORT))?;
    let held = TcpStream::connect(listener.local_addr()?)?;
    let ours = held.local_addr()?;
    let updates = || -> Result<Vec<u64>> {
        let mut events = recent(&format!("state=update&port={}", ours.port()))?;
        events.retain(|event| event.internal() == Some(ours));
        Ok(events.iter().filter_map(|event| event.seq).collect())
    };
    wait_for("an update of a live connection", PATIENCE, || {
        (!updates().ok()?.is_empty()).then_some(())
    })?;
    let ways = (2..18).map(|last| addr(&format!("127.82.0.{last}"), PORT));
    let plan = Plan {
        client_netns: None,
        server_netns: None,
        client_ip: None,
        ways: ways.map(|at| (at, at)).collect(),
        refusing: None,
        connections: 500,
        seed: 12,
    };
    let over = AtomicBool::new(false);
    let level = || {
        // A scrape costs, too.
        std::thread::sleep(Duration::from_millis(500));
        Page::scrape(&agent).ok()?.sum("netprobe_governor_level", &[])
    };
    let shed = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                load::run(&plan, 1)?;
            }
            anyhow::Ok(())
        });
        let shed = wait_for("a step down", Duration::from_secs(60), || {
            (level()? >= 1.0).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        load.join().map_err(|_| anyhow!("the load panicked"))??;
        shed
    });
    shed?;
    let state = json(&agent, "/resilience/state")?;
    let steps = &state["governor"]["shed"];
    ensure!(steps[0] == "updates", "the first step: {state}");
    let told = |word: &str| -> Result<u64> {
        let notices = recent("kind=agent&severity=warning")?;
        let of_step = |event: &&Event| {
            let message = event.agent.as_ref().and_then(|agent| agent["message"].as_str());
            message.is_some_and(|message| message.starts_with(word))
        };
        let notice = notices.iter().find(of_step).and_then(|event| event.seq);
        notice.with_context(|| format!("no event says `{word}`: {notices:?}"))
    };
    let down = told("sheds updates")?;
    let before = counter(&agent, "events_shed")?;
    wait_for("updates to be shed", PATIENCE, || {
        (counter(&agent, "events_shed").ok()? >= before + 3).then_some(())
    })?;
    wait_for("detail to be taken back", Duration::from_secs(180), || {
        (level()? == 0.0).then_some(())
    })?;
    let up = told("takes updates back")?;
    wait_for("an update after that", PATIENCE, || {
        updates().ok()?.iter().any(|seq| *seq > up).then_some(())
    })?;
    let between = updates()?.iter().filter(|seq| (down..up).contains(*seq)).count();
    ensure!(between == 0, "{between} updates are told while they are shed");
    Ok(())
}

/// Ten thousand clients that begin a request and go no further.
fn slow_clients() -> Result<()> {
    const CLIENTS: usize = 10_000;
    const SEATS: usize = 500;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let agent = Agent::start(&Settings {
        api: format!("max_connections = {SEATS}"),
        ..Settings::default()
    })?;
    let files = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count()) };
    let (files_before, memory_before) = (files()?, memory(&agent)?);
    let mut slow = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(agent.listen())?;
        // It may have been closed already: there is no seat for it.
        let _ = stream.write_all(b"GET /health/live HT");
        slow.push(stream);
    }
    // A connection without a seat is accepted before it is closed.
    let mut more = 0;
    wait_for("no more files than seats", PATIENCE, || {
        more = files().ok()?.saturating_sub(files_before);
        (more <= SEATS + 50).then_some(())
    })
    .with_context(|| format!("{SEATS} seats, {more} files more than before"))?;
    // The Unix socket has seats of its own, and what is measured goes on.
    Page::scrape(&agent)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let ours = client.local_addr()?;
    drop((client, listener));
    agent.wait_event("the end of a connection meanwhile", |event| {
        event.is_final() && event.internal() == Some(ours)
    })?;
    let grown = memory(&agent)?.saturating_sub(memory_before) >> 20;
    ensure!(grown < 64, "the agent grew by {grown} MiB");
    let lines = agent.log().lines().count();
    ensure!(lines < 1_000, "{lines} lines in the log");
    drop(slow);
    wait_for("a seat", PATIENCE, || {
        agent
            .get("/health/live")
            .is_ok_and(|(status, _)| status == 200)
            .then_some(())
    })
}

/// Resident bytes, as the agent tells.
fn memory(agent: &Agent) -> Result<u64> {
    let sum = Page::scrape(agent)?.sum("netprobe_agent_memory_bytes", &[]);
    Ok(sum.context("no memory")? as u64)
}
