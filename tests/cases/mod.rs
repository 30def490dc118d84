//! The cases, one topic a file, and what they share.

mod archive;
mod bytes;
mod close;
mod connect;
mod dashboard;
mod family;
mod faults;
mod filters;
mod fleet;
mod generator;
mod history;
mod ladder;
mod machine;
mod metrics;
mod nat;
mod need;
mod older;
mod operate;
mod parity;
mod privilege;
mod process;
mod programs;
mod prometheus;
mod requests;
mod retransmit;
mod ring;
mod rules;
mod sandbox;
mod skipped;
mod special;
mod start;
mod stream;
mod terminal;
mod udp;
mod whole;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::Event;
use netprobe_tests::gate::Share;
use netprobe_tests::lab::{self, Lab};
use netprobe_tests::traffic::proto::Socket;
use netprobe_tests::traffic::{Connection, Endpoint};

pub(crate) use need::{Need, emulated, in_vm, skip_permitted};

/// One truth test.
pub(crate) struct Case {
    /// Name, unique.
    pub(crate) name: &'static str,
    /// Whether others may run beside it.
    pub(crate) share: Share,
    /// What it cannot run without.
    pub(crate) needs: &'static [Need],
    /// The test.
    pub(crate) run: fn() -> Result<()>,
}

impl Case {
    /// A case that runs beside others and needs nothing special.
    pub(crate) const fn new(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self {
            name,
            share: Share::Beside,
            needs: &[],
            run,
        }
    }

    /// The same, alone.
    pub(crate) const fn alone(self) -> Self {
        Self {
            share: Share::Alone,
            ..self
        }
    }

    /// The same, after all others.
    pub(crate) const fn last(self) -> Self {
        Self {
            share: Share::Last,
            ..self
        }
    }

    /// The same, with needs.
    pub(crate) const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }
}

/// Every case, in the order they are taken.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for topic in [
        generator::CASES,
        connect::CASES,
        close::CASES,
        archive::CASES,
        history::CASES,
        fleet::CASES,
        bytes::CASES,
        family::CASES,
        nat::CASES,
        process::CASES,
        older::CASES,
        operate::CASES,
        udp::CASES,
        requests::CASES,
        requests::asked::CASES,
        requests::times::CASES,
        requests::dns::CASES,
        requests::faults::CASES,
        requests::tls::CASES,
        requests::load::CASES,
        retransmit::CASES,
        filters::CASES,
        stream::CASES,
        terminal::CASES,
        faults::CASES,
        ladder::CASES,
        metrics::CASES,
        parity::CASES,
        privilege::CASES,
        ring::CASES,
        skipped::CASES,
        start::CASES,
        dashboard::CASES,
        programs::CASES,
        prometheus::CASES,
        rules::CASES,
        sandbox::CASES,
        machine::CASES,
        special::CASES,
        whole::CASES,
        machine::LAST,
    ] {
        cases.extend(topic.iter().map(|case| Case { ..*case }));
    }
    cases
}

/// Two endpoints, a listener, and the shared agent that watches them.
pub(crate) struct Pair {
    pub(crate) lab: Arc<Lab>,
    pub(crate) agent: Arc<Agent>,
    pub(crate) cli: Endpoint,
    pub(crate) srv: Endpoint,
    pub(crate) listener: Socket,
    /// What the listener is bound to.
    pub(crate) addr: SocketAddr,
}

impl Pair {
    /// Both over the loopback of the client's namespace.
    pub(crate) fn local(case: &str) -> Result<Self> {
        Self::between(case, "cli", "cli", lab::addr("127.0.0.1", 0))
    }

    /// Client behind the gateway, server on the other side.
    pub(crate) fn across(case: &str, port: u16) -> Result<Self> {
        Self::between(case, "cli", "srv", lab::addr(lab::SERVER, port))
    }

    /// Any two namespaces of the shared lab.
    pub(crate) fn between(case: &str, client: &str, server: &str, addr: SocketAddr) -> Result<Self> {
        let lab = lab::gateway()?;
        let agent = Agent::shared()?;
        Self::over(lab, agent, case, client, server, addr)
    }

    /// Any two namespaces of any lab, before any agent.
    pub(crate) fn over(
        lab: Arc<Lab>,
        agent: Arc<Agent>,
        case: &str,
        client: &str,
        server: &str,
        addr: SocketAddr,
    ) -> Result<Self> {
        let mut srv = lab.endpoint(server, &comm('s', case))?;
        let cli = lab.endpoint(client, &comm('c', case))?;
        let (listener, addr) = srv.listen(addr)?;
        Ok(Self {
            lab,
            agent,
            cli,
            srv,
            listener,
            addr,
        })
    }

    /// Opens a connection to the listener's own address; client and server end.
    pub(crate) fn open(&mut self) -> Result<(Connection, Connection)> {
        self.open_to(self.addr)
    }

    /// Opens a connection to an address that leads to the listener.
    pub(crate) fn open_to(&mut self, addr: SocketAddr) -> Result<(Connection, Connection)> {
        let client = self.cli.connect(addr)?;
        let server = self.srv.accept(self.listener)?;
        Ok((client, server))
    }

    /// Closes in order, client first, and gives the final events of both ends.
    pub(crate) fn finish(
        &mut self,
        client: Connection,
        server: Connection,
    ) -> Result<(Arc<Event>, Arc<Event>)> {
        self.cli.close(client.socket)?;
        self.srv.drain(server.socket)?;
        self.srv.close(server.socket)?;
        self.finals(&client, &server)
    }

    /// The final events of both ends.
    pub(crate) fn finals(
        &self,
        client: &Connection,
        server: &Connection,
    ) -> Result<(Arc<Event>, Arc<Event>)> {
        Ok((self.client_final(client)?, self.server_final(server)?))
    }

    /// The final event of the client's end.
    pub(crate) fn client_final(&self, client: &Connection) -> Result<Arc<Event>> {
        self.agent.wait_final("client", self.cli.info().netns, client)
    }

    /// The final event of the server's end.
    pub(crate) fn server_final(&self, server: &Connection) -> Result<Arc<Event>> {
        self.agent.wait_final("server", self.srv.info().netns, server)
    }
}

/// A command name of at most 15 characters that tells side and case.
fn comm(side: char, case: &str) -> String {
    format!("{side}-{case}").chars().take(15).collect()
}

/// Fails, with the event, when something is not as the outside truth says.
pub(crate) fn check<T: PartialEq + Debug>(event: &Event, what: &str, got: T, want: T) -> Result<()> {
    if got == want {
        return Ok(());
    }
    bail!(
        "{what}: the event says {got:?}, the truth is {want:?}\n{}",
        serde_json::to_string(event)?
    )
}

/// Fails, with the event, when a condition does not hold.
pub(crate) fn hold(event: &Event, what: &str, holds: bool) -> Result<()> {
    if holds {
        return Ok(());
    }
    bail!("does not hold: {what}\n{}", serde_json::to_string(event)?)
}

/// Checks payload both ways.
pub(crate) fn check_bytes(event: &Event, sent: u64, received: u64) -> Result<()> {
    check(event, "bytes_sent", event.bytes_sent, Some(sent))?;
    check(event, "bytes_received", event.bytes_received, Some(received))
}

/// Checks that the process is this endpoint.
pub(crate) fn check_process(event: &Event, endpoint: &Endpoint) -> Result<()> {
    let info = endpoint.info();
    let Some(process) = &event.process else {
        bail!("no process\n{}", serde_json::to_string(event)?);
    };
    check(event, "process.pid", process.pid, info.pid)?;
    check(event, "process.comm", process.comm.as_deref(), Some(&info.comm))?;
    check(event, "process.uid", process.uid, Some(info.uid))
}

/// The close reason of an event.
pub(crate) fn reason(event: &Event) -> Option<&str> {
    event.flow.as_ref()?.close_reason.as_deref()
}

/// The error name of an event.
pub(crate) fn error(event: &Event) -> Option<&str> {
    event.flow.as_ref()?.error.as_deref()
}

/// The NAT status of an event.
pub(crate) fn nat_status(event: &Event) -> Option<&str> {
    event.nat.as_ref().map(|nat| nat.status.as_str())
}
