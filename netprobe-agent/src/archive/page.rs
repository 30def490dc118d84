//! The events of a time, a page at a time, for those who cannot hold them all.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::{
    read::{self, Segment, SegmentError, Span},
    store::{Store, StoreError},
};
use crate::{event::Event, filter::Filter};

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The segment.
    stem: String,
    /// The last number looked at in it.
    seq: u64,
}

impl Cursor {
    /// Reads what [`Cursor::text`] gave.
    pub fn parse(text: &str) -> Option<Cursor> {
        let (stem, seq) = text.rsplit_once(':')?;
        Some(Cursor {
            stem: stem.to_owned(),
            seq: seq.parse().ok()?,
        })
    }

    /// The cursor as text.
    pub fn text(&self) -> String {
        format!("{}:{}", self.stem, self.seq)
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The time.
    pub span: Span,
    /// Which events.
    pub filter: Filter,
    /// Where the page before ended.
    pub after: Option<Cursor>,
    /// Most events.
    pub limit: usize,
    /// Longest time; then the page ends early.
    pub patience: Duration,
}

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Events, in the order of hour, host, run and number.
    pub events: Vec<Event>,
    /// Where to go on; `None`: that was all.
    pub next: Option<Cursor>,
    /// Segments that could not be read to their end, and why.
    pub damaged: Vec<String>,
}

/// Reads a page.
pub async fn page(store: &Store, question: &Question) -> Result<Page, StoreError> {
    let begin = Instant::now();
    let mut page = Page::default();
    let mut entries = read::entries(store, &question.span).await?;
    if let Some(after) = &question.after {
        // Looking at a segment again that is done would be no way forward for who has no patience.
        let done = after.seq == u64::MAX;
        entries.retain(|entry| entry.stem > after.stem || (!done && entry.stem == after.stem));
    }
    for entry in entries {
        let stem = entry.stem.clone();
        let Some(segment) = read::manifests(store, vec![entry], || {}).await?.pop() else {
            continue;
        };
        match events(store, segment, question, question.limit - page.events.len()).await {
            Ok((events, last)) => {
                page.events.extend(events);
                if page.events.len() == question.limit {
                    page.next = Some(Cursor { stem, seq: last });
                    break;
                }
            }
            Err(SegmentError::Store(error)) => return Err(error),
            Err(error) => page.damaged.push(format!("{stem}: {error}")),
        }
        if begin.elapsed() > question.patience {
            page.next = Some(Cursor { stem, seq: u64::MAX });
            break;
        }
    }
    Ok(page)
}

/// Up to `room` events of a segment, and the last number looked at.
async fn events(
    store: &Store,
    segment: Segment,
    question: &Question,
    room: usize,
) -> Result<(Vec<Event>, u64), SegmentError> {
    let manifest = match &segment.manifest {
        Ok(opened) => &opened.document,
        Err(error) => {
            return Err(SegmentError::Line {
                line: 0,
                error: error.clone(),
            });
        }
    };
    let after = question
        .after
        .as_ref()
        .filter(|after| after.stem == segment.entry.stem)
        .map_or(0, |after| after.seq);
    if after >= manifest.content.last_seq || !read::may_hold(manifest, &question.span, &question.filter) {
        return Ok((Vec::new(), after));
    }
    let object = match read::object(store, &segment, &manifest.sha256).await {
        // Given up, and declared: there is nothing to read.
        Err(SegmentError::Missing) if segment.entry.tombstone => return Ok((Vec::new(), after)),
        other => other?,
    };
    let (span, filter) = (question.span, question.filter.clone());
    let decoded = tokio::task::spawn_blocking(move || {
        let (mut events, mut last) = (Vec::new(), after);
        read::events::<SegmentError>(&object, |event| {
            let seq = event.seq.unwrap_or(0);
            if seq <= after {
                return Ok(ControlFlow::Continue(()));
            }
            last = seq;
            if span.holds(event.ts) && filter.matches(&event) {
                events.push(event);
            }
            Ok(if events.len() == room {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok((events, last))
    });
    decoded.await.unwrap_or_else(|error| {
        Err(SegmentError::Line {
            line: 0,
            error: error.to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let cursor = Cursor {
            stem: "v1/date=2026-11-21/hour=10/host=a%3Ab/r-1-2".to_owned(),
            seq: 7,
        };
        assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        assert_eq!(Cursor::parse("x"), None);
        assert_eq!(Cursor::parse("x:y"), None);
    }
}
