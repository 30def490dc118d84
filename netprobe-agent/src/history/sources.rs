//! Where a report comes from, and what it does not know.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::event::Nanos;

/// Where a report comes from, and what it does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sources {
    /// Every host with a segment in the time.
    pub hosts: Vec<HostSource>,
    /// Segments that could not be used, and why.
    pub damaged: Vec<String>,
}

/// What a host's part of the archive is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostSource {
    /// The host.
    #[schema(value_type = String)]
    pub host: Arc<str>,
    /// Its segments of the time.
    pub segments: u64,
    /// Runs of the agent in them.
    pub runs: u64,
    /// First event in them.
    pub first: Nanos,
    /// Last event in them.
    pub last: Nanos,
    /// Keys they are signed with. Each signature was checked; the chain is what `netprobe archive verify` checks.
    pub keys: BTreeSet<String>,
    /// What is not there.
    pub losses: Vec<Loss>,
}

/// A time in which something of a host is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Loss {
    /// Not before.
    pub from: Nanos,
    /// Not after.
    pub to: Nanos,
    /// Where it was lost: that of a gap, or `agent` (it did not run), `archive` (a segment).
    pub stage: String,
    /// Why.
    pub reason: String,
    /// Records or events; `null` when it cannot be known.
    pub count: Option<u64>,
}

impl Loss {
    /// Whether connections may be missing, not payload of requests alone.
    pub fn hides_connections(&self) -> bool {
        !self.reason.starts_with("payload")
    }
}
