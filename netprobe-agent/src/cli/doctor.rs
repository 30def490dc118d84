//! `netprobe doctor`.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};

use super::{MethodArgs, config::ConfigArgs};
use crate::{app, error::AgentError, probe_report::ProbeReport};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Form of the report
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    methods: MethodArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table
    #[default]
    Text,
    /// The report as JSON
    Json,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<(), AgentError> {
    let mut loaded = args.config.load()?;
    args.methods.apply(&mut loaded)?;
    let report = app::doctor(&loaded.config)?;
    match args.output {
        Form::Text => super::print(text(&report).as_bytes())?,
        Form::Json => {
            let mut json = serde_json::to_vec_pretty(&report).map_err(|error| {
                AgentError::other(format!("the report cannot be written: {error}"), "report this")
            })?;
            json.push(b'\n');
            super::print(&json)?;
        }
    }
    match report
        .facts
        .iter()
        .find(|fact| fact.required && fact.method.is_none())
    {
        None => Ok(()),
        Some(fact) => Err(AgentError::MissingHook {
            fact: fact.fact.clone(),
            reasons: fact
                .refused
                .iter()
                .map(|refused| format!("{}: {}", refused.method, refused.reason))
                .collect::<Vec<_>>()
                .join("; "),
        }),
    }
}

/// The report for people: one line a fact, the refused methods below it.
pub(super) fn text(report: &ProbeReport) -> String {
    let kernel = &report.kernel;
    let mut page = format!(
        "netprobe {} on Linux {} {}, BTF {}, lockdown {}\n\n",
        report.agent_version,
        kernel.release,
        kernel.machine,
        if kernel.btf { "present" } else { "missing" },
        kernel.lockdown.as_deref().unwrap_or("unknown"),
    );
    let width = |least: usize, lengths: &mut dyn Iterator<Item = usize>| lengths.fold(least, usize::max);
    let facts = width(4, &mut report.facts.iter().map(|fact| fact.fact.len()));
    let methods = width(
        6,
        &mut report
            .facts
            .iter()
            .filter_map(|fact| Some(fact.method.as_ref()?.len())),
    );
    // Writing to a string does not fail.
    let _ = writeln!(
        page,
        "{:<facts$}  {:<methods$}  {:<8}  KERNEL",
        "FACT", "METHOD", "REQUIRED"
    );
    for fact in &report.facts {
        let method = fact.served_by();
        let required = if fact.required { "yes" } else { "no" };
        let floor = fact
            .kernel_floor
            .as_deref()
            .map_or("-".to_owned(), |floor| format!(">= {floor}"));
        let _ = writeln!(
            page,
            "{:<facts$}  {method:<methods$}  {required:<8}  {floor}",
            fact.fact
        );
        for refused in &fact.refused {
            let _ = writeln!(page, "{:<facts$}  not {}: {}", "", refused.method, refused.reason);
        }
    }
    if !report.notices.is_empty() {
        page.push('\n');
    }
    for notice in &report.notices {
        let _ = writeln!(page, "note: {notice}");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe_report::{FactReport, KernelReport, RefusedReport};

    #[test]
    fn the_table_says_why_not_the_better_methods() {
        let refused = RefusedReport {
            method: "fexit".to_owned(),
            reason: "not permitted".to_owned(),
        };
        let fact = |fact: &str, method: Option<&str>| FactReport {
            fact: fact.to_owned(),
            required: method.is_none(),
            off: false,
            method: method.map(str::to_owned),
            kernel_floor: method.map(|_| "5.10".to_owned()),
            refused: vec![refused.clone()],
            ladder: Vec::new(),
        };
        let report = ProbeReport {
            agent_version: "0.1.0".to_owned(),
            kernel: KernelReport {
                release: "6.18.0".to_owned(),
                machine: "x86_64".to_owned(),
                btf: true,
                lockdown: Some("integrity".to_owned()),
            },
            facts: vec![fact("accept", Some("sys_exit")), fact("lifecycle", None)],
            notices: vec!["conntrack accounting is off".to_owned()],
            ..ProbeReport::default()
        };
        insta::assert_snapshot!(text(&report), @r"
        netprobe 0.1.0 on Linux 6.18.0 x86_64, BTF present, lockdown integrity

        FACT       METHOD    REQUIRED  KERNEL
        accept     sys_exit  no        >= 5.10
                   not fexit: not permitted
        lifecycle  none      yes       -
                   not fexit: not permitted

        note: conntrack accounting is off
        ");
    }
}
