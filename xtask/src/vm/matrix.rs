//! What the tests said about the ladder on each kernel, as one table: kernel × fact × method × verdict.

use std::collections::BTreeMap;

/// Verdicts by `fact=method`.
pub(crate) type Ladder = BTreeMap<String, Verdict>;

/// What came of one method on one kernel; the worst of several runs counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It serves; its events were not compared.
    Serves,
    /// Its events are those of every other method.
    Equal,
    /// They are, but for so many permitted differences.
    Permitted(String),
    /// The kernel refuses it, with this reason.
    Refused(String),
    /// Its events are others.
    Differs,
}

impl Verdict {
    /// The word in the table.
    pub(crate) fn word(&self) -> &str {
        match self {
            Self::Serves => "serves",
            Self::Equal => "equal",
            Self::Permitted(_) => "equal*",
            Self::Refused(_) => "refused",
            Self::Differs => "DIFFERS",
        }
    }
}

/// Reads the lines `ladder: fact=method …` and `parity: fact=method …` of a run.
pub(crate) fn ladder(console: &[String]) -> Ladder {
    let mut ladder = Ladder::new();
    for line in console {
        let Some((rung, verdict)) = verdict(line) else {
            continue;
        };
        let known = ladder.entry(rung.to_owned()).or_insert_with(|| verdict.clone());
        if verdict > *known {
            *known = verdict;
        }
    }
    ladder
}

fn verdict(line: &str) -> Option<(&str, Verdict)> {
    // A line may follow unfinished output of the harness.
    if let Some(at) = line.find("ladder: ") {
        let (rung, said) = line[at + 8..].split_once(' ')?;
        return Some(match said.strip_prefix("refused: ") {
            Some(reason) => (rung, Verdict::Refused(reason.to_owned())),
            None => (rung, Verdict::Serves),
        });
    }
    let at = line.find("parity: ")?;
    let (rung, said) = line[at + 8..].split_once(' ')?;
    Some((
        rung,
        match said {
            "equal" => Verdict::Equal,
            "differs" => Verdict::Differs,
            permitted => Verdict::Permitted(permitted.to_owned()),
        },
    ))
}

/// Above the names of the methods.
const HEAD: &str = "FACT=METHOD";

/// The table as text: one row a method, one column a kernel, the reasons below. Empty without any verdict.
pub(crate) fn table(kernels: &[(String, Ladder)]) -> String {
    let mut rungs: Vec<&String> = kernels.iter().flat_map(|(_, ladder)| ladder.keys()).collect();
    rungs.sort();
    rungs.dedup();
    if rungs.is_empty() {
        return String::new();
    }
    let width = rungs.iter().map(|rung| rung.len()).fold(HEAD.len(), usize::max);
    let row = |first: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: String = cells.map(|cell| format!("  {cell:<8}")).collect();
        format!("{}\n", format!("{first:<width$}{cells}").trim_end())
    };
    let mut text = row(HEAD, &mut kernels.iter().map(|(name, _)| name.as_str()));
    for rung in &rungs {
        let cell = |(_, ladder): &'_ (String, Ladder)| ladder.get(*rung).cloned();
        let cells: Vec<Option<Verdict>> = kernels.iter().map(cell).collect();
        text += &row(
            rung,
            &mut cells.iter().map(|cell| cell.as_ref().map_or("-", Verdict::word)),
        );
    }
    for (name, ladder) in kernels {
        for (rung, verdict) in ladder {
            match verdict {
                Verdict::Refused(why) => text += &format!("refused: {name}: {rung}: {why}\n"),
                Verdict::Permitted(what) => text += &format!("*: {name}: {rung}: {what}\n"),
                _ => {}
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Ladder {
        ladder(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_worst_verdict_of_a_method_counts() {
        let ladder = read(&[
            "ladder: a=x serves",
            "test b ... parity: a=x equal",
            "parity: a=x differs",
            "parity: a=x equal but for 1 permitted",
            "ladder: a=y refused: no such function",
            "noise",
        ]);
        assert_eq!(ladder["a=x"], Verdict::Differs);
        assert_eq!(ladder["a=y"], Verdict::Refused("no such function".to_owned()));
    }

    #[test]
    fn a_kernel_that_said_nothing_of_a_method_shows_it() {
        let kernels = [
            ("6.1".to_owned(), read(&["parity: a=x equal but for 1 permitted"])),
            ("7.3".to_owned(), read(&["ladder: b=y refused: why"])),
        ];
        let text = table(&kernels);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "FACT=METHOD  6.1       7.3",
                "a=x          equal*    -",
                "b=y          -         refused",
                "*: 6.1: a=x: equal but for 1 permitted",
                "refused: 7.3: b=y: why",
            ]
        );
        assert_eq!(table(&[]), "");
    }
}
