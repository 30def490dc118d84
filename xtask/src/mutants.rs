//! The mutants of `tests/mutants`: each breaks one thing in the code and names the truth cases that must then fail.
//! Here: reading them, and the gate of `cargo xtask lint` that keeps them in step with code and cases.

mod bench;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::imports;

pub(crate) use bench::run;

/// One thing broken on purpose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// Name, unique.
    id: String,
    /// What is wrong with the code then, in one sentence.
    breaks: String,
    /// How: the first replacement.
    #[serde(flatten)]
    change: Change,
    /// More replacements, where one does not do.
    #[serde(default)]
    also: Vec<Change>,
    /// Truth cases that must fail; others may.
    kills: Vec<String>,
}

/// One replacement.
#[derive(Debug, Deserialize)]
struct Change {
    /// Path in the repository.
    file: String,
    /// Text that stands exactly once in it.
    old: String,
    /// What stands there instead.
    new: String,
}

impl Mutant {
    fn changes(&self) -> impl Iterator<Item = &Change> {
        std::iter::once(&self.change).chain(&self.also)
    }

    /// Whether the BPF object has to be built again.
    fn in_bpf(&self) -> bool {
        self.changes()
            .any(|c| c.file.starts_with("netprobe-ebpf/") || c.file.starts_with("netprobe-common/"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutant: Vec<Mutant>,
}

/// Every mutant, in the order of files and of their lines.
fn load(root: &Path) -> Result<Vec<Mutant>> {
    let folder = root.join("tests/mutants");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: File = toml::from_str(&text).with_context(|| path.display().to_string())?;
        all.extend(file.mutant);
    }
    Ok(all)
}

/// Names of the truth cases, as `tests/cases` registers them.
fn cases(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in imports::rust_files(&root.join("tests/cases"))? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        names.extend(registered(&text).map(str::to_owned));
    }
    Ok(names)
}

/// `Case::new("NAME", …)`.
fn registered(text: &str) -> impl Iterator<Item = &str> {
    text.split("Case::new(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
}

/// Fails where mutants do not fit the code or leave a case without one.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (mutants, cases) = (load(root)?, cases(root)?);
    let faults = faults(&mutants, &cases, |file| {
        let path = root.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    })?;
    if faults.is_empty() {
        return Ok(());
    }
    bail!("tests/mutants is out of step:\n  {}", faults.join("\n  "))
}

fn faults(
    mutants: &[Mutant],
    cases: &BTreeSet<String>,
    read: impl Fn(&str) -> Result<String>,
) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let (mut ids, mut killed) = (BTreeSet::new(), BTreeSet::new());
    for mutant in mutants {
        let id = &mutant.id;
        if !ids.insert(id) {
            faults.push(format!("{id}: two mutants of this name"));
        }
        if mutant.kills.is_empty() {
            faults.push(format!("{id}: kills nothing"));
        }
        for case in &mutant.kills {
            if !cases.contains(case) {
                faults.push(format!("{id}: there is no case {case}"));
            }
            killed.insert(case);
        }
        for change in mutant.changes() {
            let found = read(&change.file)?.matches(&change.old).count();
            if found != 1 || change.old == change.new {
                faults.push(format!(
                    "{id}: its text stands {found} times in {}: {}",
                    change.file, change.old
                ));
            }
        }
    }
    for case in cases.iter().filter(|case| !killed.contains(case)) {
        faults.push(format!("{case}: no mutant says what makes this case fail"));
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutants(old: &str, case: &str) -> Vec<Mutant> {
        let text = format!(
            "[[mutant]]\nid = 'm'\nbreaks = 'b'\nfile = 'f'\nold = '{old}'\nnew = 'z'\nkills = ['{case}']\n"
        );
        toml::from_str::<File>(&text).unwrap().mutant
    }

    fn faults_of(mutants: &[Mutant]) -> Vec<String> {
        let cases = ["one".to_owned()].into();
        faults(mutants, &cases, |_| Ok("let x = 1; let y = 1;".to_owned())).unwrap()
    }

    #[test]
    fn a_fitting_mutant_has_no_faults() {
        assert_eq!(faults_of(&mutants("let x = 1", "one")), [""; 0]);
    }

    #[test]
    fn tells_what_drifted() {
        for (old, case, count) in [("= 1", "one", 1), ("gone", "one", 1), ("let x", "two", 2)] {
            assert_eq!(faults_of(&mutants(old, case)).len(), count, "{old} {case}");
        }
        let twice: Vec<_> = [mutants("let x", "one"), mutants("let y", "one")]
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(faults_of(&twice), ["m: two mutants of this name"]);
    }

    #[test]
    fn finds_registered_cases() {
        let text = "Case::new(\"a\", x), Case::new(\n    \"b\",\n  y), Case { name }";
        assert_eq!(registered(text).collect::<Vec<_>>(), ["a", "b"]);
    }
}
