//! When to look at which connection again. Coarse and cheap: a list per tick, entries checked when they come up.

use std::collections::BTreeMap;

const TICK_NS: u64 = 100_000_000;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A connection, by cookie and begin: a socket may connect again.
    Flow(u64, u64),
    /// A forwarded connection, and its begin.
    Forward(super::forward::Id, u64),
}

/// Everything that is due some time.
#[derive(Default)]
pub struct Timers {
    ticks: BTreeMap<u64, Vec<Due>>,
}

impl Timers {
    /// Wants `due` at `at_ns`, up to a tenth of a second later.
    pub fn set(&mut self, at_ns: u64, due: Due) {
        self.ticks.entry(at_ns / TICK_NS + 1).or_default().push(due);
    }

    /// Takes out what is due at `now_ns`.
    pub fn take(&mut self, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(entry) = self.ticks.first_entry() {
            if *entry.key() > now_ns / TICK_NS {
                break;
            }
            due.append(&mut entry.remove());
        }
        due
    }
}
