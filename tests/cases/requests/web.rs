//! A web server for the cases, its log as truth, and the events that must agree with it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE};
use netprobe_tests::event::Event;
use netprobe_tests::lab::Lab;
use netprobe_tests::{tools, wait_for};
use serde_json::Value;

use crate::cases::programs::{Daemon, listening, program};
use crate::cases::{check, check_bytes};

/// Size of the file that goes out by sendfile.
pub(super) const FILE: usize = 3_000_000;

/// An nginx with a folder of its own; ends with this value.
pub(crate) struct Web {
    pub(super) folder: tempfile::TempDir,
    pub(super) at: SocketAddr,
    _daemon: Daemon,
}

/// One line of its log.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) port: u16,
    /// The how many-th of its connection.
    pub(super) number: usize,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) seconds: f64,
}

impl Web {
    pub(crate) fn start(lab: &Lab, netns: &str, at: SocketAddr) -> Result<Self> {
        Self::start_as(lab, netns, at, "http", None)
    }

    /// With `https` it speaks TLS; by the libraries of a folder, if one is given.
    pub(super) fn start_as(
        lab: &Lab,
        netns: &str,
        at: SocketAddr,
        scheme: &str,
        libraries: Option<&Path>,
    ) -> Result<Self> {
        let mut nginx = program("nginx")?;
        if let Some(libraries) = libraries {
            nginx.env("LD_LIBRARY_PATH", libraries);
        }
        Self::start_by(lab, netns, at, scheme, &mut nginx)
    }

    /// As what a command starts, which nginx's arguments are added to.
    pub(super) fn start_by(
        lab: &Lab,
        netns: &str,
        at: SocketAddr,
        scheme: &str,
        nginx: &mut Command,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        std::fs::write(folder.path().join("file"), vec![b'x'; FILE])?;
        std::fs::write(folder.path().join("text.txt"), "word ".repeat(2000))?;
        let place = folder.path().display();
        let tls = if scheme == "https" {
            let (key, cert) = certificate(folder.path())?;
            format!("ssl_certificate {cert}; ssl_certificate_key {key}; listen {at} ssl;")
        } else {
            format!("listen {at};")
        };
        let config = format!(
            "daemon off; worker_processes 1; pid {place}/nginx.pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{
               log_format truth '$remote_port $connection_requests $request_method $uri $status \
                                 $request_length $bytes_sent $request_time';
               access_log {place}/access.log truth;
               sendfile on; keepalive_timeout 60; keepalive_requests 1000000; root {place};
               types {{ text/plain txt; }} gzip on; gzip_min_length 1; client_max_body_size 50m;
               client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
               uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
               server {{
                 {tls}
                 location /ok {{ return 200 'fine'; }}
                 location /users {{ return 200 'user'; }}
                 location /none {{ return 204; }}
                 location /broken {{ return 503; }}
                 location /slow {{ limit_rate 4000000; alias {place}/file; }}
                 location /post {{
                   proxy_pass {scheme}://{at}/ok; proxy_pass_request_body off; proxy_set_header Content-Length '';
                 }}
               }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        nginx.args(["-e", "stderr", "-c"]).arg(file);
        let daemon = Daemon::start(lab, netns, nginx)?;
        listening(lab, netns, at)?;
        Ok(Self {
            folder,
            at,
            _daemon: daemon,
        })
    }

    /// Its log, once it has so many lines.
    pub(super) fn log(&self, lines: usize) -> Result<Vec<Line>> {
        wait_for(&format!("{lines} lines in nginx's log"), PATIENCE, || {
            let log = read_log(self.folder.path()).ok()?;
            (log.len() >= lines).then_some(log)
        })
    }
}

/// A key and its certificate, in a folder; their paths.
pub(super) fn certificate(folder: &Path) -> Result<(String, String)> {
    let file = |name: &str| folder.join(name).display().to_string();
    let (key, cert) = (file("key"), file("cert"));
    let make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=np.example";
    let mut make: Vec<&str> = make.split(' ').collect();
    make.extend(["-keyout", &key, "-out", &cert]);
    tools::run("openssl", &make)?;
    Ok((key, cert))
}

fn read_log(folder: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(folder.join("access.log"))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            ensure!(words.len() == 8, "not a line of the log: {line}");
            Ok(Line {
                port: words[0].parse()?,
                number: words[1].parse()?,
                method: words[2].to_owned(),
                path: words[3].to_owned(),
                status: words[4].parse()?,
                received: words[5].parse()?,
                sent: words[6].parse()?,
                seconds: words[7].parse()?,
            })
        })
        .collect()
}

/// A member of the body of a request event.
pub(super) fn of<'a>(event: &'a Event, name: &str) -> &'a Value {
    event
        .request
        .as_ref()
        .map_or(&Value::Null, |request| &request[name])
}

/// Request events of one role and namespace that `wanted` accepts, in their order.
pub(super) fn requests(
    agent: &Agent,
    role: &str,
    netns: u64,
    wanted: impl Fn(&Event) -> bool,
) -> Vec<Arc<Event>> {
    let mut events = agent.events();
    events.retain(|event| {
        event.kind == "request"
            && event.role.as_deref() == Some(role)
            && event.netns == Some(netns)
            && wanted(event)
    });
    events
}

/// Waits for so many of them.
pub(super) fn wait_requests(
    agent: &Agent,
    role: &str,
    netns: u64,
    count: usize,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Vec<Arc<Event>>> {
    let mut last = 0;
    wait_for(
        &format!("{count} request events, {role} in {netns}"),
        PATIENCE,
        || {
            let found = requests(agent, role, netns, &wanted);
            last = found.len();
            (found.len() >= count).then_some(found)
        },
    )
    .with_context(|| format!("there are {last}"))
}

/// The events of a log's connections, one for each line, agree with it.
pub(super) fn agree(line: &Line, event: &Event, is_server: bool, route: &str) -> Result<()> {
    check(event, "method", of(event, "method").as_str(), Some(&*line.method))?;
    check(event, "route", of(event, "route").as_str(), Some(route))?;
    check(
        event,
        "status_code",
        of(event, "status_code").as_u64(),
        Some(line.status),
    )?;
    check(event, "error", of(event, "error"), &Value::Null)?;
    let (sent, received) = if is_server {
        (line.sent, line.received)
    } else {
        (line.received, line.sent)
    };
    check_bytes(event, sent, received)?;
    let elapsed = event.elapsed_ms.context("no elapsed_ms")?;
    // nginx counts from when it reads the request to when it is done with it, in whole milliseconds.
    let near = (elapsed - line.seconds * 1e3).abs() < 50.0;
    check(event, "elapsed_ms near nginx's request_time", near, true)
}

/// Sends bytes as they are, in pieces, and reads until `until` says it is enough.
pub(super) fn speak(
    lab: &Lab,
    netns: &str,
    at: SocketAddr,
    pieces: &[&[u8]],
    enough: impl Fn(&[u8]) -> bool + Send + Sync,
) -> Result<(SocketAddr, Vec<u8>)> {
    tools::within(&lab.path(netns), || {
        let mut stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let local = stream.local_addr()?;
        for piece in pieces {
            stream.write_all(piece)?;
            // Each piece is a packet: its record is made before the next call.
            std::thread::sleep(Duration::from_micros(200));
        }
        let (mut answer, mut part) = (Vec::new(), [0; 16_384]);
        while !enough(&answer) {
            let n = stream.read(&mut part)?;
            ensure!(n > 0, "the server closed after {} bytes", answer.len());
            answer.extend_from_slice(&part[..n]);
        }
        Ok((local, answer))
    })
}

/// How often `word` is in `text`.
pub(super) fn count(text: &[u8], word: &str) -> usize {
    text.windows(word.len())
        .filter(|part| *part == word.as_bytes())
        .count()
}
