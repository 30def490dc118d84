//! Databases, and a pooler before one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::{tools, wait_for};

use super::super::{check, hold};
use super::{Daemon, check_comm, event, listening, program};

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

pub(super) fn redis() -> Result<()> {
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

pub(super) fn postgres() -> Result<()> {
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
