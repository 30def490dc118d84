//! Sink: the last events, for `/api/v1/events` and `netprobe observe`. Bounded by count and by bytes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    event::Event,
    fanout::{Outcome, Sink, weight},
};

/// The last events; a clone reads the same.
#[derive(Clone, Debug)]
pub struct Recent {
    shared: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

/// A part of the last events, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentPage {
    /// Events looked at, whether a filter wants them or not.
    pub events: Vec<Arc<Event>>,
    /// The oldest number still held; `None`: nothing is.
    pub oldest: Option<u64>,
    /// The newest number held.
    pub newest: Option<u64>,
}

impl Recent {
    /// Holds at most this many events and bytes.
    pub fn new(max_events: usize, max_bytes: usize) -> Recent {
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            max_events,
            max_bytes,
        };
        Recent {
            shared: Arc::new(Mutex::new(ring)),
        }
    }

    /// Up to `limit` events with numbers above `after`, oldest first.
    pub fn after(&self, after: u64, limit: usize) -> RecentPage {
        let ring = self.ring();
        // Numbers have no holes, so the place of one is its distance from the first.
        let first = ring.events.front().and_then(|event| event.seq);
        let skip = first.map_or(0, |first| (after + 1).saturating_sub(first));
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        RecentPage {
            events: ring.events.iter().skip(skip).take(limit).cloned().collect(),
            oldest: first,
            newest: ring.events.back().and_then(|event| event.seq),
        }
    }

    /// The newest number, held or not; 0: none yet.
    pub fn newest(&self) -> u64 {
        self.ring().events.back().and_then(|event| event.seq).unwrap_or(0)
    }

    /// Every event held, oldest first.
    pub fn all(&self) -> RecentPage {
        self.after(0, usize::MAX)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is whole after every step, so a panic elsewhere does not make it wrong.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Recent {
    fn name(&self) -> &'static str {
        "recent"
    }

    /// Events are delivered when they enter the ring; that the oldest leave it is what a ring is for.
    fn consume(&mut self, event: &Arc<Event>) -> Outcome {
        let mut ring = self.ring();
        ring.bytes += weight(event);
        ring.events.push_back(event.clone());
        while ring.events.len() > ring.max_events || ring.bytes > ring.max_bytes {
            let Some(oldest) = ring.events.pop_front() else {
                break;
            };
            ring.bytes = ring.bytes.saturating_sub(weight(&oldest));
        }
        Outcome::Delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventKind, Origin, Severity};

    fn filled(max_events: usize, max_bytes: usize, count: u64) -> Recent {
        let mut recent = Recent::new(max_events, max_bytes);
        for seq in 1..=count {
            let mut event = Event::new(&Origin::new("h", "b", "r"), EventKind::Agent, Severity::Info);
            event.seq = Some(seq);
            assert_eq!(recent.consume(&Arc::new(event)), Outcome::Delivered);
        }
        recent
    }

    fn numbers(page: &RecentPage) -> Vec<u64> {
        page.events.iter().filter_map(|event| event.seq).collect()
    }

    #[test]
    fn holds_the_newest_by_count() {
        let recent = filled(3, usize::MAX, 10);
        let page = recent.all();
        assert_eq!(numbers(&page), [8, 9, 10]);
        assert_eq!((page.oldest, page.newest), (Some(8), Some(10)));
    }

    #[test]
    fn holds_the_newest_by_bytes() {
        let one = size_of::<Event>() + 64;
        assert_eq!(numbers(&filled(100, 4 * one, 10).all()), [7, 8, 9, 10]);
    }

    #[test]
    fn pages_from_a_number() {
        let recent = filled(5, usize::MAX, 10);
        assert_eq!(numbers(&recent.after(0, 2)), [6, 7]);
        assert_eq!(numbers(&recent.after(7, 2)), [8, 9]);
        assert_eq!(numbers(&recent.after(9, 2)), [10]);
        assert_eq!(numbers(&recent.after(10, 2)), [0; 0]);
        assert_eq!(numbers(&recent.after(99, 2)), [0; 0]);
        assert_eq!(numbers(&Recent::new(5, 1000).after(0, 2)), [0; 0]);
    }
}
