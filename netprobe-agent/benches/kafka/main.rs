//! What Kafka costs and how long it takes: `cargo xtask bench -- --part kafka`. The broker is librdkafka's mock in a
//! process of its own: what is measured is the agent's side, not a broker's disk and network.

#[path = "../archive/host.rs"]
mod host;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use host::Host;
use netprobe_agent::{
    archive::Archive,
    config::{ArchiveConfig, KafkaConfig},
    event::Nanos,
    fanout::Fanout,
    kafka::{self, Kafka},
};
use netprobe_tests::bench::{machine, median, quantile};
use rdkafka::mocking::MockCluster;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Rates at which events are timed until they are confirmed, a second.
const RATES: [u64; 3] = [100, 2_000, 10_000];
/// How long each.
const LENGTH: Duration = Duration::from_secs(10);
/// Events that may wait: Kafka is to be busy, not to refuse.
const WAITING: u64 = 50_000;
/// Events between two looks at how many wait.
const STRIDE: u64 = 512;
/// Time between two looks at what is confirmed; the figures are that coarse.
const LOOK: Duration = Duration::from_micros(500);
const TOPIC: &str = "netprobe.events";

#[derive(Parser)]
struct Arguments {
    /// Where the raw data go.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Passes with Kafka and without.
    #[arg(long, default_value_t = 5)]
    pairs: u32,
    /// Events of a pass.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// To be the broker.
    #[arg(long, hide = true)]
    broker: bool,
    /// What cargo says to a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Everything measured.
#[derive(Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    /// Of one pass.
    events: u64,
    /// Events a second until Kafka has all, by pass.
    with: Vec<f64>,
    /// Events a second until the archive has all, without Kafka, by pass.
    without: Vec<f64>,
    /// Processor time an event of all threads but the one that emits, microseconds, by pass.
    cpu_with_us: Vec<f64>,
    cpu_without_us: Vec<f64>,
    delay: Vec<Delay>,
}

/// From an event to its confirmation, at a rate.
#[derive(Debug, Serialize)]
struct Delay {
    /// Events a second.
    rate: u64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.broker {
        return be_broker();
    }
    let output = arguments
        .output
        .context("--output names a file for the raw data")?;
    let (mut with, mut without, mut cpu_with_us, mut cpu_without_us) = (vec![], vec![], vec![], vec![]);
    for pair in 0..arguments.pairs {
        eprintln!(
            "bench: pass {} of {}, with Kafka and without",
            pair + 1,
            arguments.pairs
        );
        let on = pass(arguments.events, true)?;
        let off = pass(arguments.events, false)?;
        with.push(on.0);
        cpu_with_us.push(on.1);
        without.push(off.0);
        cpu_without_us.push(off.1);
    }
    eprintln!("bench: from an event to its confirmation");
    let delay = RATES.map(delay).into_iter().collect::<Result<_>>()?;
    let report = Report {
        machine: machine(),
        events: arguments.events,
        with,
        without,
        cpu_with_us,
        cpu_without_us,
        delay,
    };
    std::fs::write(&output, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", output.display()))?;
    print!("{}", markdown(&report));
    Ok(())
}

fn markdown(report: &Report) -> String {
    let mut text = String::from("| machine | |\n|---|---|\n");
    for (key, value) in &report.machine {
        text += &format!("| {key} | {value} |\n");
    }
    let (with, without) = (median(&report.cpu_with_us), median(&report.cpu_without_us));
    text += &format!(
        "\n| figure (median of {} × {} events) | value |\n|---|---|\n\
         | events/s until Kafka has all | {:.0} |\n\
         | events/s until the archive has all, without Kafka | {:.0} |\n\
         | CPU per event, archive and Kafka | {with:.1} µs |\n\
         | CPU per event, archive alone | {without:.1} µs |\n\
         | CPU per event, Kafka | {:.1} µs |\n\
         \n| events/s | event to confirmation p50 | p99 | longest |\n|---|---|---|---|\n",
        report.with.len(),
        report.events,
        median(&report.with),
        median(&report.without),
        with - without,
    );
    for d in &report.delay {
        text += &format!(
            "| {} | {:.0} ms | {:.0} ms | {:.0} ms |\n",
            d.rate, d.p50_ms, d.p99_ms, d.longest_ms
        );
    }
    text
}

/// A broker in a process of its own, ended with this.
struct Broker {
    process: Child,
    address: String,
}

impl Broker {
    fn start() -> Result<Broker> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--broker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        BufReader::new(process.stdout.take().context("piped")?).read_line(&mut address)?;
        Ok(Broker {
            process,
            address: address.trim().to_owned(),
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It has nothing to lose.
        let _gone = self.process.wait();
    }
}

/// Says where it listens, and lives as long as its standard input.
fn be_broker() -> Result<()> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(TOPIC, 4, 1)?;
    println!("{}", cluster.bootstrap_servers());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Archive, and Kafka if there is a broker, behind a fan-out.
struct Sinks {
    fanout: Fanout,
    archive: Archive,
    kafka: Option<Kafka>,
}

impl Sinks {
    fn start(folder: &Path, host: &Host, broker: Option<&Broker>) -> Result<Sinks> {
        let config = ArchiveConfig {
            url: format!("file://{}/archive", folder.display()),
            spool: folder.join("spool"),
            ..ArchiveConfig::default()
        };
        let started = Archive::start(&config, &host.origin, broker.map(|_| kafka::NAME));
        let mut fanout = Fanout::new(host.origin.clone());
        fanout.add(started.sink);
        let mut kafka = None;
        if let Some(broker) = broker {
            let followed = started.followed.context("no spool")?;
            let config = KafkaConfig {
                brokers: vec![broker.address.clone()],
                ..KafkaConfig::default()
            };
            let (report, sink) = kafka::start(&config, &host.origin, followed.journal, followed.books)?;
            fanout.add(Box::new(sink));
            kafka = Some(report);
        }
        Ok(Sinks {
            fanout,
            archive: started.archive,
            kafka,
        })
    }

    fn delivered(&self) -> u64 {
        let delivered = |kafka: &Kafka| kafka.report().messages["delivered"];
        self.kafka.as_ref().map_or(0, delivered)
    }

    /// Ends; all sinks have all.
    fn stop(mut self, events: u64) -> Result<()> {
        self.fanout.shutdown(Duration::from_secs(600));
        for ledger in self.fanout.ledger() {
            ensure!(ledger.delivered == events, "not all of {events}: {ledger:?}");
        }
        Ok(())
    }
}

/// Sends events as fast as they are taken: events a second, and processor time an event.
fn pass(events: u64, with: bool) -> Result<(f64, f64)> {
    let folder = tempfile::tempdir()?;
    let broker = with.then(Broker::start).transpose()?;
    let mut host = Host::new(1);
    let mut sinks = Sinks::start(folder.path(), &host, broker.as_ref())?;
    let (process, thread) = (cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime));
    let clock = Instant::now();
    for index in 0..events {
        let event = host.event(Nanos::now());
        sinks.fanout.emit(event);
        if index % STRIDE == 0 {
            let behind = |sinks: &Sinks| match &sinks.kafka {
                Some(_) => index.saturating_sub(sinks.delivered()) > WAITING,
                None => false,
            };
            while sinks.archive.report().waiting > 16_000 || behind(&sinks) {
                std::thread::sleep(LOOK);
            }
        }
    }
    sinks.stop(events)?;
    let seconds = clock.elapsed().as_secs_f64();
    let used = cpu(ClockId::ProcessCPUTime) - process - (cpu(ClockId::ThreadCPUTime) - thread);
    Ok((events as f64 / seconds, used * 1e6 / events as f64))
}

fn delay(rate: u64) -> Result<Delay> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start()?;
    let mut host = Host::new(1);
    let mut sinks = Sinks::start(folder.path(), &host, Some(&broker))?;
    let events = (rate as f64 * LENGTH.as_secs_f64()) as usize;
    let (mut emitted, mut ms) = (Vec::with_capacity(events), Vec::with_capacity(events));
    let begin = Instant::now();
    while ms.len() < events {
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as usize;
        for _ in emitted.len()..due.min(events) {
            emitted.push(Instant::now());
            sinks.fanout.emit(host.event(Nanos::now()));
        }
        let delivered = sinks.delivered() as usize;
        let news = &emitted[ms.len()..delivered.max(ms.len())];
        ms.extend(news.iter().map(|at| at.elapsed().as_secs_f64() * 1e3));
        std::thread::sleep(LOOK);
    }
    sinks.stop(events as u64)?;
    ms.sort_by(f64::total_cmp);
    Ok(Delay {
        rate,
        p50_ms: quantile(&ms, 0.5),
        p99_ms: quantile(&ms, 0.99),
        longest_ms: quantile(&ms, 1.0),
    })
}

fn cpu(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
