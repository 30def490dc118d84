//! Reports out of the archive: `netprobe sla` and `netprobe timeline` by HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use tokio::sync::Semaphore;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use super::{
    dto::{API_VERSION, SlaAnswer, TimelineAnswer},
    openapi,
    problem::Problems,
    routes::{answer, listing},
    service::{Listing, Service, ServiceError},
};
use crate::{
    archive::store::{Store, StoreError},
    config::Period,
    event::Nanos,
    history::{sla, timeline},
};

/// One report is made at a time, by one thread: the agent has something else to do.
static ONE: Semaphore = Semaphore::const_new(1);
/// How long one may take.
const TIME: Duration = Duration::from_secs(8);

/// Query parameters of a report on availability.
pub(super) struct SlaParameters;

impl IntoParams for SlaParameters {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        openapi::report(&[
            ("period", "cut the time into periods of this length, like 1h"),
            ("by_host", "`true`: tell what each host saw apart"),
        ])
    }
}

/// Up, down and unknown, and 95th percentiles, per destination and period, out of the archive.
#[utoipa::path(get, path = "/api/v1/sla", tag = "read", params(SlaParameters),
    responses((status = 200, description = "The report", body = SlaAnswer), Problems))]
pub(super) async fn sla(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Response {
    answer(service.sla(query.as_deref()).await)
}

/// Query parameters of a story.
pub(super) struct TimelineParameters;

impl IntoParams for TimelineParameters {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        openapi::report(&[])
    }
}

/// The story of an incident, out of the archive: first symptom, causes, whom it affected, recovery.
#[utoipa::path(get, path = "/api/v1/timeline", tag = "read", params(TimelineParameters),
    responses((status = 200, description = "The report", body = TimelineAnswer), Problems))]
pub(super) async fn timeline(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Response {
    answer(service.timeline(query.as_deref()).await)
}

/// Query parameters apart from those in `own`, and the values of those.
fn parameters(query: Option<&str>, own: &[&str]) -> Result<(Listing, Vec<Option<String>>), ServiceError> {
    let mut values = vec![None; own.len()];
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
        match own.iter().position(|own| *own == name) {
            Some(index) => values[index] = Some(value.into_owned()),
            None => drop(rest.append_pair(&name, &value)),
        }
    }
    let listing = listing(Some(&rest.finish()), &["since", "until"])?;
    Ok((listing, values))
}

impl Service {
    /// The report of `netprobe sla`.
    async fn sla(&self, query: Option<&str>) -> Result<SlaAnswer, ServiceError> {
        let bad = ServiceError::BadRequest;
        let (listing, values) = parameters(query, &["period", "by_host"])?;
        let (since, until) = span(&listing)?;
        let period = values[0].as_deref().map(Period::parse).transpose().map_err(bad)?;
        let by_host = match values[1].as_deref() {
            None | Some("false") => false,
            Some("" | "true") => true,
            Some(other) => {
                return Err(bad(format!(
                    "by_host=`{other}` is not allowed; true and false are"
                )));
            }
        };
        let period = period.map(|period| period.0);
        let question = sla::Question::new(since, until, period, listing.filter, by_host).map_err(bad)?;
        let store = self.history()?;
        let report = in_time(sla::report(&store, &question, |_| {}), "sla").await?;
        Ok(SlaAnswer {
            api_version: API_VERSION.to_owned(),
            report,
        })
    }

    /// The report of `netprobe timeline`.
    async fn timeline(&self, query: Option<&str>) -> Result<TimelineAnswer, ServiceError> {
        let (listing, _) = parameters(query, &[])?;
        let (since, until) = span(&listing)?;
        let question = timeline::Question::new(since, until, listing.filter);
        let question = question.map_err(ServiceError::BadRequest)?;
        let store = self.history()?;
        let report = in_time(timeline::report(&store, &question, |_| {}), "timeline").await?;
        Ok(TimelineAnswer {
            api_version: API_VERSION.to_owned(),
            report,
        })
    }

    /// The archive, to be read.
    pub(super) fn history(&self) -> Result<Store, ServiceError> {
        let archive = self.archive.as_ref().ok_or_else(|| {
            ServiceError::BadRequest("nothing is archived: `archive.enabled` is false".to_owned())
        })?;
        let unreadable = |error: crate::error::AgentError| ServiceError::Archive(error.to_string());
        archive.store().map_err(unreadable)
    }
}

/// Makes a report, if there is time for it.
async fn in_time<T>(
    report: impl Future<Output = Result<T, StoreError>>,
    command: &str,
) -> Result<T, ServiceError> {
    let made = async {
        // Never closed.
        let _turn = ONE.acquire().await;
        report.await
    };
    match tokio::time::timeout(TIME, made).await {
        Ok(made) => made.map_err(|error| ServiceError::Archive(error.to_string())),
        Err(_) => Err(ServiceError::Archive(format!(
            "this time holds more than can be read within {} s; ask for less, or use `netprobe {command}`",
            TIME.as_secs()
        ))),
    }
}

fn span(listing: &Listing) -> Result<(Nanos, Nanos), ServiceError> {
    listing.since.zip(listing.until).ok_or_else(|| {
        ServiceError::BadRequest("say from when to when: `since` and `until` are both needed".to_owned())
    })
}
