//! The contract, OpenAPI 3.1: made from the handlers and their types, so that it cannot say anything else.

use std::sync::{LazyLock, OnceLock};

use axum::http::Method;
use utoipa::{
    IntoParams, OpenApi as _,
    openapi::{
        Deprecated, Info, ObjectBuilder, OpenApi, Required, SecurityRequirement, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::{
    dto::API_VERSION,
    problem::Problem,
    routes::{self, DEFAULT_LIMIT, MAX_LIMIT},
};
use crate::filter::FLAGS;

#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(Problem)))]
struct Schemas;

/// The contract without its paths.
pub(super) fn frame() -> OpenApi {
    let mut contract = Schemas::openapi();
    contract.info = Info::new("netprobe", API_VERSION);
    contract.info.description = Some(
        "What the agent of a host knows of its connections. Errors are RFC 9457 problem details; every JSON answer has \
         `api_version`. On a loopback address a token may be left out, see docs/access.md."
            .to_owned(),
    );
    contract.info.license = Some(utoipa::openapi::License::new("MIT OR Apache-2.0"));
    let components = contract.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    components.add_security_scheme(
        "session",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("netprobe_session"))),
    );
    let none: [&str; 0] = [];
    contract.security = Some(vec![
        SecurityRequirement::new("token", none),
        SecurityRequirement::new("session", none),
        SecurityRequirement::default(),
    ]);
    let tags = [
        ("health", "For whoever restarts the agent; needs no token"),
        ("metrics", "For Prometheus"),
        ("read", "For people and programs; takes the role reader"),
        ("operate", "Sessions, and what changes something"),
        ("contract", "This document"),
    ];
    let tag = |(name, text)| TagBuilder::new().name(name).description(Some(text)).build();
    contract.tags = Some(tags.map(tag).into());
    contract
}

/// The contract as JSON.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let contract = routes::paths().into_openapi();
        let mut text = serde_json::to_string_pretty(&contract).unwrap_or_default();
        text.push('\n');
        text
    })
}

/// Whether the contract has this operation and it is no reading one.
pub(super) fn writes(method: &Method, path: &str) -> bool {
    static WRITES: LazyLock<Vec<(Method, String)>> = LazyLock::new(|| {
        let paths = routes::paths().into_openapi().paths.paths.into_iter();
        let writes = paths.flat_map(|(path, item)| {
            [
                (Method::PUT, item.put),
                (Method::POST, item.post),
                (Method::DELETE, item.delete),
                (Method::PATCH, item.patch),
            ]
            .into_iter()
            .filter(|(_, operation)| operation.is_some())
            .map(move |(method, _)| (method, path.clone()))
        });
        writes.collect()
    });
    WRITES.iter().any(|(m, p)| m == method && p == path)
}

/// Query parameters of the live flows.
pub(super) struct FlowParameters;

impl IntoParams for FlowParameters {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = filters();
        parameters.extend(pages());
        parameters
    }
}

/// Query parameters of the events.
pub(super) struct EventParameters;

impl IntoParams for EventParameters {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = filters();
        parameters.extend(pages());
        parameters.push(query("last", "only the last so many that match", count()));
        parameters.extend(times());
        parameters
    }
}

/// Query parameters of the history.
pub(super) struct ArchiveParameters;

impl IntoParams for ArchiveParameters {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = filters();
        parameters.extend(pages());
        parameters.extend(times());
        parameters
    }
}

/// Query parameters of a report: filters, a time that has to be said, and others.
pub(super) fn report(others: &[(&str, &str)]) -> Vec<Parameter> {
    let mut parameters = filters();
    parameters.extend(times().map(|mut time| {
        time.required = Required::True;
        time
    }));
    parameters.extend(others.iter().map(|(name, text)| query(name, text, string())));
    parameters
}

fn times() -> [Parameter; 2] {
    [("since", "not before this time"), ("until", "before this time")]
        .map(|(name, text)| query(name, text, string().format(Some(date_time()))))
}

/// Query parameters of the stream.
pub(super) struct StreamParameters;

impl IntoParams for StreamParameters {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = filters();
        parameters.push(query("run", "go on with this run of the agent", string()));
        parameters.push(query(
            "from_seq",
            "go on with this number of it",
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)),
        ));
        parameters
    }
}

/// The filter grammar: the same parameters wherever events are chosen.
fn filters() -> Vec<Parameter> {
    let mut parameters: Vec<_> = FLAGS
        .iter()
        .map(|flag| query(flag.name, flag.help, string()))
        .collect();
    parameters.push(query(
        "not",
        "negates the parameter after it; has no value",
        string(),
    ));
    parameters
}

fn pages() -> [Parameter; 2] {
    let limit = format!("most items of the page, {DEFAULT_LIMIT} if it is left out");
    [
        query("limit", &limit, count()),
        query("cursor", "`next_cursor` of the page before", string()),
    ]
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn count() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(MAX_LIMIT))
}

fn date_time() -> utoipa::openapi::SchemaFormat {
    utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)
}

fn query(name: &str, text: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .deprecated(None::<Deprecated>)
        .description(Some(text))
        .schema(Some(schema.build()))
        .build()
}
