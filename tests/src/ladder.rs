//! Every method of every fact, each tried on this kernel by forcing it; and agents that serve under each of them.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::binary;
use crate::parity::{Methods, version};
use crate::tools;

/// One method of one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// What it serves.
    pub fact: String,
    /// Its name.
    pub method: String,
    /// Oldest kernel it is declared for.
    pub floor: (u32, u32),
    /// The kernel's reason, where it does not serve.
    pub refused: Option<String>,
}

/// Tries every method there is.
pub fn survey() -> Result<Vec<Rung>> {
    let ladders = ladders(&doctor(&Methods::new())?)?;
    let height = ladders.values().map(Vec::len).max().unwrap_or(0);
    let mut rungs = Vec::new();
    for index in 0..height {
        // One run tries the same rung of every ladder that has it.
        let forced: Methods = ladders
            .iter()
            .filter_map(|(fact, ladder)| Some((fact.clone(), ladder.get(index)?.0.clone())))
            .collect();
        let report = doctor(&forced)?;
        for (fact, method) in forced {
            let refused = refusal(&report, &fact, &method)?;
            let floor = ladders[&fact][index].1;
            rungs.push(Rung {
                fact,
                method,
                floor,
                refused,
            });
        }
    }
    Ok(rungs)
}

/// As few sets of methods as let every one that serves here serve once; a ladder that is shorter stays on its last.
/// The first set is each fact's best.
pub fn sets(rungs: &[Rung]) -> Vec<Methods> {
    let mut serving: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for rung in rungs.iter().filter(|rung| rung.refused.is_none()) {
        serving.entry(&rung.fact).or_default().push(&rung.method);
    }
    let height = serving.values().map(Vec::len).max().unwrap_or(0);
    (0..height)
        .map(|index| {
            serving
                .iter()
                .filter_map(|(fact, methods)| {
                    let method = methods.get(index).or(methods.last())?;
                    Some(((*fact).to_owned(), (*method).to_owned()))
                })
                .collect()
        })
        .collect()
}

/// The arguments that force these methods.
pub fn arguments(methods: &Methods) -> Vec<String> {
    methods
        .iter()
        .flat_map(|(fact, method)| ["--method".to_owned(), format!("{fact}={method}")])
        .collect()
}

fn doctor(methods: &Methods) -> Result<Value> {
    let output = Command::new(binary()?)
        .args(["doctor", "-o", "json"])
        .args(arguments(methods))
        // The one fact that is off by default.
        .env("NETPROBE_REQUESTS_TLS", "true")
        .output()
        .context("netprobe doctor does not start")?;
    // A required fact that is refused ends it with an error, after the report.
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("doctor said: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

type Ladders = BTreeMap<String, Vec<(String, (u32, u32))>>;

fn ladders(report: &Value) -> Result<Ladders> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let facts = report["facts"].as_array().context("doctor names no facts")?;
    facts
        .iter()
        .map(|fact| {
            let rungs = fact["ladder"].as_array().context("a fact without a ladder")?;
            let ladder = rungs.iter().map(|rung| {
                let floor = rung["kernel_floor"].as_str().and_then(version);
                Some((text(&rung["method"])?, floor?))
            });
            let ladder: Option<Vec<_>> = ladder.collect();
            Ok((
                text(&fact["fact"]).context("a fact without a name")?,
                ladder.with_context(|| format!("a rung without method or floor: {fact}"))?,
            ))
        })
        .collect()
}

/// Why a forced method was not chosen; `None`: it was.
fn refusal(report: &Value, fact: &str, method: &str) -> Result<Option<String>> {
    let facts = report["facts"].as_array().context("doctor names no facts")?;
    let fact = facts
        .iter()
        .find(|known| known["fact"] == fact)
        .with_context(|| format!("doctor does not speak of {fact}"))?;
    if fact["method"] == method {
        return Ok(None);
    }
    let refused = fact["refused"].as_array().context("a fact without refused")?;
    let reason = refused
        .iter()
        .find(|refused| refused["method"] == method)
        .and_then(|refused| refused["reason"].as_str())
        .with_context(|| format!("no reason why {method} does not serve: {fact}"))?;
    Ok(Some(reason.to_owned()))
}

/// Runs `netprobe doctor` behind a wrapper (`setpriv …`); its exit code, table and complaint.
pub fn doctor_through(wrapper: &[&str]) -> Result<(Option<i32>, String, String)> {
    let (program, args) = wrapper.split_first().context("no wrapper")?;
    let program = tools::find(program).with_context(|| format!("{program} is not installed"))?;
    let output = Command::new(program)
        .args(args)
        .arg(binary()?)
        .arg("doctor")
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(fact: &str, method: &str, refused: bool) -> Rung {
        Rung {
            fact: fact.to_owned(),
            method: method.to_owned(),
            floor: (5, 12),
            refused: refused.then(|| "no".to_owned()),
        }
    }

    #[test]
    fn every_serving_method_is_in_a_set_and_no_refused_one() {
        let rungs = [
            rung("a", "x", false),
            rung("b", "p", true),
            rung("b", "q", false),
            rung("b", "r", false),
            rung("c", "s", true),
        ];
        let told: Vec<String> = sets(&rungs).iter().map(|set| arguments(set).join(" ")).collect();
        assert_eq!(told, ["--method a=x --method b=q", "--method a=x --method b=r"]);
    }
}
