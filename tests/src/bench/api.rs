//! The API and the scrape: how long answers take with very many live flows, with very many series, and whether series
//! stay as many as they are while flows grow.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use super::cost::{Held, resident};
use super::{Options, quantile, quiet, workload};
use crate::agent::{Agent, Settings};
use crate::http;
use crate::tools;
use crate::traffic::load;

/// What is asked, in turn.
const PATHS: &[&str] = &[
    "/api/v1/flows?limit=100",
    "/api/v1/events?limit=100&last=100",
    "/metrics/network",
    "/resilience/state",
    "/api/v1/probe",
    "/health/ready",
];
/// Questions a second.
const RATE: u64 = 100;
/// Askers at a time.
const ASKERS: usize = 8;
/// Series asked for, about.
const SERIES: [usize; 3] = [1_000, 10_000, 100_000];
const SCRAPES: usize = 11;

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Api {
    /// Live flows meanwhile.
    pub live: u64,
    /// Path, and milliseconds: median, 95th percentile, longest.
    pub answers: Vec<(String, f64, f64, f64)>,
    /// Questions a second that were answered.
    pub rate: f64,
    /// What wrk did with the first of these paths, as fast as answers came: answers a second, and its median and 99th
    /// percentile.
    pub wrk: Vec<(String, f64, String, String)>,
    /// Resident memory, kilobytes: when, all of it, and what of it is the agent's own (the rest is binary and ring).
    pub memory: Vec<(String, u64, u64)>,
    /// Series, milliseconds of a scrape (median, longest), and bytes of its text.
    pub scrapes: Vec<(usize, f64, f64, usize)>,
    /// Connections so far, and series then.
    pub flat: Vec<(u64, usize)>,
}

pub(super) fn measure(options: &Options) -> Result<Api> {
    let mut api = Api {
        live: options.live,
        answers: Vec::new(),
        rate: 0.0,
        wrk: Vec::new(),
        memory: Vec::new(),
        scrapes: Vec::new(),
        flat: Vec::new(),
    };
    eprintln!("bench: answers with {} live flows", options.live);
    let agent = Agent::start(&Settings {
        // All questions come from one address.
        api: "rate_limit = 1000000".to_owned(),
        ..quiet(options)
    })?;
    let held = Held::open(options.live)?;
    agent.ledger_at_rest(Duration::from_secs(120))?;
    answers(&agent, options.slice, &mut api)?;
    api.remember(&agent, format!("{} live flows", options.live))?;
    for path in [PATHS[0], PATHS[2], "/metrics"] {
        let measured = wrk(agent.listen(), path, options.slice)?;
        api.wrk.push(measured);
    }
    held.close()?;
    agent.stop()?;
    eprintln!("bench: scrapes");
    for wanted in SERIES {
        api.scrapes.push(scrapes(options, wanted)?);
    }
    eprintln!("bench: series while flows grow to {}", options.connections);
    let agent = Agent::start(&quiet(options))?;
    let mut made = 0;
    for until in [1_000, options.connections / 10, options.connections] {
        made += load::run(&workload::plan(until - made, until), 2)?.len() as u64;
        agent.ledger_at_rest(Duration::from_secs(120))?;
        let text = scrape(&agent)?;
        // Whatever else talks on this host has series of its own.
        let ours = |line: &&str| !line.contains("service=") || line.contains("service=\"bench\"");
        let lines: Vec<_> = text.lines().filter(ours).collect();
        api.flat.push((made, series(&lines.join("\n"))));
        api.remember(&agent, format!("after {made} connections"))?;
    }
    agent.stop()?;
    Ok(api)
}

impl Api {
    fn remember(&mut self, agent: &Agent, when: String) -> Result<()> {
        let all = resident(agent.pid(), "VmRSS")?;
        self.memory.push((when, all, resident(agent.pid(), "RssAnon")?));
        Ok(())
    }
}

/// One path from eight connections as fast as answers come, by wrk.
fn wrk(listen: SocketAddr, path: &str, length: Duration) -> Result<(String, f64, String, String)> {
    let seconds = format!("{}s", length.as_secs().max(1));
    let url = format!("http://{listen}{path}");
    let said = tools::run("wrk", &["-t1", "-c8", "-d", &seconds, "--latency", &url])?;
    let of = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key));
        line.map(|rest| rest.trim().to_owned())
            .with_context(|| format!("wrk says no {key}: {said}"))
    };
    ensure!(!said.contains("Non-2xx"), "wrk: {said}");
    Ok((
        path.to_owned(),
        of("Requests/sec:")?.parse()?,
        of("50%")?,
        of("99%")?,
    ))
}

fn answers(agent: &Agent, length: Duration, api: &mut Api) -> Result<()> {
    let (turn, begun) = (AtomicUsize::new(0), Instant::now());
    let (turn, listen) = (&turn, agent.listen());
    let taken = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..ASKERS)
            .map(|_| scope.spawn(move || ask(listen, turn, begun, length)))
            .collect();
        let mut taken = Vec::new();
        for asker in askers {
            taken.extend(asker.join().map_err(|_| anyhow!("an asker panicked"))??);
        }
        Ok::<_, anyhow::Error>(taken)
    })?;
    api.rate = taken.len() as f64 / begun.elapsed().as_secs_f64();
    for (index, path) in PATHS.iter().enumerate() {
        let mut of: Vec<f64> = taken
            .iter()
            .filter(|(at, _)| at % PATHS.len() == index)
            .map(|(_, ms)| *ms)
            .collect();
        of.sort_by(f64::total_cmp);
        api.answers.push((
            (*path).to_owned(),
            quantile(&of, 0.5),
            quantile(&of, 0.95),
            of.last().copied().unwrap_or(f64::NAN),
        ));
    }
    Ok(())
}

/// Asks its share, each question when it is due; a late one is timed from when it was due.
fn ask(
    listen: SocketAddr,
    turn: &AtomicUsize,
    begun: Instant,
    length: Duration,
) -> Result<Vec<(usize, f64)>> {
    let mut taken = Vec::new();
    loop {
        let at = turn.fetch_add(1, Ordering::Relaxed);
        let due = begun + Duration::from_secs_f64(at as f64 / RATE as f64);
        if due.duration_since(begun) >= length {
            return Ok(taken);
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let path = PATHS[at % PATHS.len()];
        let (status, body) = http::get(listen, path)?;
        ensure!(status == 200, "{path}: {status}: {body}");
        taken.push((at, due.elapsed().as_secs_f64() * 1e3));
    }
}

fn scrape(agent: &Agent) -> Result<String> {
    let (status, text) = http::get_unix(&agent.socket(), "/metrics")?;
    ensure!(status == 200, "/metrics: {status}");
    Ok(text)
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

/// Connects to ever more peers until there are so many series, then scrapes.
fn scrapes(options: &Options, wanted: usize) -> Result<(usize, f64, f64, usize)> {
    let bounds = "[metrics]\nmax_peers = 20000\nmax_pairs = 20000";
    let agent = Agent::start(&Settings {
        sections: bounds.to_owned(),
        ..quiet(options)
    })?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let mut peer = 0_u32;
    while series(&scrape(&agent)?) < wanted {
        for _ in 0..(wanted / 200).max(1) {
            let [_, _, high, low] = peer.to_be_bytes();
            drop(TcpStream::connect(SocketAddr::from((
                [127, 80, high, low],
                port,
            )))?);
            drop(listener.accept()?);
            peer += 1;
        }
        agent.ledger_at_rest(Duration::from_secs(60))?;
        ensure!(peer < 20_000, "{peer} peers do not make {wanted} series");
    }
    let (mut taken, mut text) = (Vec::new(), String::new());
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        text = scrape(&agent)?;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    agent.stop()?;
    let longest = taken.last().copied().context("no scrape")?;
    Ok((series(&text), quantile(&taken, 0.5), longest, text.len()))
}

pub(super) fn markdown(api: &Api) -> String {
    let mut text = format!(
        "\n{:.0} questions/s, {} live flows:\n\n| path | p50 | p95 | longest |\n|---|---|---|---|\n",
        api.rate, api.live
    );
    for (path, middle, high, longest) in &api.answers {
        text.push_str(&format!(
            "| `{path}` | {middle:.1} ms | {high:.1} ms | {longest:.1} ms |\n"
        ));
    }
    text.push_str("\n| path, by wrk | answers/s | p50 | p99 |\n|---|---|---|---|\n");
    for (path, rate, middle, high) in &api.wrk {
        text.push_str(&format!("| `{path}` | {rate:.0} | {middle} | {high} |\n"));
    }
    text.push_str("\n| memory | resident | anonymous |\n|---|---|---|\n");
    for (when, all, own) in &api.memory {
        let (all, own) = (*all as f64 / 1024.0, *own as f64 / 1024.0);
        text.push_str(&format!("| {when} | {all:.0} MiB | {own:.0} MiB |\n"));
    }
    text.push_str("\n| series | scrape p50 | longest | text |\n|---|---|---|---|\n");
    for (series, middle, longest, bytes) in &api.scrapes {
        text.push_str(&format!(
            "| {series} | {middle:.1} ms | {longest:.1} ms | {} KiB |\n",
            bytes / 1024
        ));
    }
    text.push_str("\n| connections so far | series |\n|---|---|\n");
    for (connections, series) in &api.flat {
        text.push_str(&format!("| {connections} | {series} |\n"));
    }
    text
}
