//! What was measured on each kernel, kept in `docs/kernels-data`: the verifier's budget, and the figures of
//! `docs/kernels.md`. Numbers come from the lines `measured: {…}` of the parity test.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::matrix::{Ladder, Verdict};
use crate::sh;

/// Growth of a program, as the verifier counts, that has to be looked at.
const GROWTH: f64 = 1.10;

/// One kernel.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// `uname -r`.
    pub(crate) release: String,
    /// From QEMU's start to the tests' start; `None` when the machine did not say.
    pub(crate) boot_seconds: Option<f64>,
    /// To the verdict over all tests; `None` when only some ran.
    pub(crate) verdict_seconds: Option<f64>,
    /// Starting the probe with each fact's best method.
    pub(crate) start: Start,
    /// Verdict, as a word, by `fact=method`.
    pub(crate) ladder: BTreeMap<String, String>,
    /// Why the refused ones are.
    pub(crate) refused: BTreeMap<String, String>,
    /// Loaded programs.
    pub(crate) programs: BTreeMap<String, Program>,
}

/// As `start` of `/api/v1/probe`.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    pub(crate) survey_ms: f64,
    pub(crate) load_ms: f64,
    pub(crate) attach_ms: f64,
    pub(crate) map_bytes: Option<u64>,
}

/// One program, over every set of methods it served in.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// The most instructions the verifier walked; `None` before 5.16.
    pub(crate) verified: Option<u32>,
    pub(crate) runs: u64,
    pub(crate) ns_per_run: Option<f64>,
}

/// A line of the parity test.
#[derive(Deserialize)]
struct Measured {
    release: String,
    start: Start,
    programs: Vec<Loaded>,
}

#[derive(Deserialize)]
struct Loaded {
    name: String,
    runs: Option<u64>,
    run_ns: Option<u64>,
    verified_instructions: Option<u32>,
}

impl Record {
    /// Reads a run; `None` when nothing was measured in it.
    pub(crate) fn read(
        console: &[String],
        ladder: &Ladder,
        boot: Option<Duration>,
        took: Option<Duration>,
    ) -> Result<Option<Record>> {
        let mut record = Record {
            boot_seconds: boot.map(|boot| round(boot.as_secs_f64())),
            verdict_seconds: took.map(|took| round(took.as_secs_f64())),
            ..Record::default()
        };
        let mut time: BTreeMap<String, u64> = BTreeMap::new();
        for line in console {
            let Some(at) = line.find("measured: ") else {
                continue;
            };
            let measured: Measured =
                serde_json::from_str(&line[at + 10..]).with_context(|| format!("not understood: {line}"))?;
            if record.release.is_empty() {
                record.release = measured.release;
                record.start = Start {
                    survey_ms: round(measured.start.survey_ms),
                    load_ms: round(measured.start.load_ms),
                    attach_ms: round(measured.start.attach_ms),
                    ..measured.start
                };
            }
            for loaded in measured.programs {
                let program = record.programs.entry(loaded.name.clone()).or_default();
                program.verified = program.verified.max(loaded.verified_instructions);
                program.runs += loaded.runs.unwrap_or(0);
                *time.entry(loaded.name).or_default() += loaded.run_ns.unwrap_or(0);
            }
        }
        for (name, program) in &mut record.programs {
            program.ns_per_run =
                (program.runs > 0).then(|| (time[name] as f64 / program.runs as f64).round());
        }
        for (rung, verdict) in ladder {
            record.ladder.insert(rung.clone(), verdict.word().to_owned());
            if let Verdict::Refused(why) = verdict {
                record.refused.insert(rung.clone(), why.clone());
            }
        }
        Ok((!record.release.is_empty()).then_some(record))
    }

    /// What was recorded for a kernel, if anything was.
    pub(crate) fn load(kernel: &str) -> Result<Option<Record>> {
        let path = file(kernel);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is not a record", path.display()))
    }

    /// Keeps it.
    pub(crate) fn save(&self, kernel: &str) -> Result<()> {
        let path = file(kernel);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Programs that grew by more than a tenth since `before`: a sentence each. One that is new has no budget yet.
    pub(crate) fn grown(&self, before: Option<&Record>) -> Vec<String> {
        let mut told = Vec::new();
        for (name, program) in &self.programs {
            let known = before.and_then(|record| record.programs.get(name)?.verified);
            let (Some(now), Some(before)) = (program.verified, known) else {
                continue;
            };
            let growth = f64::from(now) / f64::from(before);
            if growth > GROWTH {
                told.push(format!(
                    "verifier budget: {name} takes {now} instructions to verify, {before} are recorded ({:+.0} %); if \
                     that is meant: `cargo xtask vm test --record parity`, then `cargo xtask docs`",
                    (growth - 1.0) * 100.0
                ));
            }
        }
        told
    }
}

fn file(kernel: &str) -> PathBuf {
    sh::root().join(format!("docs/kernels-data/{kernel}.json"))
}

/// Tenths are enough, and keep the file readable.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(programs: &[(&str, Option<u32>)]) -> Record {
        let program = |verified: Option<u32>| Program {
            verified,
            ..Program::default()
        };
        Record {
            programs: programs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), program(*v)))
                .collect(),
            ..Record::default()
        }
    }

    #[test]
    fn more_than_a_tenth_is_too_much() {
        let before = record(&[("a", Some(1000)), ("b", Some(1000)), ("old", None)]);
        let now = record(&[
            ("a", Some(1100)),
            ("b", Some(1101)),
            ("c", Some(5)),
            ("old", None),
        ]);
        let told = now.grown(Some(&before));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("b takes 1101") && told[0].contains("+10 %"),
            "{}",
            told[0]
        );
        assert!(now.grown(None).is_empty());
    }

    #[test]
    fn several_sets_of_methods_are_one_record() {
        let line = |verified: u32, runs: u64, ns: u64| {
            format!(
                "measured: {{\"release\":\"6.1\",\"start\":{{\"survey_ms\":1.23,\"load_ms\":2,\"attach_ms\":3,\
                 \"map_bytes\":null}},\"methods\":{{}},\"programs\":[{{\"name\":\"a\",\"runs\":{runs},\
                 \"run_ns\":{ns},\"recursion_misses\":0,\"verified_instructions\":{verified}}}]}}"
            )
        };
        let console = [line(10, 1, 100), line(12, 3, 700)];
        let seconds = Duration::from_secs;
        let record = Record::read(&console, &Ladder::new(), Some(seconds(2)), Some(seconds(60)));
        let record = record.unwrap().unwrap();
        let program = &record.programs["a"];
        assert_eq!(
            (program.verified, program.runs, program.ns_per_run),
            (Some(12), 4, Some(200.0))
        );
        assert_eq!((record.start.survey_ms, record.boot_seconds), (1.2, Some(2.0)));
        assert_eq!(Record::read(&[], &Ladder::new(), None, None).unwrap(), None);
    }
}
