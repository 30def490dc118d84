//! Up, down and unknown, and latency, per destination and period.
//!
//! A destination is what clients dialed: address and port, as seen by all hosts of the archive. One that means another
//! machine on each host (loopback, link-local) is told by host.

mod document;
mod fact;
mod fold;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    read,
    slots::{self, SLOT_SECONDS},
    sources::Sources,
};
use crate::{
    archive::{
        read::Span,
        store::{Store, StoreError},
    },
    event::Nanos,
    filter::Filter,
};
use fact::fact;
pub(super) use fact::{after, end};
use fold::Fold;

/// Name and version of the report's form.
pub const SCHEMA: &str = "netprobe.sla/1";

/// Most periods of a report.
const MOST_PERIODS: u64 = 1000;
/// Longest time of a report.
const LONGEST_SECONDS: i64 = 400 * 86_400;
const SECOND_NS: i64 = 1_000_000_000;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    since: Nanos,
    until: Nanos,
    period_seconds: i64,
    filter: Filter,
    by_host: bool,
    at_once: usize,
}

impl Question {
    /// A question about the time from `since` on, before `until`, both rounded outwards to slots. Without a `period` it
    /// is one. The error is a sentence.
    pub fn new(
        since: Nanos,
        until: Nanos,
        period: Option<Duration>,
        filter: Filter,
        by_host: bool,
    ) -> Result<Question, String> {
        let last = slots::slot(Nanos(until.0.saturating_sub(1))) + 1;
        let (since, until) = (slots::begin(slots::slot(since)), slots::begin(last));
        if since >= until {
            return Err(format!("since ({since}) is not before until ({until})"));
        }
        let seconds = until.0.saturating_sub(since.0) / SECOND_NS;
        if seconds > LONGEST_SECONDS {
            return Err("a report is of 400 days at most".to_owned());
        }
        let period_seconds = match period {
            None => seconds,
            Some(period) => i64::try_from(period.as_secs()).unwrap_or(i64::MAX),
        };
        if period_seconds < SLOT_SECONDS
            || period_seconds % SLOT_SECONDS != 0
            || period.is_some_and(|p| p.subsec_nanos() != 0)
        {
            return Err(format!("a period is a multiple of {SLOT_SECONDS} s"));
        }
        if seconds as u64 / period_seconds as u64 >= MOST_PERIODS {
            return Err(format!("a report has {MOST_PERIODS} periods at most"));
        }
        Ok(Question {
            since,
            until,
            period_seconds,
            filter,
            by_host,
            at_once: 1,
        })
    }

    /// The same, with so many segments decoded at a time.
    pub fn at_once(self, at_once: usize) -> Question {
        Question { at_once, ..self }
    }

    fn slots(&self) -> (i64, i64) {
        (slots::slot(self.since), slots::slot(self.until))
    }
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SlaReport)]
pub struct Report {
    /// Always `netprobe.sla/1`.
    pub schema: String,
    /// Begin of the time, on a slot.
    pub since: Nanos,
    /// End of it.
    pub until: Nanos,
    /// Seconds of a slot: how finely up, down and unknown are told apart.
    pub slot_seconds: u64,
    /// Every destination that was dialed, by address.
    pub destinations: Vec<Destination>,
    /// Outcomes and requests of destinations beyond the 10,000 that a report holds.
    pub left_out: u64,
    /// Where all this comes from, and what is not there.
    pub sources: Sources,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SlaDestination)]
pub struct Destination {
    /// Address and port.
    pub destination: String,
    /// Address.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// The host it is told for; `null`: all that dialed it.
    pub host: Option<String>,
    /// Hosts that dialed it.
    pub hosts: BTreeSet<String>,
    /// Services that dialed it, up to 20.
    pub services: BTreeSet<String>,
    /// Each period in turn.
    pub periods: Vec<Period>,
    /// When it was down.
    pub outages: Vec<Outage>,
}

/// A destination in a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SlaPeriod)]
pub struct Period {
    /// Begin.
    pub from: Nanos,
    /// End.
    pub to: Nanos,
    /// Seconds up.
    pub up_seconds: u64,
    /// Seconds down.
    pub down_seconds: u64,
    /// Seconds of which neither is known.
    pub unknown_seconds: u64,
    /// Why not.
    pub unknown: Unknown,
    /// Up ÷ (up + down); `null`: nothing is known.
    pub uptime: Option<f64>,
    /// Connects established.
    pub connects: u64,
    /// Failures by kind.
    pub failures: Failures,
    /// 95th percentile of the time to connect, milliseconds, at most 0.8 % too high.
    pub connect_p95_ms: Option<f64>,
    /// Requests read.
    pub requests: u64,
    /// Of them, answered with a server's error (5xx, a failed look-up), cut off, or not answered.
    pub requests_failed: u64,
    /// 95th percentile of a request's time, first byte to last, milliseconds.
    pub request_p95_ms: Option<f64>,
}

/// Seconds of which it is not known whether a destination was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SlaUnknown)]
pub struct Unknown {
    /// Nobody tried.
    pub silence_seconds: u64,
    /// The probe lost something, or did not run.
    pub loss_seconds: u64,
    /// One or two failures, and no success: too little to call it down.
    pub few_seconds: u64,
}

/// What failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SlaFailures)]
pub struct Failures {
    /// Connects refused.
    pub refused: u64,
    /// Connects nobody answered, or given up before an answer.
    pub unanswered: u64,
    /// Connects that failed otherwise.
    pub failed: u64,
    /// Established connections that timed out.
    pub timeouts: u64,
}

/// A time in which a destination was down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SlaOutage)]
pub struct Outage {
    /// Begin, on a slot; that of the report when it began before.
    pub from: Nanos,
    /// End, on a slot.
    pub to: Nanos,
    /// Length.
    pub seconds: u64,
    /// First failure, also in the slot before when it was good until then.
    pub first_failure: Nanos,
    /// Last failure, also in the slot after when it was good from then on.
    pub last_failure: Nanos,
    /// A success after the last failure, the first one when nothing succeeded between failures; `null`: what follows
    /// is not known to be up.
    pub recovered_at: Option<Nanos>,
}

/// Makes the report. `seen` is told of every segment read, with how many there are.
pub async fn report(store: &Store, question: &Question, seen: impl FnMut(u64)) -> Result<Report, StoreError> {
    let mut fold = Fold::new(question);
    // What was seen a little before and after speaks for what is inside, and what began inside may be told later.
    let asked = read::Question {
        span: Span {
            since: Some(Nanos(question.since.0.saturating_sub(slots::REACH_NS))),
            until: Some(Nanos(
                question
                    .until
                    .0
                    .saturating_add(slots::REACH_NS + super::TOLD_LATE_NS),
            )),
        },
        filter: question.filter.clone(),
        at_once: question.at_once,
    };
    let sources = read::walk(store, &asked, fact, |fact| fold.take(&fact), seen).await?;
    Ok(fold.close(sources))
}

/// The host a destination has to be told for: its address means another machine on each.
fn host_of(ip: IpAddr, host: &Arc<str>, by_host: bool) -> Option<Arc<str>> {
    (super::is_local(ip) || by_host).then(|| host.clone())
}
