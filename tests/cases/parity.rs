//! One script of traffic under every method that serves here: the same events, field by field.

mod script;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::ladder::{self, Rung};
use netprobe_tests::parity::{self, Methods, Table};
use netprobe_tests::tools;

use super::Case;
use script::{Script, Told};

pub(crate) const CASES: &[Case] = &[
    Case::new("parity_under_every_method", every_method),
    Case::new("ladder_keeps_its_declared_floors", floors),
];

const EXPECTED: &str = include_str!("../fixtures/parity/expected.toml");
const DIFFERENCES: &str = include_str!("../fixtures/parity/differences.toml");
/// Writes what each set of methods gives to this file, with the set's number behind: 0, each fact's best, may become
/// a new `expected.toml` once it is read with care.
const WRITE: &str = "NETPROBE_PARITY_WRITE";

/// A method serves from its declared floor on and not below: a floor that is too high hides it, one that is too low
/// promises what is not there. A kernel that forbids may refuse more, not less.
fn floors() -> Result<()> {
    let kernel = tools::kernel().context("the kernel has no version")?;
    let mut wrong = Vec::new();
    for rung in survey()? {
        let name = format!("{}={}", rung.fact, rung.method);
        match &rung.refused {
            None if kernel < rung.floor => {
                wrong.push(format!("{name} serves below its floor {:?}", rung.floor))
            }
            // Only the kernels of the matrix are known to forbid nothing.
            Some(reason) if kernel >= rung.floor && super::in_vm() => {
                wrong.push(format!("{name} does not serve, floor {:?}: {reason}", rung.floor));
            }
            _ => {}
        }
    }
    ensure!(wrong.is_empty(), "on kernel {kernel:?}: {}", wrong.join("; "));
    Ok(())
}

/// Every method tried, and told: `cargo xtask vm test` makes its table of these lines.
fn survey() -> Result<Vec<Rung>> {
    let rungs = ladder::survey()?;
    for Rung {
        fact,
        method,
        refused,
        ..
    } in &rungs
    {
        match refused {
            Some(reason) => println!("ladder: {fact}={method} refused: {reason}"),
            None => println!("ladder: {fact}={method} serves"),
        }
    }
    Ok(rungs)
}

fn every_method() -> Result<()> {
    let kernel = tools::kernel().context("the kernel has no version")?;
    let table = Table::read(EXPECTED, DIFFERENCES)?;
    let sets = ladder::sets(&survey()?);
    ensure!(!sets.is_empty(), "no method serves here");
    let mut wrong = Vec::new();
    for (index, methods) in sets.iter().enumerate() {
        let permitted = table.permitted(methods, kernel);
        let awaited = |name: &str| !matches!(table.expected(name, &permitted), Ok(None));
        let told = run(index, methods, awaited).with_context(|| format!("under {methods:?}"))?;
        if let Ok(file) = std::env::var(WRITE) {
            let all: BTreeMap<_, _> = told.iter().filter_map(|(n, f)| Some((n, f.as_ref()?))).collect();
            std::fs::write(format!("{file}.{index}"), toml::to_string(&all)?)?;
        }
        let mut faults = Vec::new();
        for (name, got) in &told {
            let expected = match table.expected(name, &permitted) {
                Ok(expected) => expected,
                Err(error) => {
                    faults.push(format!("{error:#}"));
                    continue;
                }
            };
            match (got, expected) {
                (Some(got), Some(expected)) => faults.extend(parity::differences(name, got, &expected)),
                (None, Some(_)) => faults.push(format!("{name}: no such event")),
                (Some(_), None) => {
                    faults.push(format!("{name}: there is one, and differences.toml denies it"))
                }
                (None, None) => {}
            }
        }
        for (fact, method) in methods {
            let own = format!("{fact}={method}");
            let count = permitted.iter().filter(|d| d.methods.contains(&own)).count();
            let verdict = match (faults.is_empty(), count) {
                (false, _) => "differs".to_owned(),
                (true, 0) => "equal".to_owned(),
                (true, count) => format!("equal but for {count} permitted"),
            };
            println!("parity: {own} {verdict}");
        }
        wrong.extend(faults.into_iter().map(|fault| format!("{methods:?}: {fault}")));
    }
    ensure!(wrong.is_empty(), "on kernel {kernel:?}:\n{}", wrong.join("\n"));
    Ok(())
}

/// An agent with these methods, the script, what it said.
fn run(index: usize, methods: &Methods, awaited: impl Fn(&str) -> bool) -> Result<Told> {
    let mut script = Script::new(index, methods)?;
    let older = script.open_near()?;
    let agent = Agent::start(&Settings {
        probe: "statistics = true".to_owned(),
        flow: "open_after = \"200ms\"\nupdate_every = \"1s\"\nudp_idle = \"2s\"\nreconcile_every = \"1s\""
            .to_owned(),
        args: ladder::arguments(methods),
        ..Default::default()
    })?;
    script.play(&agent, older)?;
    let told = script.collect(&agent, awaited)?;
    agent.ledger_at_rest(Duration::from_secs(60))?;
    let report = agent.probe()?;
    println!(
        "measured: {}",
        serde_json::json!({
            "release": report["kernel"]["release"], "methods": methods, "start": report["start"], "programs": report["programs"],
        })
    );
    let stopped = agent.stop()?;
    ensure!(
        stopped.status.success(),
        "the agent ended with {}",
        stopped.status
    );
    Ok(told)
}
