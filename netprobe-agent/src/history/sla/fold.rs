//! Events into counts of slots and periods, and these into the report.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Destination, Failures, Outage, Period, Question, Report, SCHEMA, SECOND_NS, Unknown,
    fact::{Fact, How, What},
    host_of,
};
use crate::{
    event::Nanos,
    history::{
        TOLD_LATE_NS,
        latency::Latencies,
        slots::{self, SLOT_SECONDS, Seen, State},
        sources::{HostSource, Sources},
    },
};

/// Most destinations of a report.
const MOST: usize = 10_000;
/// Most services named of a destination.
const MOST_SERVICES: usize = 20;

#[derive(Default)]
struct Counted {
    connects: u64,
    failures: Failures,
    requests: u64,
    requests_failed: u64,
    connect: Latencies,
    request: Latencies,
}

#[derive(Default)]
struct Of {
    services: BTreeSet<Arc<str>>,
    periods: BTreeMap<usize, Counted>,
    /// What each host saw.
    seen: BTreeMap<Arc<str>, BTreeMap<i64, Seen>>,
}

type Key = (IpAddr, u16, Option<Arc<str>>);

pub(super) struct Fold<'a> {
    question: &'a Question,
    destinations: BTreeMap<Key, Of>,
    /// Connections that were told while they lived.
    open: HashSet<u64>,
    left_out: u64,
}

impl Fold<'_> {
    pub(super) fn new(question: &Question) -> Fold<'_> {
        Fold {
            question,
            destinations: BTreeMap::new(),
            open: HashSet::new(),
            left_out: 0,
        }
    }

    pub(super) fn take(&mut self, fact: &Fact) {
        let known = match fact.what {
            What::Connected { id, lives: true, .. } => {
                self.open.insert(id);
                false
            }
            What::Connected { id, .. } => self.open.remove(&id),
            _ => false,
        };
        let question = self.question;
        let (ip, port) = fact.peer;
        let key = (ip, port, host_of(ip, &fact.host, question.by_host));
        if self.destinations.len() >= MOST && !self.destinations.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let of = self.destinations.entry(key).or_default();
        if let Some(service) = &fact.service
            && of.services.len() < MOST_SERVICES
        {
            of.services.insert(service.clone());
        }
        of.count(question, fact, known);
    }

    /// The report, now that everything was taken.
    pub(super) fn close(self, sources: Sources) -> Report {
        let question = self.question;
        let lossy: BTreeMap<_, _> = sources
            .hosts
            .iter()
            .map(|host| (&*host.host, lossy(host, question.slots())))
            .collect();
        let close = |(key, of): (Key, Of)| of.close(question, key, &lossy);
        Report {
            schema: SCHEMA.to_owned(),
            since: question.since,
            until: question.until,
            slot_seconds: SLOT_SECONDS as u64,
            destinations: self.destinations.into_iter().filter_map(close).collect(),
            left_out: self.left_out,
            sources,
        }
    }
}

impl Of {
    /// Counts what a fact tells; of a connection that is known already, only its end.
    fn count(&mut self, question: &Question, fact: &Fact, known: bool) {
        let Of { periods, seen, .. } = self;
        let slots = seen.entry(fact.host.clone()).or_default();
        let mut seen = |at: Nanos, count: fn(&mut Seen, Nanos)| {
            count(slots.entry(slots::slot(at)).or_default(), at);
        };
        // Each slot before the one of the end, at the latest moment in it: every SYN of that time was in vain.
        let mut in_vain = |begin: Nanos, at: Nanos| {
            let first = slots::slot(begin).max(slots::slot(Nanos(at.0.saturating_sub(TOLD_LATE_NS))));
            for slot in first..slots::slot(at) {
                seen(begin.max(slots::begin(slot)), Seen::fail);
            }
        };
        let broken = match fact.what {
            What::Connected {
                begin,
                at,
                ms,
                syn_retransmits,
                broken,
                ..
            } => {
                if !known {
                    if syn_retransmits > 0 {
                        in_vain(begin, at);
                    }
                    seen(at, Seen::succeed);
                    if let Some(counted) = counted(periods, question, at) {
                        counted.connects += 1;
                        counted.connect.record(ms);
                    }
                }
                broken
            }
            What::Broken { at } => Some(at),
            What::Failed { begin, at, how } => {
                if how == How::Unanswered {
                    in_vain(begin, at);
                }
                seen(at, Seen::fail);
                if let Some(counted) = counted(periods, question, at) {
                    let failures = &mut counted.failures;
                    *match how {
                        How::Refused => &mut failures.refused,
                        How::Unanswered => &mut failures.unanswered,
                        How::Otherwise => &mut failures.failed,
                    } += 1;
                }
                None
            }
            What::Request {
                at,
                ms,
                answered,
                failed,
            } => {
                if answered {
                    seen(at, Seen::answer);
                }
                if let Some(counted) = counted(periods, question, at) {
                    counted.requests += 1;
                    counted.requests_failed += u64::from(failed);
                    // How long nobody answered is not how long an answer takes.
                    ms.filter(|_| answered)
                        .into_iter()
                        .for_each(|ms| counted.request.record(ms));
                }
                None
            }
        };
        if let Some(at) = broken {
            seen(at, Seen::fail);
            if let Some(counted) = counted(periods, question, at) {
                counted.failures.timeouts += 1;
            }
        }
    }

    /// `None`: nothing of it was within the time.
    fn close(
        mut self,
        question: &Question,
        (ip, port, host): Key,
        lossy: &BTreeMap<&str, HashSet<i64>>,
    ) -> Option<Destination> {
        let empty = HashSet::new();
        let lossy: Vec<_> = self
            .seen
            .keys()
            .map(|host| lossy.get(&**host).unwrap_or(&empty))
            .collect();
        let mut seen: BTreeMap<i64, Seen> = BTreeMap::new();
        for (slots, lossy) in self.seen.values().zip(&lossy) {
            for (slot, of) in slots.iter().filter(|(slot, _)| !lossy.contains(slot)) {
                seen.entry(*slot).or_default().add(of);
            }
        }
        let (from, to) = question.slots();
        let inside = self
            .seen
            .values()
            .any(|slots| slots.range(from..to).next().is_some());
        if !inside && self.periods.is_empty() {
            return None;
        }
        let is_lossy = |slot: i64| lossy.iter().any(|lossy| lossy.contains(&slot));
        let states = slots::states(&seen, is_lossy, (from, to));
        let mut periods = Vec::new();
        let each = (question.period_seconds / SLOT_SECONDS) as usize;
        for (index, states) in states.chunks(each).enumerate() {
            let counted = self.periods.remove(&index).unwrap_or_default();
            let begin = from + (index * each) as i64;
            periods.push(close_period(begin, states, counted));
        }
        Some(Destination {
            destination: SocketAddr::from((ip, port)).to_string(),
            ip,
            port,
            host: host.map(|host| host.to_string()),
            hosts: self.seen.keys().map(ToString::to_string).collect(),
            services: self.services.iter().map(ToString::to_string).collect(),
            periods,
            outages: outages(&seen, &states, from),
        })
    }
}

fn close_period(begin: i64, states: &[State], counted: Counted) -> Period {
    let seconds =
        |of: State| states.iter().filter(|state| **state == of).count() as u64 * SLOT_SECONDS as u64;
    let unknown = Unknown {
        silence_seconds: seconds(State::Silence),
        loss_seconds: seconds(State::Loss),
        few_seconds: seconds(State::Few),
    };
    let (up, down) = (seconds(State::Up), seconds(State::Down));
    Period {
        from: slots::begin(begin),
        to: slots::begin(begin + states.len() as i64),
        up_seconds: up,
        down_seconds: down,
        unknown_seconds: unknown.silence_seconds + unknown.loss_seconds + unknown.few_seconds,
        unknown,
        uptime: (up + down > 0).then(|| up as f64 / (up + down) as f64),
        connects: counted.connects,
        failures: counted.failures,
        connect_p95_ms: counted.connect.quantile(0.95),
        requests: counted.requests,
        requests_failed: counted.requests_failed,
        request_p95_ms: counted.request.quantile(0.95),
    }
}

fn outages(seen: &BTreeMap<i64, Seen>, states: &[State], from: i64) -> Vec<Outage> {
    let mut outages = Vec::new();
    let mut begin = from;
    for run in states.chunk_by(|a, b| a == b) {
        let end = begin + run.len() as i64;
        // Without a failure inside it reaches in from outside of the time, on both sides.
        let failures =
            failures(seen, begin, end).or_else(|| failures(seen, begin - slots::REACH, end + slots::REACH));
        if run.first() == Some(&State::Down)
            && let Some((first, last)) = failures
        {
            let first_failure = into_it(seen.get(&(begin - 1)), seen.get(&begin)).unwrap_or(first);
            let last_failure = out_of_it(seen.get(&end), seen.get(&(end - 1))).unwrap_or(last);
            let up_again = states.get((end - from) as usize) == Some(&State::Up);
            let successes = seen.range(begin..=end).filter_map(|(_, seen)| seen.good);
            outages.push(Outage {
                from: slots::begin(begin),
                to: slots::begin(end),
                seconds: ((end - begin) * SLOT_SECONDS) as u64,
                first_failure,
                last_failure,
                recovered_at: successes
                    .flat_map(|(first, last)| [first, last])
                    .filter(|at| up_again && *at > last_failure)
                    .min(),
            });
        }
        begin = end;
    }
    outages
}

fn failures(seen: &BTreeMap<i64, Seen>, from: i64, to: i64) -> Option<(Nanos, Nanos)> {
    let failures = seen.range(from..to).filter_map(|(_, seen)| seen.bad);
    failures.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
}

/// The first failure of the slot before, when that was good until then, and failures went on.
fn into_it(before: Option<&Seen>, inside: Option<&Seen>) -> Option<Nanos> {
    let went_on = inside.is_none_or(|seen| seen.good.zip(seen.bad).is_none_or(|(good, bad)| bad.0 < good.0));
    let (good, bad) = before?.good.zip(before?.bad)?;
    (went_on && good.1 < bad.0).then_some(bad.0)
}

/// The last failure of the slot after, when that was good from then on, and failures had gone on until it.
fn out_of_it(after: Option<&Seen>, inside: Option<&Seen>) -> Option<Nanos> {
    let went_on = inside.is_none_or(|seen| seen.good.zip(seen.bad).is_none_or(|(good, bad)| good.1 < bad.1));
    let (good, bad) = after?.good.zip(after?.bad)?;
    (went_on && bad.1 < good.0).then_some(bad.1)
}

/// The counts of the period of a moment, if it is within the time.
fn counted<'a>(
    periods: &'a mut BTreeMap<usize, Counted>,
    question: &Question,
    at: Nanos,
) -> Option<&'a mut Counted> {
    let inside = question.since <= at && at < question.until;
    let index = || ((at.0 - question.since.0) / SECOND_NS / question.period_seconds) as usize;
    inside.then(|| periods.entry(index()).or_default())
}

/// Slots in which connections of a host may be missing, as far as they matter.
fn lossy(host: &HostSource, (from, to): (i64, i64)) -> HashSet<i64> {
    let losses = host.losses.iter().filter(|loss| loss.hides_connections());
    let slots = losses.flat_map(|loss| {
        slots::slot(loss.from).max(from - slots::REACH)..=slots::slot(loss.to).min(to + slots::REACH)
    });
    slots.collect()
}
