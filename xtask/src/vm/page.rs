//! `docs/kernels.md`, from the pinned kernels, the records and the permitted differences.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::kernels;
use super::record::Record;
use crate::sh;

const DIFFERENCES: &str = "tests/fixtures/parity/differences.toml";

/// As the tests read it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    #[serde(default)]
    difference: Vec<Difference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    #[serde(default)]
    methods: Vec<String>,
    below: Option<String>,
    events: Vec<String>,
    #[serde(default)]
    fields: BTreeMap<String, String>,
    cause: String,
}

/// The page's text.
pub(crate) fn text() -> Result<String> {
    let path = sh::root().join(DIFFERENCES);
    let differences = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let differences: Differences = toml::from_str(&differences).with_context(|| DIFFERENCES.to_owned())?;
    let mut kernels = Vec::new();
    let mut sources = Vec::new();
    for kernel in kernels::all()? {
        let packages = kernel.package.iter().map(|package| package.path.as_str());
        let packages = packages.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned());
        let record = Record::load(&kernel.name)?;
        sources.push(vec![
            kernel.name.clone(),
            record
                .as_ref()
                .map_or("not measured".to_owned(), |r| r.release.clone()),
            packages.collect::<Vec<_>>().join("<br>"),
        ]);
        kernels.extend(record.map(|record| (kernel.name, record)));
    }
    Ok(page(&sources, &kernels, &differences.difference))
}

fn page(sources: &[Vec<String>], kernels: &[(String, Record)], differences: &[Difference]) -> String {
    let names: Vec<&str> = kernels.iter().map(|(name, _)| name.as_str()).collect();
    let head = |first: &'static str| [&[first], &names[..]].concat();
    let each = |value: &dyn Fn(&Record) -> Option<String>| -> Vec<String> {
        let cell = |(_, record): &(String, Record)| value(record).unwrap_or_else(|| "–".to_owned());
        kernels.iter().map(cell).collect()
    };
    let mut out = String::from(
        "# Kernels\n\nWritten by `cargo xtask docs` from `vm/kernels.toml`, `docs/kernels-data` and \
         `tests/fixtures/parity/differences.toml`; recorded by `cargo xtask vm test --record`.\n\
         Other kernels and what to expect of them: [limits](limits.md).\n\n## The matrix\n\n",
    );
    out += &markdown(&["kernel", "release", "Debian package"], sources.iter().cloned());

    out += "\n## What serves\n\nEvery method is tried by forcing it. Where it serves, one script of traffic runs under \
            it, and the events are compared field by field with \
            `tests/fixtures/parity/expected.toml`: *equal*, or *equal\\** but for differences listed below.\n\n";
    let rungs: BTreeSet<&String> = kernels
        .iter()
        .flat_map(|(_, record)| record.ladder.keys())
        .collect();
    let rows = rungs.iter().map(|rung| {
        let mut row = vec![code(rung)];
        row.extend(each(&|record| {
            Some(record.ladder.get(*rung)?.replace('*', "\\*"))
        }));
        row
    });
    out += &markdown(&head("fact=method"), rows);
    out += "\nWhy the refused ones are, in the kernel's own words:\n\n";
    let mut reasons: BTreeMap<(&String, &String), Vec<&str>> = BTreeMap::new();
    for (name, record) in kernels {
        for (rung, why) in &record.refused {
            reasons.entry((rung, why)).or_default().push(name);
        }
    }
    for ((rung, why), names) in &reasons {
        let _ = writeln!(out, "- {} on {}: {why}", code(rung), names.join(", "));
    }
    if reasons.is_empty() {
        out += "- none is\n";
    }

    out += "\n## Permitted differences\n\nAny other difference fails the tests. Names with `$` stand for the process, \
            port or namespace of that side.\n\n";
    let rows = differences.iter().map(|difference| {
        let methods = difference.methods.iter().map(|method| code(method));
        let mut place = methods.collect::<Vec<_>>().join(" with ");
        if let Some(below) = &difference.below {
            let comma = if place.is_empty() { "" } else { ", " };
            let _ = write!(place, "{comma}before {below}");
        }
        let fields: Vec<_> = difference
            .fields
            .iter()
            .map(|(f, v)| format!("{} is {}", code(f), code(v)))
            .collect();
        let what = if fields.is_empty() {
            "no event".to_owned()
        } else {
            fields.join("<br>")
        };
        vec![
            place,
            difference.events.join("<br>"),
            what,
            difference.cause.clone(),
        ]
    });
    out += &markdown(&["where", "events", "what", "cause"], rows);

    out += "\n## Start and memory\n\nIn an emulated machine with one processor: rough figures, to compare kernels with each \
            other. Native ones are in [performance](performance.md). The agent loads twice \
            ([why](decisions/0009-two-loads.md)): the survey is the first load.\n\n";
    let ms = |value: fn(&Record) -> f64| each(&|record| Some(format!("{:.0} ms", value(record))));
    let seconds =
        |value: fn(&Record) -> Option<f64>| each(&|record| Some(format!("{:.0} s", value(record)?)));
    let map_kib = each(&|record| Some(format!("{} KiB", record.start.map_bytes? / 1024)));
    let rows = [
        ("survey: every method tried", ms(|record| record.start.survey_ms)),
        (
            "load: maps and type information",
            ms(|record| record.start.load_ms),
        ),
        (
            "attach: verified and attached",
            ms(|record| record.start.attach_ms),
        ),
        (
            "memory of all maps, as the kernel accounts it (5.10: were they full)",
            map_kib,
        ),
        (
            "machine started to tests started",
            seconds(|record| record.boot_seconds),
        ),
        (
            "machine started to verdict",
            seconds(|record| record.verdict_seconds),
        ),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, cells)| [vec![name.to_owned()], cells].concat());
    out += &markdown(&head(""), rows);

    let programs: BTreeSet<&String> = kernels
        .iter()
        .flat_map(|(_, record)| record.programs.keys())
        .collect();
    let by_program = |value: &dyn Fn(&super::record::Program) -> Option<String>| -> Vec<Vec<String>> {
        let row = |name: &&String| {
            let mut row = vec![code(name)];
            row.extend(each(&|record| value(record.programs.get(*name)?)));
            row
        };
        programs.iter().map(row).collect()
    };
    out += "\n## Verifier budget\n\nInstructions the verifier walks to accept a program, with the settings of the parity \
            test; kernels before 5.16 do not tell. `cargo xtask vm test` fails when one grows by more than a tenth.\n\n";
    out += &markdown(
        &head("program"),
        by_program(&|program| program.verified.map(|n| n.to_string())),
    );
    out += "\n## Cost of a run\n\nNanoseconds, emulated, BPF statistics included, in the parity script: which of two methods \
            is dearer, not what it costs on a real processor.\n\n";
    let cost = |program: &super::record::Program| Some(format!("{:.0}", program.ns_per_run?));
    out += &markdown(&head("program"), by_program(&cost));
    out
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn markdown(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        // A bar would end the cell.
        let row: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_part() {
        let mut record = Record {
            release: "6.1.0-56".to_owned(),
            ..Record::default()
        };
        record.ladder.insert("a=x".to_owned(), "equal*".to_owned());
        record.ladder.insert("a=y".to_owned(), "refused".to_owned());
        record
            .refused
            .insert("a=y".to_owned(), "no | function".to_owned());
        record.programs.entry("state".to_owned()).or_default().verified = Some(77);
        let differences = [Difference {
            methods: vec!["a=x".to_owned()],
            below: None,
            events: vec!["e/client".to_owned()],
            fields: BTreeMap::from([("nat.hops".to_owned(), "[]".to_owned())]),
            cause: "the cause".to_owned(),
        }];
        let page = page(&[], &[("6.1".to_owned(), record)], &differences);
        for part in [
            "| `a=x` | equal\\* |",
            "- `a=y` on 6.1: no | function",
            "| `a=x` | e/client | `nat.hops` is `[]` | the cause |",
            "| `state` | 77 |",
            "| memory of all maps, as the kernel accounts it (5.10: were they full) | – |",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
    }
}
