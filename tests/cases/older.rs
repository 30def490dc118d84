//! Connections older than the agent, and connections that outlive it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::{Event, plain};
use netprobe_tests::lab::{self, addr};
use netprobe_tests::traffic::{Connection, Endpoint};
use netprobe_tests::wait_for;
use nix::sys::signal::Signal;

use super::{Case, check, check_bytes, check_process, hold, nat_status, reason};

pub(crate) const CASES: &[Case] = &[
    Case::new("older_than_the_agent", older),
    Case::new("older_than_the_agent_through_nat", older_through_nat),
    Case::new("outlives_the_agent", outlives),
    Case::new("outlives_a_killed_agent", outlives_killed),
    Case::new("two_agents_at_once", two_agents),
];

/// The final event of a socket, whatever its role was found to be.
fn final_of(agent: &Agent, endpoint: &Endpoint, connection: &Connection) -> Result<Arc<Event>> {
    agent.wait_event(&format!("the final event of {connection:?}"), |event| {
        event.is_final()
            && event.netns == Some(endpoint.info().netns)
            && event.cookie() == Some(connection.cookie)
            && event.internal() == Some(plain(connection.local))
            && event.peer() == Some(plain(connection.remote))
    })
}

/// A connection with 5000 bytes out and 700 back, made before anything watches.
fn opened(server: &str, at: std::net::SocketAddr, dialed: std::net::SocketAddr) -> Result<Opened> {
    let lab = lab::gateway()?;
    let mut srv = lab.endpoint(server, "s-older")?;
    let mut cli = lab.endpoint("cli", "c-older")?;
    let (listener, at) = srv.listen(at)?;
    let dialed = if dialed.port() == 0 { at } else { dialed };
    let client = cli.connect(dialed)?;
    let server = srv.accept(listener)?;
    cli.send(client.socket, 5000)?;
    srv.recv(server.socket, 5000)?;
    srv.send(server.socket, 700)?;
    cli.recv(client.socket, 700)?;
    cli.call(netprobe_tests::traffic::proto::Cmd::Settle {
        socket: client.socket,
        unread: 0,
    })?;
    Ok(Opened {
        cli,
        srv,
        client,
        server,
    })
}

struct Opened {
    cli: Endpoint,
    srv: Endpoint,
    client: Connection,
    server: Connection,
}

impl Opened {
    /// Moves more, closes, and gives both final events.
    fn go_on(&mut self, agent: &Agent, bytes: u64, back: u64) -> Result<(Arc<Event>, Arc<Event>)> {
        self.cli.send(self.client.socket, bytes)?;
        self.srv.recv(self.server.socket, bytes)?;
        self.srv.send(self.server.socket, back)?;
        self.cli.recv(self.client.socket, back)?;
        self.cli.close(self.client.socket)?;
        self.srv.drain(self.server.socket)?;
        self.srv.close(self.server.socket)?;
        Ok((
            final_of(agent, &self.cli, &self.client)?,
            final_of(agent, &self.srv, &self.server)?,
        ))
    }
}

fn older() -> Result<()> {
    let mut talk = opened("cli", addr("127.0.0.1", 0), addr("127.0.0.1", 0))?;
    let mut idle = opened("cli", addr("127.0.0.1", 0), addr("127.0.0.1", 0))?;
    let agent = Agent::start(&Settings::default())?;
    let (c, s) = talk.go_on(&agent, 50, 60)?;
    // What moved before is not charged to now.
    check_bytes(&c, 50, 60)?;
    check_bytes(&s, 60, 50)?;
    for (event, endpoint) in [(&c, &talk.cli), (&s, &talk.srv)] {
        check(event, "flag partial", event.has_flag("partial"), true)?;
        check(event, "started_at", event.started_at.as_deref(), None)?;
        check(event, "elapsed_ms", event.elapsed_ms, None)?;
        check(
            event,
            "connect_ms",
            event.flow.as_ref().and_then(|f| f.connect_ms),
            None,
        )?;
        check(event, "close_reason", reason(event), Some("fin"))?;
        check_process(event, endpoint)?;
    }
    // One that does nothing but end.
    idle.cli.close(idle.client.socket)?;
    idle.srv.drain(idle.server.socket)?;
    idle.srv.close(idle.server.socket)?;
    let c = final_of(&agent, &idle.cli, &idle.client)?;
    check_bytes(&c, 0, 0)?;
    check(&c, "flag partial", c.has_flag("partial"), true)
}

fn older_through_nat() -> Result<()> {
    let mut talk = opened("srv", addr(lab::SERVER, 20_310), addr(lab::VIRTUAL, 20_310))?;
    let agent = Agent::start(&Settings::default())?;
    let (c, s) = talk.go_on(&agent, 10, 20)?;
    check_bytes(&c, 10, 20)?;
    check_bytes(&s, 20, 10)?;
    for event in [&c, &s] {
        // By conntrack's own list; which namespace it was seen from is not known, so it may stay open.
        hold(
            event,
            "nat.status is right or unresolved, never none",
            matches!(nat_status(event), Some("snat+dnat" | "unresolved")),
        )?;
    }
    if nat_status(&c) == Some("snat+dnat") {
        check(&c, "actual_peer", c.actual_peer(), Some(talk.server.local))?;
    }
    Ok(())
}

fn outlives() -> Result<()> {
    let agent = Agent::start(&Settings {
        flow: "open_after = \"100ms\"".to_owned(),
        ..Default::default()
    })?;
    let mut talk = opened("cli", addr("127.0.0.1", 0), addr("127.0.0.1", 0))?;
    let netns = talk.cli.info().netns;
    let cookie = talk.client.cookie;
    let first = agent.wait_event("the open event", |event| {
        event.is_state("open") && event.netns == Some(netns) && event.cookie() == Some(cookie)
    })?;
    let stopped = agent.stop()?;
    ensure!(
        stopped.status.success(),
        "the agent ended with {}: {}",
        stopped.status,
        stopped.log
    );
    let last = stopped
        .events
        .iter()
        .rev()
        .find(|event| event.netns == Some(netns) && event.cookie() == Some(cookie))
        .context("no event of the connection")?;
    check(last, "state", last.is_state("update"), true)?;
    check(last, "flag agent_stop", last.has_flag("agent_stop"), true)?;
    check_bytes(last, 5000, 700)?;
    let mark = stopped.events.last().context("no events")?;
    check(mark, "kind of the last event", mark.kind.as_str(), "agent")?;
    // The next run sees the close: exactly one final event over both runs, in the same trace.
    let next = Agent::start(&Settings::default())?;
    let (c, _) = talk.go_on(&next, 1, 2)?;
    check_bytes(&c, 1, 2)?;
    check(
        &c,
        "connection_id",
        c.connection_id.as_ref(),
        first.connection_id.as_ref(),
    )?;
    check(&c, "trace_id", &c.trace_id, &first.trace_id)?;
    hold(&c, "another run", c.run != first.run)?;
    let finals = stopped
        .events
        .iter()
        .filter(|e| e.is_final() && e.cookie() == Some(cookie))
        .count();
    check(&c, "final events in the first run", finals, 0)
}

/// Ids of the BPF programs a process holds.
fn programs_of(pid: u32) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = std::fs::read_to_string(entry?.path())?;
        ids.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()),
        );
    }
    Ok(ids)
}

/// Of these programs, those the kernel still has.
fn still_loaded(ids: &[u32]) -> Vec<u32> {
    aya::programs::loaded_programs()
        .filter_map(|program| Some(program.ok()?.id()))
        .filter(|id| ids.contains(id))
        .collect()
}

/// Killed without a chance to clean up, the agent leaves nothing in the kernel, and the next one goes on.
fn outlives_killed() -> Result<()> {
    let first = Agent::start(&Settings::default())?;
    let mut talk = opened("cli", addr("127.0.0.1", 0), addr("127.0.0.1", 0))?;
    let programs = programs_of(first.pid())?;
    ensure!(
        !programs.is_empty() && !still_loaded(&programs).is_empty(),
        "an agent without programs: {programs:?}"
    );
    first.signal(Signal::SIGKILL)?;
    drop(first);
    wait_for(
        "the kernel to drop the programs of a killed agent",
        PATIENCE,
        || still_loaded(&programs).is_empty().then_some(()),
    )?;
    let next = Agent::start(&Settings::default())?;
    let (c, s) = talk.go_on(&next, 3, 4)?;
    for event in [&c, &s] {
        check(event, "flag partial", event.has_flag("partial"), true)?;
    }
    check_bytes(&c, 3, 4)?;
    check_bytes(&s, 4, 3)
}

/// Two agents see the same, each in its own run; the end of one is nothing to the other.
fn two_agents() -> Result<()> {
    let (a, b) = (
        Agent::start(&Settings::default())?,
        Agent::start(&Settings::default())?,
    );
    let mut talk = opened("cli", addr("127.0.0.1", 0), addr("127.0.0.1", 0))?;
    let (of_a, _) = talk.go_on(&a, 8, 9)?;
    let of_b = final_of(&b, &talk.cli, &talk.client)?;
    for event in [&of_a, &of_b] {
        check_bytes(event, 5008, 709)?;
        check_process(event, &talk.cli)?;
        check(event, "flag partial", event.has_flag("partial"), false)?;
    }
    check(&of_a, "connection_id", &of_a.connection_id, &of_b.connection_id)?;
    check(&of_a, "trace_id", &of_a.trace_id, &of_b.trace_id)?;
    hold(&of_a, "two runs", of_a.run != of_b.run)?;
    b.stop_well()?;
    let mut talk = opened("cli", addr("127.0.0.1", 0), addr("127.0.0.1", 0))?;
    let (c, s) = talk.go_on(&a, 1, 2)?;
    check_bytes(&c, 5001, 702)?;
    check_bytes(&s, 702, 5001)?;
    a.ledger_at_rest(PATIENCE).map(drop)
}
