//! A client, a NAT gateway and a server, each a machine of its own with its own kernel and its own agent: what the three
//! agents say of the same connections, against conntrack on the gateway.
//!
//! The machines share nothing but the wire. Each prints what it has to say ([`Said`]) on its console; whoever started
//! them holds the three against each other ([`check`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, Settings};
use crate::event::{Event, Hop};
use crate::lab::addr;
use crate::tools;
use crate::traffic::proto::{Cmd, ConnectOptions};
use crate::traffic::{Connection, Endpoint};
use crate::truth::{ConntrackEntry, parse_conntrack};
use crate::wait_for;

/// What each of the three is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Opens the connections.
    Client,
    /// Forwards and translates them.
    Gateway,
    /// Takes them.
    Server,
}

/// Gives this machine its addresses, routes and rules; where the machine has it.
const PROVISION: &str = "/vm/provision.sh";
const SERVER: &str = "192.168.58.2";
const VIRTUAL: &str = "192.168.57.100";
/// Half of them to the virtual address.
const CONNECTIONS: u64 = 8;
/// The machines are emulated, start one beside the other, and wait for each other.
const PATIENCE: Duration = Duration::from_secs(600);
/// Stands before what is said.
const MARK: &str = "node: ";

/// One line of a machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// The client opened this one.
    Opened {
        number: u64,
        local: SocketAddr,
        dialed: SocketAddr,
    },
    /// A final event.
    Event(Box<Event>),
    /// A line of `conntrack -L`.
    Conntrack(String),
}

impl Said {
    fn say(&self) -> Result<()> {
        println!("{MARK}{}", serde_json::to_string(self)?);
        Ok(())
    }
}

fn dialed(number: u64) -> SocketAddr {
    if number.is_multiple_of(2) {
        addr(VIRTUAL, 80)
    } else {
        addr(SERVER, 8080)
    }
}

/// Bytes the client sends, and receives, in its connection of this number.
fn bytes(number: u64) -> (u64, u64) {
    (100 + number, 5000 + 7 * number)
}

/// Does this machine's part.
pub fn run(role: Role) -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    // Only now: the other machines reach this one when its agent is there.
    let name = role.to_possible_value().context("a role without a name")?;
    tools::run("sh", &[PROVISION, name.get_name()])?;
    match role {
        Role::Client => client(&agent),
        Role::Gateway => gateway(&agent),
        Role::Server => server(&agent),
    }
}

fn client(agent: &Agent) -> Result<()> {
    let mut end = Endpoint::start("n-client", None)?;
    for number in 0..CONNECTIONS {
        let connection = reach(&mut end, dialed(number))?;
        let (sent, received) = bytes(number);
        end.send(connection.socket, sent)?;
        end.recv(connection.socket, received)?;
        end.close(connection.socket)?;
        Said::Opened {
            number,
            local: connection.local,
            dialed: connection.remote,
        }
        .say()?;
        tell(&*agent.wait_final("client", end.info().netns, &connection)?)?;
    }
    Ok(())
}

/// Connects as soon as there is somebody.
fn reach(end: &mut Endpoint, addr: SocketAddr) -> Result<Connection> {
    let options = ConnectOptions::default();
    wait_for(&format!("{addr} to answer"), PATIENCE, || {
        let reply = end.attempt(Cmd::Connect { addr, options }).ok()?;
        let opened = Connection::try_from(&reply).ok();
        if opened.is_none() || reply.errno != 0 {
            std::thread::sleep(Duration::from_millis(500));
            return None;
        }
        opened
    })
}

fn server(agent: &Agent) -> Result<()> {
    let mut end = Endpoint::start("n-server", None)?;
    let (listener, _) = end.listen(addr("0.0.0.0", 8080))?;
    for number in 0..CONNECTIONS {
        let connection = end.accept(listener)?;
        let (received, sent) = bytes(number);
        end.recv(connection.socket, received)?;
        end.send(connection.socket, sent)?;
        end.drain(connection.socket)?;
        end.close(connection.socket)?;
        tell(&*agent.wait_final("server", end.info().netns, &connection)?)?;
    }
    Ok(())
}

fn gateway(agent: &Agent) -> Result<()> {
    let forwarded = || -> Vec<Arc<Event>> {
        let whole = |event: &Arc<Event>| {
            event.role.as_deref() == Some("forwarded")
                && event.flow.as_ref().and_then(|flow| flow.close_reason.as_deref()) == Some("fin")
        };
        agent.events().into_iter().filter(whole).collect()
    };
    let events = wait_for("the forwarded connections", PATIENCE, || {
        let events = forwarded();
        (events.len() as u64 >= CONNECTIONS).then_some(events)
    })?;
    // The others' last segments still have to pass.
    std::thread::sleep(Duration::from_secs(5));
    events.iter().try_for_each(|event| tell(event))?;
    let list = tools::run("conntrack", &["-L", "-o", "extended", "-f", "ipv4"])?;
    list.lines()
        .try_for_each(|line| Said::Conntrack(line.to_owned()).say())
}

fn tell(event: &Event) -> Result<()> {
    Said::Event(Box::new(event.clone())).say()
}

/// Holds the consoles of the three against each other; how many connections agreed, which is all of them.
pub fn check(consoles: &BTreeMap<Role, String>) -> Result<u64> {
    let said = |role: Role| -> Result<Vec<Said>> {
        let console = consoles
            .get(&role)
            .with_context(|| format!("no console of the {role:?}"))?;
        let lines = console.lines().filter_map(|line| line.split_once(MARK));
        lines
            .map(|(_, json)| serde_json::from_str(json).with_context(|| format!("{role:?}: {json}")))
            .collect()
    };
    let (client, gateway, server) = (said(Role::Client)?, said(Role::Gateway)?, said(Role::Server)?);
    let entries: Vec<ConntrackEntry> = gateway
        .iter()
        .filter_map(|said| match said {
            Said::Conntrack(line) => parse_conntrack(line),
            _ => None,
        })
        .collect();
    let mut agreed = 0;
    for said in &client {
        let Said::Opened {
            number,
            local,
            dialed,
        } = said
        else {
            continue;
        };
        let what = || format!("connection {number}, {local} to {dialed}");
        let mut of_it = entries
            .iter()
            .filter(|entry| entry.orig.src() == *local && entry.orig.dst() == *dialed);
        let (Some(entry), None) = (of_it.next(), of_it.next()) else {
            bail!("{}: conntrack has not just one entry: {entries:?}", what());
        };
        ends(&client, &server, *number, entry).with_context(what)?;
        forwarded(&gateway, *number, entry).with_context(what)?;
        agreed += 1;
    }
    ensure!(
        agreed == CONNECTIONS,
        "the client opened {agreed} of {CONNECTIONS} connections"
    );
    Ok(agreed)
}

/// The one event with these addresses.
fn only(said: &[Said], internal: SocketAddr, peer: SocketAddr) -> Result<&Event> {
    let mut found = said.iter().filter_map(|said| match said {
        Said::Event(event) if event.internal() == Some(internal) && event.peer() == Some(peer) => {
            Some(&**event)
        }
        _ => None,
    });
    let (Some(event), None) = (found.next(), found.next()) else {
        bail!("not just one event of {internal} and {peer} in {said:?}");
    };
    Ok(event)
}

/// Client and server see what is on their own host: the addresses of their sockets, no translation.
fn ends(client: &[Said], server: &[Said], number: u64, entry: &ConntrackEntry) -> Result<()> {
    let (to_server, to_client) = bytes(number);
    let sides = [
        (client, entry.orig.src(), entry.orig.dst(), to_server, to_client),
        (server, entry.reply.src(), entry.reply.dst(), to_client, to_server),
    ];
    for (said, internal, peer, sent, received) in sides {
        let event = only(said, internal, peer)?;
        let status = event.nat.as_ref().map(|nat| nat.status.as_str());
        ensure!(status == Some("none"), "translation on an end: {event:?}");
        ensure!(
            event.external() == Some(internal) && event.actual_peer() == Some(peer),
            "other addresses than its socket's: {event:?}"
        );
        ensure!(
            (event.bytes_sent, event.bytes_received) == (Some(sent), Some(received)),
            "{sent} were sent and {received} received: {event:?}"
        );
    }
    Ok(())
}

/// The gateway says what conntrack says.
fn forwarded(gateway: &[Said], number: u64, entry: &ConntrackEntry) -> Result<()> {
    let event = only(gateway, entry.orig.src(), entry.orig.dst())?;
    ensure!(
        event.external() == Some(entry.reply.dst()) && event.actual_peer() == Some(entry.reply.src()),
        "not conntrack's addresses ({entry:?}): {event:?}"
    );
    let nat = event.nat.as_ref().context("no nat")?;
    let status = if number.is_multiple_of(2) {
        "snat+dnat"
    } else {
        "snat"
    };
    let hop = Hop {
        netns: event.netns.context("no namespace")?,
        zone: entry.zone,
        orig: entry.orig,
        reply: entry.reply,
    };
    ensure!(
        nat.status == status && nat.hops == [hop],
        "not {status} by conntrack's entry {entry:?}: {event:?}"
    );
    // Accounting is on: conntrack counts IP packets, headers included, and the events have its counts.
    let (out, back) = entry.bytes.context("conntrack counts no bytes")?;
    ensure!(
        event.bytes_sent.is_some_and(|n| n <= out && n > bytes(number).0)
            && event
                .bytes_received
                .is_some_and(|n| n <= back && n > bytes(number).1),
        "not conntrack's bytes ({entry:?}): {event:?}"
    );
    Ok(())
}
