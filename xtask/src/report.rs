//! What a test run says about itself, read from the output every Rust test harness prints, and held against
//! what it should have run: a test that does not report counts as failed.

use std::collections::{BTreeMap, BTreeSet};

/// Most failed tests that are tried again, each by itself: a machine whose processor others use, or that is emulated, starves
/// one now and then. More than these and something is broken.
const SECOND_TRIES: usize = 3;

/// What one test came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It was not run.
    Ignored,
}

/// One part of a test run: the unit tests, or the truth tests on one kernel.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// How the summary calls it.
    pub(crate) title: String,
    passed: usize,
    failed: Vec<String>,
    /// Not run, with the reason given; no reason is a failure.
    ignored: BTreeMap<String, Option<String>>,
    /// Tests announced by `running N tests`.
    announced: usize,
    /// Tests in `test result:` lines.
    summed: usize,
    /// Every name that reported.
    reported: BTreeSet<String>,
    /// Failed once and passed when tried again by itself: no failure, but to be seen.
    unsteady: Vec<String>,
    /// Failures that belong to no test: a crash, a hang, an exit code without a failed test.
    broken: Vec<String>,
    pending: Option<String>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Takes in one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(count) = line
            .strip_prefix("running ")
            .and_then(|rest| rest.split_once(" test"))
        {
            self.announced += count.0.parse().unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.summed += sum(rest);
        } else if let Some(rest) = line.strip_prefix("skipped: ") {
            if let Some((name, reason)) = rest.split_once(": ") {
                self.ignored
                    .insert(name.trim().to_owned(), Some(reason.to_owned()));
            }
        } else if let Some((name, rest)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ...")) {
            // A harness with one thread announces first and judges later, possibly after other output.
            let name = name.trim().to_owned();
            if !self.verdict(&name, rest.trim()) {
                self.pending = Some(name);
            }
        } else if let Some(name) = self.pending.clone() {
            let last = line.rsplit(' ').next().unwrap_or(line);
            let verdict = if line.starts_with("ignored, ") { line } else { last };
            if self.verdict(&name, verdict) {
                self.pending = None;
            }
        }
    }

    fn verdict(&mut self, name: &str, verdict: &str) -> bool {
        match verdict {
            "ok" => self.passed += 1,
            "FAILED" => self.failed.push(name.to_owned()),
            text if text == "ignored" || text.starts_with("ignored, ") => {
                let reason = text.strip_prefix("ignored, ").map(str::to_owned);
                let entry = self.ignored.entry(name.to_owned()).or_default();
                *entry = entry.take().or(reason);
            }
            _ => return false,
        }
        self.reported.insert(name.to_owned());
        true
    }

    /// A failure of the run itself.
    pub(crate) fn broke(&mut self, how: impl Into<String>) {
        self.broken.push(how.into());
    }

    /// Whether a test has failed so far.
    pub(crate) fn has_failures(&self) -> bool {
        !self.failed.is_empty() || !self.broken.is_empty()
    }

    /// The verdict of every test that reported.
    pub(crate) fn verdicts(&self) -> BTreeMap<String, Verdict> {
        let verdict = |name: &String| {
            if self.failed.contains(name) {
                Verdict::Failed
            } else if self.ignored.contains_key(name) {
                Verdict::Ignored
            } else {
                Verdict::Passed
            }
        };
        self.reported
            .iter()
            .map(|name| (name.clone(), verdict(name)))
            .collect()
    }

    /// Closes the report. `expected`: the names that had to report, where they are known.
    pub(crate) fn finish(mut self, expected: Option<&BTreeSet<String>>) -> Self {
        if let Some(expected) = expected {
            for name in expected.difference(&self.reported).cloned().collect::<Vec<_>>() {
                self.failed.push(format!("{name} (did not report)"));
            }
        } else if self.announced != self.summed {
            self.broke(format!(
                "{} tests were announced, {} reported",
                self.announced, self.summed
            ));
        }
        let unexplained: Vec<_> = self
            .ignored
            .iter()
            .filter(|(_, why)| why.is_none())
            .map(|(n, _)| n.clone())
            .collect();
        for name in unexplained {
            self.ignored.remove(&name);
            self.failed.push(format!("{name} (ignored without a reason)"));
        }
        self
    }

    /// What is worth a second try: a few tests, where nothing else went wrong.
    pub(crate) fn second_tries(&self) -> Vec<String> {
        if self.broken.is_empty() && self.failed.len() <= SECOND_TRIES {
            self.failed.clone()
        } else {
            Vec::new()
        }
    }

    /// Takes in the second try of the test called `name`, made by itself.
    pub(crate) fn tried_again(&mut self, name: &str, second: &Report) {
        if second.has_failures() || second.passed != 1 {
            return;
        }
        self.failed.retain(|failed| failed != name);
        self.unsteady.push(name.to_owned());
        self.passed += 1;
    }

    fn failures(&self) -> usize {
        self.failed.len() + self.broken.len()
    }
}

/// Names a harness prints for `--list`.
pub(crate) fn listed(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// `ok. 3 passed; 0 failed; 1 ignored; …` → 4.
fn sum(result: &str) -> usize {
    let counted = |part: &str| {
        let mut words = part.split_whitespace().rev();
        let (kind, count) = (words.next()?, words.next()?);
        ["passed", "failed", "ignored", "measured"]
            .contains(&kind)
            .then(|| count.parse::<usize>().ok())?
    };
    result.split(';').filter_map(counted).sum::<usize>()
}

/// Prints what ran and what did not; returns whether everything passed. The last line is the plain total.
pub(crate) fn summary(reports: &[Report]) -> bool {
    println!();
    let width = reports.iter().map(|r| r.title.len()).max().unwrap_or(0);
    for r in reports {
        println!(
            "{:width$}  {:4} passed  {:4} failed  {:4} not run",
            r.title,
            r.passed,
            r.failures(),
            r.ignored.len()
        );
    }
    for r in reports {
        for (name, why) in &r.ignored {
            println!(
                "not run: {}: {name}: {}",
                r.title,
                why.as_deref().unwrap_or("no reason given")
            );
        }
    }
    // Last, where they are seen.
    for r in reports {
        for name in &r.unsteady {
            println!("unsteady: {}: {name}: failed, then passed by itself", r.title);
        }
        for name in r.failed.iter().chain(&r.broken) {
            println!("failed: {}: {name}", r.title);
        }
    }
    let (passed, failed) = reports
        .iter()
        .fold((0, 0), |(p, f), r| (p + r.passed, f + r.failures()));
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Report {
        let mut report = Report::new("t");
        text.lines().for_each(|line| report.line(line));
        report
    }

    #[test]
    fn a_plain_run() {
        let r = read(
            "running 3 tests\ntest a::b ... ok\ntest src/x.rs - y (line 3) ... FAILED\ntest c ... ignored, needs a disk\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        )
        .finish(None);
        assert_eq!(
            (r.passed, r.failed.as_slice(), r.broken.len()),
            (1, &["src/x.rs - y (line 3)".to_owned()][..], 0)
        );
        assert_eq!(r.ignored["c"].as_deref(), Some("needs a disk"));
    }

    #[test]
    fn a_verdict_after_other_output() {
        let r = read("test slow   ... \nnoise from the test\nhalf a line ok\ntest next ... \nFAILED\n");
        assert_eq!((r.passed, r.failed), (1, vec!["next".to_owned()]));
    }

    #[test]
    fn a_test_that_does_not_report_is_a_failure() {
        let expected = listed("one: test\ntwo: test\n2 tests, 0 benchmarks\n");
        let r = read("test one ... ok\n").finish(Some(&expected));
        assert_eq!(r.failed, ["two (did not report)"]);
    }

    #[test]
    fn a_harness_that_stops_in_the_middle_is_a_failure() {
        let r = read("running 2 tests\ntest one ... ok\n").finish(None);
        assert_eq!(r.failures(), 1);
    }

    #[test]
    fn ignoring_needs_a_reason() {
        let expected = listed("one: test\ntwo: test\n");
        let r = read("skipped: one: no nginx here\ntest one ... ignored\ntest two ... ignored\n")
            .finish(Some(&expected));
        assert_eq!(r.ignored["one"].as_deref(), Some("no nginx here"));
        assert_eq!(r.failed, ["two (ignored without a reason)"]);
    }

    #[test]
    fn a_second_try_counts_if_it_passes() {
        let mut r = read("test one ... ok\ntest two ... FAILED\ntest three ... FAILED\n");
        assert_eq!(r.second_tries(), ["two", "three"]);
        r.tried_again("two", &read("test two ... ok\n"));
        r.tried_again("three", &read("test three ... FAILED\n"));
        assert_eq!((r.passed, r.failures()), (2, 1));
        assert_eq!(r.unsteady, ["two"]);
    }

    #[test]
    fn many_failures_are_not_tried_again() {
        let r = read("test a ... FAILED\ntest b ... FAILED\ntest c ... FAILED\ntest d ... FAILED\n");
        assert_eq!(r.second_tries(), [""; 0]);
        let mut r = read("test a ... FAILED\n");
        r.broke("the machine stopped");
        assert_eq!(r.second_tries(), [""; 0]);
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!summary(&[Report::new("t").finish(Some(&BTreeSet::new()))]));
        assert!(summary(&[read("test one ... ok\n")]));
    }
}
