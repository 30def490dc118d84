//! The long run: scripted connections against the generator's own log, to the last record and byte.
//!
//! Phases: on a loopback; across namespaces; through NAT; with a 64 KiB ring; with the agent stopped (SIGSTOP)
//! while traffic goes on. After every batch the ledger must come to rest, and then
//!
//! * every connection the log holds has exactly one final event per side, or is one of the counted losses;
//! * every final event has the bytes the system calls returned;
//! * the bytes of the events and the counted lost bytes add up to the log's totals;
//! * translated addresses are those of the two sockets, and of conntrack.

mod seen;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::agent::{Agent, Ledger, Settings};
use crate::lab::{self, Lab, addr};
use crate::traffic::load::{self, Ending, Line, Plan};
use seen::{Collected, Ends};

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

/// What came of one phase.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Phase {
    /// Name.
    pub name: String,
    /// Connections made, refused ones included.
    pub connections: u64,
    /// Connections a second, by the generator's clock.
    pub per_second: f64,
    /// Final events expected: one per end.
    pub expected: u64,
    /// Final events that came, each with the right bytes.
    pub events: u64,
    /// Final events counted as lost by the agent.
    pub lost: u64,
    /// Records of other kinds counted as lost.
    pub lost_other_records: u64,
    /// Payload bytes of the log: sent and received, both ends.
    pub bytes: (u64, u64),
    /// Payload bytes of the events.
    pub event_bytes: (u64, u64),
    /// Payload bytes counted as lost.
    pub lost_bytes: (u64, u64),
    /// Forwarded flows that came.
    pub forwarded: u64,
    /// Address pairs compared with the sockets, and how many conntrack told of as well.
    pub pairs: (u64, u64),
}

/// What came of it all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seed of the run.
    pub seed: u64,
    /// By phase.
    pub phases: Vec<Phase>,
    /// Everything that is not as it must be; empty: passed.
    pub faults: Vec<String>,
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

    fn compare(&mut self, phase: &mut Phase, lines: &[Line], before: &Ledger, after: &Ledger) -> Result<()> {
        let mut collected = std::mem::take(
            &mut *self
                .collected
                .lock()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))?,
        );
        for fault in collected.faults.drain(..) {
            self.fault(|| fault);
        }
        let (mut missing, mut missing_bytes) = (0u64, (0u64, 0u64));
        for line in lines {
            let (out, back) = (u64::from(line.to_server), u64::from(line.to_client));
            let ends = [
                (line.client, "client", out, back),
                (line.server, "server", back, out),
            ];
            for (cookie, role, sent, received) in ends.into_iter().filter(|end| end.0 != 0) {
                phase.bytes.0 += sent;
                phase.bytes.1 += received;
                let Some(event) = collected.ends.remove(&cookie) else {
                    missing += 1;
                    missing_bytes.0 += sent;
                    missing_bytes.1 += received;
                    if !self.exact {
                        self.fault(|| format!("no final {role} event of {line:?}"));
                    }
                    continue;
                };
                phase.events += 1;
                phase.event_bytes.0 += event.sent;
                phase.event_bytes.1 += event.received;
                if let Some(fault) = self.differs(&event, line, role, sent, received) {
                    self.fault(|| format!("{fault}: {event:?} of {line:?}"));
                }
                if self.way == Way::Nat {
                    phase.pairs.0 += 1;
                }
            }
        }
        let lost = after.lost_finals - before.lost_finals;
        let lost_bytes = (
            after.lost_bytes.0 - before.lost_bytes.0,
            after.lost_bytes.1 - before.lost_bytes.1,
        );
        phase.lost += lost;
        phase.lost_bytes.0 += lost_bytes.0;
        phase.lost_bytes.1 += lost_bytes.1;
        if self.exact && (missing != lost || missing_bytes != lost_bytes) {
            self.fault(|| {
                format!(
                    "{missing} final events with {missing_bytes:?} bytes are missing, \
                     {lost} with {lost_bytes:?} are counted as lost"
                )
            });
        }
        if self.way != Way::Loopback {
            let forwarded = collected.forwarded(self.lab.inode("gw")?);
            phase.forwarded += forwarded;
            if forwarded != lines.len() as u64 {
                self.fault(|| format!("{forwarded} forwarded flows for {} connections", lines.len()));
            }
        }
        Ok(())
    }

    /// In what an event differs from the log, if it does.
    fn differs(&self, event: &Ends, line: &Line, role: &str, sent: u64, received: u64) -> Option<String> {
        if event.count != 1 {
            return Some(format!("{} final events", event.count));
        }
        if event.role != role {
            return Some(format!("role is not {role}"));
        }
        if event.failed != (line.ending == Ending::Refused) {
            return Some("state is wrong".to_owned());
        }
        if (event.sent, event.received) != (sent, received) {
            return Some(format!("bytes are not {sent} and {received}"));
        }
        // The same addresses whether translated or not: what each socket has, and what the other one has.
        let [internal, external, peer, actual] = match (line.ending, role) {
            (Ending::Refused, _) => return None,
            (_, "client") => [
                line.client_local,
                line.server_remote,
                line.dialed,
                line.server_local,
            ],
            _ => [
                line.server_local,
                line.dialed,
                line.server_remote,
                line.client_local,
            ],
        };
        // Hops were lost: of these connections it cannot be told, and is not guessed.
        if self.stopped && event.nat == "unresolved" {
            let want = [Some(internal), None, Some(peer), None];
            return (event.addresses != want).then(|| format!("addresses are not {want:?}"));
        }
        let status = if self.way == Way::Nat { "snat+dnat" } else { "none" };
        if event.nat != status {
            return Some(format!("nat.status is not {status}"));
        }
        let want = [internal, external, peer, actual].map(Some);
        (event.addresses != want).then(|| format!("addresses are not {want:?}"))
    }

    /// The sockets' view of the translation against conntrack's own events.
    fn compare_pairs(
        &mut self,
        phase: &mut Phase,
        lines: &[Line],
        entries: BTreeMap<watch::Key, Vec<watch::Key>>,
    ) -> Result<()> {
        let mut told = 0;
        for line in lines {
            let Some(replies) = entries.get(&(line.client_local, line.dialed)) else {
                continue;
            };
            told += 1;
            if !replies.contains(&(line.server_local, line.server_remote)) {
                self.fault(|| format!("conntrack says {replies:?} of {line:?}"));
            }
        }
        phase.pairs.1 += told;
        ensure!(
            told > 0 || lines.is_empty(),
            "conntrack told of no connection at all"
        );
        Ok(())
    }
}

/// The report as a table.
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{:<28} {:>9} {:>8} {:>9} {:>9} {:>8} {:>9} {:>15} {:>15} {:>12} {:>9}\n",
        "phase",
        "conns",
        "conn/s",
        "expected",
        "events",
        "lost",
        "lost rec",
        "bytes",
        "event bytes",
        "lost bytes",
        "forwarded"
    );
    for p in &report.phases {
        text.push_str(&format!(
            "{:<28} {:>9} {:>8.0} {:>9} {:>9} {:>8} {:>9} {:>15} {:>15} {:>12} {:>9}\n",
            p.name,
            p.connections,
            p.per_second,
            p.expected,
            p.events,
            p.lost,
            p.lost_other_records,
            p.bytes.0 + p.bytes.1,
            p.event_bytes.0 + p.event_bytes.1,
            p.lost_bytes.0 + p.lost_bytes.1,
            p.forwarded
        ));
    }
    text
}

/// Fails with the faults, if there are any.
pub fn must_pass(report: &Report) -> Result<()> {
    if report.faults.is_empty() {
        return Ok(());
    }
    bail!("{}\n{}", report.faults.join("\n"), table(report))
}
