//! What changes something: log levels and browser sessions.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{ConnectInfo, Extension, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    access::{Access, Caller, Way},
    dto::API_VERSION,
    limits,
    problem::{Problem, Problems},
    sessions::LIFE,
};
use crate::{
    config::{LogLevel, Role},
    logging::{self, Levels},
};

/// Log levels in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LogAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Least level written.
    pub level: LogLevel,
    /// Levels of single modules; the longest name that fits wins.
    pub targets: BTreeMap<String, LogLevel>,
}

/// Log levels wanted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogRequest {
    /// Least level written.
    level: LogLevel,
    /// Levels of single modules, instead of those in force.
    #[serde(default)]
    targets: BTreeMap<String, LogLevel>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SessionAnswer {
    /// Version of the API.
    pub api_version: String,
    /// What the caller may do; `null`: nothing.
    pub role: Option<Role>,
    /// Name of the token, in `api.tokens`; `null`: without token.
    pub token: Option<String>,
}

/// A token to exchange.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionRequest {
    /// The token.
    token: String,
}

/// Log levels in force.
#[utoipa::path(get, path = "/api/v1/log", tag = "operate",
    responses((status = 200, description = "The levels", body = LogAnswer), Problems))]
pub(super) async fn log() -> Json<LogAnswer> {
    let Levels { level, targets } = logging::levels();
    Json(LogAnswer {
        api_version: API_VERSION.to_owned(),
        level,
        targets,
    })
}

/// Changes log levels until the next change, reload or restart. Takes the role operator.
#[utoipa::path(put, path = "/api/v1/log", tag = "operate", request_body = LogRequest,
    responses((status = 200, description = "The levels now in force", body = LogAnswer), Problems))]
pub(super) async fn set_log(
    Extension(caller): Extension<Caller>,
    limits::Json(LogRequest { level, targets }): limits::Json<LogRequest>,
) -> Json<LogAnswer> {
    tracing::info!(
        token = caller.token,
        level = level.name(),
        "log levels changed through the API"
    );
    logging::set_levels(&Levels { level, targets });
    log().await
}

/// Who the caller is.
#[utoipa::path(get, path = "/api/v1/session", tag = "operate",
    responses((status = 200, description = "Role and token of the caller", body = SessionAnswer), Problems))]
pub(super) async fn session(Extension(caller): Extension<Caller>) -> Json<SessionAnswer> {
    Json(SessionAnswer {
        api_version: API_VERSION.to_owned(),
        role: caller.role,
        token: caller.token,
    })
}

/// Exchanges a token for a cookie that lasts eight hours: HttpOnly, SameSite=Strict.
#[utoipa::path(post, path = "/api/v1/session", tag = "operate", request_body = SessionRequest,
    responses((status = 201, description = "The session is open, its cookie set", body = SessionAnswer), Problems))]
pub(super) async fn open_session(
    State(access): State<Arc<Access>>,
    Extension(way): Extension<Way>,
    address: Option<Extension<ConnectInfo<SocketAddr>>>,
    limits::Json(SessionRequest { token }): limits::Json<SessionRequest>,
) -> Response {
    let Some((name, role)) = access.token(&token) else {
        return access.wrong_token(address.map(|Extension(ConnectInfo(address))| address.ip()));
    };
    let cookie = access
        .sessions
        .open(&name, way.is_secure(), Instant::now())
        .ok()
        .and_then(|cookie| HeaderValue::try_from(cookie).ok());
    let Some(cookie) = cookie else {
        let detail = "the system gave no random bytes for a session; ask again";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    };
    tracing::info!(
        token = name,
        hours = LIFE.as_secs() / 3600,
        "a browser session was opened"
    );
    let answer = SessionAnswer {
        api_version: API_VERSION.to_owned(),
        role: Some(role),
        token: Some(name),
    };
    (StatusCode::CREATED, [(header::SET_COOKIE, cookie)], Json(answer)).into_response()
}

/// Ends the session of the cookie.
#[utoipa::path(delete, path = "/api/v1/session", tag = "operate",
    responses((status = 204, description = "The session has ended, the cookie is taken away"), Problems))]
pub(super) async fn close_session(
    State(access): State<Arc<Access>>,
    Extension(way): Extension<Way>,
    headers: HeaderMap,
) -> Response {
    let cookies = headers.get(header::COOKIE).and_then(|value| value.to_str().ok());
    let cookie = access
        .sessions
        .close(cookies.unwrap_or_default(), way.is_secure());
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}
