//! `GET /`: the dashboard, built files of `dashboards/web` inside the binary.
//!
//! The page loads nothing from elsewhere and may run nothing but its own script: the policy says so to the browser.

use axum::{
    Router,
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::problem::Problem;

#[derive(RustEmbed)]
#[folder = "../dashboards/web/dist"]
struct Files;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Said with every file.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| async { file("index.html", "no-cache") }))
        // Their names change with their content.
        .route(
            "/assets/{name}",
            get(|Path(name): Path<String>| async move {
                file(&format!("assets/{name}"), "public, max-age=31536000, immutable")
            }),
        )
}

fn file(path: &str, keep: &'static str) -> Response {
    let Some(EmbeddedFile { data, metadata }) = Files::get(path) else {
        let detail = format!("there is nothing at `/{path}`");
        return Problem::new(StatusCode::NOT_FOUND, detail).into_response();
    };
    let content = [
        (header::CONTENT_TYPE, metadata.mimetype().to_owned()),
        (header::CACHE_CONTROL, keep.to_owned()),
    ];
    (HEADERS, content, data).into_response()
}
