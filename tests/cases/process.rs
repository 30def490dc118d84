//! Whose connection it is.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::lab;
use netprobe_tests::traffic::proto::{Cmd, RecvHow, SendHow};

use super::{Case, Pair, check, check_bytes, check_process, hold};

pub(crate) const CASES: &[Case] = &[
    Case::new("process_user_and_executable", user_and_executable),
    Case::new("process_cgroup_and_service", || in_cgroup("service")),
    Case::new("process_scope_is_no_service", || in_cgroup("scope")),
    Case::new("process_socket_passed_on", passed_on),
    Case::new("process_socket_inherited_over_fork", inherited),
    Case::new("process_accept_in_forked_worker", forked_worker),
    Case::new("process_accept_by_io_uring", accept_uring).needs(&[super::Need::Uring]),
    Case::new("process_accept_wait", accept_wait),
];

fn user_and_executable() -> Result<()> {
    let mut pair = Pair::local("user")?;
    pair.cli.call(Cmd::BecomeUser { uid: 65_534 })?;
    pair.cli.refresh()?;
    ensure!(pair.cli.info().uid == 65_534, "the endpoint is another user now");
    let (client, server) = pair.open()?;
    let (c, s) = pair.finish(client, server)?;
    check_process(&c, &pair.cli)?;
    check_process(&s, &pair.srv)?;
    for (event, endpoint) in [(&c, &pair.cli), (&s, &pair.srv)] {
        let exe = event.process.as_ref().and_then(|p| p.exe.as_deref());
        check(event, "process.exe", exe, Some(endpoint.info().exe.as_str()))?;
        let cgroup = event.process.as_ref().and_then(|p| p.cgroup.as_deref());
        check(event, "process.cgroup", cgroup, endpoint.info().cgroup.as_deref())?;
        check(event, "io_process", event.io_process.is_none(), true)?;
    }
    Ok(())
}

/// A cgroup of our own; goes when its last process went.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let root = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let (place, kind) = (words.nth(1)?, words.next()?);
                (kind == "cgroup2").then(|| PathBuf::from(place))
            })
            .next()
            .context("no cgroup v2 tree is mounted")?;
        let folder = root.join(name);
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {folder:?}"))?;
        Ok(Self(folder))
    }

    fn take(&self, pid: u32) -> Result<()> {
        Ok(std::fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = netprobe_tests::wait_for("the cgroup to empty", std::time::Duration::from_secs(5), || {
            std::fs::remove_dir(&self.0).ok()
        });
        if let Err(error) = gone {
            eprintln!("{:?} stays behind: {error}", self.0);
        }
    }
}

fn in_cgroup(kind: &str) -> Result<()> {
    let name = format!("npt-{}.{kind}", std::process::id());
    let cgroup = Cgroup::new(&name)?;
    let mut pair = Pair::local(kind)?;
    cgroup.take(pair.cli.info().pid)?;
    pair.cli.refresh()?;
    let path = pair.cli.info().cgroup.clone();
    ensure!(
        path.as_ref().is_some_and(|p| p.ends_with(&name)),
        "the endpoint is in {path:?}"
    );
    let (client, server) = pair.open()?;
    let (c, _) = pair.finish(client, server)?;
    check_process(&c, &pair.cli)?;
    let process = c.process.as_ref().context("no process")?;
    check(&c, "process.cgroup", process.cgroup.as_ref(), path.as_ref())?;
    if kind == "service" {
        check(&c, "process.unit", process.unit.as_ref(), Some(&name))?;
        check(&c, "service", c.service.as_ref(), Some(&name))?;
    } else {
        // A scope is no service: the command name stands in.
        check(&c, "service", c.service.as_ref(), Some(&pair.cli.info().comm))?;
    }
    drop(pair);
    Ok(())
}

/// A path for a Unix socket that nobody has.
fn rendezvous() -> Result<(tempfile::TempDir, String)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s").display().to_string();
    Ok((folder, path))
}

fn passed_on() -> Result<()> {
    let mut pair = Pair::local("passedon")?;
    let mut worker = pair.lab.endpoint("cli", "w-passedon")?;
    let (client, server) = pair.open()?;
    let (_folder, path) = rendezvous()?;
    worker.begin(&Cmd::TakeSocket { path: path.clone() })?;
    netprobe_tests::wait_for("the worker to listen", std::time::Duration::from_secs(10), || {
        std::fs::metadata(&path).ok()
    })?;
    // The path is there before the socket listens, for an instant.
    netprobe_tests::wait_for(
        "the socket to be handed over",
        std::time::Duration::from_secs(10),
        || {
            let reply = pair
                .srv
                .attempt(Cmd::GiveSocket {
                    socket: server.socket,
                    path: path.clone(),
                })
                .ok()?;
            (reply.errno == 0).then_some(())
        },
    )?;
    let taken = worker.finish()?.socket.context("the worker has no socket")?;
    pair.cli.send(client.socket, 1234)?;
    worker.recv(taken, 1234)?;
    worker.send(taken, 4321)?;
    pair.cli.recv(client.socket, 4321)?;
    pair.cli.close(client.socket)?;
    worker.drain(taken)?;
    worker.close(taken)?;
    let (c, s) = pair.finals(&client, &server)?;
    check_bytes(&c, 1234, 4321)?;
    check_bytes(&s, 4321, 1234)?;
    check_process(&s, &pair.srv)?;
    let io = s.io_process.as_ref().context("no io_process")?;
    check(&s, "io_process.pid", io.pid, worker.info().pid)?;
    check(&s, "io_process.comm", io.comm.as_deref(), Some("w-passedon"))?;
    check(&c, "io_process of the client", c.io_process.is_none(), true)
}

fn inherited() -> Result<()> {
    let mut pair = Pair::local("inherited")?;
    let (client, server) = pair.open()?;
    let socket = client.socket;
    pair.cli.begin(&Cmd::Fork {
        comm: "c-child".to_owned(),
        cmds: vec![
            Cmd::Send {
                socket,
                bytes: 60,
                chunk: 60,
                how: SendHow::Send,
            },
            Cmd::Recv {
                socket,
                bytes: Some(70),
                how: RecvHow::Recv,
            },
        ],
    })?;
    pair.srv.recv(server.socket, 60)?;
    pair.srv.send(server.socket, 70)?;
    let child = pair.cli.finish()?.child;
    let [sent, received] = &child[..] else {
        bail!("the child did not answer: {child:?}")
    };
    ensure!(
        sent.bytes == 60 && received.bytes == 70 && sent.pid != pair.cli.info().pid,
        "{child:?}"
    );
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, 60, 70)?;
    check_bytes(&s, 70, 60)?;
    check_process(&c, &pair.cli)?;
    let io = c.io_process.as_ref().context("no io_process")?;
    check(&c, "io_process.pid", io.pid, sent.pid)?;
    check(&c, "io_process.comm", io.comm.as_deref(), Some("c-child"))
}

fn forked_worker() -> Result<()> {
    let mut pair = Pair::local("prefork")?;
    // The next socket the worker makes gets the next number.
    let accepted = pair.listener + 1;
    pair.srv.begin(&Cmd::Fork {
        comm: "s-worker".to_owned(),
        cmds: vec![
            Cmd::Accept {
                listener: pair.listener,
                uring: false,
            },
            Cmd::Recv {
                socket: accepted,
                bytes: Some(11),
                how: RecvHow::Recv,
            },
            Cmd::Send {
                socket: accepted,
                bytes: 22,
                chunk: 22,
                how: SendHow::Send,
            },
            Cmd::Recv {
                socket: accepted,
                bytes: None,
                how: RecvHow::Recv,
            },
            Cmd::Close { socket: accepted },
        ],
    })?;
    let client = pair.cli.connect(pair.addr)?;
    pair.cli.send(client.socket, 11)?;
    pair.cli.recv(client.socket, 22)?;
    pair.cli.close(client.socket)?;
    let child = pair.srv.finish()?.child;
    ensure!(
        child.len() == 5 && child.iter().all(|r| r.errno == 0),
        "{child:?}"
    );
    let server = netprobe_tests::traffic::Connection::try_from(&child[0])?;
    let s = pair.server_final(&server)?;
    check_bytes(&s, 22, 11)?;
    let process = s.process.as_ref().context("no process")?;
    check(&s, "process.pid", process.pid, child[0].pid)?;
    check(&s, "process.comm", process.comm.as_deref(), Some("s-worker"))?;
    check(&s, "io_process", s.io_process.is_none(), true)?;
    // Known from the accept itself, not from who moved data first.
    check(&s, "flag upper_bound", s.has_flag("upper_bound"), false)
}

fn accept_uring() -> Result<()> {
    let mut pair = Pair::between("accuring", "cli", "cli", lab::addr("127.0.0.1", 0))?;
    let client = pair.cli.connect(pair.addr)?;
    let reply = pair.srv.call(Cmd::Accept {
        listener: pair.listener,
        uring: true,
    })?;
    let server = netprobe_tests::traffic::Connection::try_from(&reply)?;
    pair.cli.send(client.socket, 5)?;
    pair.srv.recv(server.socket, 5)?;
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, 5, 0)?;
    check_bytes(&s, 0, 5)?;
    // Whichever hook told: accept itself, or the first receive.
    check_process(&s, &pair.srv)
}

fn accept_wait() -> Result<()> {
    const WAIT_MS: u64 = 300;
    let mut pair = Pair::local("acceptwait")?;
    let client = pair.cli.connect(pair.addr)?;
    pair.srv.call(Cmd::Sleep { ms: WAIT_MS })?;
    let server = pair.srv.accept(pair.listener)?;
    let (_, s) = pair.finish(client, server)?;
    let wait = s
        .flow
        .as_ref()
        .and_then(|f| f.accept_wait_ms)
        .context("no accept_wait_ms")?;
    let least = (server.call_ns.0 - client.call_ns.1) as f64 / 1e6;
    let most = (server.call_ns.1 - client.call_ns.0) as f64 / 1e6;
    ensure!(least >= WAIT_MS as f64, "the server waited");
    hold(
        &s,
        &format!("{least} ms ≤ accept_wait_ms ≤ {most} ms"),
        wait >= least && wait <= most,
    )
}
