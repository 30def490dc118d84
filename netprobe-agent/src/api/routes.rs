//! Paths to the service and back.

use std::{any::Any, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRef, RawQuery, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::TraceLayer,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    access::{self, Access},
    dashboard,
    dto::{ArchiveAnswer, EventsAnswer, FlowsAnswer, Health, NetworkAnswer, ProbeAnswer, ResilienceAnswer},
    limits, openapi,
    openapi::{ArchiveParameters, EventParameters, FlowParameters},
    operate,
    problem::{Problem, Problems},
    reports,
    service::{Listing, Service, ServiceError},
    stream::{self, Streaming},
};
use crate::{event::Nanos, filter::Filter, metrics::Format};

/// Items of a page when the request does not say.
pub(super) const DEFAULT_LIMIT: usize = 1000;
/// Most items of a page.
pub(super) const MAX_LIMIT: usize = 10_000;

/// What handlers need.
#[derive(Clone)]
pub(super) struct App {
    pub(super) service: Arc<Service>,
    pub(super) streaming: Streaming,
    pub(super) access: Arc<Access>,
}

impl FromRef<App> for Arc<Service> {
    fn from_ref(app: &App) -> Self {
        app.service.clone()
    }
}

impl FromRef<App> for Streaming {
    fn from_ref(app: &App) -> Self {
        app.streaming.clone()
    }
}

impl FromRef<App> for Arc<Access> {
    fn from_ref(app: &App) -> Self {
        app.access.clone()
    }
}

/// Every path, each with its place in the contract.
pub(super) fn paths() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(metrics))
        .routes(routes!(network))
        .routes(routes!(resilience))
        .routes(routes!(flows))
        .routes(routes!(events))
        .routes(routes!(archive))
        .routes(routes!(reports::sla))
        .routes(routes!(reports::timeline))
        .routes(routes!(probe))
        .routes(routes!(stream::stream))
        .routes(routes!(operate::log, operate::set_log))
        .routes(routes!(
            operate::session,
            operate::open_session,
            operate::close_session
        ))
        .routes(routes!(contract))
}

/// The paths behind everything a request has to pass, outermost last.
pub(super) fn router(app: App) -> Router {
    let (router, _) = paths().split_for_parts();
    let access = app.access.clone();
    router
        .merge(dashboard::routes())
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .with_state(app)
        .layer(middleware::from_fn_with_state(limits::turns(), limits::turn))
        .layer(middleware::from_fn_with_state(access, access::check))
        .layer(middleware::from_fn(limits::sizes))
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(
            TraceLayer::new_for_http()
                .on_request(())
                .on_eos(())
                .make_span_with(|request: &axum::extract::Request| {
                    let id = request.headers().get("x-request-id");
                    tracing::debug_span!(
                        "request",
                        method = %request.method(),
                        // Without the query: the log is no place for what people search for.
                        path = request.uri().path(),
                        request_id = id.and_then(|id| id.to_str().ok()),
                    )
                }),
        )
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}

fn panicked(what: Box<dyn Any + Send + 'static>) -> Response {
    let what = what
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| what.downcast_ref::<&str>().copied());
    tracing::error!(what, "a request ended by a panic; report this");
    let detail = "the agent made a mistake; its log says more";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
}

/// Whether the agent works at all.
#[utoipa::path(get, path = "/health/live", tag = "health", security(()),
    responses((status = 200, description = "It does", body = Health),
        (status = 503, description = "It does not: restart it", body = Health), Problems))]
async fn live(State(service): State<Arc<Service>>) -> Response {
    health(service.live())
}

/// Whether the agent measures everything that is required.
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()),
    responses((status = 200, description = "It does", body = Health),
        (status = 503, description = "It does not; the checks say why", body = Health), Problems))]
async fn ready(State(service): State<Arc<Service>>) -> Response {
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

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "metrics",
    responses((status = 200, description = "Text 0.0.4, or OpenMetrics 1.0 or protobuf when `Accept` prefers it",
        content((String = "text/plain"), (String = "application/openmetrics-text"),
            (Vec<u8> = "application/vnd.google.protobuf"))), Problems))]
async fn metrics(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept);
    match service.scrape(format).await {
        Ok(page) => ([(header::CONTENT_TYPE, format.media_type())], page).into_response(),
        Err(error) => error.into_response(),
    }
}

/// The last minutes of each service and peer: quantiles, rates, errors, saturation.
#[utoipa::path(get, path = "/metrics/network", tag = "metrics",
    responses((status = 200, description = "The last minutes", body = NetworkAnswer), Problems))]
async fn network(State(service): State<Arc<Service>>) -> Response {
    answer(service.network().await)
}

/// How destinations do, where the agent's own events go, and what it sheds.
#[utoipa::path(get, path = "/resilience/state", tag = "read",
    responses((status = 200, description = "The states", body = ResilienceAnswer), Problems))]
async fn resilience(State(service): State<Arc<Service>>) -> Response {
    answer(service.resilience().await)
}

/// Live flows, page by page.
#[utoipa::path(get, path = "/api/v1/flows", tag = "read", params(FlowParameters),
    responses((status = 200, description = "A page", body = FlowsAnswer), Problems))]
async fn flows(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Response {
    answer(
        async {
            service
                .flows(&listing(query.as_deref(), &["cursor", "limit"])?)
                .await
        }
        .await,
    )
}

/// The last events, oldest first, page by page.
#[utoipa::path(get, path = "/api/v1/events", tag = "read", params(EventParameters),
    responses((status = 200, description = "A page", body = EventsAnswer), Problems))]
async fn events(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Response {
    let allowed = ["cursor", "limit", "last", "since", "until"];
    answer(async { service.events(&listing(query.as_deref(), &allowed)?).await }.await)
}

/// The history: events of the archive, page by page, of the last 24 hours when `since` does not say otherwise.
#[utoipa::path(get, path = "/api/v1/archive", tag = "read", params(ArchiveParameters),
    responses((status = 200, description = "A page", body = ArchiveAnswer), Problems))]
async fn archive(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Response {
    let allowed = ["cursor", "limit", "since", "until"];
    answer(async { service.archive(&listing(query.as_deref(), &allowed)?).await }.await)
}

/// Methods, programs, maps, both equations of the ledger, and what the agent costs.
#[utoipa::path(get, path = "/api/v1/probe", tag = "read",
    responses((status = 200, description = "The report", body = ProbeAnswer), Problems))]
async fn probe(State(service): State<Arc<Service>>) -> Response {
    answer(service.probe().await)
}

/// This contract.
#[utoipa::path(get, path = "/openapi.json", tag = "contract", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Problems))]
async fn contract() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::text()).into_response()
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at `{}`", uri.path()),
    )
}

async fn not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!(
        "`{method}` is not allowed on `{}`; see the header Allow",
        uri.path()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

pub(super) fn answer(result: Result<impl serde::Serialize, ServiceError>) -> Response {
    match result {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error.into_response(),
    }
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        let status = match &self {
            ServiceError::Pipeline(_) | ServiceError::Archive(_) => StatusCode::SERVICE_UNAVAILABLE,
            ServiceError::BadRequest(_) => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, self.to_string()).into_response()
    }
}

/// Query parameters of a listing: those of the filter grammar and those in `others`.
pub(super) fn listing(query: Option<&str>, others: &[&str]) -> Result<Listing, ServiceError> {
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
