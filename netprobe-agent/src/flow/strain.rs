//! What the host itself runs out of: accept queues that overflow, limits that are met. It is told in `agent` events, so
//! that the history has it when somebody asks what happened.

use std::collections::{BTreeMap, BTreeSet};

use crate::probe_report::LimitReport;

/// Percent of a limit that are as good as all of it, and those at which it is over.
const FULL: u64 = 95;
const ROOM: u64 = 90;

/// What was told before.
#[derive(Debug, Default)]
pub(super) struct Strain {
    /// Connections dropped at full accept queues, by network namespace; `None`: not looked yet.
    overflows: Option<BTreeMap<String, u64>>,
    full: BTreeSet<String>,
}

impl Strain {
    /// What is new since the last look, a sentence each.
    pub(super) fn look(&mut self, overflows: &BTreeMap<String, u64>, limits: &[LimitReport]) -> Vec<String> {
        let mut news = Vec::new();
        if let Some(before) = &self.overflows {
            for (netns, count) in overflows {
                let fresh = count.saturating_sub(before.get(netns).copied().unwrap_or(0));
                if fresh > 0 {
                    news.push(format!(
                        "{fresh} connections were dropped at full accept queues of network namespace {netns}: who \
                         listens there does not accept in time"
                    ));
                }
            }
        }
        self.overflows = Some(overflows.clone());
        for LimitReport { what, used, limit } in limits {
            let percent = used.saturating_mul(100).checked_div(*limit).unwrap_or(0);
            if percent >= FULL && self.full.insert(what.clone()) {
                news.push(format!("the host's limit on {what} is met: {used} of {limit}"));
            } else if percent < ROOM && self.full.remove(what) {
                news.push(format!(
                    "the host's limit on {what} has room again: {used} of {limit}"
                ));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_and_what_is_met_is_told_once() {
        let mut strain = Strain::default();
        let overflows = |count: u64| BTreeMap::from([("4026531840".to_owned(), count)]);
        let limits = |used| {
            [LimitReport {
                what: "conntrack_entries".to_owned(),
                used,
                limit: 1000,
            }]
        };
        let mut look = |count, used| strain.look(&overflows(count), &limits(used)).len();
        // What was there before the agent is no news.
        assert_eq!(look(5, 10), 0);
        assert_eq!(look(5, 949), 0);
        assert_eq!(look(8, 950), 2);
        assert_eq!(look(8, 1000), 0);
        // It has to fall a little further to be over.
        assert_eq!(look(8, 920), 0);
        assert_eq!(look(8, 899), 1);
        assert_eq!(look(8, 950), 1);
    }
}
