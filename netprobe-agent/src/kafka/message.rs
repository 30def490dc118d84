//! What a message has beside the event's own bytes.

use std::borrow::Cow;

use rdkafka::message::{Header, OwnedHeaders};
use serde::{Deserialize, Serialize};

use crate::{
    event::{Nanos, Origin},
    probe_report::ChainHead,
};

/// The part of an event's line that its message repeats.
#[derive(Debug, Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow)]
    pub(super) schema: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) host: Cow<'a, str>,
    pub(super) ts: Nanos,
    #[serde(borrow)]
    pub(super) severity: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) connection_id: Option<Cow<'a, str>>,
}

impl Head<'_> {
    /// Of a line; `None` when it is not an event as this version knows them.
    pub(super) fn of(line: &[u8]) -> Option<Head<'_>> {
        serde_json::from_slice(line).ok()
    }

    /// What filters go by that do not want to read the value.
    pub(super) fn headers(&self) -> OwnedHeaders {
        [
            ("schema", &self.schema),
            ("kind", &self.kind),
            ("host", &self.host),
            ("severity", &self.severity),
        ]
        .into_iter()
        .fold(OwnedHeaders::new_with_capacity(4), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(&**value),
            })
        })
    }
}

/// The head of the archive's chain, told to somebody who keeps it.
#[derive(Debug, Serialize)]
struct Witness<'a> {
    /// Always `netprobe.witness/1`.
    schema: &'static str,
    host: &'a str,
    run: &'a str,
    ts: Nanos,
    #[serde(flatten)]
    head: &'a ChainHead,
}

/// The message that tells of a head.
pub(super) fn witness(origin: &Origin, head: &ChainHead) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Witness {
        schema: "netprobe.witness/1",
        host: &origin.host,
        run: &origin.run,
        ts: Nanos::now(),
        head,
    })
}
