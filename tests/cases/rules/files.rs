//! Dashboards and rules as files: what stands in them, and what their own tools say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use netprobe_tests::tools;
use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards");

/// A file of rules.
pub(super) fn rules(file: &str) -> PathBuf {
    Path::new(FOLDER).join("prometheus").join(file)
}

/// Every expression of the dashboards and its place, as Grafana would send it with everything chosen.
pub(super) fn of_dashboards() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(Path::new(FOLDER).join("grafana"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        let title = board["title"].as_str().context("no title")?;
        for panel in board["panels"].as_array().context("no panels")? {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{title}: {}", panel["title"]);
                found.push((place, chosen(target["expr"].as_str().context("no expression")?)));
            }
        }
        for variable in board["templating"]["list"].as_array().context("no variables")? {
            let Some(labels) = variable["query"]
                .as_str()
                .and_then(|text| text.strip_prefix("label_values("))
            else {
                continue;
            };
            let (metric, label) = labels
                .trim_end_matches(')')
                .rsplit_once(", ")
                .context("no label")?;
            found.push((
                format!("{title}: variable {label}"),
                format!("count by ({label}) ({})", chosen(metric)),
            ));
        }
    }
    Ok(found)
}

/// An expression with its variables filled in.
fn chosen(expression: &str) -> String {
    ["$job", "$instance", "$service", "$peer"]
        .iter()
        .fold(expression.replace("$__rate_interval", "15s"), |text, variable| {
            text.replace(variable, ".+")
        })
}

/// What promtool and amtool say; and that the tests have every alert in them.
pub(super) fn promtool() -> Result<()> {
    let run = |program: &str, arguments: &[&str], files: &[&str]| {
        tools::run_command(
            Command::new(tools::find(program).with_context(|| format!("{program} is not installed"))?)
                .args(arguments)
                .args(files.iter().map(|file| rules(file))),
        )
    };
    run(
        "promtool",
        &["check", "rules"],
        &["recording.yaml", "alerts.yaml"],
    )?;
    run(
        "promtool",
        &["test", "rules"],
        &["tests.yaml", "tests-recording.yaml"],
    )?;
    run("amtool", &["check-config"], &["alertmanager.yml"])?;
    mixin()?;
    let tests = std::fs::read_to_string(rules("tests.yaml"))?;
    let text = std::fs::read_to_string(rules("alerts.yaml"))?;
    let mut severities: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut alert = "";
    for line in text.lines().map(str::trim) {
        alert = line.strip_prefix("- alert: ").unwrap_or(alert);
        if let Some(rest) = line.strip_prefix("labels: {severity: ") {
            let severity = rest.split([',', '}']).next().unwrap_or_default();
            severities.entry(alert).or_default().insert(severity);
        }
    }
    ensure!(severities.len() > 20, "only {} alerts", severities.len());
    for (alert, severities) in severities {
        for severity in severities {
            let fired = format!(r#"{{labels: '{{alertname="{alert}", severity="{severity}""#);
            ensure!(
                tests.contains(&fired),
                "tests.yaml does not make {alert} fire as {severity}"
            );
        }
    }
    Ok(())
}

/// The mixin has every file.
fn mixin() -> Result<()> {
    let summary = format!(
        "local of = import '{FOLDER}/mixin.libsonnet'; [std.objectFieldsAll(of.grafanaDashboards), \
         std.length(of.prometheusRules.groups), std.length(of.prometheusAlerts.groups)]"
    );
    let said: Value = serde_json::from_str(&tools::run("jsonnet", &["-e", &summary])?)?;
    let mut there = Vec::new();
    for entry in std::fs::read_dir(Path::new(FOLDER).join("grafana"))? {
        there.push(entry?.file_name().to_string_lossy().into_owned());
    }
    there.retain(|name| name.ends_with(".json"));
    there.sort();
    ensure!(
        said[0] == serde_json::json!(there),
        "the mixin has {}, the folder {there:?}",
        said[0]
    );
    ensure!(
        said[1].as_u64() > Some(0) && said[2].as_u64() > Some(0),
        "no rules in the mixin: {said}"
    );
    Ok(())
}
