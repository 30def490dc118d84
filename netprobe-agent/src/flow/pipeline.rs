//! The one thread that drains, decodes, keeps the table and emits. It alone owns all of it; others ask by [`Query`].

mod end;
mod page;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use netprobe_common::Kind;
use tokio::sync::mpsc;

use super::{
    clock::{WallClock, monotonic_ns},
    limits,
    live::Live,
    state::State,
    strain::Strain,
    survey::{Purpose, Scope, Survey},
    surveyor::{NoList, Surveyor},
    udp::UdpMap,
};
use crate::{
    config::Config,
    event::{Agent, AgentAction, Event, Gap, GapScope, Severity},
    flow::{governor::Governor, report::Reporter},
    kernel::{
        debug::KernelLog,
        load::{Own, Probe},
    },
    probe_report::LossReport,
    query::{Bell, Query},
    ring::Ring,
};

/// Records handled before queries and timers get their turn.
const BATCH: usize = 16_384;
/// Older connections entered into the table before the ring is drained again.
const TAKEN_OVER_AT_ONCE: usize = 4_096;

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
    /// Rings when something is.
    bell: Bell,
    /// Makes reports.
    pub reporter: Reporter,
    /// Settings.
    pub config: Arc<Config>,
    /// Whether the programs' debug lines are wanted; anyone may change it.
    pub kernel_log: Arc<AtomicBool>,
    log: KernelLog,
    told: Vec<LossReport>,
    scope: Scope,
    surveyor: Surveyor<Survey>,
    /// Listed connections older than the agent that are not in the table yet.
    older: std::vec::IntoIter<Live>,
    /// When the next list may be made that is not due by itself.
    next_list: Instant,
    /// Whether live flows were asked for since their counters were last read.
    looked_at: bool,
    governor: Governor,
    strain: Strain,
}

impl Pipeline {
    /// Puts the parts together.
    pub fn new(
        source: Source,
        state: State,
        (queries, bell): (mpsc::Receiver<Query>, Bell),
        reporter: Reporter,
        config: Arc<Config>,
        own: Own,
    ) -> Pipeline {
        let Source {
            probe,
            ring,
            udp,
            log,
        } = source;
        Pipeline {
            scope: Scope {
                config: config.clone(),
                own,
                forwarded_by_list: probe.method("forwarded") == Some("ctnetlink"),
            },
            probe: Some(probe),
            ring,
            udp,
            log,
            state,
            queries,
            bell,
            reporter,
            kernel_log: Arc::new(AtomicBool::new(config.probe.kernel_log)),
            governor: Governor::new(config.probe.cpu_budget),
            strain: Strain::default(),
            config,
            told: Vec::new(),
            surveyor: Surveyor::default(),
            older: Vec::new().into_iter(),
            next_list: Instant::now(),
            looked_at: false,
        }
    }

    /// Runs until `stop` is set, then ends in order.
    pub fn run(mut self, stop: &AtomicBool) {
        let every = self.config.probe.drain_interval.0;
        let reconcile_every = self.config.flow.reconcile_every.0;
        let (mut last_second, mut last_reconcile) = (Instant::now(), Instant::now());
        self.announce(AgentAction::Start);
        // The programs are attached already, so every connection is in this list or told by records.
        self.state.begin_takeover();
        self.survey(Purpose::Baseline);
        while !stop.load(Ordering::Relaxed) {
            self.state.maker.wall.follow();
            self.drain();
            if self.ring.is_emptied()
                && let Err(error) = self.ring.wait(every, self.bell.fd())
            {
                tracing::error!("waiting for records failed, polling instead: {error}");
                std::thread::sleep(every);
            }
            self.state.tick(monotonic_ns());
            self.bell.hush();
            self.answer();
            if last_second.elapsed() >= Duration::from_secs(1) {
                last_second = Instant::now();
                self.every_second();
            }
            if last_reconcile.elapsed() >= reconcile_every && !self.surveyor.is_busy() {
                last_reconcile = Instant::now();
                self.survey(Purpose::Reconcile);
            }
            if let Some(done) = self.surveyor.poll() {
                self.surveyed(done);
            }
            self.take_over();
            if Instant::now() >= self.next_list {
                self.survey_on_demand();
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
        let lost = [Kind::Hop, Kind::Accept, Kind::Payload].map(|kind| ring.lost(kind));
        match lost {
            [Ok(hops), Ok(accepts), Ok(payloads)] => state.lost(hops, accepts, payloads, monotonic_ns()),
            [Err(error), ..] | [_, Err(error), _] | [.., Err(error)] => {
                tracing::error!("the kernel side's counters cannot be read: {error}");
            }
        }
        let count = ring.drain(BATCH, |bytes| state.take(bytes));
        if !ring.is_emptied() || overflowed.is_empty() {
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
        self.govern(now);
        self.read_libraries();
        self.log.switch(self.kernel_log.load(Ordering::Relaxed));
        self.log.flush();
    }

    /// Reads what goes through TLS libraries that were not in use when the agent began.
    fn read_libraries(&mut self) {
        for library in self.state.met_libraries() {
            let Some(probe) = &mut self.probe else { return };
            let path = library.path.display();
            match probe.read_library(&library) {
                Ok(false) => {}
                Ok(true) => tracing::info!(%path, "a TLS library is read from now on"),
                Err(reason) => {
                    tracing::warn!(%path, reason, "a TLS library cannot be read; its connections stay opaque")
                }
            }
        }
    }

    /// Sheds detail before the budget is broken, and says so.
    fn govern(&mut self, now_ns: u64) {
        let Some(cost) = self.reporter.cost(self.probe.as_ref()) else {
            return;
        };
        let spent = cost.cpu_seconds + cost.bpf_seconds.unwrap_or(0.0);
        if let Some(message) = self.governor.observe(Duration::from_nanos(now_ns), spent) {
            tracing::warn!(level = self.governor.level(), "{message}");
            self.state.shed(self.governor.level());
            self.tell(AgentAction::Notice, Severity::Warning, message.into());
        }
    }

    fn poll_udp(&mut self, now_ns: u64) {
        let idle = self.config.flow.udp_idle.0.as_nanos() as u64;
        if let Err(error) = self.state.poll_udp(&mut self.udp, now_ns, idle) {
            tracing::error!("counters of UDP flows cannot be read: {error}");
        }
    }

    /// A gap event for each kind of loss in the kernel and in the table that grew.
    fn tell_losses(&mut self) {
        let counters = match self.ring.counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::error!("the kernel side's counters cannot be read: {error}");
                return;
            }
        };
        let mut losses = counters.lost();
        losses.extend(counters.unfollowed());
        losses.push(self.reporter.skipped_runs(self.probe.as_ref(), &counters));
        losses.extend(self.state.refused());
        for loss in &losses {
            let told = self
                .told
                .iter()
                .find(|t| t.stage == loss.stage && t.reason == loss.reason);
            let fresh = loss.count.saturating_sub(told.map_or(0, |told| told.count));
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

    /// What flows wait for, or whoever looks at them: counters of those that stand still are as old as their last sample.
    fn survey_on_demand(&mut self) {
        if self.looked_at && self.governor.level() == 0 && !self.surveyor.is_busy() {
            self.looked_at = false;
            self.survey(Purpose::Counters);
        } else if self.state.wants_translations() {
            self.survey(Purpose::Translate);
        }
    }

    /// Starts a list unless one is being made.
    fn survey(&mut self, purpose: Purpose) {
        if self.surveyor.is_busy() {
            return;
        }
        let scope = self.scope.clone();
        if let Err(failed) = self.surveyor.start(move || Survey::take(purpose, &scope)) {
            self.surveyed(Err(failed));
        }
    }

    fn surveyed(&mut self, done: Result<Survey, NoList>) {
        let Ok(survey) = done else {
            if self.state.is_taking_over() && self.older.len() == 0 {
                let notice =
                    "connections older than the agent cannot be listed: each is known from its next bytes on";
                tracing::error!("{notice}");
                self.reporter.notices.push(notice.to_owned());
                self.state.finish_takeover();
            }
            return;
        };
        // A list of a million entries may take seconds: at most a twentieth of the time goes into lists.
        self.next_list = Instant::now() + (survey.took * 20).max(Duration::from_secs(1));
        if survey.purpose == Purpose::Counters {
            self.state.refresh(&survey.counters, survey.since_ns);
            return;
        }
        self.state.translate_from(&survey.translations, survey.since_ns);
        for record in &survey.forwarded {
            self.state.older_forward(record);
        }
        match survey.purpose {
            Purpose::Baseline => {
                tracing::info!(
                    connections = survey.older.len(),
                    seconds = survey.took.as_secs_f64(),
                    "listed connections older than the agent"
                );
                for notice in &survey.notices {
                    tracing::warn!("{notice}");
                }
                self.reporter.notices.extend(survey.notices);
                self.reporter.listen_overflows = survey.listen_overflows;
                self.reporter.accept_queues = survey.accept_queues;
                self.look_at_the_host();
                self.older = survey.older.into_iter();
                if self.older.len() == 0 {
                    self.state.finish_takeover();
                }
            }
            Purpose::Reconcile => {
                self.reporter.listen_overflows = survey.listen_overflows;
                self.reporter.accept_queues = survey.accept_queues;
                self.look_at_the_host();
                // What stood still since its last sample has moved all the same: it shows from now on.
                self.state.refresh(&survey.counters, survey.since_ns);
                self.state
                    .reconcile(&survey.counters, &survey.listed, survey.since_ns);
                self.state
                    .reconcile_forwards(&survey.translations, survey.since_ns);
            }
            Purpose::Translate | Purpose::Counters => {}
        }
    }

    /// Tells what the host runs out of.
    fn look_at_the_host(&mut self) {
        let news = self.strain.look(&self.reporter.listen_overflows, &limits::read());
        for message in news {
            self.tell(AgentAction::Notice, Severity::Warning, message.into());
        }
    }

    /// Enters a part of the older connections into the table: a million at once would leave the ring alone for long.
    fn take_over(&mut self) {
        if self.older.len() == 0 {
            return;
        }
        for live in self.older.by_ref().take(TAKEN_OVER_AT_ONCE) {
            self.state.baseline(live);
        }
        if self.older.len() == 0 {
            self.state.finish_takeover();
        }
    }

    fn answer(&mut self) {
        while let Ok(query) = self.queries.try_recv() {
            // An asker that went away is no error.
            match query {
                Query::Flows { after, limit, reply } => {
                    self.looked_at = true;
                    drop(reply.send(self.page(after, limit)));
                }
                Query::Probe { reply } => drop(reply.send(Box::new(self.report()))),
            }
        }
    }

    fn report(&mut self) -> crate::probe_report::ProbeReport {
        let mut report = self.reporter.report(self.probe.as_ref(), &self.ring, &self.state);
        report.governor = Some(self.governor.report());
        report
    }

    fn announce(&mut self, action: AgentAction) {
        let message = match action {
            AgentAction::Start => "the probe is attached",
            _ => "the probe is detached",
        };
        self.tell(action, Severity::Info, message.into());
    }

    fn tell(&mut self, action: AgentAction, severity: Severity, message: Cow<'static, str>) {
        let agent = Agent {
            action,
            version: env!("CARGO_PKG_VERSION").into(),
            message: Some(message),
        };
        let event = Event::agent(&self.state.maker.origin, severity, agent);
        self.state.emit(event);
    }
}
