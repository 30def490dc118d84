//! Errors as RFC 9457 problem details.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, response};

use super::dto::API_VERSION;

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Version of the API.
    pub api_version: String,
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of the status.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong with this request, and what is allowed.
    pub detail: String,
}

const MEDIA_TYPE: &str = "application/problem+json";

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            api_version: API_VERSION.to_owned(),
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// The answer with one more header.
    pub(super) fn with(self, name: HeaderName, value: impl Into<HeaderValue>) -> Response {
        let mut response = self.into_response();
        response.headers_mut().insert(name, value.into());
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let media_type = HeaderValue::from_static(MEDIA_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }
}

/// In the contract: what every path answers when it cannot do what it is asked.
pub(super) struct Problems;

impl utoipa::IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<response::Response>> {
        let schema = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new()
            .description("A problem: its `detail` says what is wrong and what is allowed.")
            .content(MEDIA_TYPE, content)
            .build();
        [("default".to_owned(), RefOr::T(response))].into()
    }
}
