//! When records were lost: what is not there then may have been.

use std::collections::VecDeque;

/// Windows nearer to each other than this are one: there must not be many.
const APART_NS: u64 = 1_000_000_000;

/// Windows of time in which records of one kind were lost.
#[derive(Debug, Default)]
pub struct Losses {
    /// Lost so far, and when that was known.
    known: (u64, u64),
    /// Begin and end, in order.
    windows: VecDeque<(u64, u64)>,
}

impl Losses {
    /// Takes the number lost so far, as read at `now_ns`: what is new was lost since it was read before.
    pub fn read(&mut self, count: u64, now_ns: u64) {
        let (before, since_ns) = self.known;
        self.known = (count, now_ns);
        if count == before {
            return;
        }
        match self.windows.back_mut() {
            Some((_, end)) if *end + APART_NS >= since_ns => *end = now_ns,
            _ => self.windows.push_back((since_ns, now_ns)),
        }
    }

    /// Whether anything was lost between the two, both included.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> bool {
        let first = self.windows.partition_point(|&(_, end)| end < from_ns);
        self.windows.get(first).is_some_and(|&(begin, _)| begin <= to_ns)
    }

    /// Forgets what ended before `ns`.
    pub fn forget(&mut self, ns: u64) {
        while self.windows.front().is_some_and(|&(_, end)| end < ns) {
            self.windows.pop_front();
        }
    }
}
