//! The truth tests on other kernels: which machine runs what, all of them side by side, one table in the end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use super::{close, conclude, list};
use crate::build;
use crate::packages::{self, Need};
use crate::report::Report;
use crate::sh::say;
use crate::vm::record::Record;
use crate::vm::{self, End, Job, Outcome, kernels, matrix};

/// The truth tests on other kernels, on all unless some are `wanted`; as many machines at once as there are processors;
/// then one table. `save`: keep what was measured.
pub(crate) fn on_kernels(
    wanted: &[String],
    filter: Option<&str>,
    silence: Duration,
    save: bool,
) -> Result<()> {
    packages::ensure(Need::Vm)?;
    let programs = Programs::build()?;
    let mut runs = Vec::new();
    let all = ["all".to_owned()];
    let wanted = if wanted.is_empty() { &all } else { wanted };
    for kernel in kernels::select(wanted)? {
        // Here, one after the other: machines that run at once share what is unpacked.
        kernels::fetch(&kernel)?;
        for machine in kernels::machines(&kernel.name)? {
            runs.extend(Run::plan(&kernel, machine, &programs, filter)?);
        }
    }
    // The long ones first.
    runs.sort_by_key(|run| !run.is_plain());
    let label = runs.len() > 1;
    let ended = parallel(&runs, |run| run.boot(&programs, label, silence));
    let (mut reports, mut ladders) = (Vec::new(), Vec::new());
    for (run, ended) in runs.iter().zip(ended) {
        let mut ended = ended.unwrap_or_else(|error| Done::broken(run, &error));
        if run.is_plain() {
            let ladder = matrix::ladder(&ended.console);
            let whole = filter.is_none().then_some(ended.took);
            let record = Record::read(&ended.console, &ladder, ended.booted, whole);
            let judged = record.and_then(|record| judge(&run.kernel.name, record, &mut ended.report, save));
            if let Err(error) = judged {
                ended.report.broke(format!("{error:#}"));
            }
            ladders.push((run.kernel.name.clone(), ladder));
        }
        reports.push(ended.report);
    }
    print!("\n{}", matrix::table(&ladders));
    conclude(&reports)
}

/// Holds what was measured against what is recorded, or records it: of a run without failures only.
fn judge(kernel: &str, record: Option<Record>, report: &mut Report, save: bool) -> Result<()> {
    match record {
        Some(record) if !save => {
            for grown in record.grown(Record::load(kernel)?.as_ref()) {
                report.broke(grown);
            }
        }
        Some(record) if !report.has_failures() => record.save(kernel)?,
        Some(_) => say!("kernel {kernel}: nothing recorded, because tests failed"),
        None if save => bail!("nothing was measured, so nothing is recorded: the parity test has to run"),
        None => {}
    }
    Ok(())
}

/// The truth tests on one kernel, nothing special about its machine.
pub(super) fn plain(
    kernel: &kernels::Kernel,
    programs: &Programs,
    filter: Option<&str>,
    silence: Duration,
) -> Result<Report> {
    let run = Run {
        kernel: kernel.clone(),
        machine: kernels::machine(None)?,
        filter: filter.map(str::to_owned),
        expected: list(&programs.truth, filter)?,
    };
    Ok(run.boot(programs, false, silence)?.report)
}

/// What travels into a machine.
pub(super) struct Programs {
    pub(super) agent: PathBuf,
    pub(super) truth: PathBuf,
    pub(super) init: PathBuf,
}

impl Programs {
    fn build() -> Result<Self> {
        Ok(Self {
            agent: build::agent()?,
            truth: build::truth()?,
            init: build::vm_init()?,
        })
    }
}

/// One boot: a kernel, a machine, the tests to run there.
struct Run {
    kernel: kernels::Kernel,
    machine: kernels::Machine,
    filter: Option<String>,
    expected: BTreeSet<String>,
}

impl Run {
    /// The plain machine takes every test that `filter` lets through, another one its own; `None`: no test is left.
    fn plan(
        kernel: &kernels::Kernel,
        machine: kernels::Machine,
        programs: &Programs,
        filter: Option<&str>,
    ) -> Result<Option<Self>> {
        let own = kernels::tests_of(&machine);
        let run = Run {
            kernel: kernel.clone(),
            filter: own.clone().or(filter.map(str::to_owned)),
            expected: list(&programs.truth, own.as_deref().or(filter))?,
            machine,
        };
        let wanted = |name: &String| match &own {
            // What only another machine can run is left to it.
            None => filter.is_none() || !name.starts_with(kernels::SPECIAL_TESTS),
            Some(_) => filter.is_none_or(|filter| name.contains(filter)),
        };
        if run.expected.is_empty() {
            bail!(
                "no test is called {}",
                run.filter.as_deref().unwrap_or("anything")
            );
        }
        Ok(run.expected.iter().any(wanted).then_some(run))
    }

    fn is_plain(&self) -> bool {
        self.machine.name == kernels::PLAIN
    }

    fn title(&self) -> String {
        match self.machine.name.as_str() {
            kernels::PLAIN => format!("truth tests, kernel {} in a virtual machine", self.kernel.name),
            special => format!(
                "truth tests, kernel {} in a machine with {special}",
                self.kernel.name
            ),
        }
    }

    /// All of it, and what failed once more by itself.
    fn boot(&self, programs: &Programs, label: bool, silence: Duration) -> Result<Done> {
        let own: Vec<_> = self.filter.iter().map(String::as_str).collect();
        let (report, outcome) = self.once(programs, &own, label, silence)?;
        let mut report = match outcome.end {
            End::Verdict(code) => close(report, code == 0, Some(&self.expected)),
            other => {
                let mut report = report;
                report.broke(other.to_string());
                report.finish(Some(&self.expected))
            }
        };
        for name in report.second_tries() {
            say!("{}: {name} failed: once more, by itself", self.title());
            let (second, _) = self.once(programs, &["--exact", &name], label, silence)?;
            report.tried_again(&name, &second);
        }
        Ok(Done {
            report,
            console: outcome.console,
            booted: outcome.booted,
            took: outcome.took,
        })
    }

    /// One machine from its start to its end.
    fn once(
        &self,
        programs: &Programs,
        arguments: &[&str],
        label: bool,
        silence: Duration,
    ) -> Result<(Report, Outcome)> {
        let guest = "/bin/truth".to_owned();
        let name = match self.machine.name.as_str() {
            kernels::PLAIN => self.kernel.name.clone(),
            special => format!("{} {special}", self.kernel.name),
        };
        let job = Job {
            argv: std::iter::once(guest.clone())
                .chain(arguments.iter().map(|&argument| argument.to_owned()))
                .collect(),
            programs: vec![
                vm::netprobe(programs.agent.clone()),
                (programs.truth.clone(), guest),
            ],
            machine: self.machine.clone(),
            label: if label {
                format!("[{name}] ")
            } else {
                String::new()
            },
            cards: Vec::new(),
            silence,
        };
        let outcome = vm::boot(&self.kernel, &programs.init, &job)?;
        let mut report = Report::new(self.title());
        outcome.console.iter().for_each(|line| report.line(line));
        say!(
            "kernel {name}: {} after {:.0} s, {:.0} s of them to start it",
            outcome.end,
            outcome.took.as_secs_f64(),
            outcome.booted.unwrap_or_default().as_secs_f64()
        );
        Ok((report, outcome))
    }
}

/// What came of a boot.
struct Done {
    report: Report,
    console: Vec<String>,
    booted: Option<Duration>,
    took: Duration,
}

impl Done {
    /// One that could not even begin: a failure among the others.
    fn broken(run: &Run, error: &anyhow::Error) -> Self {
        let mut report = Report::new(run.title());
        report.broke(format!("{error:#}"));
        Self {
            report: report.finish(None),
            console: Vec::new(),
            booted: None,
            took: Duration::ZERO,
        }
    }
}

/// Does every one of `items`, as many at once as there are processors; answers in their order.
fn parallel<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(items.len());
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(index) else { return done };
                done.push((index, each(item)));
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::parallel;

    #[test]
    fn parallel_answers_stand_in_order() {
        let doubled = parallel(&[1, 2, 3, 4, 5], |n| {
            std::thread::sleep(std::time::Duration::from_millis(5 - n));
            n * 2
        });
        assert_eq!(doubled, [2, 4, 6, 8, 10]);
        assert!(parallel(&[0; 0], |n: &i32| *n).is_empty());
    }
}
