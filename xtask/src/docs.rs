//! `cargo xtask docs`: what is generated from the program itself; and a check that commands in the documents work.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::Args;
use crate::build;
use crate::grafana;
use crate::packages::{self, Need};
use crate::sh::{self, say};
use crate::vm;

/// Generated from `--help`.
const REFERENCE: &str = "docs/cli.md";
/// Generated from what was recorded on each kernel.
const KERNELS: &str = "docs/kernels.md";

/// Files that are the output of a command of the agent.
const PRINTED: &[(&str, &[&str])] = &[
    (
        "netprobe-agent/netprobe.default.toml",
        &["config", "show", "--defaults"],
    ),
    ("docs/configuration.md", &["config", "reference"]),
    ("docs/openapi.json", &["openapi"]),
];

/// Every generated file with the text it must have.
fn generated(agent: &Path) -> Result<Vec<(String, String)>> {
    let mut files = grafana::files()?;
    files.push((REFERENCE.to_owned(), reference(agent)?));
    files.push((KERNELS.to_owned(), vm::page::text()?));
    for (file, words) in PRINTED {
        files.push(((*file).to_owned(), sh::output(sh::clean(agent).args(*words))?));
    }
    Ok(files)
}

/// Writes the generated files, or checks that they are current and that every command in the documents parses.
pub(crate) fn run(check: bool) -> Result<()> {
    packages::ensure(Need::Build)?;
    let agent = build::agent()?;
    let mut wrong = Vec::new();
    for (file, text) in generated(&agent)? {
        let path = sh::root().join(&file);
        if fs::read_to_string(&path).ok().as_ref() == Some(&text) {
            continue;
        }
        if check {
            wrong.push(format!("{file} is not current: run `cargo xtask docs`"));
        } else {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            say!("wrote {file}");
        }
    }
    if !check {
        return Ok(());
    }
    let mut checked = 0;
    for file in documents()? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let shown = file
            .strip_prefix(sh::root())
            .unwrap_or(&file)
            .display()
            .to_string();
        for (line, words) in commands(&text) {
            checked += 1;
            if let Err(error) = verify(&words, &agent) {
                wrong.push(format!("{shown}:{line}: `{}`: {error:#}", words.join(" ")));
            }
        }
    }
    say!("{checked} commands in the documents checked");
    if checked == 0 {
        wrong.push("the documents show no command at all".to_owned());
    }
    if !wrong.is_empty() {
        bail!("the documents drift:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// README and friends, and everything below docs.
fn documents() -> Result<Vec<PathBuf>> {
    let mut files = vec![sh::root().join("README.md"), sh::root().join("CONTRIBUTING.md")];
    let mut folders = vec![sh::root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") && !path.ends_with(REFERENCE) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Commands of ours in fenced shell code: line number and words from `cargo xtask` or `netprobe` on.
fn commands(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    // The language of the fence we are in.
    let mut fence: Option<String> = None;
    let mut joined = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            fence = fence.is_none().then(|| language.to_owned());
            continue;
        }
        let typed = match fence.as_deref() {
            Some("sh" | "bash" | "shell") => true,
            // Here what is typed stands among what is answered.
            Some("console") => line.starts_with("$ ") || !joined.is_empty(),
            _ => false,
        };
        if !typed {
            continue;
        }
        if let Some(first) = line.strip_suffix('\\') {
            joined.push_str(first);
            continue;
        }
        let whole = std::mem::take(&mut joined) + line;
        // What follows a comment, a pipe or a redirection is not ours to check.
        let whole = whole.split(" #").next().unwrap_or(&whole);
        for part in whole.split(['|', ';', '>', '<']).flat_map(|p| p.split("&&")) {
            found.extend(ours(part).map(|words| (number, words)));
        }
    }
    found
}

/// The words of a command of ours, without prompt, variables and sudo.
fn ours(part: &str) -> Option<Vec<String>> {
    let mut words: Vec<&str> = part.split_whitespace().collect();
    while let Some(first) = words.first() {
        let prefix = ["$", "#", "sudo"].contains(first) || (first.contains('=') && !first.starts_with('-'));
        if !prefix {
            break;
        }
        words.remove(0);
    }
    let program = words.first()?.rsplit('/').next()?;
    let cargo = words.starts_with(&["cargo", "xtask"]);
    // `netprobe: …` is output.
    if !cargo && program != "netprobe" {
        return None;
    }
    if !cargo {
        words[0] = "netprobe";
    }
    // A trailing `&` starts it in the background.
    Some(
        words
            .into_iter()
            .filter(|w| *w != "&")
            .map(|w| w.trim_matches(['\'', '"']).to_owned())
            .collect(),
    )
}

/// Whether a command would be understood.
fn verify(words: &[String], agent: &Path) -> Result<()> {
    if words[0] == "netprobe" {
        return verify_agent(&words[1..], agent);
    }
    let mine = words[1..].iter().map(String::as_str);
    if let Err(error) = Args::try_parse_from(mine)
        && error.use_stderr()
    {
        bail!("{}", error.to_string().lines().next().unwrap_or("not understood"));
    }
    // What stands behind `--` goes to a program of ours.
    let Some(at) = words.iter().position(|w| w == "--") else {
        return Ok(());
    };
    let rest = &words[at + 1..];
    match words.get(2).map(String::as_str) {
        Some("run") => verify_agent(&[&["run".to_owned()], rest].concat(), agent),
        Some("vm") if rest.first().is_some_and(|w| w == "netprobe") => verify_agent(&rest[1..], agent),
        _ => Ok(()),
    }
}

/// Walks down the subcommands, then looks for every flag in the help of the last one.
fn verify_agent(words: &[String], agent: &Path) -> Result<()> {
    let mut path: Vec<&str> = Vec::new();
    let mut help = help(agent, &path)?;
    for word in words {
        if word.starts_with('-') || !subcommands(&help).contains(word) {
            break;
        }
        path.push(word);
        help = self::help(agent, &path)?;
    }
    if !subcommands(&help).is_empty() && words.len() > path.len() && !words[path.len()].starts_with('-') {
        bail!(
            "netprobe {} has no command `{}`",
            path.join(" "),
            words[path.len()]
        );
    }
    for word in words.iter().filter(|w| w.starts_with('-') && w.len() > 1) {
        let flag = word.split('=').next().unwrap_or(word);
        let known = help
            .split(|c: char| c.is_whitespace() || ",[]=.".contains(c))
            .any(|w| w == flag);
        if !known {
            bail!("netprobe {} has no flag {flag}", path.join(" "));
        }
    }
    Ok(())
}

fn help(agent: &Path, path: &[&str]) -> Result<String> {
    sh::output(
        sh::clean(agent)
            .args(path)
            .arg("--help")
            .env_remove("COLUMNS")
            .env("NO_COLOR", "1"),
    )
}

/// The names below `Commands:`.
fn subcommands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // Deeper lines continue a description.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

fn reference(agent: &Path) -> Result<String> {
    let mut out = String::from("# Commands\n\nGenerated from `--help` by `cargo xtask docs`.\n");
    describe(agent, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn describe(agent: &Path, path: &mut Vec<String>, out: &mut String) -> Result<()> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let text = help(agent, &words)?;
    let title = std::iter::once("netprobe")
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    out.push_str(&format!(
        "\n## `{title}`\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    ));
    for name in subcommands(&text) {
        path.push(name);
        describe(agent, path, out)?;
        path.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_fences_only() {
        let text = "cargo xtask nothing\n```sh\n$ sudo netprobe observe -f \\\n  --port 80 | head # live\n\
                    X=1 cargo xtask run -- --duration 30s\nnetprobe: ready\n```\n```text\nnetprobe 0.1.0\n```\n\
                    ```console\n$ ./target/release/netprobe doctor\nnetprobe 0.1.0 on Linux\n```\n";
        let found: Vec<String> = commands(text).into_iter().map(|(_, w)| w.join(" ")).collect();
        assert_eq!(
            found,
            [
                "netprobe observe -f --port 80",
                "cargo xtask run -- --duration 30s",
                "netprobe doctor"
            ]
        );
    }

    #[test]
    fn help_lists_subcommands() {
        let help = "x\n\nCommands:\n  run      the agent\n           and more\n  doctor   y\n  help     z\n\nOptions:\n  -h\n";
        assert_eq!(subcommands(help), ["run", "doctor"]);
    }

    #[test]
    fn our_own_commands_are_parsed() {
        let verify = |text: &str| verify(&ours(text).unwrap(), Path::new("/nonexistent"));
        assert!(verify("cargo xtask vm test --kernel 6.12").is_ok());
        assert!(verify("cargo xtask --help").is_ok());
        assert!(verify("cargo xtask vm test --kernal 6.12").is_err());
        assert!(verify("cargo xtask frobnicate").is_err());
    }
}
