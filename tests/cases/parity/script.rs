//! The traffic of the parity test, and the events it must give.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::{Event, plain};
use netprobe_tests::lab::{self, Lab, addr};
use netprobe_tests::parity::{self, Methods, Names};
use netprobe_tests::traffic::proto::{Cmd, ConnectOptions, RecvHow, SendHow, Socket};
use netprobe_tests::traffic::{Connection, Endpoint};
use netprobe_tests::wait_for;

/// How long methods that list have for a translated connection: on a host with many namespaces a list takes its time.
const LISTED: Duration = Duration::from_secs(60);
/// What is not there so long after the last close is not coming: the flows of UDP end last, by silence.
const ENDED: Duration = Duration::from_secs(60);

/// Name of each event, and its fields if it came.
pub(super) type Told = Vec<(String, Option<parity::Fields>)>;

/// Says whether an event is the one meant.
type Meant = Box<dyn Fn(&Event) -> bool>;

/// The endpoints, and what they have done so far.
pub(super) struct Script {
    lab: Arc<Lab>,
    /// Behind the gateway.
    cli: Endpoint,
    /// In the client's own namespace.
    near: Endpoint,
    /// On the other side of the gateway.
    srv: Endpoint,
    listener: Socket,
    at: std::net::SocketAddr,
    /// Port of the server beyond the gateway; each run has its own.
    port: u16,
    /// The method that finds translations of TCP.
    nat: Option<String>,
    names: Names,
    wanted: Vec<(String, Names, Meant)>,
}

impl Script {
    /// Endpoints in the shared lab, for the set of this number.
    pub(super) fn new(index: usize, methods: &Methods) -> Result<Self> {
        let lab = lab::gateway()?;
        let cli = lab.endpoint("cli", "p-cli")?;
        let mut near = lab.endpoint("cli", "p-near")?;
        let srv = lab.endpoint("srv", "p-srv")?;
        let (listener, at) = near.listen(addr("127.0.0.1", 0))?;
        let port = 20_600 + u16::try_from(index)? * 2;
        let mut names = Names::default();
        for (endpoint, name) in [(&cli, "$cli"), (&near, "$near"), (&srv, "$srv")] {
            let info = endpoint.info();
            names.add("pid", info.pid, name);
            names.add("exe", &info.exe, "$exe");
            names.add("cgroup", info.cgroup.as_deref().unwrap_or("null"), "$cgroup");
        }
        for (place, name) in [("cli", "$cli"), ("gw", "$gw"), ("srv", "$srv")] {
            names.add("netns", lab.inode(place)?, name);
        }
        names.add("_port", at.port(), "$near");
        names.add("_port", port, "$srv");
        Ok(Self {
            lab,
            cli,
            near,
            srv,
            listener,
            at,
            port,
            nat: methods.get("nat").cloned(),
            names,
            wanted: Vec::new(),
        })
    }

    /// Does everything; `older` was opened before the agent started.
    pub(super) fn play(&mut self, agent: &Agent, older: (Connection, Connection)) -> Result<()> {
        let four = self.open_translated("nat_ipv4", lab::SERVER, lab::VIRTUAL)?;
        let six = self.open_translated("nat_ipv6", lab::SERVER6, lab::VIRTUAL6)?;
        self.exchange()?;
        self.refused()?;
        self.prohibited()?;
        self.reset()?;
        self.half_closed()?;
        self.other_worker()?;
        self.never_accepted()?;
        self.datagrams()?;
        let (client, server) = older;
        self.want("older", client, server, "cli", "cli");
        self.talk(client, server, 50, 60)?;
        self.close(client, server)?;
        self.until_listed(agent);
        for (client, server) in [four, six] {
            self.cli.close(client.socket)?;
            self.srv.drain(server.socket)?;
            self.srv.close(server.socket)?;
        }
        Ok(())
    }

    /// Opens a connection within the client's namespace.
    pub(super) fn open_near(&mut self) -> Result<(Connection, Connection)> {
        let client = self.cli.connect(self.at)?;
        Ok((client, self.near.accept(self.listener)?))
    }

    /// Both ends of a connection.
    fn want(&mut self, name: &str, client: Connection, server: Connection, from: &str, to: &str) {
        for (role, end, place) in [("client", client, from), ("server", server, to)] {
            self.want_end(name, role, end, place, client.local.port());
        }
    }

    fn want_end(&mut self, name: &str, role: &'static str, end: Connection, place: &str, port: u16) {
        // A namespace that is gone is no event's.
        let netns = self.lab.inode(place).ok();
        let mut names = self.tcp_names();
        names.add("_port", port, "$cli");
        let (local, remote) = (plain(end.local), plain(end.remote));
        let meant: Meant = Box::new(move |event| {
            event.role.as_deref() == Some(role)
                && event.netns == netns
                && event.internal() == Some(local)
                && event.peer() == Some(remote)
                && (end.cookie == 0 || event.cookie() == Some(end.cookie))
        });
        self.wanted.push((format!("{name}/{role}"), names, meant));
    }

    /// Datagrams have methods of their own.
    fn tcp_names(&self) -> Names {
        let mut names = self.names.clone();
        if let Some(method) = &self.nat {
            names.add("method", method, "$nat");
        }
        names
    }

    /// Waits for events of the translated connections, alive, that know the translation. In vain is no failure yet:
    /// the final events are compared.
    fn until_listed(&self, agent: &Agent) {
        let translated: Vec<_> = self
            .wanted
            .iter()
            .filter(|(name, ..)| name.starts_with("nat_") && !name.ends_with("/forwarded"))
            .collect();
        let knows = |event: &Event| event.nat.as_ref().is_some_and(|nat| !nat.hops.is_empty());
        let _ = wait_for("the translations", LISTED, || {
            let events = agent.events();
            let told = |meant: &Meant| events.iter().any(|event| meant(event) && knows(event));
            translated.iter().all(|(_, _, meant)| told(meant)).then_some(())
        });
    }

    fn talk(&mut self, client: Connection, server: Connection, out: u64, back: u64) -> Result<()> {
        self.cli.send(client.socket, out)?;
        self.near.recv(server.socket, out)?;
        self.near.send(server.socket, back)?;
        self.cli.recv(client.socket, back)?;
        Ok(())
    }

    fn close(&mut self, client: Connection, server: Connection) -> Result<()> {
        self.cli.close(client.socket)?;
        self.near.drain(server.socket)?;
        self.near.close(server.socket)
    }

    fn open_translated(
        &mut self,
        name: &str,
        server: &str,
        dialed: &str,
    ) -> Result<(Connection, Connection)> {
        let (listener, _) = self.srv.listen(addr(server, self.port))?;
        let dialed = addr(dialed, self.port);
        let client = self.cli.connect(dialed)?;
        let server = self.srv.accept(listener)?;
        self.cli.send(client.socket, 100)?;
        self.srv.recv(server.socket, 100)?;
        self.srv.send(server.socket, 5000)?;
        self.cli.recv(client.socket, 5000)?;
        self.want(name, client, server, "cli", "srv");
        let forwarded = Connection {
            remote: dialed,
            cookie: 0,
            ..client
        };
        self.want_end(name, "forwarded", forwarded, "gw", client.local.port());
        Ok((client, server))
    }

    fn exchange(&mut self) -> Result<()> {
        let (client, server) = self.open_near()?;
        self.want("exchange", client, server, "cli", "cli");
        self.talk(client, server, 1000, 200_000)?;
        self.close(client, server)
    }

    /// A connect that must fail with this errno.
    fn failing(&mut self, name: &str, to: std::net::SocketAddr, errno: i32) -> Result<()> {
        let reply = self.cli.attempt(Cmd::Connect {
            addr: to,
            options: ConnectOptions::default(),
        })?;
        ensure!(
            reply.errno == errno,
            "the connect to {to} gave errno {}",
            reply.errno
        );
        self.cli.close(reply.socket.context("no socket")?)?;
        let pid = self.cli.info().pid;
        let mut names = self.tcp_names();
        if let Some(local) = reply.local {
            names.add("_port", local.port(), "$cli");
        }
        let meant: Meant = Box::new(move |event| {
            event.peer() == Some(to) && event.process.as_ref().is_some_and(|process| process.pid == pid)
        });
        self.wanted.push((format!("{name}/client"), names, meant));
        Ok(())
    }

    fn refused(&mut self) -> Result<()> {
        self.failing("refused", addr("127.0.0.1", 1), libc::ECONNREFUSED)
    }

    /// Fails before any SYN.
    fn prohibited(&mut self) -> Result<()> {
        self.lab.ip("cli", "route replace prohibit 10.99.0.0/16")?;
        self.failing("prohibited", addr("10.99.9.9", 80), libc::EACCES)
    }

    fn reset(&mut self) -> Result<()> {
        let (client, server) = self.open_near()?;
        self.want("reset", client, server, "cli", "cli");
        self.cli.send(client.socket, 800)?;
        self.near.call(Cmd::Settle {
            socket: server.socket,
            unread: 800,
        })?;
        self.near.close(server.socket)?;
        self.cli.attempt(drain(client.socket))?;
        self.cli.close(client.socket)
    }

    fn half_closed(&mut self) -> Result<()> {
        let (client, server) = self.open_near()?;
        self.want("half_closed", client, server, "cli", "cli");
        self.cli.send(client.socket, 40)?;
        self.cli.call(Cmd::ShutdownWrite {
            socket: client.socket,
        })?;
        self.near.drain(server.socket)?;
        self.near.send(server.socket, 3000)?;
        self.near.close(server.socket)?;
        self.cli.drain(client.socket)?;
        self.cli.close(client.socket)
    }

    /// Accepted by one process, served by its child.
    fn other_worker(&mut self) -> Result<()> {
        let (client, server) = self.open_near()?;
        let socket = server.socket;
        self.near.begin(&Cmd::Fork {
            comm: "p-worker".to_owned(),
            cmds: vec![
                Cmd::Recv {
                    socket,
                    bytes: Some(60),
                    how: RecvHow::Recv,
                },
                Cmd::Send {
                    socket,
                    bytes: 70,
                    chunk: 70,
                    how: SendHow::Send,
                },
                // Long enough for everybody who looks at once, and gone when the connection ends.
                Cmd::Sleep { ms: 500 },
            ],
        })?;
        self.cli.send(client.socket, 60)?;
        self.cli.recv(client.socket, 70)?;
        let child = self.near.finish()?.child;
        let Some(done) = child.first() else {
            bail!("the worker did not answer")
        };
        self.names.add("pid", done.pid, "$worker");
        self.want("other_worker", client, server, "cli", "cli");
        self.close(client, server)
    }

    fn never_accepted(&mut self) -> Result<()> {
        let (listener, at) = self.near.listen(addr("127.0.0.1", 0))?;
        self.names.add("_port", at.port(), "$near");
        let client = self.cli.connect(at)?;
        self.cli.send(client.socket, 64)?;
        self.cli.call(Cmd::Settle {
            socket: client.socket,
            unread: 0,
        })?;
        self.near.close(listener)?;
        self.cli.attempt(drain(client.socket))?;
        self.cli.close(client.socket)?;
        let server = Connection {
            local: client.remote,
            remote: client.local,
            cookie: 0,
            ..client
        };
        self.want("never_accepted", client, server, "cli", "cli");
        Ok(())
    }

    fn datagrams(&mut self) -> Result<()> {
        let open = |end: &mut Endpoint, bind, peer| -> Result<_> {
            let reply = end.call(Cmd::Udp { bind, peer })?;
            Ok((
                reply.socket.context("no socket")?,
                reply.local.context("no address")?,
            ))
        };
        let (server, at) = open(&mut self.near, Some(addr("127.0.0.1", 0)), None)?;
        let (client, from) = open(&mut self.cli, Some(addr("127.0.0.1", 0)), Some(at))?;
        let send = |socket, addr, count, bytes| Cmd::SendTo {
            socket,
            addr,
            count,
            bytes,
        };
        self.cli.call(send(client, None, 3, 100))?;
        self.near.call(Cmd::RecvFrom {
            socket: server,
            count: 3,
        })?;
        self.near.call(send(server, Some(from), 2, 50))?;
        self.cli.call(Cmd::RecvFrom {
            socket: client,
            count: 2,
        })?;
        self.cli.close(client)?;
        self.near.close(server)?;
        for (role, end) in [("client", &self.cli), ("server", &self.near)] {
            let pid = end.info().pid;
            let mut names = self.names.clone();
            names.add("_port", at.port(), "$near");
            names.add("_port", from.port(), "$cli");
            let meant: Meant = Box::new(move |event| {
                event.protocol.as_deref() == Some("udp")
                    && event.role.as_deref() == Some(role)
                    && event.process.as_ref().is_some_and(|process| process.pid == pid)
            });
            self.wanted.push((format!("datagrams/{role}"), names, meant));
        }
        Ok(())
    }

    /// The final event of each; exactly one, or none. Those of which `awaited` says so are waited for.
    pub(super) fn collect(self, agent: &Agent, awaited: impl Fn(&str) -> bool) -> Result<Told> {
        let found = |meant: &Meant| -> Vec<Arc<Event>> {
            let events = agent.events();
            events
                .iter()
                .filter(|e| e.is_final() && meant(e))
                .cloned()
                .collect()
        };
        // In vain is no failure yet: what is missing is found in the comparison.
        let _ = wait_for("every final event", ENDED, || {
            let mut awaited = self.wanted.iter().filter(|(name, ..)| awaited(name));
            awaited
                .all(|(_, _, meant)| !found(meant).is_empty())
                .then_some(())
        });
        let mut told = Told::new();
        for (name, names, meant) in &self.wanted {
            let mine = found(meant);
            ensure!(mine.len() <= 1, "{name}: {} final events: {mine:?}", mine.len());
            let fields = mine
                .first()
                .map(|event| parity::fields(event, names))
                .transpose()?;
            told.push((name.clone(), fields));
        }
        Ok(told)
    }
}

fn drain(socket: Socket) -> Cmd {
    Cmd::Recv {
        socket,
        bytes: None,
        how: RecvHow::Recv,
    }
}
