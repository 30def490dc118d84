//! When to look at which connection again. Coarse and cheap: a list per tick, entries checked when they come up.

use std::collections::BTreeMap;

const TICK_NS: u64 = 100_000_000;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A connection, by cookie and begin: a socket may connect again.
    Flow(u64, u64),
    /// A forwarded connection, and its begin. Apart: its name is long, and there may be a million of the others.
    Forward(Box<(super::forward::Id, u64)>),
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

    /// Takes out what is due at `now_ns`, `at_most` so many; the rest stays due.
    pub fn take(&mut self, now_ns: u64, at_most: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(mut entry) = self.ticks.first_entry() {
            if *entry.key() > now_ns / TICK_NS {
                break;
            }
            let list = entry.get_mut();
            let kept = list.len().saturating_sub(at_most - due.len());
            if kept > 0 {
                due.extend(list.drain(kept..));
                break;
            }
            due.append(&mut entry.remove());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(at_ms: &[u64]) -> Timers {
        let mut timers = Timers::default();
        for at in at_ms {
            timers.set(at * 1_000_000, Due::Flow(*at, 0));
        }
        timers
    }

    fn cookies(due: &[Due]) -> Vec<u64> {
        let cookie = |due: &Due| match due {
            Due::Flow(cookie, _) => *cookie,
            Due::Forward(..) => 0,
        };
        due.iter().map(cookie).collect()
    }

    #[test]
    fn comes_up_at_its_tick_and_once() {
        let mut timers = filled(&[50, 150, 950]);
        assert_eq!(cookies(&timers.take(99_000_000, 10)), [0; 0]);
        assert_eq!(cookies(&timers.take(200_000_000, 10)), [50, 150]);
        assert_eq!(cookies(&timers.take(2_000_000_000, 10)), [950]);
        assert_eq!(cookies(&timers.take(2_000_000_000, 10)), [0; 0]);
    }

    #[test]
    fn what_is_too_much_stays_due() {
        let mut timers = filled(&[1, 2, 3, 101, 102]);
        let mut taken = Vec::new();
        for count in [2, 2, 1, 0] {
            let due = timers.take(300_000_000, 2);
            assert_eq!(due.len(), count, "after {taken:?}");
            taken.extend(cookies(&due));
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3, 101, 102]);
    }
}
