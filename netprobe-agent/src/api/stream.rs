//! `GET /api/v1/stream`: from HTTP to the gateway.

use axum::{
    extract::{Extension, RawQuery, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::sync::watch;

use std::sync::Arc;

use super::{
    access::{Access, Way},
    openapi::StreamParameters,
    problem::{Problem, Problems},
    service::ServiceError,
};
use crate::{
    filter::Filter,
    stream::{Gateway, Wish},
};

/// Longest message of a client: it has nothing to say but close and pong.
const MAX_MESSAGE: usize = 4096;
/// Bytes read at a time: every client holds a buffer of this size.
const READ_BUFFER: usize = 4096;
/// Bytes gathered for one write to the socket, and most that wait for it.
const WRITE_BUFFER: usize = 64 << 10;
const MAX_WRITE_BUFFER: usize = 256 << 10;

/// What a stream needs.
#[derive(Clone, Debug)]
pub(super) struct Streaming {
    pub(super) gateway: Arc<Gateway>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Events as they come: a WebSocket whose text frames are one event each, the first one `hello`.
#[utoipa::path(get, path = "/api/v1/stream", tag = "read", params(StreamParameters),
    responses((status = 101, description = "The WebSocket is open"), Problems))]
pub(super) async fn stream(
    State(streaming): State<Streaming>,
    State(access): State<Arc<Access>>,
    Extension(way): Extension<Way>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let wish = match wish(query.as_deref()) {
        Ok(wish) => wish,
        Err(error) => return error.into_response(),
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let detail = format!("this is a WebSocket: {}", rejection.body_text());
            let answer = Problem::new(StatusCode::UPGRADE_REQUIRED, detail).into_response();
            return ([(header::UPGRADE, "websocket")], answer).into_response();
        }
    };
    let Some(seat) = streaming.gateway.seat() else {
        let most = streaming.gateway.max_clients();
        let detail =
            format!("{most} clients are connected already, no more are allowed; see stream.max_clients");
        let answer = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
        return ([(header::RETRY_AFTER, "5")], answer).into_response();
    };
    upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .on_upgrade(move |socket| async move {
            let leave = seat
                .serve(socket, wish, streaming.stopped, move || {
                    access.may_read(way, &headers)
                })
                .await;
            tracing::debug!(?leave, "a stream client left");
        })
}

/// The filter grammar, and `run` with `from_seq`.
fn wish(query: Option<&str>) -> Result<Wish, ServiceError> {
    let bad = ServiceError::BadRequest;
    let (mut run, mut from, mut filters) = (None, None, Vec::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
        match &*name {
            "run" => run = Some(value.into_owned()),
            "from_seq" => match value.parse::<u64>() {
                Ok(number) if number > 0 => from = Some(number),
                _ => {
                    return Err(bad(format!(
                        "from_seq=`{value}` is not the number of an event; they begin at 1"
                    )));
                }
            },
            _ => filters.push((name, value)),
        }
    }
    let resume = match (run, from) {
        (None, None) => None,
        (Some(run), Some(from)) => Some((run, from)),
        _ => {
            return Err(bad(
                "run and from_seq go together: the last frame seen has both".to_owned()
            ));
        }
    };
    let filter = Filter::from_pairs(filters).map_err(|error| bad(error.to_string()))?;
    Ok(Wish { filter, resume })
}
