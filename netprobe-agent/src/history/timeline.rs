//! The story of a time: what went wrong first, whom it affected, what the kernel showed of it, and when it was over.
//!
//! - A **symptom** is what an event tells: see [`Cause`]. A request is slow when its first byte took a second, or 50 ms and
//!   four times the median of its service and destination in the whole time.
//! - Symptoms of one host, service, destination and cause are an **episode** until a minute passes without one.
//! - An episode is **major** with at least three symptoms, and one in twenty of what was tried meanwhile (connects, ends of
//!   connections or requests, whatever the cause is about). The others are background: they are listed apart.
//! - Major episodes are one **incident** until a minute passes without any. Its first symptom is that of its first episode.
//! - An episode is **recovered** with the first success of its kind after its last symptom. An incident is when all
//!   its episodes are.
//!
//! What came first is what happened first, by the clocks of the hosts. It is not said that it caused the rest.

mod cause;
mod document;
mod fold;
mod mark;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use cause::Cause;
use fold::Fold;

use super::{
    read, slots,
    sources::{Loss, Sources},
};
use crate::{
    archive::{
        read::Span,
        store::{Store, StoreError},
    },
    event::{AgentAction, FlowRole, Nanos},
    filter::Filter,
};

/// Name and version of the report's form.
pub const SCHEMA: &str = "netprobe.timeline/1";

/// Longest time of a report: ten days.
const LONGEST_NS: i64 = 10 * 86_400_000_000_000;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    since: Nanos,
    until: Nanos,
    filter: Filter,
    at_once: usize,
}

impl Question {
    /// A question about the time from `since` on, before `until`. The error is a sentence.
    pub fn new(since: Nanos, until: Nanos, filter: Filter) -> Result<Question, String> {
        if since >= until {
            return Err(format!("since ({since}) is not before until ({until})"));
        }
        if until.0.saturating_sub(since.0) > LONGEST_NS {
            return Err("a timeline is of ten days at most; it is about an incident".to_owned());
        }
        Ok(Question {
            since,
            until,
            filter,
            at_once: 1,
        })
    }

    /// The same, with so many segments decoded at a time.
    pub fn at_once(self, at_once: usize) -> Question {
        Question { at_once, ..self }
    }

    const fn holds(&self, at: Nanos) -> bool {
        self.since.0 <= at.0 && at.0 < self.until.0
    }
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = TimelineReport)]
pub struct Report {
    /// Always `netprobe.timeline/1`.
    pub schema: String,
    /// Begin of the time.
    pub since: Nanos,
    /// End of it.
    pub until: Nanos,
    /// Incidents, in order.
    pub incidents: Vec<Incident>,
    /// Episodes that are too small for one.
    pub background: Vec<Episode>,
    /// What the agents said of themselves and their hosts.
    pub agents: Vec<AgentNote>,
    /// What was tried and what failed, slot by slot, of everything with a part in an incident.
    pub series: Vec<Series>,
    /// Events of services and destinations beyond the 10,000 that a report holds.
    pub left_out: u64,
    /// Where all this comes from, and what is not there.
    pub sources: Sources,
}

/// Episodes without a quiet minute between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Incident {
    /// First symptom.
    pub from: Nanos,
    /// Last symptom.
    pub to: Nanos,
    /// When the last of its episodes recovered; `null`: one of them is not known to have.
    pub recovered_at: Option<Nanos>,
    /// Services affected.
    pub services: BTreeSet<String>,
    /// Destinations affected.
    pub destinations: BTreeSet<String>,
    /// Causes, in the order in which they were first seen.
    pub causes: Vec<CauseTotal>,
    /// Episodes, in the order in which they began: the first one has the first symptom.
    pub episodes: Vec<Episode>,
    /// Losses of the probe's own meanwhile: what is missing here may have been in them.
    pub losses: Vec<HostLoss>,
}

/// How often something went wrong in an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CauseTotal {
    /// The cause.
    pub cause: Cause,
    /// What it says about where to look.
    pub meaning: String,
    /// First symptom.
    pub from: Nanos,
    /// Symptoms.
    pub count: u64,
}

/// Symptoms of one host, service, destination and cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Episode {
    /// First symptom.
    pub from: Nanos,
    /// Last symptom.
    pub to: Nanos,
    /// Who saw it.
    pub host: String,
    /// Whose connections and requests.
    pub service: Option<String>,
    /// Which side that is.
    pub role: FlowRole,
    /// What was dialed; for a server: where it listens.
    pub destination: String,
    /// What went wrong.
    pub cause: Cause,
    /// Symptoms.
    pub count: u64,
    /// Connects, ends of connections or requests meanwhile, by slots of 10 s.
    pub tried: u64,
    /// The first success of its kind after the last symptom; `null`: none is known.
    pub recovered_at: Option<Nanos>,
}

/// A loss of the probe's own, with its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostLoss {
    /// The host.
    pub host: String,
    /// What is not there.
    #[serde(flatten)]
    pub loss: Loss,
}

/// What an agent said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentNote {
    /// When.
    pub at: Nanos,
    /// Its host.
    pub host: String,
    /// What it did.
    pub action: AgentAction,
    /// A sentence.
    pub message: Option<String>,
}

/// What was tried and what failed, slot by slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Series {
    /// Who saw it.
    pub host: String,
    /// Whose connections and requests.
    pub service: Option<String>,
    /// Which side that is.
    pub role: FlowRole,
    /// What was dialed; for a server: where it listens.
    pub destination: String,
    /// Slots in which something happened, in order.
    pub points: Vec<Point>,
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Point {
    /// Begin.
    pub at: Nanos,
    /// Connects and requests that went well.
    pub good: u64,
    /// Symptoms of any cause.
    pub bad: u64,
}

/// Makes the report. `seen` is told of every segment read, with how many there are.
pub async fn report(store: &Store, question: &Question, seen: impl FnMut(u64)) -> Result<Report, StoreError> {
    let mut fold = Fold::new(question);
    // A connect that hung is told at its end; a recovery may come after.
    let late = super::TOLD_LATE_NS + slots::REACH_NS;
    let asked = read::Question {
        span: Span {
            since: Some(question.since),
            until: Some(Nanos(question.until.0.saturating_add(late))),
        },
        filter: question.filter.clone(),
        at_once: question.at_once,
    };
    let sources = read::walk(store, &asked, mark::mark, |mark| fold.take(mark), seen).await?;
    Ok(fold.close(sources))
}
