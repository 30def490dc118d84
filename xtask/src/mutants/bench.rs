//! `cargo xtask mutants`: breaks a copy of the repository, one mutant after the other, and runs the cases that
//! must notice. The copy lies below `target/mutants`, so the tree that is worked on is never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Mutant, cases, check, load};
use crate::packages::{self, Need};
use crate::report::{self, Report, Verdict};
use crate::sh::{self, say};
use crate::{build, ebpf, engine, web};

/// The longest one run of the truth tests may take; then its process group is ended.
const LIMIT: Duration = Duration::from_secs(300);
/// Name of the truth tests' namespaces, before the process id.
const NAMESPACES: &str = "npt-";

/// Breaks the code by every mutant of these ids (none: by all) and shows which cases noticed, here or, for those that
/// need what this machine lacks, on another kernel.
pub(crate) fn run(ids: &[String], every_case: bool, kernel: Option<&str>) -> Result<()> {
    packages::ensure(Need::Test)?;
    engine::ensure()?;
    check(sh::root())?;
    let mutants = chosen(load(sh::root())?, ids)?;
    let mut bench = Bench::open(kernel)?;
    let names = bench.build(true)?;
    ensure!(
        names == cases(&bench.tree())?,
        "the cases found in tests/cases are not those the truth tests list: register each with `Case::new(\"NAME\", …)`"
    );
    let methods = bench.methods()?;
    let wanted = |mutant: &Mutant| -> BTreeSet<String> {
        if every_case {
            names.clone()
        } else {
            mutant.kills.iter().cloned().collect()
        }
    };
    say!("the code as it is: nothing may fail");
    let all: BTreeSet<String> = mutants.iter().flat_map(&wanted).collect();
    let mut failing = all.clone();
    // Once more, those that failed: on a busy machine a case may miss its deadline.
    for _ in 0..2 {
        let verdicts = bench.cases("unbroken", &names, &failing)?;
        failing.retain(|case| !matches!(verdicts.get(case), Some(Verdict::Passed | Verdict::Ignored)));
        if failing.is_empty() {
            break;
        }
        say!("not passed: {failing:?}");
    }
    ensure!(
        failing.is_empty(),
        "the code as it is does not pass, so nothing can be said about mutants; see {}",
        bench.log("unbroken").display()
    );

    let mut table = Vec::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let begun = Instant::now();
        let outcome = bench
            .broken(mutant, |bench| {
                bench.build(mutant.in_bpf())?;
                // A program the kernel refuses makes every case fail, and proves nothing.
                if mutant.in_bpf() {
                    let now = bench.methods()?;
                    ensure!(now == methods, "the kernel does not take it: {now:?}");
                }
                bench.cases(&mutant.id, &names, &wanted(mutant))
            })
            .map(|verdicts| Outcome::of(mutant, &verdicts));
        bench.uninterrupted()?;
        let row = match outcome {
            Ok(outcome) => (mutant, outcome),
            Err(error) => (mutant, Outcome::unusable(&error)),
        };
        println!(
            "[{}/{}] {} ({:.0} s): {}",
            number + 1,
            mutants.len(),
            mutant.id,
            begun.elapsed().as_secs_f64(),
            row.1.text()
        );
        table.push(row);
    }
    conclude(&table)
}

fn chosen(all: Vec<Mutant>, ids: &[String]) -> Result<Vec<Mutant>> {
    if let Some(unknown) = ids.iter().find(|id| all.iter().all(|m| m.id != **id)) {
        bail!("there is no mutant {unknown} in tests/mutants");
    }
    Ok(all
        .into_iter()
        .filter(|m| ids.is_empty() || ids.contains(&m.id))
        .collect())
}

/// What cases said of a mutant.
#[derive(Default)]
struct Outcome {
    /// Cases that failed.
    red: Vec<String>,
    /// Cases that were to fail and passed, or did not come to an end.
    survived: Vec<String>,
    /// Cases that were to fail and cannot run here.
    not_run: Vec<String>,
    /// Why the mutant could not be tried at all.
    unusable: Option<String>,
}

impl Outcome {
    fn of(mutant: &Mutant, verdicts: &BTreeMap<String, Verdict>) -> Self {
        let mut outcome = Self::default();
        for case in &mutant.kills {
            match verdicts.get(case) {
                Some(Verdict::Failed) => outcome.red.push(case.clone()),
                Some(Verdict::Ignored) => outcome.not_run.push(case.clone()),
                Some(Verdict::Passed) => outcome.survived.push(case.clone()),
                None => outcome.survived.push(format!("{case} (did not end)")),
            }
        }
        let others = verdicts
            .iter()
            .filter(|(case, verdict)| **verdict == Verdict::Failed && !mutant.kills.contains(case));
        outcome.red.extend(others.map(|(case, _)| format!("({case})")));
        outcome
    }

    fn unusable(error: &anyhow::Error) -> Self {
        Self {
            unusable: Some(format!("{error:#}")),
            ..Self::default()
        }
    }

    fn noticed(&self) -> bool {
        self.survived.is_empty() && self.unusable.is_none()
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        for (word, cases) in [
            ("red", &self.red),
            ("SURVIVED", &self.survived),
            ("not run here", &self.not_run),
        ] {
            if !cases.is_empty() {
                parts.push(format!("{word} {}", cases.join(" ")));
            }
        }
        parts.extend(self.unusable.iter().map(|why| format!("UNUSABLE: {why}")));
        parts.join("; ")
    }
}

/// Prints the table; an error if anything survived.
fn conclude(table: &[(&Mutant, Outcome)]) -> Result<()> {
    println!("\n| mutant | what is broken | cases |\n|---|---|---|");
    for (mutant, outcome) in table {
        println!("| {} | {} | {} |", mutant.id, mutant.breaks, outcome.text());
    }
    let missed = table.iter().filter(|(_, outcome)| !outcome.noticed()).count();
    let not_run: usize = table.iter().map(|(_, outcome)| outcome.not_run.len()).sum();
    println!(
        "{} mutants, {} noticed, {missed} not; {not_run} verdicts need what this machine lacks",
        table.len(),
        table.len() - missed
    );
    ensure!(
        missed == 0,
        "{missed} mutants were not noticed by every case that must"
    );
    Ok(())
}

/// The copy of the repository, and what was built of it.
struct Bench {
    folder: PathBuf,
    truth: PathBuf,
    /// The BPF object in the copy is that of a mutant.
    bpf_stale: bool,
    interrupted: Arc<AtomicBool>,
    /// Where cases run, if not on this machine.
    kernel: Option<String>,
}

impl Bench {
    /// Makes the copy, or brings it to the commit that is checked out; it keeps what it built before.
    fn open(kernel: Option<&str>) -> Result<Self> {
        let changed =
            sh::output(git(sh::root()).args(["status", "--porcelain", "--", ".", ":!tests/mutants"]))?;
        ensure!(
            changed.is_empty(),
            "commit first, the copy holds what is committed; not committed are:\n{changed}"
        );
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone()).context("cannot catch signals")?;
        }
        let folder = sh::target().join("mutants");
        let tree = folder.join("tree");
        if !tree.join(".git").exists() {
            say!(
                "copying the repository to {}; its first build takes minutes",
                tree.display()
            );
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            sh::run(
                git(sh::root())
                    .args(["clone", "--quiet", "--no-checkout", "."])
                    .arg(&tree),
            )?;
        }
        sh::run(git(&tree).args(["fetch", "--quiet"]).arg(sh::root()).arg("HEAD"))?;
        sh::run(git(&tree).args(["reset", "--quiet", "--hard", "FETCH_HEAD"]))?;
        // What drives the browser and the kernels are of no mutant, and not committed: one copy serves.
        web::modules()?;
        for shared in ["dashboards/web/node_modules", "target/vm"] {
            let (from, link) = (sh::root().join(shared), tree.join(shared));
            if from.exists() && !link.exists() {
                fs::create_dir_all(tree.join("target")).context("cannot create target in the copy")?;
                std::os::unix::fs::symlink(from, &link)
                    .with_context(|| format!("cannot make the link {}", link.display()))?;
            }
        }
        Ok(Self {
            folder,
            truth: PathBuf::new(),
            bpf_stale: true,
            interrupted,
            kernel: kernel.map(str::to_owned),
        })
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn uninterrupted(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    fn cargo(&self) -> Command {
        let mut cmd = sh::cargo(None);
        cmd.current_dir(self.tree())
            .env("CARGO_TARGET_DIR", self.tree().join("target"));
        cmd
    }

    /// Builds the copy as it stands; the names of its cases.
    fn build(&mut self, bpf: bool) -> Result<BTreeSet<String>> {
        if bpf || self.bpf_stale {
            self.bpf_stale = bpf;
            ebpf::build_in(&self.tree())?;
        }
        sh::run(
            self.cargo()
                .args(["build", "--quiet", "-p", "netprobe-agent", "--bin", "netprobe"])
                .args(build::FEATURES),
        )?;
        self.truth = build::executable(
            self.cargo().args([
                "test",
                "--quiet",
                "--no-run",
                "-p",
                "netprobe-tests",
                "--test",
                "truth",
            ]),
            "truth",
        )?;
        Ok(report::listed(&sh::output(sh::clean(&self.truth).arg("--list"))?))
    }

    /// What the last run of a mutant said.
    fn log(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.log"))
    }

    fn netprobe(&self) -> PathBuf {
        self.tree().join("target/debug/netprobe")
    }

    /// The method that serves each fact.
    fn methods(&self) -> Result<BTreeMap<String, String>> {
        let said = sh::output(sh::privileged(self.netprobe())?.args(["doctor", "-o", "json"]))?;
        let report: serde_json::Value =
            serde_json::from_str(&said).context("`netprobe doctor` gave no JSON")?;
        let facts = report["facts"]
            .as_array()
            .context("`netprobe doctor` gave no facts")?;
        Ok(facts
            .iter()
            .map(|fact| (fact["fact"].to_string(), fact["method"].to_string()))
            .collect())
    }

    /// Does something with a mutant's changes in the copy, and takes them back whatever came of it.
    fn broken<T>(&mut self, mutant: &Mutant, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mut before: BTreeMap<PathBuf, String> = BTreeMap::new();
        for change in mutant.changes() {
            let path = self.tree().join(&change.file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            fs::write(&path, text.replacen(&change.old, &change.new, 1))
                .with_context(|| format!("cannot write {}", path.display()))?;
            before.entry(path).or_insert(text);
        }
        let outcome = work(self);
        for (path, text) in before {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        outcome
    }

    /// Runs these cases and no others; the verdict of each that came to an end.
    fn cases(
        &self,
        id: &str,
        names: &BTreeSet<String>,
        wanted: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Verdict>> {
        let log = self.log(id);
        let said = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let runs = match &self.kernel {
            None => vec![self.here(names, wanted)?],
            Some(kernel) => wanted.iter().map(|case| self.on(kernel, case)).collect(),
        };
        for mut cmd in runs {
            cmd.stdin(Stdio::null())
                .stderr(said.try_clone()?)
                .stdout(said.try_clone()?);
            self.wait(cmd)?;
        }
        let mut report = Report::new(id);
        let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        String::from_utf8_lossy(&text)
            .lines()
            .for_each(|line| report.line(line));
        Ok(report.verdicts())
    }

    /// These cases on this machine. `timeout` makes a process group of its own and ends all of it, through sudo too.
    fn here(&self, names: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Result<Command> {
        let mut cmd = sh::privileged("timeout")?;
        cmd.args(["--kill-after=10", &LIMIT.as_secs().to_string(), "env"])
            .arg(format!("NETPROBE_BIN={}", self.netprobe().display()))
            .arg(&self.truth)
            .arg("--exact")
            .args(names.difference(wanted).flat_map(|name| ["--skip", name]))
            .current_dir(self.tree());
        Ok(cmd)
    }

    /// A case in a virtual machine.
    fn on(&self, kernel: &str, case: &str) -> Command {
        let mut cmd = self.cargo();
        // The one that was built for this mutant: an optimised one would take minutes.
        cmd.env("NETPROBE_BIN", self.netprobe())
            .args(["xtask", "vm", "test", "--kernel", kernel, case]);
        cmd
    }

    /// Waits for the end of a run; an interruption ends it.
    fn wait(&self, mut cmd: Command) -> Result<()> {
        let mut child = cmd.spawn().context("cannot start the truth tests")?;
        let mut told = false;
        while child
            .try_wait()
            .context("cannot wait for the truth tests")?
            .is_none()
        {
            if !told && self.interrupted.load(Ordering::Relaxed) {
                told = true;
                sh::run(sh::privileged("kill")?.args(["-TERM", &child.id().to_string()]))?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        remove_stale()?;
        self.uninterrupted()
    }
}

/// Namespaces of runs that were ended before they could tidy up.
fn remove_stale() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let pid = name
            .strip_prefix(NAMESPACES)
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            sh::run(sh::privileged("ip")?.args(["netns", "del", &name]))?;
        }
    }
    Ok(())
}

fn git(folder: &Path) -> Command {
    let mut cmd = sh::clean("git");
    cmd.arg("-C").arg(folder);
    cmd
}
