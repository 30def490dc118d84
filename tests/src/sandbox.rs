//! What a unit of systemd lets its service do, applied without systemd: the filter of system calls, and no new
//! privileges.
//!
//! The filter is a promise about a process and all it starts, so this very program is started again with
//! [`SANDBOX_ARG`], takes the filter upon itself, and becomes the program it was given.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use seccompiler::{BpfProgram, TargetArch};

use crate::tools;

/// First argument of this program when it is to run another one behind a filter: names of system calls in one
/// argument, then program and arguments.
pub const SANDBOX_ARG: &str = "--behind-a-filter";

/// What a unit says, by key; keys that come twice keep the last.
pub fn value<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines()
        .rev()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// The system calls that a `SystemCallFilter` allows; groups are systemd's own.
pub fn allowed(filter: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut open: Vec<String> = filter.split_whitespace().map(str::to_owned).collect();
    while let Some(name) = open.pop() {
        if name.starts_with('@') {
            let listing = tools::run("systemd-analyze", &["syscall-filter", &name])?;
            let members = listing.lines().skip(1).map(str::trim);
            open.extend(
                members
                    .filter(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned),
            );
        } else {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Arguments that run a program behind a filter: put it and its own arguments after them.
pub fn wrapper(allowed: &BTreeSet<String>) -> Result<Vec<String>> {
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the path of this program is no text")?;
    let names: Vec<&str> = allowed.iter().map(String::as_str).collect();
    Ok(vec![own.to_owned(), SANDBOX_ARG.to_owned(), names.join(",")])
}

/// Runs as sandbox when asked to by the first argument; does not return then, unless something fails.
pub fn main_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != SANDBOX_ARG {
        return None;
    }
    let names = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let failed = become_it(&names, &rest).err();
    eprintln!("sandbox: {failed:?}");
    Some(ExitCode::FAILURE)
}

fn become_it(names: &str, rest: &[String]) -> Result<()> {
    let (program, args) = rest.split_first().context("no program")?;
    // Groups name calls of other machines, too.
    let known: Vec<&str> = names.split(',').filter(|name| filter(&[name]).is_ok()).collect();
    ensure!(known.len() > 100, "only {} system calls are known", known.len());
    // It sets `no_new_privs` first.
    seccompiler::apply_filter(&filter(&known)?)?;
    let error = Command::new(Path::new(program)).args(args).exec();
    Err(error).with_context(|| format!("{program} does not start"))
}

/// What is not named fails with EPERM, as the unit says.
fn filter(names: &[&str]) -> Result<BpfProgram> {
    let rules: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({ "syscall": name }))
        .collect();
    let text = serde_json::json!({
        "all": { "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": rules }
    })
    .to_string();
    let mut programs = seccompiler::compile_from_json(text.as_bytes(), TargetArch::x86_64)?;
    programs.remove("all").context("no filter")
}
