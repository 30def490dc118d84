//! Keeps the agent within `probe.cpu_budget`: sheds detail step by step before the budget is broken, and takes it back.
//!
//! Every second it looks at the CPU time of the agent, that of its BPF programs included while `probe.statistics`
//! counts it. Ten seconds at 90 % of the budget are one step down; thirty at less than 60 %, one step up. Final
//! events, gaps and counters are not detail: no step touches them.

use std::{collections::VecDeque, time::Duration};

use crate::probe_report::GovernorReport;

/// What is shed, in this order: each step keeps those before it.
pub const STEPS: [(&str, &str); 5] = [
    ("updates", "no `update` events of live flows"),
    (
        "requests",
        "of requests that went well, and were not slow, one in ten",
    ),
    ("opens", "no `open` events either"),
    (
        "samples",
        "of the samples of a live connection, one in ten seconds",
    ),
    (
        "windows",
        "no sliding windows of services and peers, no exemplars",
    ),
];

/// Time looked at before a step down, and before a step up.
const DOWN: Duration = Duration::from_secs(10);
const UP: Duration = Duration::from_secs(30);
/// Shares of the budget from which on a step is taken.
const HIGH: f64 = 0.9;
const LOW: f64 = 0.6;

/// The steps taken, and what decides the next.
#[derive(Debug)]
pub struct Governor {
    budget: f64,
    level: usize,
    /// Moments and CPU seconds since the last step, of the last [`UP`].
    readings: VecDeque<(Duration, f64)>,
}

impl Governor {
    /// No step taken. The budget is in processors; 0: there is none.
    pub fn new(budget: f64) -> Governor {
        Governor {
            budget,
            level: 0,
            readings: VecDeque::new(),
        }
    }

    /// Takes a reading: a moment, and all CPU seconds until then. Returns what to tell when it takes a step.
    pub fn observe(&mut self, at: Duration, cpu_seconds: f64) -> Option<String> {
        self.readings.push_back((at, cpu_seconds));
        while self
            .readings
            .get(1)
            .is_some_and(|(begin, _)| at.saturating_sub(*begin) >= UP)
        {
            self.readings.pop_front();
        }
        if self.budget <= 0.0 {
            return None;
        }
        let high = self.usage(DOWN).is_some_and(|usage| usage >= HIGH * self.budget);
        let low = self.usage(UP).is_some_and(|usage| usage < LOW * self.budget);
        let (level, what) = match self.level {
            level if high && level < STEPS.len() => (level + 1, format!("sheds {}", STEPS[level].0)),
            level if low && level > 0 => (level - 1, format!("takes {} back", STEPS[level - 1].0)),
            _ => return None,
        };
        let usage = self.usage(if high { DOWN } else { UP }).unwrap_or(0.0);
        self.level = level;
        // What comes is to be judged on its own.
        self.readings.clear();
        Some(format!(
            "{what}: the agent uses {usage:.2} of a processor, `probe.cpu_budget` is {}",
            self.budget
        ))
    }

    /// Steps taken.
    pub const fn level(&self) -> usize {
        self.level
    }

    /// What it says about itself.
    pub fn report(&self) -> GovernorReport {
        GovernorReport {
            cpu_budget: self.budget,
            cpu_usage: self.usage(DOWN),
            level: self.level as u64,
            shed: STEPS[..self.level]
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect(),
        }
    }

    /// Processors used over the last `time`; not known before it is over.
    fn usage(&self, time: Duration) -> Option<f64> {
        let (end, spent) = self.readings.back()?;
        let begin = end.checked_sub(time)?;
        let (at, before) = self.readings.iter().rev().find(|(at, _)| *at <= begin)?;
        Some((spent - before) / (*end - *at).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for so many seconds at a load; the seconds at which a step was taken.
    fn run(governor: &mut Governor, clock: &mut (u64, f64), seconds: u64, load: f64) -> Vec<u64> {
        let mut steps = Vec::new();
        for _ in 0..seconds {
            clock.0 += 1;
            clock.1 += load;
            if governor.observe(Duration::from_secs(clock.0), clock.1).is_some() {
                steps.push(clock.0);
            }
        }
        steps
    }

    #[test]
    fn steps_are_taken_before_the_budget_is_broken_and_taken_back_later() {
        let (mut governor, mut clock) = (Governor::new(0.5), (0, 0.0));
        assert!(run(&mut governor, &mut clock, 100, 0.44).is_empty());
        // At 0.46 of 0.5: each step has ten seconds of its own; past the last one there is none.
        let steps = run(&mut governor, &mut clock, 100, 0.46);
        assert_eq!(steps.len(), STEPS.len(), "{steps:?}");
        assert!(steps.is_sorted_by(|a, b| b - a >= 10), "{steps:?}");
        assert_eq!(
            governor.report().shed,
            ["updates", "requests", "opens", "samples", "windows"]
        );
        // Between the two marks nothing changes.
        assert!(run(&mut governor, &mut clock, 100, 0.35).is_empty());
        let steps = run(&mut governor, &mut clock, 300, 0.2);
        assert_eq!(steps.len(), STEPS.len(), "{steps:?}");
        assert!(steps.is_sorted_by(|a, b| b - a >= 30), "{steps:?}");
        assert_eq!(governor.level(), 0);
    }

    #[test]
    fn a_moment_is_no_reason() {
        let (mut governor, mut clock) = (Governor::new(0.5), (0, 0.0));
        run(&mut governor, &mut clock, 20, 0.1);
        assert!(run(&mut governor, &mut clock, 3, 0.9).is_empty());
        assert!(run(&mut governor, &mut clock, 20, 0.1).is_empty());
    }

    #[test]
    fn without_a_budget_nothing_is_shed() {
        let (mut governor, mut clock) = (Governor::new(0.0), (0, 0.0));
        assert!(run(&mut governor, &mut clock, 100, 2.0).is_empty());
        assert_eq!(governor.report().cpu_usage, Some(2.0));
    }
}
