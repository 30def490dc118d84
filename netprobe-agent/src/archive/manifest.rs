//! What is known of a segment beside its lines: the manifest, and the tombstone of a segment that was given up.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::layout;
use crate::event::{Event, Gap, Nanos};

/// Schema of a manifest.
pub const SCHEMA: &str = "netprobe.manifest/1";
/// Schema of a tombstone.
pub const TOMBSTONE_SCHEMA: &str = "netprobe.tombstone/1";
/// Stands for services beyond [`MOST_SERVICES`]: whoever looks for one of those has to look inside.
pub const OTHER: &str = "~other";
/// Stands for events without a service.
pub const UNKNOWN: &str = "~unknown";

/// Services counted by name in one segment.
const MOST_SERVICES: usize = 1000;
/// Gaps repeated in one manifest; the segment has them all.
const MOST_GAPS: usize = 100;

/// A manifest: the commit of a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The chain: one a spool.
    pub chain_id: String,
    /// Place in the chain, without holes.
    pub index: u64,
    /// SHA-256 of the file of the manifest before; `null` on the first of a chain.
    pub previous: Option<String>,
    /// Why a chain begins here; `null` on all but the first.
    pub chain_start: Option<String>,
    /// Name of the object below the prefix.
    pub key: String,
    /// SHA-256 of the object.
    pub sha256: String,
    /// Length of the object.
    pub bytes: u64,
    /// When it was sealed.
    pub sealed_at: Nanos,
    /// What is in it.
    #[serde(flatten)]
    pub content: Content,
}

/// What is in a segment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Host of all its events.
    pub host: Arc<str>,
    /// Boot of all its events.
    pub boot_id: Arc<str>,
    /// Run of all its events.
    pub run: Arc<str>,
    /// First number.
    pub first_seq: u64,
    /// Last number. Those between that are missing were filtered, or a gap tells of them.
    pub last_seq: u64,
    /// Least `ts`.
    pub ts_min: Nanos,
    /// Greatest `ts`.
    pub ts_max: Nanos,
    /// `ts` of the first event: it decides the partition.
    pub ts_first: Nanos,
    /// Events.
    pub events: u64,
    /// Length of the lines before compression.
    pub lines_bytes: u64,
    /// Events by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Events by service, [`UNKNOWN`] for those without.
    pub services: BTreeMap<Arc<str>, u64>,
    /// Events by severity.
    pub severities: BTreeMap<String, u64>,
    /// Losses told in it.
    pub gaps: Vec<Gap>,
}

impl Content {
    /// Counts an event in.
    pub fn add(&mut self, event: &Event, seq: u64, line_bytes: usize) {
        if self.events == 0 {
            self.host = event.host.clone();
            self.boot_id = event.boot_id.clone();
            self.run = event.run.clone();
            self.first_seq = seq;
            (self.ts_min, self.ts_max, self.ts_first) = (event.ts, event.ts, event.ts);
        }
        self.last_seq = seq;
        self.ts_min = self.ts_min.min(event.ts);
        self.ts_max = self.ts_max.max(event.ts);
        self.events += 1;
        self.lines_bytes += line_bytes as u64;
        count(&mut self.kinds, event.kind.name());
        count(&mut self.severities, event.severity.name());
        let service = event.service.as_deref().unwrap_or(UNKNOWN);
        if let Some(count) = self.services.get_mut(service) {
            *count += 1;
        } else {
            let room = self.services.len() < MOST_SERVICES;
            let service = if room { service } else { OTHER };
            *self.services.entry(service.into()).or_default() += 1;
        }
        if let Some(gap) = &event.gap
            && self.gaps.len() < MOST_GAPS
        {
            self.gaps.push((**gap).clone());
        }
    }

    /// Name of the object.
    pub fn key(&self) -> String {
        layout::key(
            &self.host,
            &self.run,
            self.first_seq,
            self.last_seq,
            self.ts_first,
        )
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else {
        counts.insert(name.to_owned(), 1);
    }
}

/// Stands for a segment that was given up, so that its absence is declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Always [`TOMBSTONE_SCHEMA`].
    pub schema: String,
    /// The chain.
    pub chain_id: String,
    /// Place of the segment in the chain.
    pub index: u64,
    /// Name the object would have.
    pub key: String,
    /// SHA-256 of the manifest's file, which stays.
    pub manifest_sha256: String,
    /// Events that are gone with it.
    pub events: u64,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixture;

    #[test]
    fn content_counts_what_is_in_it() {
        let mut content = Content::default();
        for (seq, event) in [
            (42, fixture::flow()),
            (43, fixture::request()),
            (44, fixture::gap()),
        ] {
            content.add(&event, seq, 10);
        }
        assert_eq!(
            (
                content.first_seq,
                content.last_seq,
                content.events,
                content.lines_bytes
            ),
            (42, 44, 3, 30)
        );
        assert_eq!(content.kinds.len(), 3);
        assert_eq!(content.services["curl"], 2);
        assert_eq!(content.services[UNKNOWN], 1);
        assert_eq!(content.severities["critical"], 1);
        assert_eq!(content.gaps.len(), 1);
        assert!(
            content
                .key()
                .contains("/host=web-1/00f1e2d3c4b5a697-00000000000000000042-")
        );
    }

    #[test]
    fn services_are_bounded() {
        let mut content = Content::default();
        let mut event = fixture::flow();
        for seq in 1..=2000 {
            event.service = Some(format!("service-{seq}").into());
            content.add(&event, seq, 1);
        }
        assert_eq!(content.services.len(), MOST_SERVICES + 1);
        assert_eq!(content.services[OTHER], 1000);
        assert_eq!(content.services.values().sum::<u64>(), 2000);
    }
}
