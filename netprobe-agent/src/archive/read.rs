//! Reading the archive: what is there, and the events of a time. Needs no agent and no spool.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader},
    ops::ControlFlow,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use super::{
    layout,
    manifest::{Manifest, OTHER},
    signing::{self, Opened},
    store::{Store, StoreError},
};
use crate::{
    event::{Event, Nanos},
    filter::Filter,
};

/// Requests for manifests on their way at a time.
const AT_ONCE: usize = 16;

/// A time: from `since` on, before `until`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Begin.
    pub since: Option<Nanos>,
    /// End.
    pub until: Option<Nanos>,
}

impl Span {
    /// Whether a moment is in it.
    pub fn holds(&self, ts: Nanos) -> bool {
        self.since.is_none_or(|since| ts >= since) && self.until.is_none_or(|until| ts < until)
    }

    /// Whether part of the time between two moments, both included, is in it.
    pub fn meets(&self, from: Nanos, to: Nanos) -> bool {
        self.since.is_none_or(|since| to >= since) && self.until.is_none_or(|until| from < until)
    }

    /// Whether `date=2026-11-21` or `date=2026-11-21/hour=10` is a partition that meets it.
    fn meets_partition(&self, date_and_hour: &str) -> bool {
        let part = |ts: Nanos| {
            let time = ts.to_string();
            format!("{}/hour={}", layout::date(ts), &time[11..13])
        };
        // Names sort as times do, and a date alone sorts before its hours.
        let len = date_and_hour.len();
        let cut = |ts: Nanos| part(ts)[..len.min(23)].to_owned();
        self.since
            .is_none_or(|since| date_and_hour >= cut(since).as_str())
            && self
                .until
                .is_none_or(|until| date_and_hour <= cut(until).as_str())
    }
}

/// What there is of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Name without ending.
    pub stem: String,
    /// Length of the object.
    pub object: Option<u64>,
    /// Whether there is a manifest.
    pub manifest: bool,
    /// Whether there is a tombstone.
    pub tombstone: bool,
}

impl Entry {
    /// Name of the object.
    pub fn object_key(&self) -> String {
        format!("{}{}", self.stem, layout::OBJECT)
    }

    /// Name of the manifest.
    pub fn manifest_key(&self) -> String {
        format!("{}{}", self.stem, layout::MANIFEST)
    }

    /// Name of the tombstone.
    pub fn tombstone_key(&self) -> String {
        format!("{}{}", self.stem, layout::TOMBSTONE)
    }
}

/// A manifest that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Where it was found.
    pub entry: Entry,
    /// The manifest; an error is why it cannot be read.
    pub manifest: Result<Opened<Manifest>, String>,
    /// SHA-256 of its file.
    pub hash: String,
}

/// Every segment whose partition meets the span, in the order of names: by hour, host, run and number.
pub async fn entries(store: &Store, span: &Span) -> Result<Vec<Entry>, StoreError> {
    let mut dates = store.folders(layout::ROOT).await?;
    dates.sort();
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    for date in dates.into_iter().filter(|date| span.meets_partition(date)) {
        let mut listed = store.list(&format!("{}/{date}", layout::ROOT))?;
        while let Some(meta) = listed.try_next().await? {
            let key = meta.location.to_string();
            let stem = layout::stem(&key);
            // `v1/date=YYYY-MM-DD/hour=HH`
            let hour = stem.get(layout::ROOT.len() + 1..layout::ROOT.len() + 1 + 23);
            if stem == key || !hour.is_some_and(|hour| span.meets_partition(hour)) {
                continue;
            }
            let entry = found.entry(stem.to_owned()).or_insert_with(|| Entry {
                stem: stem.to_owned(),
                ..Entry::default()
            });
            match &key[stem.len()..] {
                layout::OBJECT => entry.object = Some(meta.size),
                layout::MANIFEST => entry.manifest = true,
                _ => entry.tombstone = true,
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Reads the manifests of entries that have one, several at a time, in their order. `seen` is called for each.
pub async fn manifests(
    store: &Store,
    entries: Vec<Entry>,
    mut seen: impl FnMut(),
) -> Result<Vec<Segment>, StoreError> {
    let reads = entries
        .into_iter()
        .filter(|entry| entry.manifest)
        .map(|entry| async {
            let bytes = store.get(&entry.manifest_key()).await?;
            Ok::<_, StoreError>((entry, bytes))
        });
    let mut reads = futures_util::stream::iter(reads).buffered(AT_ONCE);
    let mut segments = Vec::new();
    while let Some((entry, bytes)) = reads.try_next().await? {
        seen();
        // Gone between the listing and now: as if it had never been there.
        let Some(bytes) = bytes else { continue };
        segments.push(Segment {
            entry,
            manifest: signing::open::<Manifest>(&bytes).map_err(|error| error.to_string()),
            hash: signing::sha256(&bytes),
        });
    }
    Ok(segments)
}

/// Whether a segment can hold an event of the span that the filter wants. What cannot be known is a yes.
pub fn may_hold(manifest: &Manifest, span: &Span, filter: &Filter) -> bool {
    let content = &manifest.content;
    let counted = |name: &str, counts: &mut dyn Iterator<Item = &str>| {
        let mut counts = counts.peekable();
        counts.any(|known| known == name || known == OTHER)
    };
    span.meets(content.ts_min, content.ts_max)
        && filter
            .demanded("service")
            .is_none_or(|service| counted(service, &mut content.services.keys().map(|name| &**name)))
        && filter
            .demanded("kind")
            .is_none_or(|kind| counted(kind, &mut content.kinds.keys().map(String::as_str)))
}

/// Why the events of a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is a manifest and no object.
    #[error("the object is missing")]
    Missing,
    /// It is not what was sealed.
    #[error("the object's SHA-256 is {found}, the manifest says {expected}")]
    Changed {
        /// Of the manifest.
        expected: String,
        /// Of the object.
        found: String,
    },
    /// It is what was sealed, and yet cannot be read.
    #[error("line {line}: {error}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        error: String,
    },
}

/// The object of a segment, held against its manifest.
pub async fn object(store: &Store, segment: &Segment, sha256: &str) -> Result<Bytes, SegmentError> {
    let object = store
        .get(&segment.entry.object_key())
        .await?
        .ok_or(SegmentError::Missing)?;
    let found = signing::sha256(&object);
    if found != sha256 {
        return Err(SegmentError::Changed {
            expected: sha256.to_owned(),
            found,
        });
    }
    Ok(object)
}

/// The events of an object, one after the other, until told to end.
pub fn events<E: From<SegmentError>>(
    object: &[u8],
    mut each: impl FnMut(Event) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let broken = |line: u64, error: &dyn std::fmt::Display| SegmentError::Line {
        line,
        error: error.to_string(),
    };
    let decoder = zstd::stream::read::Decoder::with_buffer(object).map_err(|error| broken(1, &error))?;
    let mut lines = BufReader::with_capacity(64 << 10, decoder);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        number += 1;
        line.clear();
        match read_line(&mut lines, &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(broken(number, &error).into()),
        }
        let event = serde_json::from_slice(&line).map_err(|error| broken(number, &error))?;
        if each(event)?.is_break() {
            return Ok(());
        }
    }
}

fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    lines.read_until(b'\n', line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_pruned_at_both_ends() {
        let at = |text: &str| Some(Nanos::parse(text).unwrap());
        let span = Span {
            since: at("2026-11-21T10:30:00Z"),
            until: at("2026-11-22T02:00:00Z"),
        };
        for (name, meets) in [
            ("date=2026-11-20", false),
            ("date=2026-11-21", true),
            ("date=2026-11-22", true),
            ("date=2026-11-23", false),
            ("date=2026-11-21/hour=09", false),
            ("date=2026-11-21/hour=10", true),
            ("date=2026-11-22/hour=02", true),
            ("date=2026-11-22/hour=03", false),
        ] {
            assert_eq!(span.meets_partition(name), meets, "{name}");
        }
        assert!(Span::default().meets_partition("date=1999-01-01"));
    }
}
