//! Paths to the service and back.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    dto::Health,
    guard::{self, Allowed},
    problem::Problem,
    service::{Listing, Service, ServiceError},
    stream::{self, Streaming},
};
use crate::{event::Nanos, filter::Filter, metrics::Format};

/// Items of a page when the request does not say.
const DEFAULT_LIMIT: usize = 1000;
/// Most items of a page.
const MAX_LIMIT: usize = 10_000;

type App = State<Arc<Service>>;

pub(super) fn router(service: Arc<Service>, streaming: Streaming, allowed: Allowed) -> Router {
    let live_events = Router::new()
        .route("/api/v1/stream", get(stream::stream))
        .with_state(streaming);
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/flows", get(flows))
        .route("/api/v1/events", get(events))
        .route("/api/v1/probe", get(probe))
        .merge(live_events)
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(allowed, guard::check))
        .with_state(service)
}

async fn live(State(service): App) -> Response {
    health(service.live())
}

async fn ready(State(service): App) -> Response {
    health(service.ready().await)
}

fn health(health: Health) -> Response {
    let status = if health.status == "pass" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

async fn metrics(State(service): App, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept);
    match service.scrape(format).await {
        Ok(page) => ([(header::CONTENT_TYPE, format.media_type())], page).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn flows(State(service): App, RawQuery(query): RawQuery) -> Response {
    answer(
        async {
            service
                .flows(&listing(query.as_deref(), &["cursor", "limit"])?)
                .await
        }
        .await,
    )
}

async fn events(State(service): App, RawQuery(query): RawQuery) -> Response {
    let allowed = ["cursor", "limit", "last", "since", "until"];
    answer(async { service.events(&listing(query.as_deref(), &allowed)?).await }.await)
}

async fn probe(State(service): App) -> Response {
    answer(service.probe().await)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at `{}`", uri.path()),
    )
}

async fn not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{method}` is not allowed on `{}`; GET is", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn answer(result: Result<impl serde::Serialize, ServiceError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error.into_response(),
    }
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        let status = match &self {
            ServiceError::Pipeline(_) => StatusCode::SERVICE_UNAVAILABLE,
            ServiceError::BadRequest(_) => StatusCode::BAD_REQUEST,
            ServiceError::Render(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, self.to_string()).into_response()
    }
}

/// Query parameters of a listing: those of the filter grammar and those in `others`.
fn listing(query: Option<&str>, others: &[&str]) -> Result<Listing, ServiceError> {
    let mut listing = Listing {
        limit: DEFAULT_LIMIT,
        ..Listing::default()
    };
    let mut filters = Vec::new();
    let bad = ServiceError::BadRequest;
    for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
        if !others.contains(&&*name) {
            filters.push((name, value));
            continue;
        }
        let number = || match value.parse() {
            Ok(number) if (1..=MAX_LIMIT).contains(&number) => Ok(number),
            _ => Err(bad(format!(
                "{name}=`{value}` is not allowed; 1 to {MAX_LIMIT} is"
            ))),
        };
        let time = || {
            Nanos::parse(&value).map_err(|_| {
                bad(format!(
                    "{name}=`{value}` is not a time; write it like 2026-11-21T10:00:00Z"
                ))
            })
        };
        match &*name {
            "limit" => listing.limit = number()?,
            "last" => listing.last = Some(number()?),
            "since" => listing.since = Some(time()?),
            "until" => listing.until = Some(time()?),
            _ => listing.cursor = Some(value.into_owned()),
        }
    }
    listing.filter = Filter::from_pairs(filters).map_err(|error| bad(error.to_string()))?;
    Ok(listing)
}
