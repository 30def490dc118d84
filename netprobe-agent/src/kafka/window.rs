//! What is under way: items in the order they were read, each until it and all before it are done.

use std::{collections::VecDeque, sync::Arc};

use crate::{event::Nanos, journal::Done};

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    Lost(&'static str),
}

#[derive(Debug)]
struct Slot {
    run: Arc<str>,
    seq: u64,
    ts: Option<Nanos>,
    bytes: u64,
    count: u64,
    fate: Option<Fate>,
}

/// The items.
#[derive(Debug, Default)]
pub(super) struct Window {
    slots: VecDeque<Slot>,
    /// Number of the first.
    first: usize,
}

/// Items that are done, up to one of a run.
#[derive(Debug, PartialEq)]
pub(super) struct Settled {
    pub(super) run: Arc<str>,
    pub(super) seq: u64,
    pub(super) bytes: u64,
    pub(super) done: Done,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// When the oldest that is not done was emitted.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.slots.iter().find_map(|slot| slot.ts)
    }

    /// An event; its number in the window.
    pub(super) fn push(&mut self, run: Arc<str>, seq: u64, ts: Option<Nanos>, bytes: usize) -> usize {
        self.slots.push_back(Slot {
            run,
            seq,
            ts,
            bytes: bytes as u64,
            count: 1,
            fate: None,
        });
        self.first + self.slots.len() - 1
    }

    /// Events that were lost before they came here.
    pub(super) fn push_lost(&mut self, run: Arc<str>, seq: u64, reason: &'static str, count: u64) {
        let number = self.push(run, seq, None, 0);
        self.slots[number - self.first].count = count;
        self.mark(number, Fate::Lost(reason));
    }

    /// Notes what became of one.
    pub(super) fn mark(&mut self, number: usize, fate: Fate) {
        let slot = number
            .checked_sub(self.first)
            .and_then(|at| self.slots.get_mut(at));
        if let Some(slot) = slot {
            slot.fate = Some(fate);
        }
    }

    /// Takes back the last one.
    pub(super) fn pop_last(&mut self) {
        self.slots.pop_back();
    }

    /// Takes what is done from the front, one entry a run.
    pub(super) fn settle(&mut self) -> Vec<Settled> {
        let mut settled: Vec<Settled> = Vec::new();
        while let Some(fate) = self.slots.front().and_then(|slot| slot.fate) {
            let Some(slot) = self.slots.pop_front() else { break };
            self.first += 1;
            let into = match settled.last_mut() {
                Some(last) if last.run == slot.run => last,
                _ => {
                    settled.push(Settled {
                        run: slot.run,
                        seq: 0,
                        bytes: 0,
                        done: Done::default(),
                    });
                    let last = settled.len() - 1;
                    &mut settled[last]
                }
            };
            into.seq = slot.seq;
            match fate {
                Fate::Delivered => {
                    into.done.delivered += slot.count;
                    into.bytes += slot.bytes;
                }
                Fate::Lost(reason) => *into.done.lost.entry(reason).or_default() += slot.count,
            }
        }
        settled
    }

    /// Forgets what is under way.
    pub(super) fn clear(&mut self) {
        self.first += self.slots.len();
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_before_all_before_it() {
        let mut window = Window::default();
        let run: Arc<str> = "a".into();
        let numbers: Vec<_> = (1..=4)
            .map(|seq| window.push(run.clone(), seq, None, 10))
            .collect();
        window.mark(numbers[1], Fate::Delivered);
        window.mark(numbers[2], Fate::Lost("message_too_large"));
        assert_eq!(window.settle(), []);
        window.mark(numbers[0], Fate::Delivered);
        let settled = window.settle();
        assert_eq!((settled.len(), settled[0].seq, settled[0].bytes), (1, 3, 20));
        assert_eq!(settled[0].done.delivered, 2);
        assert_eq!(settled[0].done.lost["message_too_large"], 1);
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn runs_are_settled_apart_and_late_word_of_what_was_forgotten_is_nothing() {
        let mut window = Window::default();
        let stale = window.push("a".into(), 1, None, 1);
        window.clear();
        let one = window.push("a".into(), 1, None, 1);
        window.push_lost("b".into(), 9, "spool_corrupt", 7);
        window.mark(stale, Fate::Delivered);
        assert_eq!(window.settle(), []);
        window.mark(one, Fate::Delivered);
        let settled = window.settle();
        assert_eq!(settled.len(), 2);
        assert_eq!((&*settled[1].run, settled[1].seq), ("b", 9));
        assert_eq!(settled[1].done.lost["spool_corrupt"], 7);
    }
}
