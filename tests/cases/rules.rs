//! Dashboards and rules against a real Prometheus that scrapes a real agent while things go wrong: every expression
//! must give data, and the alerts that are about it must fire.

mod files;
mod incident;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::wait_for;
use serde_json::Value;

use super::prometheus::Prometheus;
use super::{Case, Need};
use files::{of_dashboards, promtool, rules};
use incident::{Incident, MAX_PEERS};

pub(crate) const CASES: &[Case] = &[
    Case::new("every_expression_gives_data", expressions)
        .alone()
        .needs(&[Need::Program("prometheus")]),
    Case::new("rules_pass_promtool", promtool).needs(&[
        Need::Program("promtool"),
        Need::Program("amtool"),
        Need::Program("jsonnet"),
    ]),
];

const RUNBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Scrapes and evaluations are a second apart here; rates need some of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// Expressions that cannot give data within minutes, by what stands in them, and why; `promtool` has them all.
const NOT_HERE: &[(&str, &str)] = &[
    ("same_hour", "the same hour of earlier days is at least a day ago"),
    (
        "offset 23h30m",
        "the same hour of earlier days is at least a day ago",
    ),
    ("offset 7d", "the week before is a week ago"),
    ("absent(", "it gives data when there is no agent at all"),
    ("records_rejected", "a record that is not valid takes a defect"),
    ("sink=\"kafka\"", "this agent has no Kafka"),
];

/// A file of rules, without the times that a test has not got.
fn impatient(file: &str) -> Result<String> {
    let text = std::fs::read_to_string(rules(file))?;
    let waits = |line: &&str| {
        !["for: ", "interval: "]
            .iter()
            .any(|key| line.trim_start().starts_with(key))
    };
    Ok(text
        .lines()
        .filter(waits)
        .map(|line| format!("{line}\n"))
        .collect())
}

/// Every rule Prometheus has: name, expression, and whether it alerts. An alert gives data when it fires; what it
/// judges must always be there, so its comparisons give 0 or 1 here.
fn of_rules(prometheus: &Prometheus) -> Result<Vec<(String, String)>> {
    let answer = prometheus.get("rules")?;
    let mut found = Vec::new();
    for group in answer["data"]["groups"].as_array().context("no groups")? {
        for rule in group["rules"].as_array().context("no rules")? {
            ensure!(rule["health"] != "err", "{rule}");
            let (name, query) = (
                rule["name"].as_str().context("no name")?,
                rule["query"].as_str().context("no query")?,
            );
            let mut query = query.to_owned();
            if rule["type"] == "alerting" {
                let page = rule["annotations"]["runbook"]
                    .as_str()
                    .with_context(|| format!("{name} has no runbook"))?;
                ensure!(
                    Path::new(RUNBOOK).join(page).is_file(),
                    "{name}: {page} is not there"
                );
                for judge in [" > ", " < ", " == ", " >= "] {
                    query = query.replace(judge, &format!("{judge}bool "));
                }
            }
            found.push((format!("rule {name}"), query));
        }
    }
    Ok(found)
}

/// Whether an answer has a number in it.
fn has_data(answer: &Value) -> bool {
    let results = answer["data"]["result"].as_array();
    results.is_some_and(|all| {
        all.iter()
            .filter_map(|of| of["value"][1].as_str()?.parse::<f64>().ok())
            .any(|value| !value.is_nan())
    })
}

fn expressions() -> Result<()> {
    let home = tempfile::tempdir()?;
    let agent = Arc::new(Agent::start(&Settings {
        probe: "statistics = true".to_owned(),
        flow: "udp_idle = \"1s\"\nreconcile_every = \"1s\"\nupdate_every = \"1s\"".to_owned(),
        archive: "seal_after = \"500ms\"\nspool_bytes = 1048576".to_owned(),
        archive_in: Some(home.path().to_owned()),
        sections: format!("[metrics]\nmax_peers = {MAX_PEERS}"),
        ..Settings::default()
    })?);
    let prometheus = Prometheus::start(
        agent.listen(),
        "exemplar-storage",
        &[impatient("recording.yaml")?, impatient("alerts.yaml")?],
    )?;
    prometheus.expect("up", 1.0)?;
    let mut incident = Incident::begin(&agent)?;
    incident.round()?;
    // The archive goes away: what was a folder is a file.
    let archive = home.path().join("archive");
    wait_for("a segment to be archived", PATIENCE, || {
        archive.join("v1").exists().then_some(())
    })?;
    std::fs::remove_dir_all(&archive)?;
    std::fs::write(&archive, "gone")?;
    incident.flood()?;
    let refused = incident.refused;
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let stop = stop.clone();
        std::thread::spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                incident.round()?;
            }
            Ok(())
        })
    };
    let result = give_data(&prometheus).and_then(|()| alerts(&prometheus, refused));
    stop.store(true, Ordering::Relaxed);
    let traffic = thread
        .join()
        .map_err(|_| anyhow::anyhow!("the traffic panicked"))?;
    result.and(traffic)?;
    // An agent that is gone.
    agent.stop()?;
    prometheus.expect(
        r#"count(ALERTS{alertname="NetprobeDown",alertstate="firing"})"#,
        1.0,
    )?;
    prometheus.expect(
        r#"count(ALERTS{alertname="NetprobeAbsent",alertstate="firing"})"#,
        1.0,
    )
}

fn give_data(prometheus: &Prometheus) -> Result<()> {
    let mut open = of_dashboards()?;
    ensure!(
        open.len() > 100,
        "only {} expressions in the dashboards",
        open.len()
    );
    let of_rules = of_rules(prometheus)?;
    ensure!(of_rules.len() > 40, "only {} rules", of_rules.len());
    open.extend(of_rules);
    for (text, why) in NOT_HERE {
        ensure!(
            open.iter().any(|(_, of)| of.contains(text)),
            "nothing has `{text}` ({why})"
        );
        open.retain(|(_, of)| !of.contains(text));
    }
    let tried = wait_for("every expression to give data", PATIENCE, || {
        let mut still = Vec::new();
        for (place, expression) in std::mem::take(&mut open) {
            match prometheus.ask("query", &expression) {
                Ok(answer) if has_data(&answer) => {}
                Ok(_) => still.push((place, expression)),
                Err(error) => return Some(Err(error.context(place))),
            }
        }
        open = still;
        std::thread::sleep(Duration::from_secs(1));
        open.is_empty().then_some(Ok(()))
    });
    match tried {
        Ok(done) => done,
        Err(error) => {
            let left: Vec<_> = open.iter().map(|(place, of)| format!("{place}: {of}")).collect();
            Err(error.context(format!("no data:\n{}", left.join("\n"))))
        }
    }
}

/// What is wrong is told, with its name, and what is well is not.
fn alerts(prometheus: &Prometheus, refused: SocketAddr) -> Result<()> {
    for (matchers, count) in [
        (
            format!(r#"alertname="NetprobeDestinationFailing",peer="{refused}""#),
            1.0,
        ),
        (
            format!(r#"alertname="NetprobeConnectErrorBudgetBurn",peer="{refused}""#),
            4.0,
        ),
        (r#"alertname="NetprobeArchiveUnreachable""#.to_owned(), 1.0),
        (
            r#"alertname="NetprobeEventsLost",sink="archive",reason="spool_full""#.to_owned(),
            1.0,
        ),
    ] {
        prometheus.expect(
            &format!(r#"count(ALERTS{{{matchers},alertstate="firing"}})"#),
            count,
        )?;
    }
    let well = "NetprobeDown|NetprobeAbsent|NetprobeFactMissing|NetprobeRecordsRejected|NetprobeSpoolDamaged";
    let answer = prometheus.ask("query", &format!(r#"ALERTS{{alertname=~"{well}"}}"#))?;
    ensure!(answer["data"]["result"] == serde_json::json!([]), "{answer}");
    Ok(())
}
