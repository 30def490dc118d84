//! Encrypted connections: which are read, and which are counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::lab::{self, addr};
use netprobe_tests::{tools, wait_for};

use super::web::{Web, certificate, of, requests, wait_requests};
use crate::cases::programs::{Daemon, listening, program};
use crate::cases::{Case, Need, check};

pub(super) const TOOLS: &[Need] = &[
    Need::Program("nginx"),
    Need::Program("curl"),
    Need::Program("openssl"),
];

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_encrypted_are_counted", encrypted).needs(&[Need::Program("openssl")]),
    Case::new("requests_in_tls_of_a_library_met_later", met_later).needs(TOOLS),
];

/// Both ends of a connection use OpenSSL, which is not to be read; nothing of what it carries is told.
fn encrypted() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        sections: "[requests]\ntls = false".to_owned(),
        ..Settings::default()
    })?;
    let folder = tempfile::tempdir()?;
    let (key, cert) = certificate(folder.path())?;
    let at = addr("127.0.0.1", 20_606);
    let mut server = program("openssl")?;
    server.args([
        "s_server", "-quiet", "-www", "-accept", "20606", "-key", &key, "-cert", &cert,
    ]);
    let _server = Daemon::start(&lab, "cli", &mut server)?;
    listening(&lab, "cli", at)?;
    // It stays: of a process that is gone nothing can be told.
    let mut client = program("openssl")?;
    client.args([
        "s_client",
        "-quiet",
        "-connect",
        "127.0.0.1:20606",
        "-servername",
        "np.example",
    ]);
    let _client = Daemon::start(&lab, "cli", &mut client)?;
    let told = "netprobe_requests_opaque_total{library=\"openssl\"} 2";
    wait_for(
        "both ends of an encrypted connection in the metrics",
        PATIENCE,
        || {
            let (_, metrics) = agent.get("/metrics").ok()?;
            metrics.contains(told).then_some(())
        },
    )?;
    let stopped = agent.stop()?;
    ensure!(
        stopped.events.iter().all(|event| event.request.is_none()
            || ![event.internal_port, event.peer_port].contains(&Some(20_606))),
        "a request was told"
    );
    Ok(())
}

/// A server's library that no process used when the agent began, and whose file is gone: its first connection is counted as
/// opaque, then it is read.
fn met_later() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings::default())?;
    let folder = tempfile::tempdir()?;
    let maps = tools::run(
        "ldd",
        &[&tools::find("nginx").context("no nginx")?.display().to_string()],
    )?;
    let mut copies = Vec::new();
    for name in ["libssl.so", "libcrypto.so"] {
        let path = maps
            .split_whitespace()
            .find(|word| word.starts_with('/') && word.contains(name))
            .with_context(|| format!("nginx has no {name}"))?;
        let copy = folder.path().join(path.rsplit('/').next().context("no name")?);
        std::fs::copy(path, &copy)?;
        copies.push(copy);
    }
    let at = addr("127.0.0.1", 20_609);
    let web = Web::start_as(&lab, "cli", at, "https", Some(folder.path()))?;
    for copy in &copies {
        std::fs::remove_file(copy)?;
    }
    let netns = lab.inode("cli")?;
    let told = |role: &str| {
        requests(&agent, role, netns, |event| {
            [event.internal_port, event.peer_port].contains(&Some(20_609))
        })
    };
    let url = format!("https://{}/ok", web.at);
    let mut asked = 0;
    let server_told = wait_for("an event of the server", PATIENCE, || {
        asked += 1;
        lab.run("cli", "curl", &["-sSk", "-o", "/dev/null", &url]).ok()?;
        // The library is read within a second of being met.
        std::thread::sleep(Duration::from_millis(500));
        told("server").first().cloned()
    })?;
    check(
        &server_told,
        "route",
        of(&server_told, "route").as_str(),
        Some("/ok"),
    )?;
    check(
        &server_told,
        "status_code",
        of(&server_told, "status_code").as_u64(),
        Some(200),
    )?;
    check(
        &server_told,
        "tls",
        of(&server_told, "tls"),
        &serde_json::Value::Bool(true),
    )?;
    ensure!(asked > 1, "the first connection was read");
    let clients = wait_requests(&agent, "client", netns, asked, |event| {
        event.peer_port == Some(20_609)
    })?;
    ensure!(
        clients.len() == asked,
        "{} events of {asked} requests",
        clients.len()
    );
    let (_, metrics) = agent.get("/metrics")?;
    let opaque = format!(
        "netprobe_requests_opaque_total{{library=\"openssl\"}} {}",
        asked - told("server").len()
    );
    ensure!(metrics.contains(&opaque), "not in the metrics: {opaque}");
    Ok(())
}
