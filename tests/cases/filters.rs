//! What is left out on purpose, and that it is counted as such.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};

use super::{Case, Pair};

pub(crate) const CASES: &[Case] = &[
    Case::new("filter_only_these_ports", only_ports),
    Case::new("filter_all_but_these_networks", except_networks),
    Case::new("own_traffic_is_left_out", own_left_out),
    Case::new("own_traffic_is_shown_when_asked_for", own_shown),
];

fn about(agent: &Agent, port: u16) -> Vec<Arc<Event>> {
    agent
        .events()
        .into_iter()
        .filter(|e| e.peer_port == Some(port) || e.internal_port == Some(port))
        .collect()
}

fn suppressed(agent: &Agent) -> Result<u64> {
    let probe = agent.probe()?;
    let counts = probe["ledger"]["kernel"]["suppressed"]
        .as_object()
        .context("no suppressed counts")?;
    Ok(counts.values().filter_map(serde_json::Value::as_u64).sum())
}

/// One connection with a byte each way.
fn touch(pair: &mut Pair) -> Result<()> {
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 1)?;
    pair.srv.recv(server.socket, 1)?;
    pair.cli.close(client.socket)?;
    pair.srv.drain(server.socket)?;
    pair.srv.close(server.socket)
}

fn only_ports() -> Result<()> {
    let settings = Settings {
        probe: "ports_only = [30401]".to_owned(),
        ..Default::default()
    };
    let agent = Arc::new(Agent::start(&settings)?);
    let lab = lab::gateway()?;
    let mut seen = Pair::over(
        lab.clone(),
        agent.clone(),
        "seen",
        "cli",
        "cli",
        addr("127.0.0.1", 30_401),
    )?;
    let mut unseen = Pair::over(
        lab.clone(),
        agent.clone(),
        "unseen",
        "cli",
        "cli",
        addr("127.0.0.1", 30_402),
    )?;
    let before = suppressed(&agent)?;
    touch(&mut unseen)?;
    // Opened after the other one, so its events come after those the other one would have had.
    let (client, server) = seen.open()?;
    seen.finish(client, server)?;
    ensure!(
        about(&agent, 30_402).is_empty(),
        "events of a filtered port: {:?}",
        about(&agent, 30_402)
    );
    ensure!(about(&agent, 30_401).len() >= 2, "both ends of the wanted one");
    netprobe_tests::wait_for("two more suppressed connections", PATIENCE, || {
        (suppressed(&agent).ok()? >= before + 2).then_some(())
    })?;
    let other = agent
        .events()
        .into_iter()
        .find(|e| e.kind == "flow" && e.peer_port != Some(30_401) && e.internal_port != Some(30_401));
    ensure!(other.is_none(), "a flow of another port came through: {other:?}");
    Ok(())
}

fn except_networks() -> Result<()> {
    let settings = Settings {
        probe: "cidrs_except = [\"127.3.0.0/16\"]".to_owned(),
        ..Default::default()
    };
    let agent = Arc::new(Agent::start(&settings)?);
    let lab = lab::gateway()?;
    let (hidden, shown) = (addr("127.3.4.5", 30_411), addr("127.4.4.5", 30_412));
    let mut unseen = Pair::over(lab.clone(), agent.clone(), "except", "cli", "cli", hidden)?;
    let mut seen = Pair::over(lab.clone(), agent.clone(), "included", "cli", "cli", shown)?;
    touch(&mut unseen)?;
    let (client, server) = seen.open()?;
    seen.finish(client, server)?;
    let clients = about(&agent, 30_411)
        .into_iter()
        .filter(|e| e.role.as_deref() == Some("client"))
        .count();
    ensure!(clients == 0, "{clients} client events of a filtered network");
    Ok(())
}

fn own_left_out() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    for _ in 0..20 {
        ensure!(agent.get("/health/live")?.0 == 200, "the API answers");
    }
    // A connection that is not the agent's, to know when earlier ones would have been told.
    let agent = Arc::new(agent);
    let mut pair = Pair::over(
        lab::gateway()?,
        agent.clone(),
        "notown",
        "cli",
        "cli",
        addr("127.0.0.1", 0),
    )?;
    let (client, server) = pair.open()?;
    pair.finish(client, server)?;
    let port = agent.listen().port();
    // The other ends of these connections are ours, not the agent's: they may be told.
    let pid = Some(agent.pid());
    let mut own = agent.events();
    own.retain(|e| {
        let its_server_end = e.role.as_deref() == Some("server") && e.internal_port == Some(port);
        its_server_end || e.process.as_ref().map(|p| p.pid) == pid
    });
    ensure!(own.is_empty(), "own traffic in the events: {own:?}");
    ensure!(
        suppressed(&agent)? >= 20,
        "own connections are counted as suppressed"
    );
    Ok(())
}

fn own_shown() -> Result<()> {
    let settings = Settings {
        probe: "own_traffic = true".to_owned(),
        ..Default::default()
    };
    let agent = Agent::start(&settings)?;
    ensure!(agent.get("/health/live")?.0 == 200, "the API answers");
    let port = agent.listen().port();
    let pid = agent.pid();
    agent.wait_event("the agent's own server end", |event| {
        event.is_final()
            && event.role.as_deref() == Some("server")
            && event.internal_port == Some(port)
            && event.process.as_ref().is_some_and(|p| p.pid == pid)
    })?;
    Ok(())
}
