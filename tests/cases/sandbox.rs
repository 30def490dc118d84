//! The agent as the shipped unit of systemd runs it.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::lab::Lab;
use netprobe_tests::{sandbox, wait_for};
use nix::sys::signal::Signal;

use super::privilege::Talk;
use super::{Case, Need, comm};

pub(crate) const CASES: &[Case] =
    &[Case::new("unit_of_systemd_lets_the_agent_work", unit).needs(&[Need::Program("systemd-analyze")])];

const UNIT: &str = include_str!("../../packaging/netprobe.service");

fn facts(agent: &Agent) -> Result<String> {
    let probe = agent.probe()?;
    let facts = probe["facts"].as_array().context("no facts")?;
    let methods = facts
        .iter()
        .map(|fact| format!("{}={}", fact["fact"], fact["method"]));
    Ok(methods.collect::<Vec<_>>().join(" "))
}

/// Behind the unit's filter of system calls, without new privileges and with its capabilities alone: it starts, serves
/// the same facts, reports connections older and new, takes its configuration again, seals its archive, ends in order.
fn unit() -> Result<()> {
    let value = |key| sandbox::value(UNIT, key).with_context(|| format!("the unit has no {key}"));
    ensure!(
        value("SystemCallErrorNumber")? == "EPERM",
        "the filter is applied with EPERM"
    );
    let bounding = value("CapabilityBoundingSet")?
        .split(' ')
        .map(|name| name.trim_start_matches("CAP_").to_lowercase())
        .fold("-all".to_owned(), |all, name| format!("{all},+{name}"));
    let allowed = sandbox::allowed(value("SystemCallFilter")?)?;
    let mut through = ["setpriv", "--inh-caps", "-all", "--bounding-set", &bounding]
        .map(str::to_owned)
        .to_vec();
    through.extend(sandbox::wrapper(&allowed)?);

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let older = TcpStream::connect(listener.local_addr()?)?;
    let mut lab = Lab::new()?;
    lab.add("else")?;
    let others = Talk::begin(
        lab.endpoint("else", &comm('c', "unit"))?,
        lab.endpoint("else", &comm('s', "unit"))?,
    )?;
    let plain = facts(&Agent::start(&Settings::default())?)?;
    let agent = Agent::start(&Settings {
        through,
        ..Settings::default()
    })?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    ensure!(
        status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"),
        "no filter: {status}"
    );
    let within = facts(&agent)?;
    ensure!(within == plain, "without the unit {plain}, with it {within}");
    ensure!(
        others.is_listed(&agent)?,
        "a connection in another network namespace is not known: {}",
        agent.log()
    );
    let new = TcpStream::connect(listener.local_addr()?)?;
    let (was, is) = (older.local_addr()?, new.local_addr()?);
    drop((older, new, listener));
    for ours in [was, is] {
        let event = agent.wait_event("the end of a connection", |event| {
            event.is_final() && event.role.as_deref() == Some("client") && event.internal() == Some(ours)
        })?;
        ensure!(
            event
                .process
                .as_ref()
                .is_some_and(|process| process.exe.is_some()),
            "no executable: {}",
            serde_json::to_string(&*event)?
        );
    }
    agent.signal(Signal::SIGHUP)?;
    wait_for(
        "the configuration to be read again",
        Duration::from_secs(20),
        || {
            agent
                .log()
                .contains("the configuration was reloaded")
                .then_some(())
        },
    )?;
    wait_for("a segment in the archive", Duration::from_secs(20), || {
        let probe = agent.probe().ok()?;
        (probe["archive"]["segments"]["archived"].as_u64()? > 0).then_some(())
    })?;
    let stopped = agent.stop()?;
    ensure!(stopped.status.success(), "{}: {}", stopped.status, stopped.log);
    ensure!(
        !stopped.log.contains("not permitted"),
        "something was refused: {}",
        stopped.log
    );
    Ok(())
}
