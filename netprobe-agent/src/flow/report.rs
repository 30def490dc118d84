//! The probe's report about itself: capabilities, ledger, cost.

use std::{collections::BTreeMap, time::Instant};

use super::{limits, payload::Reader, skipped::SkippedRuns, state::State};
use crate::{
    decode::Reject,
    event::EventKind,
    kernel::{
        load::{Probe, maps},
        stats,
    },
    probe_report::{
        AcceptQueueReport, CostReport, FactReport, KernelLedger, KernelReport, LedgerReport, LossReport,
        MapReport, ProbeReport, ProgramReport, RingReport, StartReport,
    },
    ring::{Counters, Ring},
};

/// Makes reports; holds what does not change.
pub struct Reporter {
    /// The kernel below.
    pub kernel: KernelReport,
    /// What an operator should read.
    pub notices: Vec<String>,
    started: Instant,
    /// Whether the kernel counts the time of programs for the agent.
    statistics: bool,
    facts: Vec<FactReport>,
    start: StartReport,
    programs: Vec<ProgramReport>,
    skipped: SkippedRuns,
    capacities: BTreeMap<String, u32>,
    /// Accept queues that overflowed, by namespace, as of the last survey.
    pub listen_overflows: BTreeMap<String, u64>,
    /// Accept queues that connections waited in, as of the last survey.
    pub accept_queues: Vec<AcceptQueueReport>,
}

impl Reporter {
    /// A reporter for an attached probe.
    pub fn new(kernel: KernelReport, probe: &Probe, statistics: bool) -> Reporter {
        Reporter {
            kernel,
            notices: Vec::new(),
            started: Instant::now(),
            statistics,
            facts: probe.facts.clone(),
            start: probe.start.clone(),
            skipped: SkippedRuns::default(),
            programs: Vec::new(),
            capacities: maps(&probe.ebpf),
            listen_overflows: BTreeMap::new(),
            accept_queues: Vec::new(),
        }
    }

    /// Keeps the programs' last numbers and detaches them.
    pub fn freeze(&mut self, probe: Option<Probe>) {
        if let Some(probe) = probe {
            self.programs = stats::programs(&probe.ebpf);
        }
    }

    /// Runs of programs that the kernel skipped.
    pub fn skipped_runs(&mut self, probe: Option<&Probe>, counters: &Counters) -> LossReport {
        let skipped = match probe {
            Some(probe) => stats::recursion_misses(&stats::programs(&probe.ebpf)),
            None => stats::recursion_misses(&self.programs),
        };
        skipped_runs(self.skipped.read(skipped, counters.get(netprobe_common::MADE_UP)))
    }

    /// What the agent has used until now. Programs are asked only while their time is counted.
    pub fn cost(&self, probe: Option<&Probe>) -> Option<CostReport> {
        let programs = match probe {
            Some(probe) if self.statistics => stats::programs(&probe.ebpf),
            _ => Vec::new(),
        };
        cost(&programs)
    }

    /// The report of this moment.
    pub fn report(&mut self, probe: Option<&Probe>, ring: &Ring, state: &State) -> ProbeReport {
        if let Some(probe) = probe {
            self.programs = stats::programs(&probe.ebpf);
        }
        let counters = ring.counters();
        let mut report = ProbeReport {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            run: Some(state.maker.origin.run.to_string()),
            uptime_seconds: Some(self.started.elapsed().as_secs_f64()),
            kernel: self.kernel.clone(),
            facts: self.facts.clone(),
            start: Some(self.start.clone()),
            programs: self.programs.clone(),
            maps: self.maps(state),
            ring: Some(RingReport {
                bytes: u64::from(ring.bytes()),
                fill: ring.fill(),
            }),
            ledger: None,
            counters: BTreeMap::new(),
            // The API adds its clients, and what the archive says.
            stream: None,
            archive: None,
            kafka: None,
            cost: cost(&self.programs),
            governor: None,
            listen_overflows: self.listen_overflows.clone(),
            accept_queues: self.accept_queues.clone(),
            limits: limits::read(),
            taking_over: state.is_taking_over(),
            notices: self.notices.clone(),
        };
        match counters {
            Ok(counters) => {
                let skipped = stats::recursion_misses(&self.programs);
                let skipped = self.skipped.read(skipped, counters.get(netprobe_common::MADE_UP));
                let kernel = kernel_ledger(&counters, ring, state, skipped);
                report.ledger = Some(LedgerReport {
                    kernel,
                    sinks: state.fanout.ledger(),
                    emitted: EventKind::ALL
                        .iter()
                        .map(|kind| (kind.name().to_owned(), state.fanout.emitted(*kind)))
                        .collect(),
                });
                report.counters = counters.others();
                report.counters.extend(own_counters(state));
            }
            Err(error) => report
                .notices
                .push(format!("the kernel side's counters cannot be read: {error}")),
        }
        report
    }

    fn maps(&self, state: &State) -> Vec<MapReport> {
        let mut maps: Vec<_> = self
            .capacities
            .iter()
            .map(|(name, capacity)| MapReport {
                name: name.to_lowercase(),
                entries: None,
                capacity: u64::from(*capacity),
            })
            .collect();
        maps.push(MapReport {
            name: "flow_table".to_owned(),
            entries: Some(state.table.len() as u64),
            capacity: state.max_flows() as u64,
        });
        maps.push(MapReport {
            name: "forward_table".to_owned(),
            entries: Some(state.forwards.len() as u64),
            capacity: state.max_flows() as u64,
        });
        maps.extend(state.reader().map(|reader| {
            let (entries, capacity) = reader.connections();
            MapReport {
                name: "request_table".to_owned(),
                entries: Some(entries as u64),
                capacity: capacity as u64,
            }
        }));
        maps
    }
}

/// Equation (a). A run skipped by recursion might have made a record: seen and lost.
fn kernel_ledger(counters: &Counters, ring: &Ring, state: &State, skipped: u64) -> KernelLedger {
    let mut seen: BTreeMap<String, u64> = counters
        .seen()
        .into_iter()
        .map(|(kind, count)| (kind.name().to_owned(), count))
        .collect();
    seen.insert("skipped_runs".to_owned(), skipped);
    let drained: BTreeMap<String, u64> = ring
        .drained()
        .iter()
        .map(|(kind, count)| (kind.name().to_owned(), *count))
        .collect();
    let mut lost = counters.lost();
    lost.push(skipped_runs(skipped));
    let total_seen: u64 = seen.values().sum();
    let accounted: u64 = drained.values().sum::<u64>() + lost.iter().map(|loss| loss.count).sum::<u64>();
    let difference = i64::try_from(i128::from(total_seen) - i128::from(accounted)).unwrap_or(i64::MAX);
    KernelLedger {
        seen,
        drained,
        lost,
        rejected: Reject::ALL
            .map(|reject| {
                let count = state.counters.rejected.get(reject.name());
                (reject.name().to_owned(), count.copied().unwrap_or(0))
            })
            .into(),
        suppressed: counters.suppressed(),
        lost_bytes: counters.lost_bytes(),
        closes: difference == 0,
        difference,
    }
}

fn skipped_runs(count: u64) -> LossReport {
    LossReport {
        stage: "kernel".to_owned(),
        reason: "recursion".to_owned(),
        count,
    }
}

fn own_counters(state: &State) -> BTreeMap<String, u64> {
    let (own, processes) = (&state.counters, state.processes.counters());
    [
        ("events_shed", own.events_shed),
        ("updates_sampled_out", own.updates_sampled_out),
        ("samples_shed", own.samples_shed),
        ("flow_table_full", own.table_full),
        ("forward_table_full", own.forwards_full),
        ("forward_ends_forgotten", own.forward_ends_forgotten),
        ("accepts_expired", own.accepts_expired),
        ("flows_vanished", own.vanished),
        ("late_records", own.late_records),
        ("udp_flows_refused", state.udp.refused),
        ("hops_expired", state.nat.expired),
        ("process_lookups_hit", processes.hits),
        ("process_lookups_missed", processes.misses),
        ("processes_gone", processes.gone),
        ("processes_unsure", processes.unsure),
        ("processes_denied", processes.denied),
        ("processes_evicted", processes.evicted),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .chain(state.reader().map(Reader::counters).unwrap_or_default())
    .collect()
}

/// CPU and memory of this process, from `/proc/self`.
fn cost(programs: &[ProgramReport]) -> Option<CostReport> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Fields are counted from after the name, which is in parentheses: 14 and 15 are user and system time, 24 pages.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = rustix::param::clock_ticks_per_second();
    let bpf_ns = programs
        .iter()
        .filter_map(|program| program.run_ns)
        .reduce(|a, b| a + b);
    Some(CostReport {
        cpu_seconds: (number(14)? + number(15)?) as f64 / ticks as f64,
        memory_bytes: number(24)? * rustix::param::page_size() as u64,
        bpf_seconds: bpf_ns.map(|ns| ns as f64 / 1e9),
    })
}
