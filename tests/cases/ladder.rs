//! Methods the operator chose.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{self, Agent, Settings, binary};

use super::Case;

pub(crate) const CASES: &[Case] = &[
    Case::new("ladder_switched_off_fact", switched_off),
    Case::new("ladder_required_fact_stays", required),
];

/// A fact that is off has no method and says why; no program runs for it.
fn switched_off() -> Result<()> {
    let agent = Agent::start(&Settings {
        probe: "methods = { accept = \"off\", connect_failed = \"off\" }\nstatistics = true".to_owned(),
        ..Default::default()
    })?;
    let (_, body) = agent.get("/api/v1/probe")?;
    let report: serde_json::Value = serde_json::from_str(&body)?;
    for name in ["accept", "connect_failed"] {
        let fact = report["facts"]
            .as_array()
            .and_then(|facts| facts.iter().find(|fact| fact["fact"] == name))
            .with_context(|| format!("{name} is not in {body}"))?;
        ensure!(
            fact["method"].is_null() && fact["off"] == true,
            "{name} has a method, or is not off: {fact}"
        );
        let refused = fact["refused"].as_array().context("fact without refused")?;
        ensure!(
            !refused.is_empty()
                && refused
                    .iter()
                    .all(|r| r["reason"].as_str().is_some_and(|reason| reason.contains("off"))),
            "{name} does not say that it is off: {fact}"
        );
    }
    let (_, metrics) = agent.get("/metrics")?;
    let runs = |program: &str| {
        let series = format!("netprobe_bpf_program_runs_total{{program=\"{program}\"}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok())
    };
    ensure!(
        runs("set_state").is_some_and(|n| n > 0.0),
        "no runs of what is attached"
    );
    for program in ["sys_exit", "accept_exit", "accept_return", "connect_exit"] {
        ensure!(runs(program).is_none_or(|n| n == 0.0), "{program} runs");
    }
    Ok(())
}

/// What the agent cannot do without cannot be switched off.
fn required() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (config, _) = agent::write_config(folder.path(), &Settings::default())?;
    let ended = Command::new(binary()?)
        .args(["run", "--method", "lifecycle=off", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(
        ended.status.code() == Some(2),
        "it ended with {}: {said}",
        ended.status
    );
    ensure!(
        said.contains("lifecycle"),
        "the message does not name the fact: {said}"
    );
    Ok(())
}
