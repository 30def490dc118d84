//! What the agent itself uses: per program, per event, per live flow, and what is lost when all is too much.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{Options, Workload, quiet, workload};
use crate::agent::{Agent, Ledger, Settings};
use crate::traffic::load;

/// One BPF program under load.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Name.
    pub name: String,
    /// Runs.
    pub runs: u64,
    /// Nanoseconds a run, the statistics' own overhead included.
    pub ns: f64,
    /// The same of an empty program on the same hook; `None`: it never ran.
    pub empty_ns: Option<f64>,
}

/// All figures of cost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    /// Programs under all three workloads.
    pub programs: Vec<Program>,
    /// Summed nanoseconds of all programs per connection, both ends, under connect/request/close.
    pub bpf_ns_per_connection: f64,
    /// The same of empty programs.
    pub empty_ns_per_connection: f64,
    /// Agent's processor time per emitted event, microseconds, without and with events on stdout.
    pub cpu_us_per_event: (f64, f64),
    /// Connections a second meanwhile, without and with events on stdout.
    pub connections_per_second: (f64, f64),
    /// Records seen, lost, and neither drained nor counted as lost, at saturation.
    pub saturation: (u64, u64, i64),
    /// Live flows when memory was read.
    pub live_flows: u64,
    /// Resident kilobytes: before, with the live flows; and of the latter anonymous ones.
    pub resident_kb: (u64, u64, u64),
}

pub(super) fn measure(options: &Options) -> Result<Cost> {
    let mut cost = Cost::default();
    programs(options, &mut cost)?;
    (cost.cpu_us_per_event.0, cost.connections_per_second.0) =
        per_event(options, &quiet(options), &mut cost)?;
    (cost.cpu_us_per_event.1, cost.connections_per_second.1) = per_event(
        options,
        &Settings {
            silent: false,
            ..quiet(options)
        },
        &mut cost,
    )?;
    memory(options, &mut cost)?;
    Ok(cost)
}

/// A program's name, runs and nanoseconds.
type Runs = (String, u64, u64);

fn read_programs(probe: &Value) -> Result<Vec<Runs>> {
    let list = probe["programs"]
        .as_array()
        .context("the report has no programs")?;
    list.iter()
        .map(|p| {
            // A program that has not run has no statistics.
            let number = |key: &str| p[key].as_u64().unwrap_or(0);
            Ok((
                p["name"].as_str().context("program without name")?.to_owned(),
                number("runs"),
                number("run_ns"),
            ))
        })
        .collect()
}

fn programs(options: &Options, cost: &mut Cost) -> Result<()> {
    let (full, ns_full) = program_costs(options, "statistics = true")?;
    let (empty, ns_empty) = program_costs(options, "statistics = true\nempty_programs = true")?;
    cost.bpf_ns_per_connection = ns_full;
    cost.empty_ns_per_connection = ns_empty;
    cost.programs = full
        .into_iter()
        .map(|(name, runs, ns)| Program {
            empty_ns: empty
                .iter()
                .find(|other| other.0 == name && other.1 > 0)
                .map(|other| other.2 as f64 / other.1 as f64),
            name,
            runs,
            ns: ns as f64 / runs.max(1) as f64,
        })
        .collect();
    Ok(())
}

/// Runs and time of every program under all workloads, and the time of all per connection.
fn program_costs(options: &Options, probe: &str) -> Result<(Vec<Runs>, f64)> {
    let settings = Settings {
        probe: format!("{}\n{probe}", options.probe),
        silent: true,
        ..Settings::default()
    };
    let agent = Agent::start(&settings)?;
    let before = read_programs(&agent.probe()?)?;
    let made = load::run(&workload::plan(options.connections / 4, 3), 1)?.len();
    agent.ledger_at_rest(Duration::from_secs(60))?;
    let after = read_programs(&agent.probe()?)?;
    ensure!(
        after.iter().any(|program| program.1 > 0),
        "no program has statistics: {after:?}"
    );
    let ns = |list: &[Runs]| list.iter().map(|p| p.2).sum::<u64>();
    let per_connection = (ns(&after) - ns(&before)) as f64 / made as f64;
    for workload in Workload::ALL {
        workload.measure(options.slice * 4)?;
    }
    let programs = read_programs(&agent.probe()?)?;
    agent.stop()?;
    Ok((programs, per_connection))
}

/// User and system time of a process, seconds.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces; fields are counted from its closing bracket.
    let rest = text.rsplit_once(')').context("no command name")?.1;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let mut next = || {
        fields
            .next()
            .context("no processor time")?
            .context("processor time is no number")
    };
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok((next()? + next()?) as f64 / ticks as f64)
}

fn per_event(options: &Options, settings: &Settings, cost: &mut Cost) -> Result<(f64, f64)> {
    // Lines are counted and dropped: the reader's cost is not the agent's.
    let agent = if settings.silent {
        Agent::start(settings)?
    } else {
        Agent::start_into(settings, Box::new(|_| {}))?
    };
    let before = agent.ledger_at_rest(Duration::from_secs(60))?;
    let cpu = cpu_seconds(agent.pid())?;
    let begun = Instant::now();
    let made = load::run(&workload::plan(options.connections, 5), 2)?.len();
    let seconds = begun.elapsed().as_secs_f64();
    let after = agent.ledger_at_rest(Duration::from_secs(120))?;
    let cpu = cpu_seconds(agent.pid())? - cpu;
    let emitted = after.emitted - before.emitted;
    ensure!(emitted > 0, "no events for {made} connections");
    let lost = |ledger: &Ledger| ledger.seen as i64 - ledger.drained as i64 - ledger.lost as i64;
    cost.saturation.0 += after.seen - before.seen;
    cost.saturation.1 += after.lost - before.lost;
    cost.saturation.2 += lost(&after);
    agent.stop()?;
    Ok((cpu * 1e6 / emitted as f64, made as f64 / seconds))
}

pub(super) fn resident(pid: u32, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no {key}"))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("{key} is no number"))
}

/// Flows held open, in processes of their own: one may not open that many files.
pub(super) struct Held(Vec<Child>);

impl Held {
    /// Opens so many.
    pub(super) fn open(flows: u64) -> Result<Held> {
        const FLOWS_PER_PROCESS: u64 = 16_000;
        let mut holders = Vec::new();
        let mut left = flows;
        while left > 0 {
            let flows = left.min(FLOWS_PER_PROCESS);
            let mut child = Command::new(std::env::current_exe()?)
                .args(["--hold", &flows.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut line = String::new();
            let stdout = child.stdout.take().context("a holder has no output")?;
            BufReader::new(stdout).read_line(&mut line)?;
            ensure!(line.trim() == "held", "a holder could not open {flows} flows");
            holders.push(child);
            left -= flows;
        }
        Ok(Held(holders))
    }

    /// Closes them.
    pub(super) fn close(self) -> Result<()> {
        for mut holder in self.0 {
            drop(holder.stdin.take());
            holder.wait()?;
        }
        Ok(())
    }
}

fn memory(options: &Options, cost: &mut Cost) -> Result<()> {
    let agent = Agent::start(&quiet(options))?;
    cost.resident_kb.0 = resident(agent.pid(), "VmRSS")?;
    let held = Held::open(options.live)?;
    agent.ledger_at_rest(Duration::from_secs(60))?;
    // Past the first update of every flow.
    std::thread::sleep(Duration::from_secs(12));
    cost.live_flows = options.live;
    cost.resident_kb.1 = resident(agent.pid(), "VmRSS")?;
    cost.resident_kb.2 = resident(agent.pid(), "RssAnon")?;
    held.close()?;
    agent.stop().map(|_| ())
}

/// Opens loopback connections, two flows each, says so, and holds them until standard input ends.
pub fn hold(flows: u64) -> Result<()> {
    let listeners: Vec<TcpListener> = (0..8)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let mut held = Vec::with_capacity(flows as usize);
    for index in 0..flows / 2 {
        let listener = &listeners[index as usize % listeners.len()];
        held.push(TcpStream::connect(listener.local_addr()?)?);
        held.push(listener.accept()?.0);
    }
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

pub(super) fn markdown(cost: &Cost) -> String {
    let mut text = String::from(
        "\n| BPF program | runs | ns a run | ns of an empty one | over empty |\n|---|---|---|---|---|\n",
    );
    for p in cost.programs.iter().filter(|p| p.runs > 0) {
        let (empty, over) = p.empty_ns.map_or(("–".to_owned(), "–".to_owned()), |empty| {
            (format!("{empty:.0}"), format!("{:+.0}", p.ns - empty))
        });
        text.push_str(&format!(
            "| {} | {} | {:.0} | {empty} | {over} |\n",
            p.name, p.runs, p.ns
        ));
    }
    let (seen, lost, unaccounted) = cost.saturation;
    text.push_str(&format!(
        "\n| figure | value |\n|---|---|\n\
         | BPF time per loopback connection, all programs, both ends | {:.2} µs |\n\
         | the same with empty programs | {:.2} µs |\n\
         | agent CPU per event, no output | {:.2} µs |\n\
         | agent CPU per event, JSON Lines on stdout | {:.2} µs |\n\
         | connections/s meanwhile, no output / output | {:.0} / {:.0} |\n\
         | records at saturation: seen / lost / unaccounted | {seen} / {lost} / {unaccounted} |\n\
         | resident memory, idle | {:.1} MiB |\n\
         | resident memory at {} live flows (of it anonymous) | {:.1} MiB ({:.1} MiB) |\n",
        cost.bpf_ns_per_connection / 1e3,
        cost.empty_ns_per_connection / 1e3,
        cost.cpu_us_per_event.0,
        cost.cpu_us_per_event.1,
        cost.connections_per_second.0,
        cost.connections_per_second.1,
        cost.resident_kb.0 as f64 / 1024.0,
        cost.live_flows,
        cost.resident_kb.1 as f64 / 1024.0,
        cost.resident_kb.2 as f64 / 1024.0,
    ));
    text
}
