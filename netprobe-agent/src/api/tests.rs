//! The API over real sockets, with a pipeline that answers what the test says.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use super::*;
use crate::{
    config::{ApiConfig, MetricsConfig, Period, StreamConfig},
    event::{CloseReason, Event, Flow, FlowState, Nanos, fixture},
    fanout::{Fanout, Sink},
    flow::delta::Observer as _,
    metrics::Metrics,
    probe_report::{FactReport, LedgerReport, MapReport, ProbeReport, SinkLedger},
    query::{self, FlowPage, Query},
    recent::Recent,
    stream::Gateway,
};

/// What the fake pipeline does with questions.
#[derive(Clone, Copy, PartialEq)]
enum Pipeline {
    Answers { flows: u64 },
    MissesARequiredFact,
    IsStuck,
    HasEnded,
}

struct Api {
    config: ApiConfig,
    control: Control,
    address: SocketAddr,
    socket: PathBuf,
    folder: PathBuf,
    server: Option<Server>,
    fanout: Fanout,
    metrics: Arc<Metrics>,
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.server.take());
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn config(name: &str) -> ApiConfig {
    let folder = std::env::temp_dir().join(format!("np-api-{}-{name}", std::process::id()));
    ApiConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        socket: folder.join("api.sock"),
        allowed_hosts: vec!["probe.example".to_owned()],
        allowed_origins: vec!["https://noc.example".to_owned()],
        ..ApiConfig::default()
    }
}

fn live(position: u64) -> Event {
    let mut event = fixture::flow();
    event.seq = None;
    event.flow.as_mut().unwrap().state = FlowState::Update;
    event.internal_port = Some(position as u16);
    event
}

fn report(pipeline: Pipeline) -> ProbeReport {
    let method = (pipeline != Pipeline::MissesARequiredFact).then(|| "tp_btf".to_owned());
    ProbeReport {
        agent_version: "0.1.0".to_owned(),
        facts: vec![FactReport {
            fact: "lifecycle".to_owned(),
            required: true,
            method,
            ..Default::default()
        }],
        maps: vec![MapReport {
            name: "flow_table".to_owned(),
            entries: Some(1),
            capacity: 10,
        }],
        ledger: Some(LedgerReport {
            sinks: vec![SinkLedger {
                sink: "recent".to_owned(),
                ..SinkLedger::default()
            }],
            ..LedgerReport::default()
        }),
        ..ProbeReport::default()
    }
}

fn start(name: &str, pipeline: Pipeline) -> Api {
    start_with(config(name), pipeline)
}

fn start_with(config: ApiConfig, pipeline: Pipeline) -> Api {
    let (handle, mut queries) = query::channel();
    std::thread::spawn(move || {
        while let Some(query) = queries.blocking_recv() {
            match (query, pipeline) {
                (_, Pipeline::HasEnded) => return,
                (query, Pipeline::IsStuck) => std::mem::forget(query),
                (Query::Probe { reply }, pipeline) => drop(reply.send(Box::new(report(pipeline)))),
                (Query::Flows { after, limit, reply }, Pipeline::Answers { flows }) => {
                    let first = after.map_or(1, |after| after + 1);
                    let last = flows.min(first + limit as u64 - 1);
                    let page = FlowPage {
                        flows: (first..=last)
                            .map(|position| (position, live(position)))
                            .collect(),
                        more: last < flows,
                    };
                    drop(reply.send(page));
                }
                (Query::Flows { .. }, Pipeline::MissesARequiredFact) => {}
            }
        }
    });
    let recent = Recent::new(50, usize::MAX);
    let metrics = Metrics::new(&MetricsConfig::default(), fixture::origin().boot_id);
    let service = Service {
        archive: None,
        kafka: None,
        handle,
        metrics: metrics.clone(),
        recent: recent.clone(),
        stream: Gateway::new(
            recent.clone(),
            fixture::origin(),
            StreamConfig {
                max_clients: 1,
                ping_every: Period::seconds(1),
                ..StreamConfig::default()
            },
        ),
        run: fixture::origin().run,
    };
    let listeners = Listeners::bind(&config).unwrap();
    let address = listeners.address().unwrap();
    let control = listeners.control();
    let server = Some(Server::start(listeners, service).unwrap());
    let mut fanout = Fanout::new(fixture::origin());
    fanout.add(Box::new(recent));
    let folder = config.socket.parent().unwrap().to_owned();
    Api {
        address,
        socket: config.socket.clone(),
        config,
        control,
        folder,
        server,
        fanout,
        metrics,
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("content-length") || status == 204,
        "the tests read no chunks: {head}"
    );
    Answer {
        status,
        head,
        body: body.to_owned(),
    }
}

impl Api {
    fn ask(&self, line: &str, headers: &str) -> Answer {
        let stream = TcpStream::connect(self.address).unwrap();
        exchange(
            stream,
            &format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"),
        )
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "Host: localhost\r\n")
    }

    fn problem(&self, path: &str, status: u16) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, status, "{}", answer.body);
        problem(&answer)
    }
}

/// The detail of a problem, after a look at its form.
fn problem(answer: &Answer) -> String {
    assert!(
        answer.head.contains("content-type: application/problem+json"),
        "{}",
        answer.head
    );
    let json = answer.json();
    assert_eq!(json["status"], answer.status);
    assert_eq!(json["api_version"], API_VERSION);
    assert_eq!(json["type"], "about:blank");
    assert!(json["title"].is_string());
    json["detail"].as_str().unwrap().to_owned()
}

#[path = "access_tests.rs"]
mod access_tests;
#[path = "contract_tests.rs"]
mod contract_tests;
#[path = "listing_tests.rs"]
mod listing_tests;
#[path = "state_tests.rs"]
mod state_tests;

#[test]
fn serves_both_listeners() {
    let api = start("both", Pipeline::Answers { flows: 0 });
    assert_eq!(
        std::fs::metadata(&api.socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    let over_tcp = api.get("/api/v1/probe");
    let request = "GET /api/v1/probe HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n";
    let over_unix = exchange(UnixStream::connect(&api.socket).unwrap(), request);
    assert_eq!(over_tcp.body, over_unix.body);
    let json = over_tcp.json();
    assert_eq!(
        (&json["api_version"], &json["facts"][0]["fact"]),
        (&"v1".into(), &"lifecycle".into())
    );
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let api = start("guard", Pipeline::Answers { flows: 0 });
    let port = api.address.port();
    for (headers, status) in [
        ("", 200), // absent: whoever sends none is no browser
        ("Host: localhost\r\n", 200),
        ("Host: LOCALHOST:80\r\n", 200),
        ("Host: 127.0.0.9:1\r\n", 200),
        ("Host: [::1]:9477\r\n", 200),
        ("Host: probe.example:9477\r\n", 200),
        ("Host: evil.example\r\n", 403),
        ("Host: localhost.evil.example\r\n", 403),
        ("Host: 10.0.0.1\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
        ("Host: localhost\r\nOrigin: https://noc.example\r\n", 200),
        ("Host: localhost\r\nOrigin: https://evil.example\r\n", 403),
        ("Host: localhost\r\nOrigin: http://localhost:1\r\n", 403),
        (
            &format!("Host: localhost\r\nOrigin: http://localhost:{port}\r\n"),
            200,
        ),
        (
            &format!("Host: localhost\r\nOrigin: https://localhost:{port}\r\n"),
            403,
        ),
    ] {
        let answer = api.ask("GET /health/live", headers);
        assert_eq!(answer.status, status, "{headers}");
        if status == 403 {
            assert!(problem(&answer).contains("is not allowed"));
        }
    }
    assert_eq!(
        api.ask("GET http://evil.example/health/live", "Host: localhost\r\n")
            .status,
        403
    );
    // Before the upgrade: a page of another site opens no stream.
    let upgrade = "Host: localhost\r\nOrigin: https://evil.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(api.ask("GET /api/v1/stream", upgrade).status, 403);
}

#[test]
fn everything_else_is_a_problem() {
    let api = start("else", Pipeline::Answers { flows: 0 });
    assert_eq!(api.problem("/nothing", 404), "there is nothing at `/nothing`");
    let answer = api.ask("POST /metrics", "Host: localhost\r\nContent-Length: 0\r\n");
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: get"), "{}", answer.head);
    assert_eq!(
        problem(&answer),
        "`POST` is not allowed on `/metrics`; see the header Allow"
    );
    for (path, detail) in [
        ("/api/v1/flows?limit=0", "limit=`0` is not allowed; 1 to 10000 is"),
        (
            "/api/v1/flows?cursor=x",
            "cursor `x` is not one this API gave; use `next_cursor` of an answer",
        ),
        (
            "/api/v1/events?cursor=1",
            "cursor `1` is not one this API gave; use `next_cursor` of an answer",
        ),
        (
            "/api/v1/events?since=noon",
            "since=`noon` is not a time; write it like 2026-11-21T10:00:00Z",
        ),
        (
            "/api/v1/events?filter=kind%3D%3Dflaw",
            "filter, column 7: `flaw` is not a value of kind; allowed are `flow`, `request`, `gap`, `agent`",
        ),
    ] {
        assert_eq!(api.problem(path, 400), detail);
    }
    assert!(
        api.problem("/api/v1/flows?since=x", 400)
            .contains("no such parameter")
    );
}

#[test]
fn busy_addresses_are_told_apart_from_stale_ones() {
    let api = start("busy", Pipeline::Answers { flows: 0 });
    let taken = ApiConfig {
        listen: api.address,
        ..config("busy-2")
    };
    let error = Listeners::bind(&taken).unwrap_err();
    assert_eq!(error.exit() as u8, 7);
    assert!(error.to_string().contains(&api.address.to_string()));
    // The socket of a living agent is busy; the file of a dead one is replaced; any other file is left alone.
    let error = Listeners::bind(&ApiConfig {
        socket: api.socket.clone(),
        ..config("busy")
    })
    .unwrap_err();
    assert_eq!(error.exit() as u8, 7);
    assert!(
        error.to_string().contains("another agent listens on it"),
        "{error}"
    );
    let stale = config("busy");
    let stale = ApiConfig {
        socket: stale.socket.with_extension("stale"),
        ..stale
    };
    drop(std::os::unix::net::UnixListener::bind(&stale.socket).unwrap());
    Listeners::bind(&stale).unwrap();
    let file = ApiConfig {
        socket: api.folder.join("file"),
        ..config("busy")
    };
    std::fs::write(&file.socket, "precious").unwrap();
    assert_eq!(Listeners::bind(&file).unwrap_err().exit() as u8, 7);
    assert_eq!(std::fs::read_to_string(&file.socket).unwrap(), "precious");
}

#[test]
fn stops_in_time_and_takes_its_socket_along() {
    let mut api = start("stop", Pipeline::Answers { flows: 0 });
    // A client that keeps its connection open must not hold up the end.
    let _idle = TcpStream::connect(api.address).unwrap();
    let begin = std::time::Instant::now();
    api.server.take().unwrap().stop();
    assert!(begin.elapsed() < GRACE + Duration::from_secs(1));
    assert!(!api.socket.exists());
    assert!(TcpStream::connect(api.address).is_err());
}

const UPGRADE: &str = "Host: localhost\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
