//! What the API answers.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Nanos},
    history::{sla, timeline},
    metrics::{Destination, PairReport},
    probe_report::{AcceptQueueReport, ArchiveReport, GovernorReport, KafkaReport, LimitReport, ProbeReport},
};

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

/// Answer of `/api/v1/archive`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArchiveAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Events, in the order of hour, host, run and number.
    pub events: Vec<Event>,
    /// `cursor` of the next page; `null`: that was all.
    pub next_cursor: Option<String>,
    /// Segments that could not be read to their end, and why.
    pub damaged: Vec<String>,
}

/// Answer of `/api/v1/sla`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SlaAnswer {
    /// Version of the API.
    pub api_version: String,
    /// The report.
    #[serde(flatten)]
    pub report: sla::Report,
}

/// Answer of `/api/v1/timeline`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TimelineAnswer {
    /// Version of the API.
    pub api_version: String,
    /// The report.
    #[serde(flatten)]
    pub report: timeline::Report,
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

/// Answer of `/metrics/network`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NetworkAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Whether the last minutes of services and peers are kept: not while the governor sheds `windows`.
    pub complete: bool,
    /// One entry for each service, peer and side of the last five minutes.
    pub pairs: Vec<PairReport>,
    /// How full things are.
    pub saturation: Saturation,
}

/// How full things are: what has a limit, and what was turned away at one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Saturation {
    /// Share of the ring buffer in use, 0 to 1.
    pub ring_fill: Option<f64>,
    /// Connections dropped because an accept queue was full, by network namespace, since the namespace began.
    pub listen_overflows: BTreeMap<String, u64>,
    /// Tables with a limit, those whose entries are counted.
    pub tables: Vec<Table>,
    /// The fullest accept queues, those that connections wait in, as of the last list of sockets.
    pub accept_queues: Vec<AcceptQueueReport>,
    /// What the host has a limit on, and how much of it is used.
    pub limits: Vec<LimitReport>,
}

/// A table with a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Table {
    /// Name.
    pub table: String,
    /// Entries.
    pub entries: u64,
    /// Room for entries.
    pub capacity: u64,
}

/// Answer of `/resilience/state`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResilienceAnswer {
    /// Version of the API.
    pub api_version: String,
    /// Run of the agent.
    pub run: String,
    /// Destinations of this host's clients in the last five minutes, the worst first. Empty while the governor sheds
    /// `windows`.
    pub destinations: Vec<Destination>,
    /// Where the agent's events go.
    pub targets: Vec<Target>,
    /// Spool and archive, with `durable_seq` of the run; `null`: nothing is archived.
    pub archive: Option<ArchiveReport>,
    /// The way into Kafka; `null`: nothing is sent there.
    pub kafka: Option<KafkaReport>,
    /// What keeps the agent within its budget, and what it sheds for that.
    pub governor: Option<GovernorReport>,
}

/// Where the agent's events go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Target {
    /// Name.
    pub target: String,
    /// Whether the way there works: `closed`, `half_open` or `open`; `null` where there is no way that could break.
    pub circuit: Option<String>,
    /// Events on their way.
    pub queued: u64,
    /// Events lost.
    pub lost: u64,
    /// When something last arrived; `null` where nobody keeps that.
    pub last_success: Option<Nanos>,
    /// Why the last try failed; `null` after a success, and where nobody keeps that.
    pub last_error: Option<String>,
}
