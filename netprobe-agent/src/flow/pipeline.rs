//! The one thread that drains, decodes, keeps the table and emits. It alone owns all of it; others ask by [`Query`].

use std::{
    collections::{BinaryHeap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant},
};

use netprobe_common::UdpKey;
use tokio::sync::mpsc;

use super::{
    baseline::{Purpose, Survey},
    clock::{WallClock, monotonic_ns},
    forward::{self, Forwarded},
    state::State,
    udp::{self, UdpLive, UdpMap},
};
use crate::{
    config::Config,
    event::{Agent, AgentAction, Event, FlowState, Gap, GapScope, Severity},
    flow::report::Reporter,
    kernel::{
        debug::KernelLog,
        load::{Own, Probe},
    },
    probe_report::LossReport,
    query::{FlowPage, Query},
    ring::Ring,
};

/// Records handled before queries and timers get their turn.
const BATCH: usize = 16_384;
/// How long sinks may take to deliver what they hold at the end.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Pages of the flow listing start here for forwarded connections; cookies are far below.
const FORWARD_PAGE: u64 = 1 << 63;
/// And here for UDP flows.
const UDP_PAGE: u64 = 1 << 62;

/// The loaded programs and what is read of them.
pub struct Source {
    /// Programs.
    pub probe: Probe,
    /// Records.
    pub ring: Ring,
    /// Counters of UDP flows.
    pub udp: UdpMap,
    /// Debug lines.
    pub log: KernelLog,
}

/// Everything the thread owns.
pub struct Pipeline {
    /// The loaded programs; dropped first at the end, so that nothing new comes.
    pub probe: Option<Probe>,
    /// Records.
    pub ring: Ring,
    /// Counters of UDP flows.
    pub udp: UdpMap,
    /// Table and fan-out.
    pub state: State,
    /// What is asked.
    pub queries: mpsc::Receiver<Query>,
    /// Makes reports.
    pub reporter: Reporter,
    /// Settings.
    pub config: Arc<Config>,
    /// Whether the programs' debug lines are wanted; anyone may change it.
    pub kernel_log: Arc<AtomicBool>,
    log: KernelLog,
    told: Vec<LossReport>,
    /// Forwarded connections are found by listing conntrack's tables alone.
    forwarded_by_list: bool,
    survey: Option<std_mpsc::Receiver<(Purpose, Survey)>>,
    next_translate: Instant,
}

impl Pipeline {
    /// Puts the parts together.
    pub fn new(
        source: Source,
        state: State,
        queries: mpsc::Receiver<Query>,
        reporter: Reporter,
        config: Arc<Config>,
    ) -> Pipeline {
        let Source {
            probe,
            ring,
            udp,
            log,
        } = source;
        Pipeline {
            forwarded_by_list: probe.method("forwarded") == Some("ctnetlink"),
            probe: Some(probe),
            ring,
            udp,
            log,
            state,
            queries,
            reporter,
            kernel_log: Arc::new(AtomicBool::new(config.probe.kernel_log)),
            config,
            told: Vec::new(),
            survey: None,
            next_translate: Instant::now(),
        }
    }

    /// Takes the connections that are older than the agent. The programs are attached already, so every socket is in
    /// this list or in the ring.
    pub fn baseline(&mut self, own: Own) {
        let survey = Survey::take(Purpose::Baseline);
        self.reporter.listen_overflows = survey.listen_overflows.clone();
        for record in survey.forwarded(&self.config.probe) {
            self.state.older_forward(&record);
        }
        let (older, notices) = survey.into_live(&self.state.processes, &self.config.probe, own);
        tracing::info!(
            connections = older.len(),
            "took over connections older than the agent"
        );
        for notice in &notices {
            tracing::warn!("{notice}");
        }
        self.reporter.notices.extend(notices);
        for live in older {
            self.state.baseline(live);
        }
    }

    /// Runs until `stop` is set, then ends in order.
    pub fn run(mut self, stop: &AtomicBool) {
        let every = self.config.probe.drain_interval.0;
        let reconcile_every = self.config.flow.reconcile_every.0;
        let (mut last_second, mut last_reconcile) = (Instant::now(), Instant::now());
        self.announce(AgentAction::Start);
        while !stop.load(Ordering::Relaxed) {
            if self.drain() < BATCH
                && let Err(error) = self.ring.wait(every)
            {
                tracing::error!("waiting for records failed, polling instead: {error}");
                std::thread::sleep(every);
            }
            self.state.tick(monotonic_ns());
            self.answer();
            if last_second.elapsed() >= Duration::from_secs(1) {
                last_second = Instant::now();
                self.every_second();
            }
            if last_reconcile.elapsed() >= reconcile_every {
                last_reconcile = Instant::now();
                self.start_survey(Purpose::Reconcile);
            }
            self.finish_survey();
            if Instant::now() >= self.next_translate && self.state.wants_translations() {
                self.start_survey(Purpose::Translate);
            }
        }
        self.shutdown();
    }

    fn drain(&mut self) -> usize {
        let Pipeline { ring, state, .. } = self;
        let broken = |error| {
            tracing::error!("the overflow hash cannot be read: {error}");
            Default::default()
        };
        let overflowed = ring.overflowed().unwrap_or_else(broken);
        let count = ring.drain(BATCH, |bytes| state.take(bytes));
        if count == BATCH || overflowed.is_empty() {
            return count;
        }
        count
            + ring
                .drain_overflow(&overflowed, |bytes| state.take(bytes))
                .unwrap_or_else(|error| broken(error).len())
    }

    fn every_second(&mut self) {
        let now = monotonic_ns();
        self.state.maker.wall = WallClock::new();
        self.state.expire(now);
        self.poll_udp(now);
        self.tell_losses();
        self.state.fanout.tick();
        self.log.switch(self.kernel_log.load(Ordering::Relaxed));
        self.log.flush();
    }

    fn poll_udp(&mut self, now_ns: u64) {
        let idle = self.config.flow.udp_idle.0.as_nanos() as u64;
        if let Err(error) = self.state.poll_udp(&mut self.udp, now_ns, idle) {
            tracing::error!("counters of UDP flows cannot be read: {error}");
        }
    }

    /// A gap event for each kind of loss in the kernel that grew.
    fn tell_losses(&mut self) {
        let losses = match self.ring.counters() {
            Ok(counters) => counters.lost(),
            Err(error) => {
                tracing::error!("the kernel side's counters cannot be read: {error}");
                return;
            }
        };
        for loss in &losses {
            let told = self
                .told
                .iter()
                .find(|t| t.stage == loss.stage && t.reason == loss.reason);
            let fresh = loss.count - told.map_or(0, |told| told.count);
            if fresh == 0 {
                continue;
            }
            let gap = Gap {
                stage: loss.stage.clone().into(),
                reason: loss.reason.clone().into(),
                count: Some(fresh),
                from_seq: None,
                to_seq: None,
                scope: GapScope::Agent,
            };
            let event = Event::gap(&self.state.maker.origin, gap);
            self.state.emit(event);
        }
        self.told = losses;
    }

    fn start_survey(&mut self, purpose: Purpose) {
        if self.survey.is_some() {
            return;
        }
        let (send, receive) = std_mpsc::channel();
        // Long lists take long: not in this thread. It ends by itself, its result may find nobody.
        let spawned = std::thread::Builder::new()
            .name("survey".to_owned())
            .spawn(move || {
                if send.send((purpose, Survey::take(purpose))).is_err() {
                    tracing::debug!("the agent ended before a list of sockets was done");
                }
            });
        match spawned {
            Ok(_) => self.survey = Some(receive),
            Err(error) => tracing::error!("no thread to list sockets: {error}"),
        }
    }

    fn finish_survey(&mut self) {
        let Some(receive) = &self.survey else { return };
        match receive.try_recv() {
            Ok((purpose, survey)) => {
                self.survey = None;
                // A list of a million entries may take seconds: at most a twentieth of the time goes into lists.
                self.next_translate = Instant::now() + (survey.took * 20).max(Duration::from_secs(1));
                self.state.translate_from(&survey.translations, survey.since_ns);
                if purpose == Purpose::Reconcile {
                    self.reporter.listen_overflows = survey.listen_overflows.clone();
                    self.state
                        .reconcile(&survey.cookies(), &survey.listed, survey.since_ns);
                    if self.forwarded_by_list {
                        for record in survey.forwarded(&self.config.probe) {
                            self.state.older_forward(&record);
                        }
                    }
                    self.state
                        .reconcile_forwards(&survey.translations, survey.since_ns);
                }
            }
            Err(std_mpsc::TryRecvError::Empty) => {}
            Err(std_mpsc::TryRecvError::Disconnected) => self.survey = None,
        }
    }

    fn answer(&mut self) {
        while let Ok(query) = self.queries.try_recv() {
            // An asker that went away is no error.
            match query {
                Query::Flows { after, limit, reply } => drop(reply.send(self.page(after, limit))),
                Query::Probe { reply } => drop(reply.send(Box::new(self.report()))),
            }
        }
    }

    fn report(&mut self) -> crate::probe_report::ProbeReport {
        self.reporter.report(self.probe.as_ref(), &self.ring, &self.state)
    }

    /// Live flows in the order of a number that stays theirs.
    fn page(&self, after: Option<u64>, limit: usize) -> FlowPage {
        let udp_page = |key: &UdpKey| UDP_PAGE | (number_of(key) & (UDP_PAGE - 1));
        let forward_page = |id: &forward::Id| FORWARD_PAGE | number_of(id);
        let forwards: HashMap<u64, &Forwarded> = self
            .state
            .forwards
            .iter()
            .map(|(id, flow)| (forward_page(id), flow))
            .collect();
        let datagrams: HashMap<u64, &UdpLive> = self
            .state
            .udp
            .live
            .iter()
            .map(|(key, flow)| (udp_page(key), flow))
            .collect();
        let numbers = self
            .state
            .table
            .keys()
            .chain(forwards.keys())
            .chain(datagrams.keys())
            .copied()
            .filter(|number| after.is_none_or(|after| *number > after));
        let mut smallest = BinaryHeap::new();
        for number in numbers {
            smallest.push(number);
            if smallest.len() > limit + 1 {
                smallest.pop();
            }
        }
        let mut page = smallest.into_sorted_vec();
        let more = page.len() > limit;
        page.truncate(limit);
        let now = monotonic_ns();
        let maker = &self.state.maker;
        let flows = page
            .iter()
            .filter_map(|number| {
                if *number < UDP_PAGE {
                    let live = self.state.table.get(number)?;
                    return Some((*number, maker.live(live, listed(live.opened), now)));
                }
                if *number < FORWARD_PAGE {
                    let flow = datagrams.get(number)?;
                    return Some((*number, udp::event(maker, flow, listed(flow.opened), now)));
                }
                let flow = forwards.get(number)?;
                Some((
                    *number,
                    forward::event(maker, flow, listed(flow.opened), None, now),
                ))
            })
            .collect();
        FlowPage { flows, more }
    }

    fn announce(&mut self, action: AgentAction) {
        let message = match action {
            AgentAction::Start => "the probe is attached",
            _ => "the probe is detached",
        };
        let agent = Agent {
            action,
            version: env!("CARGO_PKG_VERSION").into(),
            message: Some(message.into()),
        };
        let event = Event::agent(&self.state.maker.origin, Severity::Info, agent);
        self.state.emit(event);
    }

    /// Detach, drain what is left, mark live flows, end the sinks, say whether the ledger closes.
    fn shutdown(mut self) {
        // Samples may be a second old; the last word about a live connection should be exact.
        let survey = Survey::take(Purpose::Reconcile);
        self.drain();
        self.state.refresh(&survey.sockets, survey.since_ns);
        self.reporter.freeze(self.probe.take());
        // Nothing new comes: this ends.
        while self.drain() > 0 {}
        let now = monotonic_ns();
        self.state.tick(now);
        self.poll_udp(now);
        self.tell_losses();
        self.state.stop(now);
        self.announce(AgentAction::Stop);
        self.state.fanout.shutdown(Instant::now() + SHUTDOWN);
        self.answer();
        let report = self.report();
        match serde_json::to_string(&report.ledger) {
            Ok(ledger) => tracing::info!(ledger = %ledger, "ledger at the end"),
            Err(error) => tracing::error!("the ledger cannot be written: {error}"),
        }
    }
}

/// A number for a flow without a cookie of its own, the same as long as it lives.
fn number_of(id: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish() & !FORWARD_PAGE
}

const fn listed(opened: bool) -> FlowState {
    if opened {
        FlowState::Update
    } else {
        FlowState::Open
    }
}
