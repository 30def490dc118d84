//! The long run: scripted connections against the generator's own log, to the last record and byte.
//!
//! Phases: on a loopback; across namespaces; through NAT; with a 64 KiB ring; with the agent stopped (SIGSTOP)
//! while traffic goes on. After every batch the ledger must come to rest, and then
//!
//! * every connection the log holds has exactly one final event per side, or is one of the counted losses;
//! * every final event has the bytes the system calls returned;
//! * the bytes of the events and the counted lost bytes add up to the log's totals;
//! * translated addresses are those of the two sockets, and of conntrack.

mod compare;
mod report;
mod seen;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::agent::{Agent, Ledger, Settings};
use crate::lab::{self, Lab, addr};
use crate::traffic::load::{self, Line, Plan};
use seen::Collected;

pub use report::{Phase, Report, must_pass, table};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections over all phases.
    pub connections: u64,
    /// Of what everything random is made.
    pub seed: u64,
    /// Generator threads.
    pub threads: usize,
    /// Only phases whose name contains this.
    pub only: Option<String>,
}

/// Largest batch between two looks at the ledger.
const BATCH: u64 = 50_000;
/// Most faults told in full.
const TOLD: usize = 20;

/// Which way connections of a phase go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Loopback,
    Across,
    Nat,
}

/// Name, share of the connections in percent, way, and whether the agent is stopped meanwhile.
const ROOMY: &[(&str, u64, Way, bool)] = &[
    ("loopback", 60, Way::Loopback, false),
    ("across namespaces", 10, Way::Across, false),
    ("through NAT", 10, Way::Nat, false),
];
const TIGHT: &[(&str, u64, Way, bool)] = &[
    ("64 KiB ring", 10, Way::Loopback, false),
    ("64 KiB ring, agent stopped", 10, Way::Loopback, true),
];

/// Runs everything.
pub fn run(options: &Options) -> Result<Report> {
    let lab = lab::build_gateway()?;
    for name in ["cli", "gw", "srv"] {
        lab.sysctl(name, "net/ipv4/ip_local_port_range", "1024 65535")?;
        lab.sysctl(name, "net/ipv4/tcp_tw_reuse", "1")?;
    }
    // Entries of ended connections would fill the table.
    lab.sysctl("gw", "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")?;
    lab.sysctl("gw", "net/netfilter/nf_conntrack_tcp_timeout_close", "1")?;
    let mut report = Report {
        seed: options.seed,
        ..Report::default()
    };
    let quiet = "open_after = \"60s\"\nupdate_every = \"600s\"";
    // Foreign connections would fall into the same losses; where losses are counted, only ours are followed.
    let tight = "ring_bytes = 65536\nudp = false\ncidrs_only = [\"127.77.0.0/16\"]";
    for (probe, phases) in [("", ROOMY), (tight, TIGHT)] {
        let wanted: Vec<_> = phases
            .iter()
            .filter(|(name, ..)| {
                options
                    .only
                    .as_ref()
                    .is_none_or(|only| name.contains(only.as_str()))
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let collected = Collected::shared();
        let settings = Settings {
            probe: probe.to_owned(),
            flow: quiet.to_owned(),
            ..Settings::default()
        };
        let agent = Agent::start_into(&settings, Collected::sink(&collected))?;
        for (name, percent, way, stopped) in wanted {
            let mut run = Run {
                lab: &lab,
                agent: &agent,
                collected: &collected,
                way: *way,
                stopped: *stopped,
                exact: !probe.is_empty(),
                options,
                faults: Vec::new(),
                told: 0,
            };
            let phase = run.phase(name, options.connections * percent / 100)?;
            report.faults.extend(run.faults);
            report.phases.push(phase);
        }
        if !report.faults.is_empty() {
            report
                .faults
                .push(format!("counters of the agent: {}", agent.counters()));
        }
        let stopped = agent.stop()?;
        if !stopped.status.success() {
            report.faults.push(format!(
                "the agent ended with {}: {}",
                stopped.status, stopped.log
            ));
        }
    }
    Ok(report)
}

struct Run<'a> {
    lab: &'a Lab,
    agent: &'a Agent,
    collected: &'a std::sync::Arc<std::sync::Mutex<Collected>>,
    way: Way,
    stopped: bool,
    /// Nothing but our connections is followed: losses must match to the last one.
    exact: bool,
    options: &'a Options,
    faults: Vec<String>,
    told: usize,
}

impl Run<'_> {
    fn plan(&self, connections: u64, seed: u64) -> Result<Plan> {
        let path = |name: &str| -> Option<PathBuf> { Some(self.lab.path(name)) };
        let range = |at: &str, dialed: &str, base: u16| -> Vec<_> {
            (0..16)
                .map(|i| (addr(at, base + i), addr(dialed, base + i)))
                .collect()
        };
        Ok(match self.way {
            Way::Loopback => Plan {
                client_netns: path("cli"),
                server_netns: path("cli"),
                client_ip: Some(addr("127.77.1.1", 0)),
                ways: range("127.77.0.1", "127.77.0.1", 700),
                refusing: Some(addr("127.77.0.1", 1)),
                connections,
                seed,
            },
            Way::Across => Plan {
                client_netns: path("cli"),
                server_netns: path("srv"),
                client_ip: None,
                ways: range(lab::SERVER, lab::SERVER, 30_000),
                refusing: None,
                connections,
                seed,
            },
            Way::Nat => Plan {
                client_netns: path("cli"),
                server_netns: path("srv"),
                client_ip: None,
                ways: range(lab::SERVER, lab::VIRTUAL, 20_000),
                refusing: None,
                connections,
                seed,
            },
        })
    }

    fn fault(&mut self, text: impl FnOnce() -> String) {
        self.told += 1;
        if self.told <= TOLD {
            self.faults.push(text());
        } else if self.told == TOLD + 1 {
            self.faults.push("… and more of the same phase".to_owned());
        }
    }

    fn phase(&mut self, name: &str, connections: u64) -> Result<Phase> {
        let mut phase = Phase {
            name: name.to_owned(),
            ..Phase::default()
        };
        let mut seconds = 0.0;
        while phase.connections < connections {
            let batch = BATCH.min(connections - phase.connections);
            let seed = self.options.seed ^ (phase.connections << 8) ^ name.len() as u64;
            seconds += self
                .batch(&mut phase, batch, seed)
                .with_context(|| name.to_owned())?;
        }
        phase.per_second = phase.connections as f64 / f64::max(seconds, 1e-9);
        if self.stopped && phase.lost + phase.lost_other_records == 0 {
            self.fault(|| format!("{name}: nothing was lost, so the phase has not shown anything"));
        }
        for fault in &mut self.faults {
            if !fault.starts_with(name) {
                *fault = format!("{name}: {fault}");
            }
        }
        Ok(phase)
    }

    /// One batch; seconds the generator took.
    fn batch(&mut self, phase: &mut Phase, connections: u64, seed: u64) -> Result<f64> {
        let plan = self.plan(connections, seed)?;
        let before = self.agent.ledger_at_rest(Duration::from_secs(60))?;
        let conntrack = match self.way {
            Way::Loopback => None,
            Way::Across | Way::Nat => Some(watch::Conntrack::start(self.lab, "gw")?),
        };
        if self.stopped {
            self.agent.signal(Signal::SIGSTOP)?;
        }
        let begun = Instant::now();
        let made = load::run(&plan, self.options.threads);
        let seconds = begun.elapsed().as_secs_f64();
        if self.stopped {
            self.agent.signal(Signal::SIGCONT)?;
        }
        let lines = made?;
        let expected = lines
            .iter()
            .map(|line| 1 + u64::from(line.server != 0))
            .sum::<u64>();
        let after = self.settle(&lines, expected, &before)?;
        phase.connections += lines.len() as u64;
        phase.expected += expected;
        phase.lost_other_records += (after.lost - before.lost) - (after.lost_finals - before.lost_finals);
        self.compare(phase, &lines, &before, &after)?;
        if let Some(conntrack) = conntrack {
            self.compare_pairs(phase, &lines, conntrack.stop()?)?;
        }
        Ok(seconds)
    }

    /// Waits until the ledger rests and every final event is here that is not counted as lost.
    fn settle(&self, lines: &[Line], expected: u64, before: &Ledger) -> Result<Ledger> {
        let forwarded = if self.way == Way::Loopback {
            0
        } else {
            lines.len() as u64
        };
        let gateway = self.lab.inode("gw")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ledger = self.agent.ledger_at_rest(Duration::from_secs(120))?;
            let lost = ledger.lost_finals - before.lost_finals;
            let collected = self
                .collected
                .lock()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
            let here = lines
                .iter()
                .flat_map(|line| [line.client, line.server])
                .filter(|cookie| *cookie != 0 && collected.ends.contains_key(cookie))
                .count() as u64;
            let enough = here + lost >= expected && collected.forwarded(gateway) >= forwarded;
            if enough || Instant::now() > deadline {
                return Ok(ledger);
            }
            drop(collected);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
