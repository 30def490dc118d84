//! Encrypted connections: which are read, and which are counted.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::{tools, wait_for};

use super::web::{Web, agree, certificate, of, requests, wait_requests};
use crate::cases::programs::{Daemon, listening, program};
use crate::cases::{Case, Need, check, hold};

pub(super) const TOOLS: &[Need] = &[
    Need::Program("nginx"),
    Need::Program("curl"),
    Need::Program("openssl"),
];

pub(crate) const CASES: &[Case] = &[
    Case::new("requests_encrypted_are_counted", encrypted).needs(&[Need::Program("openssl")]),
    Case::new("requests_in_tls_of_a_library_met_later", met_later).needs(TOOLS),
    Case::new("requests_in_tls_of_a_container", contained).needs(TOOLS),
    Case::new("requests_in_tls_of_handles_used_again", used_again).needs(&[
        Need::Program("nginx"),
        Need::Program("openssl"),
        Need::Program("python3"),
    ]),
];

/// Both ends of a connection use OpenSSL, which is not to be read; nothing of what it carries is told.
fn encrypted() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Agent::start(&Settings {
        // Other cases have encrypted connections, too.
        probe: "ports_only = [20606]".to_owned(),
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
    let mut copies = Vec::new();
    for path in nginx_libraries()? {
        let copy = folder.path().join(path.file_name().context("no name")?);
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

/// The files of OpenSSL that nginx uses.
fn nginx_libraries() -> Result<Vec<PathBuf>> {
    let nginx = tools::find("nginx").context("no nginx")?;
    let maps = tools::run("ldd", &[&nginx.display().to_string()])?;
    ["libssl.so", "libcrypto.so"]
        .into_iter()
        .map(|name| {
            maps.split_whitespace()
                .find(|word| word.starts_with('/') && word.contains(name))
                .map(PathBuf::from)
                .with_context(|| format!("nginx has no {name}"))
        })
        .collect()
}

/// A server's library is on a file system that only its own mount namespace has.
fn contained() -> Result<()> {
    const START: &str = "mount -t tmpfs none \"$INSIDE\"; cp $LIBRARIES \"$INSIDE\"; \
                         LD_LIBRARY_PATH=\"$INSIDE\" exec nginx \"$@\"";
    let lab = lab::gateway()?;
    let (inside, at) = (tempfile::tempdir()?, addr("127.0.0.1", 20_625));
    let libraries: Vec<String> = nginx_libraries()?
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut start = program("unshare")?;
    start
        .args(["--mount", "sh", "-ec", START, "sh"])
        .env("INSIDE", inside.path())
        .env("LIBRARIES", libraries.join(" "));
    let web = Web::start_by(&lab, "cli", at, "https", &mut start)?;
    ensure!(
        std::fs::read_dir(inside.path())?.next().is_none(),
        "the library is to be seen from outside"
    );
    let agent = Agent::start(&Settings::default())?;
    let url = format!("https://{}/ok", web.at);
    lab.run("cli", "curl", &["-sSk", "-o", "/dev/null", &url])?;
    let line = web.log(1)?.remove(0);
    let netns = lab.inode("cli")?;
    let of_port = |event: &Event| event.peer_port == Some(line.port);
    let servers = wait_requests(&agent, "server", netns, 1, of_port)?;
    agree(&line, &servers[0], true, "/ok")?;
    check(
        &servers[0],
        "tls",
        of(&servers[0], "tls"),
        &serde_json::Value::Bool(true),
    )
}

/// One handle for three connections, one after another: each request is told of the connection it went through.
fn used_again() -> Result<()> {
    const CLIENT: &str = r#"
import ctypes, socket, sys
ssl, pointer = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p
for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
    getattr(ssl, name).restype = pointer
handle = pointer(ssl.SSL_new(pointer(ssl.SSL_CTX_new(pointer(ssl.TLS_client_method())))))
for connection in range(3):
    with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert ssl.SSL_set_fd(handle, stream.fileno()) == 1
        assert ssl.SSL_connect(handle) == 1
        for number in range(2):
            text = b"GET /users/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (10 * connection + number)
            assert ssl.SSL_write(handle, text, len(text)) == len(text)
            answer, part = b"", ctypes.create_string_buffer(4096)
            while not answer.endswith(b"user"):
                got = ssl.SSL_read(handle, part, len(part))
                assert got > 0
                answer += part.raw[:got]
        ssl.SSL_shutdown(handle)
    assert ssl.SSL_clear(handle) == 1
"#;
    const PORT: u16 = 20_626;
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let web = Web::start_as(&lab, "cli", addr("127.0.0.1", PORT), "https", None)?;
    let library = nginx_libraries()?.remove(0).display().to_string();
    lab.run("cli", "python3", &["-c", CLIENT, &library, &PORT.to_string()])?;
    let (lines, netns) = (web.log(6)?, lab.inode("cli")?);
    for line in &lines {
        for (role, port) in [
            ("client", (|e| e.internal_port) as fn(&Event) -> Option<u16>),
            ("server", |e| e.peer_port),
        ] {
            let of_connection = |event: &Event| port(event) == Some(line.port);
            let events = wait_requests(&agent, role, netns, 2, of_connection)?;
            let event = &events[line.number - 1];
            check(event, "requests of the connection", events.len(), 2)?;
            agree(line, event, role == "server", "/users/:id")?;
            hold(event, "nothing is missing", event.flags.is_empty())?;
        }
    }
    Ok(())
}
