//! From the hook to a client of the stream: how long events take, and what clients cost, stalled ones among them.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use serde::Serialize;
use serde_json::Value;

use super::clients::{Taken, crowd, read, take, traffic};
use super::cost::cpu_seconds;
use super::stats::median;
use super::{Options, quantile, quiet};
use crate::agent::Agent;
use crate::http;

/// Connections a second, two events each, and clients of the stream. A thousand clients get few events at first: it is
/// frames that cost, and clients and agent share the machine. The last step is more than it can do.
const STEPS: &[(u64, usize)] = &[
    (500, 1),
    (5_000, 1),
    (500, 10),
    (500, 100),
    (25, 1000),
    (500, 1000),
];
/// Rounds of each step, with all clients well and with a tenth of them stalled in turn.
const ROUNDS: u32 = 3;
/// Clients whose frames are read and timed; the others only take them.
const TIMED: usize = 4;

/// One measurement, with all clients well or a tenth of them stalled.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Events a second that were wanted.
    pub rate: u64,
    /// Clients of the stream.
    pub clients: usize,
    /// Of them, those that read nothing.
    pub stalled: usize,
    /// Which round.
    pub round: u32,
    /// Events a second that were made.
    pub events_per_second: f64,
    /// Of the events made, the share the timed clients got.
    pub received: f64,
    /// Numbers that did not come to a timed client and of which no gap told it.
    pub silent: u64,
    /// Events sent to all clients, and events they were told they missed.
    pub sent_missed: (u64, u64),
    /// Of all events there were for all clients, the share that was sent or told as missed.
    pub accounted: f64,
    /// Milliseconds from the CLOSE in the kernel to the client: median and 99th percentile.
    pub latency_ms: (f64, f64),
    /// Processors the agent used.
    pub cpu: f64,
    /// The same with nobody at the stream.
    pub cpu_alone: f64,
}

pub(super) fn measure(options: &Options) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let wanted = |(_, clients): &&(u64, usize)| options.clients.is_none_or(|only| only == *clients);
    for (rate, clients) in STEPS.iter().filter(wanted) {
        eprintln!("bench: {clients} clients, {} events/s", rate * 2);
        let agent = Agent::start(&quiet(options))?;
        let mut tenths = vec![0, clients / 10];
        tenths.dedup();
        for round in 0..ROUNDS {
            let alone = step(&agent, *rate, 0, 0, options.slice)?;
            // In turn first and second, so that a drift favours neither.
            tenths.rotate_left(1);
            for stalled in &tenths {
                let mut made = step(&agent, *rate, *clients, *stalled, options.slice)?;
                made.cpu_alone = alone.cpu;
                made.round = round;
                steps.push(made);
            }
        }
        agent.stop()?;
    }
    Ok(steps)
}

fn step(agent: &Agent, rate: u64, clients: usize, stalled: usize, length: Duration) -> Result<Step> {
    let timed = TIMED.min(clients - stalled);
    let over = AtomicBool::new(false);
    let stalled_ones = crowd(agent.listen(), stalled)?;
    for (one, _) in &stalled_ones {
        // Or the kernel would hold all of it for the client.
        setsockopt(one.get_ref(), RcvBuf, &65_536)?;
    }
    if stalled > 0 {
        fill(agent)?;
    }
    let mut all = crowd(agent.listen(), clients - stalled)?;
    let timed_ones: Vec<_> = all.drain(..timed).collect();
    let plain: Vec<TcpStream> = all
        .into_iter()
        .map(|(socket, _)| socket.get_ref().try_clone())
        .collect::<Result<_, _>>()?;
    let over = &over;
    std::thread::scope(|scope| {
        let readers: Vec<_> = timed_ones
            .into_iter()
            .map(|(socket, newest)| scope.spawn(move || read(socket, newest, over)))
            .collect();
        let drain = scope.spawn(|| take(&plain, over));
        let (counts, first) = (Counts::read(agent)?, newest(agent)?);
        let (cpu, begun) = (cpu_seconds(agent.pid())?, Instant::now());
        let made = traffic(rate, length);
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = (cpu_seconds(agent.pid())? - cpu) / seconds;
        let (counts, events) = settle(agent, counts, first, (clients - stalled) as u64)?;
        over.store(true, Ordering::Relaxed);
        let mut taken = Taken::default();
        for reader in readers {
            let of = reader.join().map_err(|_| anyhow!("a client panicked"))??;
            taken.latencies.extend(of.latencies);
            taken.silent += of.silent;
        }
        drain.join().map_err(|_| anyhow!("the clients panicked"))??;
        let made = made?;
        drop(stalled_ones);
        let Taken {
            mut latencies,
            silent,
        } = taken;
        latencies.sort_by(f64::total_cmp);
        Ok(Step {
            rate: rate * 2,
            round: 0,
            clients,
            stalled,
            events_per_second: made as f64 * 2.0 / seconds,
            received: latencies.len() as f64 / (made as f64 * 2.0 * timed.max(1) as f64),
            silent,
            sent_missed: (counts.sent, counts.missed),
            accounted: (counts.sent + counts.missed) as f64 / events as f64,
            latency_ms: (quantile(&latencies, 0.5), quantile(&latencies, 0.99)),
            cpu,
            cpu_alone: 0.0,
        })
    })
}

/// What the agent says its stream did.
#[derive(Clone, Copy)]
struct Counts {
    sent: u64,
    missed: u64,
}

impl Counts {
    fn read(agent: &Agent) -> Result<Counts> {
        let stream = &agent.probe()?["stream"];
        let count = |name: &str| {
            stream[name]
                .as_u64()
                .with_context(|| format!("no {name} of the stream"))
        };
        Ok(Counts {
            sent: count("sent")?,
            missed: count("missed")?,
        })
    }
}

/// The number of the newest event.
fn newest(agent: &Agent) -> Result<u64> {
    let (status, body) = http::get_unix(&agent.socket(), "/api/v1/events?last=1")?;
    ensure!(status == 200, "/api/v1/events: {status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    Ok(answer["events"][0]["seq"].as_u64().unwrap_or(0))
}

/// Waits until clients that take what comes have all there is, or were told that they do not; what the stream did since
/// `before`, and how many events that was for, over these clients. Who is behind for longest is told after
/// `stream.max_lag`.
fn settle(agent: &Agent, before: Counts, first: u64, clients: u64) -> Result<(Counts, u64)> {
    let begun = Instant::now();
    // What is on its way comes within the longest a client may be behind.
    std::thread::sleep(Duration::from_secs(2));
    loop {
        let now = Counts::read(agent)?;
        let done = Counts {
            sent: now.sent - before.sent,
            missed: now.missed - before.missed,
        };
        let events = (newest(agent)? - first) * clients;
        if done.sent + done.missed >= events || begun.elapsed() > Duration::from_secs(15) {
            return Ok((done, events));
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Traffic while only clients are there that read nothing, until the agent cannot send to any of them.
fn fill(agent: &Agent) -> Result<()> {
    let sent = || -> Result<u64> {
        agent.probe()?["stream"]["sent"]
            .as_u64()
            .context("the agent does not say what its stream sent")
    };
    let mut before = sent()?;
    for _ in 0..100 {
        traffic(2_500, Duration::from_millis(200))?;
        // What is on its way goes into the sockets, or nowhere.
        std::thread::sleep(Duration::from_millis(200));
        let now = sent()?;
        if now == before {
            return Ok(());
        }
        before = now;
    }
    Err(anyhow!("clients that read nothing still take events"))
}

pub(super) fn markdown(steps: &[Step]) -> String {
    let mut text = format!(
        "\nMedians of {ROUNDS} rounds; ratios of the same round.\n\n\
         | events/s | clients | stalled | received | lost in silence | sent or told as missed, all clients | hook to client p50 | p99 | p50 ÷ none stalled | p99 ÷ none stalled | \
         CPU of the agent | CPU a client |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut kinds: Vec<_> = steps.iter().map(|s| (s.rate, s.clients, s.stalled)).collect();
    kinds.sort_by_key(|(rate, clients, stalled)| (*clients, *rate, *stalled));
    kinds.dedup();
    for (rate, clients, stalled) in kinds {
        let rounds = |stalled: usize| {
            let mut of: Vec<&Step> = steps
                .iter()
                .filter(|s| (s.rate, s.clients, s.stalled) == (rate, clients, stalled))
                .collect();
            of.sort_by_key(|s| s.round);
            of
        };
        let (these, well) = (rounds(stalled), rounds(0));
        let middle = |of: &dyn Fn(&Step) -> f64| median(&these.iter().map(|s| of(s)).collect::<Vec<_>>());
        let ratio = |of: &dyn Fn(&Step) -> f64| {
            let ratios: Vec<f64> = these.iter().zip(&well).map(|(a, b)| of(a) / of(b)).collect();
            if stalled == 0 {
                String::new()
            } else {
                format!("{:.3}", median(&ratios))
            }
        };
        text.push_str(&format!(
            "| {:.0} | {clients} | {stalled} | {:.2} % | {} | {:.2} % | {:.1} ms | {:.1} ms | {} | {} | {:.1} % | {:.3} % |\n",
            middle(&|s| s.events_per_second),
            middle(&|s| s.received) * 100.0,
            these.iter().map(|s| s.silent).sum::<u64>(),
            middle(&|s| s.accounted) * 100.0,
            middle(&|s| s.latency_ms.0),
            middle(&|s| s.latency_ms.1),
            ratio(&|s| s.latency_ms.0),
            ratio(&|s| s.latency_ms.1),
            middle(&|s| s.cpu) * 100.0,
            middle(&|s| s.cpu - s.cpu_alone) * 100.0 / clients as f64,
        ));
    }
    text
}
