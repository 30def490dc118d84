//! Real programs, and their own logs.

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

pub(crate) const CASES: &[Case] = &[
    Case::new("program_curl_and_nginx_through_nat", nginx)
        .needs(&[Need::Program("curl"), Need::Program("nginx")]),
    Case::new("program_haproxy_splices_to_nginx", haproxy).needs(&[
        Need::Program("curl"),
        Need::Program("nginx"),
        Need::Program("haproxy"),
    ]),
    Case::new("program_postgres_behind_pgbouncer", postgres).needs(&[
        Need::Program("psql"),
        Need::Program("pgbouncer"),
        Need::PostgresServer,
    ]),
    Case::new("program_redis", redis).needs(&[Need::Program("redis-server"), Need::Program("redis-cli")]),
];

/// A program that runs until this value goes.
pub(super) struct Daemon(Child);

impl Daemon {
    fn start(lab: &Lab, netns: &str, command: &mut Command) -> Result<Self> {
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

fn program(name: &str) -> Result<Command> {
    Ok(Command::new(
        tools::find(name).with_context(|| format!("{name} is not installed"))?,
    ))
}

/// Waits until somebody listens there.
fn listening(lab: &Lab, netns: &str, at: SocketAddr) -> Result<()> {
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

/// Both ends of one connection say the same bytes, and something moved.
fn check_mirrored(client: &Event, server: &Event) -> Result<()> {
    check(
        client,
        "client's sent = server's received",
        client.bytes_sent,
        server.bytes_received,
    )?;
    check(
        client,
        "client's received = server's sent",
        client.bytes_received,
        server.bytes_sent,
    )?;
    hold(
        client,
        "bytes moved both ways",
        client.bytes_sent > Some(0) && client.bytes_received > Some(0),
    )
}

fn redis() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let folder = tempfile::tempdir()?;
    let at = addr("127.0.0.1", 30_521);
    let mut command = program("redis-server")?;
    command.args([
        "--port",
        "30521",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
    ]);
    let _redis = Daemon::start(&lab, "cli", command.arg(folder.path()))?;
    listening(&lab, "cli", at)?;
    let value = "v".repeat(100_000);
    lab.run("cli", "redis-cli", &["-p", "30521", "set", "key", &value])?;
    ensure!(
        lab.run("cli", "redis-cli", &["-p", "30521", "get", "key"])?
            .trim()
            == value,
        "it is kept"
    );
    let info = lab.run("cli", "redis-cli", &["-p", "30521", "info", "stats"])?;
    let stat = |name: &str| -> Result<u64> {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("no such statistic")?;
        Ok(line.trim_start_matches(':').trim().parse()?)
    };
    let netns = lab.inode("cli")?;
    let of = |role: &'static str| -> Result<Vec<Arc<Event>>> {
        wait_for(&format!("three final {role} events of Redis"), PATIENCE, || {
            let mut found: Vec<_> = agent
                .events()
                .into_iter()
                .filter(|e| {
                    let port = if role == "client" {
                        e.peer_port
                    } else {
                        e.internal_port
                    };
                    e.is_final()
                        && e.netns == Some(netns)
                        && e.role.as_deref() == Some(role)
                        && port == Some(30_521)
                })
                .collect();
            found.sort_by_key(|e| e.started_at.clone());
            (found.len() >= 3).then_some(found)
        })
    };
    let (clients, servers) = (of("client")?, of("server")?);
    for (c, s) in clients.iter().zip(&servers) {
        check_mirrored(c, s)?;
        check_comm(c, "redis-cli")?;
        check_comm(s, "redis-server")?;
    }
    // At the time of INFO the server had read all three requests and answered the first two.
    let read: u64 = servers.iter().filter_map(|s| s.bytes_received).sum();
    let written: u64 = servers[..2].iter().filter_map(|s| s.bytes_sent).sum();
    check(
        &servers[2],
        "sum of bytes_received against INFO",
        read,
        stat("total_net_input_bytes")?,
    )?;
    check(
        &servers[2],
        "sum of bytes_sent against INFO",
        written,
        stat("total_net_output_bytes")?,
    )
}

/// The newest server of the distribution: programs of a cluster are not on the path.
pub(crate) fn postgres_folder() -> Result<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found
        .pop()
        .context("no PostgreSQL server under /usr/lib/postgresql")
}

fn postgres() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let folder = tempfile::tempdir()?;
    let user = nix::unistd::User::from_name("postgres")?.context("no user postgres")?;
    nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid))?;
    let (data, bin) = (folder.path().join("data"), postgres_folder()?);
    let as_user = |name: &Path| {
        let mut command = Command::new(name);
        std::os::unix::process::CommandExt::uid(&mut command, user.uid.as_raw());
        std::os::unix::process::CommandExt::gid(&mut command, user.gid.as_raw());
        command.current_dir(folder.path());
        command
    };
    let mut initdb = as_user(&bin.join("initdb"));
    tools::run_command(
        initdb
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(&data),
    )?;
    let place = folder.path().display().to_string();
    let mut server = as_user(&bin.join("postgres"));
    server
        .args([
            "-p",
            "30531",
            "-h",
            "127.0.0.1",
            "-k",
            &place,
            "-c",
            "fsync=off",
            "-D",
        ])
        .arg(&data);
    let _postgres = Daemon::start(&lab, "cli", &mut server)?;
    listening(&lab, "cli", addr("127.0.0.1", 30_531))?;
    let ini = folder.path().join("pgbouncer.ini");
    std::fs::write(
        &ini,
        "[databases]\npostgres = host=127.0.0.1 port=30531 user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = 30532\nauth_type = any\nunix_socket_dir =\nserver_idle_timeout = 1\n",
    )?;
    let mut bouncer = as_user(&tools::find("pgbouncer").context("pgbouncer is not installed")?);
    let _bouncer = Daemon::start(&lab, "cli", bouncer.arg(&ini))?;
    listening(&lab, "cli", addr("127.0.0.1", 30_532))?;
    let query = "select repeat('x', 200000)";
    let url = "postgresql://postgres@127.0.0.1:30532/postgres?sslmode=disable&gssencmode=disable";
    let answer = lab.run("cli", "psql", &["-XAtc", query, url])?;
    ensure!(
        answer.trim().len() == 200_000,
        "the answer has {} characters",
        answer.trim().len()
    );
    let netns = lab.inode("cli")?;
    let c = event(&agent, "client", netns, |e| e.peer_port == Some(30_532))?;
    let f = event(&agent, "server", netns, |e| e.internal_port == Some(30_532))?;
    // The pooler ends its idle server connection after a second.
    let b = event(&agent, "client", netns, |e| {
        e.peer_port == Some(30_531) && e.bytes_received > Some(0)
    })?;
    let s = event(&agent, "server", netns, |e| {
        e.internal_port == Some(30_531) && e.peer() == b.internal()
    })?;
    check_mirrored(&c, &f)?;
    check_mirrored(&b, &s)?;
    hold(&c, "the whole answer came", c.bytes_received > Some(200_000))?;
    hold(&s, "the whole answer went", s.bytes_sent > Some(200_000))?;
    check_comm(&c, "psql")?;
    check_comm(&f, "pgbouncer")?;
    check_comm(&b, "pgbouncer")?;
    // The postmaster accepts; the backend it forks does the talking.
    let io = s.io_process.as_ref().and_then(|p| p.comm.clone());
    hold(
        &s,
        "accepted by postgres",
        s.process.as_ref().and_then(|p| p.comm.as_deref()) == Some("postgres"),
    )?;
    hold(
        &s,
        "another process of postgres talks",
        io.as_deref() == Some("postgres"),
    )
}
