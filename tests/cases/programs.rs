//! Real programs, and their own logs.

mod databases;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, Lab, addr};
use netprobe_tests::{tools, wait_for};

use super::{Case, Need, check, check_bytes, hold, nat_status};
pub(crate) use databases::postgres_folder;

pub(crate) const CASES: &[Case] = &[
    Case::new("program_curl_and_nginx_through_nat", nginx)
        .needs(&[Need::Program("curl"), Need::Program("nginx")]),
    Case::new("program_haproxy_splices_to_nginx", haproxy).needs(&[
        Need::Program("curl"),
        Need::Program("nginx"),
        Need::Program("haproxy"),
    ]),
    Case::new("program_postgres_behind_pgbouncer", databases::postgres).needs(&[
        Need::Program("psql"),
        Need::Program("pgbouncer"),
        Need::PostgresServer,
    ]),
    Case::new("program_redis", databases::redis)
        .needs(&[Need::Program("redis-server"), Need::Program("redis-cli")]),
];

/// A program that runs until this value goes.
pub(super) struct Daemon(Child);

impl Daemon {
    pub(super) fn start(lab: &Lab, netns: &str, command: &mut Command) -> Result<Self> {
        let child = tools::within(&lab.path(netns), || {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("{command:?} does not start"))
        })?;
        Ok(Self(child))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM first: a killed master would leave its workers behind.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let ended = wait_for("a daemon to end", Duration::from_secs(5), || {
            self.0.try_wait().ok().flatten()
        });
        if ended.is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

pub(super) fn program(name: &str) -> Result<Command> {
    Ok(Command::new(
        tools::find(name).with_context(|| format!("{name} is not installed"))?,
    ))
}

/// Waits until somebody listens there.
pub(super) fn listening(lab: &Lab, netns: &str, at: SocketAddr) -> Result<()> {
    let port = format!(":{}", at.port());
    wait_for(&format!("a listener on {at}"), PATIENCE, || {
        let text = lab.run(netns, "ss", &["-tlnH"]).ok()?;
        text.lines()
            .any(|l| l.split_whitespace().nth(3).is_some_and(|a| a.ends_with(&port)))
            .then_some(())
    })
}

/// Waits for the final event of a role with this peer or local port, in a namespace.
fn event(agent: &Agent, role: &str, netns: u64, what: impl Fn(&Event) -> bool) -> Result<Arc<Event>> {
    agent.wait_event(&format!("a final {role} event in {netns}"), |e| {
        e.is_final()
            && e.protocol.as_deref() == Some("tcp")
            && e.role.as_deref() == Some(role)
            && e.netns == Some(netns)
            && what(e)
    })
}

fn check_comm(event: &Event, comm: &str) -> Result<()> {
    check(
        event,
        "process.comm",
        event.process.as_ref().and_then(|p| p.comm.as_deref()),
        Some(comm),
    )
}

/// An nginx with one worker that serves a file of `size` bytes by sendfile and logs bytes.
pub(super) fn start_nginx(
    lab: &Lab,
    netns: &str,
    folder: &Path,
    at: SocketAddr,
    size: usize,
) -> Result<Daemon> {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(folder.join("file"), vec![b'x'; size])?;
    let place = folder.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {place}/nginx.pid; error_log stderr;
         events {{ worker_connections 64; }}
         http {{
           log_format bytes '$remote_port $request_length $bytes_sent';
           access_log {place}/access.log bytes;
           sendfile on; keepalive_timeout 0; root {place};
           client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
           uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
           server {{ listen {at}; }}
         }}"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config)?;
    let daemon = Daemon::start(
        lab,
        netns,
        program("nginx")?.args(["-e", "stderr", "-c"]).arg(file),
    )?;
    listening(lab, netns, at)?;
    Ok(daemon)
}

/// The line nginx logged for a client port: request length, bytes sent.
fn nginx_log(folder: &Path, port: u16) -> Result<(u64, u64)> {
    let wanted = format!("{port} ");
    let line = wait_for("a line in nginx's log", PATIENCE, || {
        let text = std::fs::read_to_string(folder.join("access.log")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(&wanted).map(str::to_owned))
    })?;
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    Ok((
        numbers.next().context("no length")?,
        numbers.next().context("no bytes")?,
    ))
}

fn nginx() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let folder = tempfile::tempdir()?;
    let at = addr(lab::SERVER, 20_501);
    let _nginx = start_nginx(&lab, "srv", folder.path(), at, 300_000)?;
    let dialed = addr(lab::VIRTUAL, 20_501);
    let url = format!("http://{dialed}/file");
    let said = lab.run(
        "cli",
        "curl",
        &[
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{local_port} %{time_connect}",
            &url,
        ],
    )?;
    let port: u16 = said
        .split(' ')
        .next()
        .and_then(|p| p.parse().ok())
        .context("curl says no port")?;
    let c = event(&agent, "client", lab.inode("cli")?, |e| {
        e.internal() == Some(addr(lab::CLIENT, port)) && e.peer() == Some(dialed)
    })?;
    let s = event(&agent, "server", lab.inode("srv")?, |e| {
        e.internal() == Some(at) && e.peer() == c.external()
    })?;
    let (length, sent) = nginx_log(folder.path(), s.peer_port.context("no peer")?)?;
    check_bytes(&c, length, sent)?;
    check_bytes(&s, sent, length)?;
    hold(&s, "more than the file went out", sent > 300_000)?;
    check_comm(&c, "curl")?;
    check_comm(&s, "nginx")?;
    check(&c, "nat.status", nat_status(&c), Some("snat+dnat"))?;
    let seconds: f64 = said
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("curl says no time")?;
    let connect = c
        .flow
        .as_ref()
        .and_then(|f| f.connect_ms)
        .context("no connect_ms")?;
    hold(&c, "connect_ms ≤ curl's own time", connect <= seconds * 1e3)?;
    agent
        .wait_forwarded(lab.inode("gw")?, addr(lab::CLIENT, port), dialed)
        .map(|_| ())
}

fn haproxy() -> Result<()> {
    const SIZE: usize = 3_000_000;
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let folder = tempfile::tempdir()?;
    let (front, back) = (addr("127.0.0.1", 30_511), addr("127.0.0.1", 30_512));
    let _nginx = start_nginx(&lab, "cli", folder.path(), back, SIZE)?;
    let config = folder.path().join("haproxy.cfg");
    std::fs::write(
        &config,
        format!(
            "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 9s\n  \
             timeout server 9s\n  option splice-request\n  option splice-response\n\
             frontend f\n  bind {front}\n  default_backend b\nbackend b\n  server s {back}\n"
        ),
    )?;
    let _haproxy = Daemon::start(&lab, "cli", program("haproxy")?.arg("-f").arg(&config))?;
    listening(&lab, "cli", front)?;
    let url = format!("http://{front}/file");
    let said = lab.run(
        "cli",
        "curl",
        &[
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{local_port} %{size_download}",
            &url,
        ],
    )?;
    ensure!(said.ends_with(&format!(" {SIZE}")), "curl got the file: {said}");
    let port: u16 = said
        .split(' ')
        .next()
        .and_then(|p| p.parse().ok())
        .context("curl says no port")?;
    let netns = lab.inode("cli")?;
    let c = event(&agent, "client", netns, |e| {
        e.peer() == Some(front) && e.internal_port == Some(port)
    })?;
    let f = event(&agent, "server", netns, |e| {
        e.internal() == Some(front) && e.peer_port == Some(port)
    })?;
    let b = event(&agent, "client", netns, |e| e.peer() == Some(back))?;
    let s = event(&agent, "server", netns, |e| e.internal() == Some(back))?;
    let (length, sent) = nginx_log(folder.path(), s.peer_port.context("no peer")?)?;
    check_bytes(&c, length, sent)?;
    check_bytes(&f, sent, length)?;
    check_bytes(&b, length, sent)?;
    check_bytes(&s, sent, length)?;
    check_comm(&c, "curl")?;
    check_comm(&f, "haproxy")?;
    check_comm(&b, "haproxy")?;
    check_comm(&s, "nginx")
}
