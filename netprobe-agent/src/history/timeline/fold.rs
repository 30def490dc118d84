//! Marks into episodes, and these into incidents.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
};

use super::{
    AgentNote, Cause, CauseTotal, Episode, HostLoss, Incident, Point, Question, Report, SCHEMA, Series,
    cause::{CLASSES, Class},
    mark::{Mark, Tell, Who},
};
use crate::{
    event::Nanos,
    history::{
        latency::Latencies,
        slots::{self, REACH_NS},
        sources::Sources,
    },
};

/// Most services with destination of a report.
const MOST: usize = 10_000;
/// A first byte that took as long is late for anybody.
const SLOW_MS: f64 = 1000.0;
/// One that took less is late for nobody.
const QUICK_MS: f64 = 50.0;
/// Times the median.
const TIMES: f64 = 4.0;
/// Symptoms of a major episode, at least.
const LEAST: u64 = 3;
/// One in so many.
const SHARE: u64 = 20;

/// What was tried in a slot, and what went well, by class.
#[derive(Clone, Copy, Default)]
struct Tried {
    count: u64,
    good: u64,
    /// First and last success.
    span: Option<(Nanos, Nanos)>,
}

/// Symptoms of a cause in a slot.
#[derive(Clone, Copy)]
struct Hits {
    first: Nanos,
    last: Nanos,
    count: u64,
}

#[derive(Default)]
struct Of {
    tried: BTreeMap<i64, [Tried; CLASSES]>,
    hits: BTreeMap<Cause, BTreeMap<i64, Hits>>,
    first_bytes: Latencies,
    /// Requests that may have been slow.
    maybe_slow: Vec<(Nanos, f64)>,
}

impl Of {
    fn good(&mut self, class: Class, at: Nanos) {
        let tried = &mut self.tried.entry(slots::slot(at)).or_default()[class as usize];
        tried.count += 1;
        tried.good += 1;
        let span = tried.span.unwrap_or((at, at));
        tried.span = Some((span.0.min(at), span.1.max(at)));
    }

    fn bad(&mut self, cause: Cause, at: Nanos) {
        let slot = slots::slot(at);
        self.tried.entry(slot).or_default()[cause.class() as usize].count += 1;
        let hits = self.hits.entry(cause).or_default().entry(slot).or_insert(Hits {
            first: at,
            last: at,
            count: 0,
        });
        (hits.first, hits.last) = (hits.first.min(at), hits.last.max(at));
        hits.count += 1;
    }

    /// Tells late first bytes from others, now that the median is known.
    fn settle(&mut self) {
        let median = self.first_bytes.quantile(0.5).unwrap_or(0.0);
        for (at, ms) in std::mem::take(&mut self.maybe_slow) {
            if ms >= SLOW_MS || ms >= TIMES * median {
                self.bad(Cause::SlowFirstByte, at);
            } else {
                self.good(Class::Request, at);
            }
        }
    }

    fn recovered(&self, class: Class, after: Nanos) -> Option<Nanos> {
        let slots = self.tried.range(slots::slot(after)..);
        slots
            .filter_map(|(_, tried)| tried[class as usize].span)
            .flat_map(|(first, last)| [first, last])
            .find(|at| *at > after)
    }

    fn episodes(&self, who: &Who, question: &Question) -> Vec<Episode> {
        let mut episodes: Vec<Episode> = Vec::new();
        for (&cause, slots) in &self.hits {
            let begin = episodes.len();
            for hits in slots.values() {
                match episodes.get_mut(begin..).and_then(<[Episode]>::last_mut) {
                    Some(last) if hits.first.0 - last.to.0 <= REACH_NS => {
                        (last.to, last.count) = (hits.last, last.count + hits.count);
                    }
                    _ => episodes.push(Episode {
                        from: hits.first,
                        to: hits.last,
                        host: who.host.to_string(),
                        service: who.service.as_deref().map(str::to_owned),
                        role: who.role,
                        destination: SocketAddr::from(who.place).to_string(),
                        cause,
                        count: hits.count,
                        tried: 0,
                        recovered_at: None,
                    }),
                }
            }
        }
        episodes.retain(|episode| episode.from < question.until && question.since <= episode.to);
        for episode in &mut episodes {
            let class = episode.cause.class();
            let meanwhile = slots::slot(episode.from)..=slots::slot(episode.to);
            episode.tried = self
                .tried
                .range(meanwhile)
                .map(|(_, tried)| tried[class as usize].count)
                .sum();
            episode.recovered_at = self.recovered(class, episode.to);
        }
        episodes
    }

    fn series(&self, who: &Who, question: &Question) -> Series {
        let (from, to) = (slots::slot(question.since), slots::slot(question.until));
        let points = self.tried.range(from..=to).map(|(slot, tried)| Point {
            at: slots::begin(*slot),
            good: tried[Class::Connect as usize].good + tried[Class::Request as usize].good,
            bad: tried.iter().map(|tried| tried.count - tried.good).sum(),
        });
        Series {
            host: who.host.to_string(),
            service: who.service.as_deref().map(str::to_owned),
            role: who.role,
            destination: SocketAddr::from(who.place).to_string(),
            points: points.collect(),
        }
    }
}

fn is_major(episode: &Episode) -> bool {
    episode.count >= LEAST && SHARE * episode.count >= episode.tried
}

pub(super) struct Fold<'a> {
    question: &'a Question,
    of: BTreeMap<Who, Of>,
    /// Connections that were told while they lived.
    open: HashSet<u64>,
    agents: Vec<AgentNote>,
    left_out: u64,
}

impl Fold<'_> {
    pub(super) fn new(question: &Question) -> Fold<'_> {
        Fold {
            question,
            of: BTreeMap::new(),
            open: HashSet::new(),
            agents: Vec::new(),
            left_out: 0,
        }
    }

    pub(super) fn take(&mut self, mark: Mark) {
        let (who, id, lives, tells) = match mark {
            Mark::Of {
                who,
                id,
                lives,
                tells,
            } => (who, id, lives, tells),
            Mark::Agent {
                host,
                at,
                action,
                message,
            } => {
                if self.question.holds(at) {
                    self.agents.push(AgentNote {
                        at,
                        host: host.to_string(),
                        action,
                        message,
                    });
                }
                return;
            }
        };
        let known = match lives {
            true => !self.open.insert(id),
            false => self.open.contains(&id),
        };
        if self.of.len() >= MOST && !self.of.contains_key(&who) {
            self.left_out += 1;
            return;
        }
        let of = self.of.entry(who).or_default();
        for (at, tell) in tells {
            match tell {
                // Its begin was told while it lived.
                Tell::Good(Class::Connect) if known => {}
                Tell::Bad(cause) if known && cause.class() == Class::Connect => {}
                Tell::Good(class) => of.good(class, at),
                Tell::Bad(cause) => of.bad(cause, at),
                Tell::Answered(ms) => {
                    of.first_bytes.record(ms);
                    if ms < QUICK_MS {
                        of.good(Class::Request, at);
                    } else {
                        of.maybe_slow.push((at, ms));
                    }
                }
            }
        }
    }

    /// The report, now that everything was taken.
    pub(super) fn close(mut self, sources: Sources) -> Report {
        let question = self.question;
        let (mut major, mut background, mut series) = (Vec::new(), Vec::new(), Vec::new());
        for (who, of) in &mut self.of {
            of.settle();
            let (large, small): (Vec<_>, Vec<_>) = of.episodes(who, question).into_iter().partition(is_major);
            if !large.is_empty() {
                series.push(of.series(who, question));
            }
            major.extend(large);
            background.extend(small);
        }
        // Stable: what begins at the same moment stays in the order of who saw it.
        major.sort_by_key(|episode| (episode.from, episode.cause));
        background.sort_by_key(|episode| (episode.from, episode.cause));
        self.agents.sort();
        Report {
            schema: SCHEMA.to_owned(),
            since: question.since,
            until: question.until,
            incidents: incidents(major, &sources),
            background,
            agents: self.agents,
            series,
            left_out: self.left_out,
            sources,
        }
    }
}

fn incidents(episodes: Vec<Episode>, sources: &Sources) -> Vec<Incident> {
    let mut incidents: Vec<Incident> = Vec::new();
    for episode in episodes {
        match incidents.last_mut() {
            Some(last) if episode.from.0 - last.to.0 <= REACH_NS => {
                last.to = last.to.max(episode.to);
                last.episodes.push(episode);
            }
            _ => incidents.push(Incident {
                from: episode.from,
                to: episode.to,
                recovered_at: None,
                services: BTreeSet::new(),
                destinations: BTreeSet::new(),
                causes: Vec::new(),
                episodes: vec![episode],
                losses: Vec::new(),
            }),
        }
    }
    for incident in &mut incidents {
        incident.sum_up(sources);
    }
    incidents
}

impl Incident {
    fn sum_up(&mut self, sources: &Sources) {
        let mut causes: Vec<CauseTotal> = Vec::new();
        for episode in &self.episodes {
            self.services.extend(episode.service.clone());
            self.destinations.insert(episode.destination.clone());
            match causes.iter_mut().find(|total| total.cause == episode.cause) {
                Some(total) => total.count += episode.count,
                None => causes.push(CauseTotal {
                    cause: episode.cause,
                    meaning: episode.cause.meaning().to_owned(),
                    from: episode.from,
                    count: episode.count,
                }),
            }
        }
        self.causes = causes;
        let recovered: Option<Vec<_>> = self.episodes.iter().map(|episode| episode.recovered_at).collect();
        self.recovered_at = recovered.and_then(|all| all.into_iter().max());
        // Until it is known to be over.
        let over = self.recovered_at.unwrap_or(Nanos(i64::MAX));
        for host in &sources.hosts {
            let meanwhile = host.losses.iter();
            let meanwhile = meanwhile.filter(|loss| loss.to >= self.from && loss.from <= over);
            self.losses.extend(meanwhile.map(|loss| HostLoss {
                host: host.host.to_string(),
                loss: loss.clone(),
            }));
        }
    }
}
