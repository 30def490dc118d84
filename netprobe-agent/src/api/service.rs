//! What the API can do, without HTTP.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::dto::{
    API_VERSION, ArchiveAnswer, EventsAnswer, FlowsAnswer, Health, HealthCheck, NetworkAnswer, ProbeAnswer,
    ResilienceAnswer, Saturation, Table, Target,
};
use crate::{
    archive::{
        self, Archive,
        page::{self, Cursor, Question},
        read::Span,
    },
    event::{Event, Nanos},
    filter::Filter,
    kafka::{self, Kafka},
    metrics::{Format, Metrics},
    probe_report::ProbeReport,
    query::{Handle, QueryError},
    recent::Recent,
    stream::Gateway,
};

/// Flows asked of the pipeline at once: about a millisecond of its time.
const FLOWS_AT_ONCE: usize = 2000;
/// Events looked at without giving other requests a turn.
const EVENTS_AT_ONCE: usize = 4096;
/// Time a listing may take before it answers with what it has and a cursor.
const LISTING_TIME: Duration = Duration::from_secs(1);

/// Everything a request can need.
#[derive(Clone, Debug)]
pub struct Service {
    /// The way to the pipeline.
    pub handle: Handle,
    /// The metrics the pipeline counts.
    pub metrics: Arc<Metrics>,
    /// The last events.
    pub recent: Recent,
    /// Events as they come.
    pub stream: Arc<Gateway>,
    /// The history; `None`: nothing is archived.
    pub archive: Option<Archive>,
    /// The way into Kafka; `None`: nothing is sent there.
    pub kafka: Option<Kafka>,
    /// Run of the agent, part of cursors.
    pub run: Arc<str>,
}

/// A listing request.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) filter: Filter,
    pub(super) cursor: Option<String>,
    pub(super) limit: usize,
    /// Events: only the last so many that match.
    pub(super) last: Option<usize>,
    pub(super) since: Option<Nanos>,
    pub(super) until: Option<Nanos>,
}

impl Listing {
    fn wants(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.ts >= since)
            && self.until.is_none_or(|until| event.ts < until)
            && self.filter.matches(event)
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error(transparent)]
    Pipeline(#[from] QueryError),
    #[error("{0}")]
    BadRequest(String),
    #[error("the archive cannot be read: {0}")]
    Archive(String),
}

impl Service {
    pub(super) fn live(&self) -> Health {
        let alive = self.handle.is_alive();
        let detail = if alive {
            "the pipeline runs"
        } else {
            "the pipeline has ended"
        };
        health(vec![check("pipeline", alive, detail.to_owned())])
    }

    pub(super) async fn ready(&self) -> Health {
        let report = match self.handle.probe().await {
            Ok(report) => report,
            Err(error) => return health(vec![check("pipeline", false, error.to_string())]),
        };
        let missing: Vec<_> = report
            .facts
            .iter()
            .filter(|fact| fact.required && fact.method.is_none())
            .map(|fact| fact.fact.as_str())
            .collect();
        let measured = report.facts.iter().filter(|fact| fact.method.is_some()).count();
        let detail = if missing.is_empty() {
            format!(
                "{measured} of {} facts are measured, all required ones among them",
                report.facts.len()
            )
        } else {
            format!("required facts without a method: {}", missing.join(", "))
        };
        health(vec![
            check("pipeline", true, "the pipeline answers".to_owned()),
            check("facts", missing.is_empty(), detail),
            check(
                "older_connections",
                !report.taking_over,
                if report.taking_over {
                    "connections older than the agent are still being taken over".to_owned()
                } else {
                    "connections older than the agent are taken over".to_owned()
                },
            ),
        ])
    }

    pub(super) async fn probe(&self) -> Result<ProbeAnswer, ServiceError> {
        let report = self.report().await?;
        Ok(ProbeAnswer {
            api_version: API_VERSION.to_owned(),
            report,
        })
    }

    /// What the pipeline knows of itself, the stream's clients, the archive, and the way into Kafka.
    async fn report(&self) -> Result<ProbeReport, ServiceError> {
        let mut report = *self.handle.probe().await?;
        report.stream = Some(self.stream.report());
        report.archive = self.archive.as_ref().map(Archive::report);
        report.kafka = self.kafka.as_ref().map(Kafka::report);
        Ok(report)
    }

    pub(super) async fn scrape(&self, format: Format) -> Result<Vec<u8>, ServiceError> {
        let report = self.report().await?;
        Ok(self.metrics.render(Some(&report), format))
    }

    pub(super) async fn network(&self) -> Result<NetworkAnswer, ServiceError> {
        let report = self.report().await?;
        let tables = report.maps.into_iter().filter_map(|map| {
            Some(Table {
                table: map.name,
                entries: map.entries?,
                capacity: map.capacity,
            })
        });
        Ok(NetworkAnswer {
            api_version: API_VERSION.to_owned(),
            complete: report.governor.is_none_or(|governor| governor.keeps("windows")),
            pairs: self.metrics.network(),
            saturation: Saturation {
                ring_fill: report.ring.map(|ring| ring.fill),
                listen_overflows: report.listen_overflows,
                tables: tables.collect(),
                accept_queues: report.accept_queues,
                limits: report.limits,
            },
        })
    }

    pub(super) async fn resilience(&self) -> Result<ResilienceAnswer, ServiceError> {
        let report = self.report().await?;
        let sinks = report.ledger.into_iter().flat_map(|ledger| ledger.sinks);
        let targets = sinks.map(|sink| {
            let way = match &*sink.sink {
                archive::NAME => report
                    .archive
                    .as_ref()
                    .map(|archive| (archive.circuit, archive.last_success, &archive.last_error)),
                kafka::NAME => report
                    .kafka
                    .as_ref()
                    .map(|kafka| (kafka.circuit, kafka.last_success, &kafka.last_error)),
                _ => None,
            };
            Target {
                circuit: way.map(|(circuit, ..)| circuit.name().to_owned()),
                last_success: way.and_then(|(_, last_success, _)| last_success),
                last_error: way.and_then(|(.., last_error)| last_error.clone()),
                target: sink.sink,
                queued: sink.queued,
                lost: sink.lost.values().sum(),
            }
        });
        let targets = targets.collect();
        Ok(ResilienceAnswer {
            api_version: API_VERSION.to_owned(),
            run: self.run.to_string(),
            destinations: self.metrics.destinations(),
            targets,
            archive: report.archive,
            kafka: report.kafka,
            governor: report.governor,
        })
    }

    pub(super) async fn flows(&self, listing: &Listing) -> Result<FlowsAnswer, ServiceError> {
        let begin = Instant::now();
        let mut after = match &listing.cursor {
            None => None,
            Some(cursor) => Some(cursor.parse().map_err(|_| bad_cursor(cursor))?),
        };
        let mut flows = Vec::new();
        // No more than the page can take, and one that tells whether there are more. When the filter leaves some out,
        // larger bites follow.
        let mut at_once = FLOWS_AT_ONCE.min(listing.limit + 1);
        loop {
            let page = self.handle.flows(after, at_once).await?;
            at_once = FLOWS_AT_ONCE;
            for (position, flow) in page.flows {
                if flows.len() == listing.limit {
                    return Ok(flows_answer(flows, after));
                }
                after = Some(position);
                if listing.wants(&flow) {
                    flows.push(flow);
                }
            }
            if !page.more {
                return Ok(flows_answer(flows, None));
            }
            if begin.elapsed() > LISTING_TIME {
                return Ok(flows_answer(flows, after));
            }
        }
    }

    /// The history, from the archive itself.
    pub(super) async fn archive(&self, listing: &Listing) -> Result<ArchiveAnswer, ServiceError> {
        let store = self.history()?;
        let after = match &listing.cursor {
            None => None,
            Some(cursor) => Some(Cursor::parse(cursor).ok_or_else(|| bad_cursor(cursor))?),
        };
        let a_day_ago = || Nanos(Nanos::now().0.saturating_sub(86_400_000_000_000));
        let question = Question {
            span: Span {
                since: Some(listing.since.unwrap_or_else(a_day_ago)),
                until: listing.until,
            },
            filter: listing.filter.clone(),
            after,
            limit: listing.limit,
            patience: LISTING_TIME,
        };
        let page = page::page(&store, &question)
            .await
            .map_err(|error| ServiceError::Archive(error.to_string()))?;
        Ok(ArchiveAnswer {
            api_version: API_VERSION.to_owned(),
            events: page.events,
            next_cursor: page.next.map(|cursor| cursor.text()),
            damaged: page.damaged,
        })
    }

    pub(super) async fn events(&self, listing: &Listing) -> Result<EventsAnswer, ServiceError> {
        let (mut after, run_changed) = match &listing.cursor {
            None => (None, false),
            Some(cursor) => {
                let (run, seq) = cursor.split_once('-').ok_or_else(|| bad_cursor(cursor))?;
                let seq: u64 = seq.parse().map_err(|_| bad_cursor(cursor))?;
                if run == &*self.run {
                    (Some(seq), false)
                } else {
                    (None, true)
                }
            }
        };
        let oldest = self.recent.after(0, 0).oldest;
        // What came before the first number held is gone: for a reader with a cursor that is a hole to tell of.
        let missed = match (after, oldest) {
            (Some(after), Some(oldest)) => (oldest - 1).saturating_sub(after),
            _ => 0,
        };
        let mut events = std::collections::VecDeque::new();
        let mut more = false;
        'all: loop {
            let page = self.recent.after(after.unwrap_or(0), EVENTS_AT_ONCE);
            if page.events.is_empty() {
                break;
            }
            for event in page.events {
                let wanted = listing.wants(&event);
                if wanted && listing.last.is_none() && events.len() == listing.limit {
                    more = true;
                    break 'all;
                }
                after = event.seq;
                if wanted {
                    if listing
                        .last
                        .is_some_and(|last| events.len() == last.min(listing.limit))
                    {
                        events.pop_front();
                    }
                    events.push_back(event);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(EventsAnswer {
            api_version: API_VERSION.to_owned(),
            events: events.into(),
            next_cursor: format!("{}-{}", self.run, after.unwrap_or(0)),
            more,
            missed,
            run_changed,
        })
    }
}

fn flows_answer(flows: Vec<Event>, after: Option<u64>) -> FlowsAnswer {
    let next_cursor = after.map(|after| after.to_string());
    FlowsAnswer {
        api_version: API_VERSION.to_owned(),
        flows,
        next_cursor,
    }
}

fn bad_cursor(cursor: &str) -> ServiceError {
    ServiceError::BadRequest(format!(
        "cursor `{cursor}` is not one this API gave; use `next_cursor` of an answer"
    ))
}

fn check(name: &str, passed: bool, detail: String) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        status: if passed { "pass" } else { "fail" }.to_owned(),
        detail,
    }
}

fn health(checks: Vec<HealthCheck>) -> Health {
    let passed = checks.iter().all(|check| check.status == "pass");
    Health {
        api_version: API_VERSION.to_owned(),
        status: if passed { "pass" } else { "fail" }.to_owned(),
        checks,
    }
}
