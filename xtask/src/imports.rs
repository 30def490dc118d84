//! Data flows one way through the agent: a module imports what stands before it, never what stands after it.
//!
//! Every module at the top of `netprobe-agent/src` has a place in [`PLACES`]; one without is an error, so the
//! table cannot fall behind. Test code is free: it may look at a stage through a later one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A module may import places with a smaller number, and itself.
const PLACES: &[(&str, u32)] = &[
    // The ground: shapes and rules that stages share. It does nothing by itself.
    ("error", GROUND),
    ("event", GROUND),
    ("config", GROUND),
    ("logging", GROUND),
    ("privileges", GROUND),
    ("filter", GROUND),
    ("probe_report", GROUND),
    ("query", GROUND),
    ("fanout", GROUND),
    ("journal", GROUND),
    // The stages.
    ("kernel", 10),
    ("ring", 11),
    ("decode", 12),
    ("flow", 13),
    ("request", 14),
    // The last events, which later stages read.
    ("recent", 19),
    // The sinks: each can be taken out without touching another.
    ("metrics", SINK),
    ("stream", SINK),
    ("archive", SINK),
    ("kafka", SINK),
    ("export", SINK),
    ("output", SINK),
    // Reports on what the archive has.
    ("history", 25),
    // What people reach.
    ("api", 30),
    // The one place that wires stages, and the commands that start it.
    ("app", 40),
    ("cli", 50),
];

/// Members of the ground may import each other.
const GROUND: u32 = 0;
const SINK: u32 = 20;

fn place(module: &str) -> Option<u32> {
    PLACES
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, place)| *place)
}

/// Why `from` may not import `to`, if it may not.
fn objection(from: &str, to: &str) -> Option<String> {
    let (Some(a), Some(b)) = (place(from), place(to)) else {
        let unknown = if place(from).is_none() { from } else { to };
        return Some(format!(
            "module `{unknown}` has no place in xtask/src/imports.rs: give it one"
        ));
    };
    if from == to || b < a || (a == GROUND && b == GROUND) {
        return None;
    }
    Some(match (a, b) {
        (SINK, SINK) => format!("sink `{from}` imports sink `{to}`"),
        _ => format!("`{from}` imports `{to}`, which stands after it"),
    })
}

/// Checks the agent's sources; each line of the error is one import.
pub(crate) fn check(source: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for file in rust_files(source)? {
        let inner = file.strip_prefix(source).unwrap_or(&file);
        let Some(module) = module_of(inner) else { continue };
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (line, to) in imports(&text, inner.components().count() == 1) {
            if let Some(why) = objection(&module, &to) {
                wrong.push(format!("{}:{line}: {why}", inner.display()));
            }
        }
    }
    if !wrong.is_empty() {
        wrong.dedup();
        bail!("imports against the flow of data:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// Every `.rs` file below a folder, sorted.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The top module of a file; none for the crate roots and for test code.
fn module_of(file: &Path) -> Option<String> {
    let stem = file.file_stem()?.to_str()?;
    if stem == "tests" || stem.ends_with("_tests") {
        return None;
    }
    let top = file.components().next()?.as_os_str().to_str()?;
    let top = top.strip_suffix(".rs").unwrap_or(top);
    (top != "lib" && top != "main").then(|| top.to_owned())
}

/// Top modules named by `crate::…`, with line numbers, up to the file's own tests. At the top of a one-file
/// module `use super::` is the same as `use crate::`.
fn imports(text: &str, top_level: bool) -> Vec<(usize, String)> {
    let code: Vec<&str> = text.lines().map(|l| l.split("//").next().unwrap_or(l)).collect();
    let end = code
        .iter()
        .position(|l| l.trim() == "#[cfg(test)]")
        .unwrap_or(code.len());
    let mut found = Vec::new();
    for (index, line) in code[..end].iter().enumerate() {
        let mut rest = *line;
        if top_level && let Some(after) = line.strip_prefix("use super::") {
            found.extend(ident(after).map(|name| (index + 1, name)));
        }
        while let Some((before, after)) = rest.split_once("crate::") {
            rest = after;
            // `$crate::` and `my_crate::` are somebody else's.
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            if after.starts_with('{') {
                let block: String = std::iter::once(after)
                    .chain(code[index + 1..end].iter().copied())
                    .collect();
                found.extend(group(&block).into_iter().map(|name| (index + 1, name)));
            } else {
                found.extend(ident(after).map(|name| (index + 1, name)));
            }
        }
    }
    found
}

/// The first names in a `{a::b, c::{d, e}}` group.
fn group(block: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in block.char_indices() {
        let separates = match c {
            '{' => {
                depth += 1;
                depth == 1
            }
            '}' => {
                depth -= 1;
                depth == 0
            }
            ',' => depth == 1,
            _ => false,
        };
        if separates {
            names.extend(ident(block[start..at].trim_start()));
            start = at + 1;
        }
        if c == '}' && depth == 0 {
            break;
        }
    }
    names
}

fn ident(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let name = &text[..end];
    // Modules are lower case; a macro or a type of the crate root is no stage.
    name.starts_with(|c: char| c.is_ascii_lowercase())
        .then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_import_is_seen() {
        let text = "use crate::event::Event;\nuse crate::{\n    flow::{Table, x},\n    api,\n};\n// crate::app\n\
                    fn f() -> crate::metrics::M {}\nuse super::ring::R;\n#[cfg(test)]\nmod tests { use crate::app; }\n";
        let seen = imports(text, true);
        let names: Vec<(usize, &str)> = seen.iter().map(|(l, n)| (*l, n.as_str())).collect();
        assert_eq!(
            names,
            [(1, "event"), (2, "flow"), (2, "api"), (7, "metrics"), (8, "ring")]
        );
    }

    #[test]
    fn the_flow_goes_one_way() {
        assert_eq!(objection("flow", "kernel"), None);
        assert_eq!(objection("api", "recent"), None);
        assert_eq!(objection("config", "filter"), None);
        assert_eq!(objection("app", "api"), None);
        assert!(objection("kernel", "flow").is_some());
        assert!(objection("metrics", "output").is_some_and(|why| why.contains("sink")));
        assert!(objection("event", "flow").is_some());
        assert!(objection("flow", "novelty").is_some_and(|why| why.contains("no place")));
    }

    #[test]
    fn files_belong_to_their_top_module() {
        assert_eq!(module_of(Path::new("flow/table.rs")).as_deref(), Some("flow"));
        assert_eq!(module_of(Path::new("recent.rs")).as_deref(), Some("recent"));
        assert_eq!(module_of(Path::new("main.rs")), None);
        assert_eq!(module_of(Path::new("flow/tests.rs")), None);
    }
}
