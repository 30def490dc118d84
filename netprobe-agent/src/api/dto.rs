//! What the API answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{event::Event, probe_report::ProbeReport};

/// Version of the API, in every JSON answer.
pub const API_VERSION: &str = "v1";

/// Answer of `/health/live` and `/health/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// Version of the API.
    pub api_version: String,
    /// Whether every check passed: `pass` or `fail`.
    pub status: String,
    /// The checks that decide it.
    pub checks: Vec<HealthCheck>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthCheck {
    /// Name.
    pub name: String,
    /// `pass` or `fail`.
    pub status: String,
    /// A sentence.
    pub detail: String,
}

/// Answer of `/api/v1/flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FlowsAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Live flows as events of kind `flow`, `seq` null.
    pub flows: Vec<Event>,
    /// `cursor` of the next page; `null`: that was all.
    pub next_cursor: Option<String>,
}

/// Answer of `/api/v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventsAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Events, oldest first.
    #[schema(value_type = Vec<Event>)]
    pub events: Vec<Arc<Event>>,
    /// `cursor` to go on with, also when there is nothing more yet.
    pub next_cursor: String,
    /// Whether more events are there already.
    pub more: bool,
    /// Events since the cursor that are no longer held.
    pub missed: u64,
    /// Whether the cursor was of another run of the agent, so that what came between is not known.
    pub run_changed: bool,
}

/// Answer of `/api/v1/probe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProbeAnswer {
    /// Version of the API.
    pub api_version: String,
    /// The report.
    #[serde(flatten)]
    pub report: ProbeReport,
}
