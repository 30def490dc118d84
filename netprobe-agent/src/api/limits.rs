//! How much a request may bring, how long it may take, and how many are answered at a time.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Most bytes of a path with its query.
const MOST_URI: usize = 8 << 10;
/// Most bytes of all headers. The server itself reads up to [`MOST_HEAD`], so that what is between gets a proper
/// answer.
const MOST_HEADERS: usize = 16 << 10;
/// Most bytes of a request's head the server reads.
pub(super) const MOST_HEAD: usize = 64 << 10;
/// Most bytes of a body.
const MOST_BODY: usize = 64 << 10;
/// How long a request may take until its answer begins.
const TIME: Duration = Duration::from_secs(10);
/// Answers being made or sent at a time: the largest page of a listing is some 12 MB.
const AT_A_TIME: usize = 16;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// Refuses what is too large, before anything else looks at it.
pub(super) async fn sizes(request: Request, next: Next) -> Response {
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri > MOST_URI {
        return too_large(StatusCode::URI_TOO_LONG, "path and query", uri, MOST_URI);
    }
    let headers = request.headers();
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > MOST_HEADERS {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return too_large(status, "headers", bytes, MOST_HEADERS);
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(length) = length.filter(|length| *length > MOST_BODY) {
        return too_large(StatusCode::PAYLOAD_TOO_LARGE, "body", length, MOST_BODY);
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn too_large(status: StatusCode, what: &str, bytes: usize, most: usize) -> Response {
    Problem::new(
        status,
        format!("{what} of {bytes} bytes; {most} bytes are allowed"),
    )
    .into_response()
}

/// Turns for requests.
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_A_TIME))
}

/// Bounds time and number. A turn ends when the last byte of the answer is gone: an answer nobody reads takes
/// memory until then. Health is asked by those who restart the agent, so it never waits.
pub(super) async fn turn(State(turns): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/health/") {
        return next.run(request).await;
    }
    let Ok(Ok(turn)) = tokio::time::timeout(TURN, turns.acquire_owned()).await else {
        let detail = format!("{AT_A_TIME} requests are being answered, and none ended in time; ask again");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(header::RETRY_AFTER, 1);
    };
    match tokio::time::timeout(TIME, next.run(request)).await {
        Ok(response) => response.map(|body| Body::new(Held { body, _turn: turn })),
        Err(_) => {
            let detail = format!("there was no answer within {} s; ask for less", TIME.as_secs());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
        }
    }
}

/// A body that keeps its turn until it is sent.
struct Held {
    body: Body,
    _turn: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of JSON, whose errors are problems.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media_type = request.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()?.split(';').next());
        if !media_type.is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json")) {
            let detail = "the body must be JSON, with `Content-Type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let reading = axum::body::to_bytes(request.into_body(), MOST_BODY);
        let body = match tokio::time::timeout(TIME, reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                let detail = format!("the body broke off, or has more than {MOST_BODY} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            Err(_) => {
                let detail = format!("the body did not come within {} s", TIME.as_secs());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
            }
        };
        serde_json::from_slice(&body).map(Json).map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {error}"),
            )
        })
    }
}
