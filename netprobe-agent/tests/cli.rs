//! The command line as a user meets it: the built binary, its output, its exit codes.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use netprobe_agent::{
    api::{Listeners, Server, Service},
    config::{ApiConfig, MetricsConfig, StreamConfig},
    event::{Event, Origin},
    fanout::Fanout,
    metrics::Metrics,
    probe_report::ProbeReport,
    query::{self, FlowPage, Query},
    recent::Recent,
    stream::Gateway,
};

const EVENTS: &str = include_str!("../../tests/fixtures/filters.jsonl");

fn netprobe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netprobe"));
    // The host's own configuration is none of the test's.
    command.args(arguments).env_clear();
    command
}

fn run(arguments: &[&str]) -> Output {
    netprobe(arguments).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn events() -> Vec<Event> {
    EVENTS
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect()
}

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("np-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An agent without a kernel side: it has the given live flows and what is emitted to it.
struct Agent {
    folder: Folder,
    fanout: Fanout,
    _server: Server,
}

fn agent(name: &str, flows: Vec<Event>) -> Agent {
    let folder = Folder::new(name);
    let listen = "127.0.0.1:0".parse().expect("an address");
    let config = ApiConfig {
        listen,
        socket: folder.0.join("api.sock"),
        ..ApiConfig::default()
    };
    let (handle, mut queries) = query::channel();
    std::thread::spawn(move || {
        while let Some(query) = queries.blocking_recv() {
            match query {
                Query::Probe { reply } => drop(reply.send(Box::<ProbeReport>::default())),
                Query::Flows { reply, .. } => {
                    drop(reply.send(FlowPage {
                        flows: (1..).zip(flows.clone()).collect(),
                        more: false,
                    }));
                }
            }
        }
    });
    let origin = Origin::new("h", "b", "00f1e2d3c4b5a697");
    let recent = Recent::new(100, usize::MAX);
    let metrics = Metrics::new(&MetricsConfig::default(), "boot".into());
    let service = Service {
        archive: None,
        kafka: None,
        handle,
        metrics,
        stream: Gateway::new(recent.clone(), origin.clone(), StreamConfig::default()),
        recent: recent.clone(),
        run: origin.run.clone(),
    };
    let server = Server::start(Listeners::bind(&config).expect("free"), service).expect("a server");
    let mut fanout = Fanout::new(origin);
    fanout.add(Box::new(recent));
    Agent {
        folder,
        fanout,
        _server: server,
    }
}

impl Agent {
    fn socket(&self) -> String {
        self.folder.0.join("api.sock").display().to_string()
    }
}

#[test]
fn exit_codes_are_those_documented() {
    let folder = Folder::new("codes");
    let bad = folder.file("bad.toml", "[flow]\nmax_flows = 0\n");
    let nowhere = folder.0.join("nowhere.sock").display().to_string();
    for (arguments, code, sentence) in [
        (vec!["--help"], 0, ""),
        (vec!["--version"], 0, ""),
        (vec!["fly"], 2, "unrecognized subcommand"),
        (
            vec!["observe", "--filter", "kind=flow"],
            2,
            "filter, column 5: expected one of",
        ),
        (vec!["observe", "--since", "never"], 2, "write a time like"),
        (vec!["run", "--method", "nat"], 2, "write fact=method"),
        (
            vec!["config", "check", "--config", &bad],
            2,
            "line 2, flow.max_flows: 0 is not allowed",
        ),
        (
            vec!["run", "--config", &bad],
            2,
            "line 2, flow.max_flows: 0 is not allowed",
        ),
        (vec!["flows", "--socket", &nowhere], 9, "no agent answers on"),
        (vec!["observe", "--socket", &nowhere], 9, "no agent answers on"),
        (vec!["observe", "--input-file", &nowhere], 1, "cannot read"),
    ] {
        let output = run(&arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(sentence),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert_eq!(
            output.stdout.is_empty(),
            code != 0,
            "records only on stdout: {arguments:?}"
        );
    }
    let help = stdout(&run(&["--help"]));
    for code in 0..=9 {
        assert!(
            help.contains(&format!("  {code}  ")),
            "exit code {code} is not documented"
        );
    }
}

#[test]
fn an_output_that_cannot_be_written_has_its_own_code() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = netprobe(&["config", "show"])
        .stdout(full)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write to standard output"));
}

#[test]
fn an_agent_that_cannot_write_its_events_does_not_start() {
    let folder = Folder::new("run-output");
    let file = folder.file("np.toml", "");
    for output in [
        File::open("/dev/null").expect("read only"),
        File::options().write(true).open("/dev/full").expect("/dev/full"),
    ] {
        let arguments = ["run", "--config", &file, "--duration", "1s", "--output", "jsonl"];
        let output = netprobe(&arguments)
            .stdout(output)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    }
}

#[test]
fn a_reader_that_goes_away_is_success() {
    let folder = Folder::new("pipe");
    // Far more than a pipe holds.
    let file = folder.file("events.jsonl", &EVENTS.repeat(2000));
    let mut child = netprobe(&["observe", "--input-file", &file, "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    reader.read_line(&mut first).expect("a line");
    drop(reader);
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert_eq!(first.trim_end(), EVENTS.lines().next().expect("a line"));
}

#[test]
fn events_pass_through_byte_for_byte() {
    let mut child = netprobe(&["observe", "--input-file", "-", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(EVENTS.as_bytes())
        .expect("room");
    assert_eq!(stdout(&child.wait_with_output().expect("an end")), EVENTS);
}

#[test]
fn flags_keep_their_order_so_that_not_negates_the_next() {
    let folder = Folder::new("not");
    let file = folder.file("events.jsonl", EVENTS);
    let numbers = |arguments: &[&str]| -> Vec<u64> {
        let output = run(&[&["observe", "--input-file", &file, "-o", "json"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        text.lines()
            .filter_map(|line| serde_json::from_str::<Event>(line).expect("an event").seq)
            .collect()
    };
    assert_eq!(numbers(&[]), [1, 2, 3, 4]);
    assert_eq!(numbers(&["--kind", "flow", "--not", "--comm", "curl"]), [2, 3]);
    assert_eq!(numbers(&["--not", "--kind", "flow"]), [4]);
    assert_eq!(
        numbers(&["--not", "--kind", "gap", "--not", "--comm", "curl"]),
        [2, 3]
    );
    assert_eq!(numbers(&["--comm", "curl", "--not", "--kind", "gap"]), [1]);
    assert_eq!(numbers(&["--last", "2"]), [3, 4]);
    assert_eq!(numbers(&["--until", "2026-11-21T10:00:05Z"]), [0; 0]);
    assert_eq!(numbers(&["--since", "2026-11-21T10:00:05Z"]), [1, 2, 3, 4]);
}

#[test]
fn lines_that_are_no_events_are_told_and_fail() {
    let folder = Folder::new("bad-lines");
    let file = folder.file(
        "events.jsonl",
        &format!("nonsense\n{EVENTS}{{\"schema\":\"x/9\"}}\n"),
    );
    let output = run(&["observe", "--input-file", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output).lines().count(), 4);
    assert!(
        stderr(&output).contains("line 1 is no event"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("2 lines of"), "{}", stderr(&output));
}

#[test]
fn names_from_outside_cannot_move_the_cursor() {
    let mut event = events().remove(0);
    event.service = Some("\u{1b}[2Jgone\nforged line".into());
    let folder = Folder::new("escape");
    let file = folder.file("events.jsonl", &serde_json::to_string(&event).expect("JSON"));
    for form in ["compact", "table", "json"] {
        let text = stdout(&run(&["observe", "--input-file", &file, "-o", form]));
        assert!(!text.contains('\u{1b}'), "{form}");
        assert_eq!(
            text.lines().count(),
            if form == "table" { 2 } else { 1 },
            "{form}"
        );
    }
}

#[test]
fn observe_asks_the_agent() {
    let mut agent = agent("observe", Vec::new());
    for event in events() {
        agent.fanout.emit(event);
    }
    let socket = agent.socket();
    let output = run(&["observe", "--socket", &socket, "--severity", "warning"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("reset_remote (partial,tfo)") && text.contains("3 lost at output: queue_full"));
    assert_eq!(
        stdout(&run(&["observe", "--socket", &socket, "--last", "1"]))
            .lines()
            .count(),
        1
    );
}

#[test]
fn observe_follows_without_a_hole_or_a_repeat() {
    let mut agent = agent("follow", Vec::new());
    let one = events().remove(0);
    agent.fanout.emit(one.clone());
    let mut child = netprobe(&["observe", "-f", "-o", "json", "--socket", &agent.socket()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut numbers = lines.map(|line| {
        serde_json::from_str::<Event>(&line.expect("a line"))
            .expect("an event")
            .seq
            .expect("a number")
    });
    assert_eq!(numbers.next(), Some(1));
    for _ in 0..3 {
        for _ in 0..30 {
            agent.fanout.emit(one.clone());
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let seen: Vec<_> = numbers.by_ref().take(90).collect();
    assert_eq!(seen, (2..=91).collect::<Vec<_>>());
    child.kill().expect("still there");
    child.wait().expect("an end");
}

#[test]
fn flows_are_a_table_even_when_there_are_none() {
    let none = agent("no-flows", Vec::new());
    let text = stdout(&run(&["flows", "--socket", &none.socket()]));
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("STATE "), "{text}");
    let mut live = events();
    live.truncate(3);
    let some = agent("flows", live);
    let text = stdout(&run(&[
        "flows",
        "--socket",
        &some.socket(),
        "--port",
        "80",
        "--not",
        "--pid",
        "777",
    ]));
    assert_eq!(text.lines().count(), 3, "{text}");
    let json = stdout(&run(&["flows", "--socket", &some.socket(), "-o", "json"]));
    assert_eq!(json.lines().count(), 3);
}

#[test]
fn helpers_print_what_they_should() {
    assert!(stdout(&run(&["completions", "bash"])).contains("_netprobe()"));
    assert!(stdout(&run(&["man"])).contains(".TH netprobe"));
    let folder = Folder::new("man");
    let path = folder.0.join("pages");
    assert!(run(&["man", &path.display().to_string()]).status.success());
    assert!(Path::new(&path.join("netprobe-observe.1")).exists());
    let shown = stdout(&run(&["config", "show", "--profile", "staging"]));
    assert!(shown.contains("level = \"debug\""), "{shown}");
    let defaults = stdout(&run(&["config", "show", "--defaults"]));
    assert_eq!(defaults, include_str!("../netprobe.default.toml"));
    let file = folder.file("np.toml", &shown);
    assert!(run(&["config", "check", "--config", &file]).status.success());
    let mut variable = netprobe(&["config", "show"]);
    let output = variable
        .env("NETPROBE_FLOW_UDP_IDLE", "7s")
        .output()
        .expect("the binary runs");
    assert!(stdout(&output).contains("udp_idle = \"7s\""));
}

#[test]
fn the_socket_is_taken_from_the_configuration() {
    let mut agent = agent("socket", Vec::new());
    agent.fanout.emit(events().remove(0));
    let text = format!("[api]\nsocket = {:?}\n", agent.socket());
    let file = agent.folder.file("np.toml", &text);
    assert_eq!(stdout(&run(&["observe", "--config", &file])).lines().count(), 1);
    let mut by_variable = netprobe(&["observe"]);
    let mut child = by_variable
        .env("NETPROBE_API_SOCKET", agent.socket())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut text = String::new();
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_string(&mut text)
        .expect("text");
    assert!(child.wait().expect("an end").success());
    assert_eq!(text.lines().count(), 1);
}
