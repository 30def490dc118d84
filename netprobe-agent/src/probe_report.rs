//! What the agent says about itself: capabilities, programs, ledger, cost. Answer of `GET /api/v1/probe` and of
//! `netprobe doctor -o json`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::event::Nanos;

/// Name in [`ProbeReport::counters`] of the flows whose sum of calls and kernel counters differ beyond what is
/// explained; it has a metric of its own.
pub const BYTE_DISAGREEMENTS: &str = "byte_disagreements";

/// Begins the names of counters of connections whose requests are encrypted; behind it stands the library. They have a
/// metric of their own, too.
pub const OPAQUE_TLS: &str = "requests_opaque_";

/// The whole report. A part that is not known (nothing is attached under `doctor`) is `null` or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProbeReport {
    /// Version of the agent.
    pub agent_version: String,
    /// Run of the agent; `null` under `doctor`.
    pub run: Option<String>,
    /// Since the agent started.
    pub uptime_seconds: Option<f64>,
    /// The kernel below.
    pub kernel: KernelReport,
    /// What is measured, and how.
    pub facts: Vec<FactReport>,
    /// What loading and attaching took; `null` under `doctor`.
    pub start: Option<StartReport>,
    /// Loaded programs.
    pub programs: Vec<ProgramReport>,
    /// Maps.
    pub maps: Vec<MapReport>,
    /// Ring buffer.
    pub ring: Option<RingReport>,
    /// Whether nothing is missing.
    pub ledger: Option<LedgerReport>,
    /// Kernel-side counters by name that are not part of the ledger.
    pub counters: BTreeMap<String, u64>,
    /// Connections dropped because an accept queue was full, by network namespace.
    pub listen_overflows: BTreeMap<String, u64>,
    /// The fullest accept queues, those that connections wait in, as of the last list of sockets.
    #[serde(default)]
    pub accept_queues: Vec<AcceptQueueReport>,
    /// What the host has a limit on, and how much of it is used.
    #[serde(default)]
    pub limits: Vec<LimitReport>,
    /// Clients of the stream.
    pub stream: Option<StreamReport>,
    /// Whether connections older than the agent are still being listed and taken over.
    #[serde(default)]
    pub taking_over: bool,
    /// Spool and archive; `null`: nothing is archived.
    pub archive: Option<ArchiveReport>,
    /// Events into Kafka; `null`: none are sent.
    #[serde(default)]
    pub kafka: Option<KafkaReport>,
    /// What the agent itself uses.
    pub cost: Option<CostReport>,
    /// What keeps it within its budget.
    pub governor: Option<GovernorReport>,
    /// Sentences an operator should read (accounting off, namespaces not readable, …).
    pub notices: Vec<String>,
}

/// The kernel below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KernelReport {
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub machine: String,
    /// Whether the kernel has type information.
    pub btf: bool,
    /// Lockdown mode; `null` when it cannot be read.
    pub lockdown: Option<String>,
}

/// One fact, the method that serves it, and why not the better ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FactReport {
    /// Name of the fact.
    pub fact: String,
    /// Whether the agent refuses to run without it.
    pub required: bool,
    /// Whether it is switched off: in `probe.methods`, or with what needs it.
    pub off: bool,
    /// The method chosen; `null` when there is none.
    pub method: Option<String>,
    /// Oldest kernel the chosen method works on.
    pub kernel_floor: Option<String>,
    /// Methods tried before and refused, best first.
    pub refused: Vec<RefusedReport>,
    /// Every method there is, best first.
    pub ladder: Vec<RungReport>,
}

impl FactReport {
    /// The method chosen, `off`, or `none`: what a reader of tables and labels is told.
    pub fn served_by(&self) -> &str {
        let without = if self.off { "off" } else { "none" };
        self.method.as_deref().unwrap_or(without)
    }
}

/// A method of a fact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RungReport {
    /// Name of the method.
    pub method: String,
    /// Oldest kernel it is declared to work on.
    pub kernel_floor: String,
}

/// A method that was not chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RefusedReport {
    /// Name of the method.
    pub method: String,
    /// Why it cannot serve.
    pub reason: String,
}

/// What the probe's start took, in milliseconds, and what its maps hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StartReport {
    /// Finding out which methods work here: the first load.
    pub survey_ms: f64,
    /// Making the maps and the type information of the second load.
    pub load_ms: f64,
    /// Verifying and attaching its programs.
    pub attach_ms: f64,
    /// Kernel memory of all maps, as the kernel accounts it; `null` when it does not say.
    pub map_bytes: Option<u64>,
}

/// A loaded program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProgramReport {
    /// Name of the program.
    pub name: String,
    /// Runs; `null` when BPF statistics are off.
    pub runs: Option<u64>,
    /// Nanoseconds in it; `null` when BPF statistics are off.
    pub run_ns: Option<u64>,
    /// Runs skipped because the program was interrupted by itself; `null` when the kernel does not say.
    pub recursion_misses: Option<u64>,
    /// Instructions the verifier walked to accept it; `null` when the kernel does not say (before 5.16).
    pub verified_instructions: Option<u32>,
}

/// A map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MapReport {
    /// Name of the map.
    pub name: String,
    /// Entries in use; `null` when they are not counted.
    pub entries: Option<u64>,
    /// Room for entries.
    pub capacity: u64,
}

/// An accept queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AcceptQueueReport {
    /// Network namespace of the listener.
    pub netns: u64,
    /// Address it listens on.
    pub listener: String,
    /// Connections that wait to be accepted.
    pub waiting: u64,
    /// How many may wait; the kernel takes one more.
    pub room: u64,
}

/// A limit of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LimitReport {
    /// What is limited, with its unit: `tcp_memory_bytes`.
    pub what: String,
    /// How much is used.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

/// The ring buffer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RingReport {
    /// Size in bytes.
    pub bytes: u64,
    /// Share in use, 0 to 1.
    pub fill: f64,
}

/// Clients of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StreamReport {
    /// Connected now.
    pub clients: u64,
    /// Refused because there were too many.
    pub clients_refused: u64,
    /// Disconnected because they took or said nothing.
    pub clients_stalled: u64,
    /// Events sent, over all clients.
    pub sent: u64,
    /// Events their filters left out.
    pub filtered: u64,
    /// Numbers told as missed: slow clients, and resumptions that came too late.
    pub missed: u64,
}

/// Whether a way out of the agent works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// It works, or there was nothing to do yet.
    #[default]
    Closed,
    /// It failed, and is being tried.
    HalfOpen,
    /// It failed, and the next try waits.
    Open,
}

impl Circuit {
    /// Name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Circuit::Closed => "closed",
            Circuit::HalfOpen => "half_open",
            Circuit::Open => "open",
        }
    }
}

/// What the archive says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArchiveReport {
    /// The run whose numbers these are.
    pub run: Arc<str>,
    /// Where it goes.
    pub url: String,
    /// Every must-keep event up to this number is in the spool or in the archive, or a gap event that is tells of
    /// its loss.
    pub durable_seq: u64,
    /// Events of this run that wait for the disk.
    pub waiting: u64,
    /// Events of this run in the spool, not in the archive yet.
    pub spooled: u64,
    /// Bytes of all files of the spool.
    pub spool_bytes: u64,
    /// Age of the oldest event that is in the spool only; 0: there is none.
    pub spool_oldest_seconds: f64,
    /// Segments that wait for the archive.
    pub segments_waiting: u64,
    /// Segments by what became of them.
    pub segments: BTreeMap<String, u64>,
    /// Bytes of objects the archive has taken.
    pub archived_bytes: u64,
    /// Files moved to quarantine.
    pub quarantined: u64,
    /// The way to the archive.
    pub circuit: Circuit,
    /// Tries that failed since the last success.
    pub failures: u64,
    /// Last time the archive took a segment.
    pub last_success: Option<Nanos>,
    /// Why the last try failed; `null` after a success.
    pub last_error: Option<String>,
    /// What keeps the spool from writing; `null` when nothing does.
    pub disk_error: Option<String>,
    /// Where the chain ends: a witness to be kept elsewhere.
    pub head: Option<ChainHead>,
}

/// What the way into Kafka says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KafkaReport {
    /// Brokers to begin with.
    pub brokers: Vec<String>,
    /// Topic of the events.
    pub topic: String,
    /// Events handed to the client and not confirmed.
    pub in_flight: u64,
    /// Age of the oldest event that was read and is not confirmed; 0: there is none.
    pub oldest_seconds: f64,
    /// Messages by what became of them: `delivered`, `lost`, and `failed` for those sent again. Of earlier runs, too.
    pub messages: BTreeMap<String, u64>,
    /// Bytes of events that were confirmed.
    pub bytes: u64,
    /// The way to the brokers.
    pub circuit: Circuit,
    /// Failures since the last success.
    pub failures: u64,
    /// Last time a broker confirmed something.
    pub last_success: Option<Nanos>,
    /// Why the last try failed; `null` after a success.
    pub last_error: Option<String>,
    /// The head of the archive's chain that the witness topic has.
    pub witness: Option<ChainHead>,
}

/// Where the chain ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChainHead {
    /// The chain.
    pub chain_id: String,
    /// Place of the last manifest.
    pub index: u64,
    /// SHA-256 of its file.
    pub hash: String,
}

/// Both equations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LedgerReport {
    /// Equation (a): seen = drained + lost.
    pub kernel: KernelLedger,
    /// Equation (b), per sink: emitted = delivered + lost + suppressed + queued.
    pub sinks: Vec<SinkLedger>,
    /// Events emitted by kind.
    pub emitted: BTreeMap<String, u64>,
}

/// Equation (a).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KernelLedger {
    /// Records the hooks made, by kind.
    pub seen: BTreeMap<String, u64>,
    /// Records the agent read, by kind.
    pub drained: BTreeMap<String, u64>,
    /// Records lost.
    pub lost: Vec<LossReport>,
    /// Of the drained: records that were not valid, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Connections left out on purpose, by reason: never part of seen.
    pub suppressed: BTreeMap<String, u64>,
    /// Payload bytes of connections whose final record was lost, by direction.
    pub lost_bytes: BTreeMap<String, u64>,
    /// Whether the equation closes. While traffic flows, records in the ring are a difference for a moment.
    pub closes: bool,
    /// seen − drained − lost.
    pub difference: i64,
}

/// One loss.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LossReport {
    /// Where.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// Equation (b) of one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SinkLedger {
    /// Name of the sink.
    pub sink: String,
    /// Events offered to it.
    pub emitted: u64,
    /// Events it took to their end.
    pub delivered: u64,
    /// Events lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Events left out on purpose, by reason.
    pub suppressed: BTreeMap<String, u64>,
    /// Events it holds.
    pub queued: u64,
    /// Whether the equation closes.
    pub closes: bool,
    /// emitted − delivered − lost − suppressed − queued.
    pub difference: i64,
}

/// What keeps the agent within its budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GovernorReport {
    /// `probe.cpu_budget`, in processors; 0: there is none.
    pub cpu_budget: f64,
    /// Processors used over the last ten seconds; `null` before that long is known.
    pub cpu_usage: Option<f64>,
    /// Steps taken.
    pub level: u64,
    /// What is not kept now, by the names of the steps.
    pub shed: Vec<String>,
}

impl GovernorReport {
    /// Whether a step is not taken.
    pub fn keeps(&self, step: &str) -> bool {
        !self.shed.iter().any(|name| name == step)
    }
}

/// What the agent itself uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CostReport {
    /// CPU time of all its threads.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// CPU time in its BPF programs; `null` when BPF statistics are off.
    pub bpf_seconds: Option<f64>,
}
