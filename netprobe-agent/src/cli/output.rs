//! Records as people or programs read them.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
    net::{IpAddr, SocketAddr},
};

use clap::ValueEnum;

use super::colour::{When, coloured, of};
use crate::{
    error::AgentError,
    event::{Event, Flow, NatStatus},
};

/// Form of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// One line an event
    #[default]
    Compact,
    /// Columns
    Table,
    /// The event itself, one JSON object a line
    Json,
}

pub(super) fn unwritable(error: io::Error) -> AgentError {
    AgentError::UnwritableOutput {
        output: "standard output".to_owned(),
        error,
    }
}

/// Columns of a table: heading and least width. The last one is not padded.
type Columns = &'static [(&'static str, usize)];

const EVENT_COLUMNS: Columns = &[
    ("TIME", 24),
    ("SEVERITY", 8),
    ("KIND", 7),
    ("STATE", 7),
    ("SERVICE", 16),
    ("OURS", 22),
    ("PEER", 22),
    ("NAT", 11),
    ("SENT", 9),
    ("RECEIVED", 9),
    ("DETAIL", 0),
];

const FLOW_COLUMNS: Columns = &[
    ("STATE", 7),
    ("PROTO", 5),
    ("ROLE", 9),
    ("SERVICE", 16),
    ("PID", 7),
    ("LOCAL", 22),
    ("PEER", 22),
    ("NAT", 11),
    ("SENT", 9),
    ("RECEIVED", 9),
    ("RTT", 9),
    ("AGE", 0),
];

/// Writes events to stdout.
pub(super) struct Printer<W: Write> {
    out: BufWriter<W>,
    form: Form,
    columns: Columns,
    headed: bool,
    coloured: bool,
    line: Vec<u8>,
}

impl<W: Write> Printer<W> {
    pub(super) fn events(out: W, form: Form) -> Printer<W> {
        Printer {
            out: BufWriter::new(out),
            form,
            columns: EVENT_COLUMNS,
            headed: false,
            coloured: false,
            line: Vec::new(),
        }
    }

    /// The same, with lines coloured by severity. JSON never is.
    pub(super) fn coloured(self, when: When) -> Printer<W> {
        let coloured = match when {
            When::Auto => coloured(),
            When::Always => true,
            When::Never => false,
        };
        Printer { coloured, ..self }
    }

    pub(super) fn flows(out: W, form: Form) -> Printer<W> {
        Printer {
            columns: FLOW_COLUMNS,
            ..Printer::events(out, form)
        }
    }

    pub(super) fn event(&mut self, event: &Event) -> Result<(), AgentError> {
        self.line.clear();
        match self.form {
            Form::Json => event
                .write_line(&mut self.line)
                .map_err(|error| unwritable(error.into()))?,
            Form::Compact => {
                self.begin(event);
                self.line.extend_from_slice(compact(event).as_bytes());
                self.end(event);
            }
            Form::Table => {
                self.head();
                self.begin(event);
                let is_flows = self.columns.len() == FLOW_COLUMNS.len();
                let cells = if is_flows {
                    flow_cells(event)
                } else {
                    event_cells(event)
                };
                self.row(&cells);
                self.end(event);
            }
        }
        self.out.write_all(&self.line).map_err(unwritable)
    }

    fn begin(&mut self, event: &Event) {
        let colour = of(event.severity).filter(|_| self.coloured);
        self.line.extend_from_slice(colour.unwrap_or_default().as_bytes());
    }

    fn end(&mut self, event: &Event) {
        if self.coloured && of(event.severity).is_some() {
            self.line.extend_from_slice(b"\x1b[0m");
        }
        self.line.push(b'\n');
    }

    /// Lets what was printed be seen. A table without rows still has its head.
    pub(super) fn flush(&mut self) -> Result<(), AgentError> {
        self.line.clear();
        if self.form == Form::Table {
            self.head();
        }
        self.out
            .write_all(&self.line)
            .and_then(|()| self.out.flush())
            .map_err(unwritable)
    }

    fn head(&mut self) {
        if !self.headed {
            self.headed = true;
            let heads: Vec<_> = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
            self.row(&heads);
            self.line.push(b'\n');
        }
    }

    fn row(&mut self, cells: &[String]) {
        let mut row = String::new();
        for (cell, (_, width)) in cells.iter().zip(self.columns) {
            // Writing to a string does not fail.
            let _ = write!(row, "{cell:<width$} ");
        }
        self.line.extend_from_slice(row.trim_end().as_bytes());
    }
}

fn event_cells(event: &Event) -> Vec<String> {
    vec![
        time(event),
        event.severity.name().to_owned(),
        event.kind.name().to_owned(),
        event
            .flow
            .as_ref()
            .map_or("-", |flow| flow.state.name())
            .to_owned(),
        text(event.service.as_deref()),
        end(event.internal_ip, event.internal_port),
        end(event.peer_ip, event.peer_port),
        nat(event),
        bytes(event.bytes_sent),
        bytes(event.bytes_received),
        detail(event),
    ]
}

fn flow_cells(event: &Event) -> Vec<String> {
    let process = event.process.as_ref();
    vec![
        event
            .flow
            .as_ref()
            .map_or("-", |flow| flow.state.name())
            .to_owned(),
        event.protocol.map_or("-", |protocol| protocol.name()).to_owned(),
        event.role.map_or("-", |role| role.name()).to_owned(),
        text(event.service.as_deref()),
        process.map_or_else(dash, |process| process.pid.to_string()),
        end(event.internal_ip, event.internal_port),
        end(event.peer_ip, event.peer_port),
        nat(event),
        bytes(event.bytes_sent),
        bytes(event.bytes_received),
        event
            .flow
            .as_ref()
            .and_then(|flow| flow.rtt_ms)
            .map_or_else(dash, |ms| format!("{ms:.3}ms")),
        event
            .elapsed_ms
            .map_or_else(dash, |ms| format!("{:.1}s", ms / 1e3)),
    ]
}

/// `10:00:00.123Z WARNING flow closed client curl[777] 10.0.0.2:40000 → 10.0.0.100:80 …`
fn compact(event: &Event) -> String {
    let mut line = format!(
        "{} {:<8} {}",
        time(event),
        event.severity.name(),
        event.kind.name()
    );
    let mut add = |text: &str| {
        line.push(' ');
        line.push_str(text);
    };
    if let Some(flow) = &event.flow {
        add(flow.state.name());
    }
    if let Some(protocol) = event.protocol {
        add(protocol.name());
    }
    if let Some(role) = event.role {
        add(role.name());
    }
    match (&event.service, &event.process) {
        (service, Some(process)) => {
            let name = service.as_deref().or(process.comm.as_deref());
            add(&format!("{}[{}]", text(name), process.pid));
        }
        (Some(service), None) => add(&text(Some(service))),
        (None, None) => {}
    }
    if event.internal_ip.is_some() || event.peer_ip.is_some() {
        let ours = translated(
            (event.internal_ip, event.internal_port),
            (event.external_ip, event.external_port),
        );
        let peer = translated(
            (event.peer_ip, event.peer_port),
            (event.actual_peer_ip, event.actual_peer_port),
        );
        let arrow = if event.role == Some(crate::event::FlowRole::Server) {
            "←"
        } else {
            "→"
        };
        add(&format!("{ours} {arrow} {peer}"));
    }
    if event
        .nat
        .as_ref()
        .is_some_and(|nat| nat.status != NatStatus::None)
    {
        add(&nat(event));
    }
    if event.bytes_sent.is_some() || event.bytes_received.is_some() {
        add(&format!(
            "sent {} received {}",
            bytes(event.bytes_sent),
            bytes(event.bytes_received)
        ));
    }
    let detail = detail(event);
    if !detail.is_empty() {
        add(&detail);
    }
    line
}

/// What is particular to the kind.
pub(super) fn detail(event: &Event) -> String {
    let mut words = Vec::new();
    if let Some(flow) = &event.flow {
        flow_detail(flow, &mut words);
    }
    if let Some(request) = &event.request {
        words.extend(
            [&request.method, &request.route]
                .into_iter()
                .flatten()
                .map(|word| text(Some(word))),
        );
        words.extend(request.status_code.map(|status| status.to_string()));
    }
    if let Some(gap) = &event.gap {
        let count = gap
            .count
            .map_or_else(|| "an unknown number".to_owned(), |count| count.to_string());
        words.push(format!(
            "{count} lost at {}: {}",
            text(Some(&gap.stage)),
            text(Some(&gap.reason))
        ));
    }
    if let Some(agent) = &event.agent {
        words.push(format!("{} {}", agent.action.name(), text(Some(&agent.version))));
        words.extend(agent.message.as_deref().map(|message| text(Some(message))));
    }
    let flags: Vec<_> = event.flags.names().collect();
    if !flags.is_empty() {
        words.push(format!("({})", flags.join(",")));
    }
    words.join(" ")
}

fn flow_detail(flow: &Flow, words: &mut Vec<String>) {
    words.extend(flow.connect_ms.map(|ms| format!("connect {ms:.3}ms")));
    words.extend(flow.rtt_ms.map(|ms| format!("rtt {ms:.3}ms")));
    words.extend(
        flow.retransmits
            .filter(|count| *count > 0)
            .map(|count| format!("{count} retransmits")),
    );
    words.extend(flow.close_reason.map(|reason| reason.name().to_owned()));
    words.extend(flow.error.as_deref().map(|error| text(Some(error))));
}

fn translated(before: (Option<IpAddr>, Option<u16>), after: (Option<IpAddr>, Option<u16>)) -> String {
    if after.0.is_none() || before == after {
        end(before.0, before.1)
    } else {
        format!("{} (as {})", end(before.0, before.1), end(after.0, after.1))
    }
}

pub(super) fn end(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("?:{port}"),
        (None, None) => dash(),
    }
}

pub(super) fn nat(event: &Event) -> String {
    event.nat.as_ref().map_or("-", |nat| nat.status.name()).to_owned()
}

fn time(event: &Event) -> String {
    // Milliseconds are enough to read by; -o json has all nine digits.
    let text = event.ts.to_string();
    text.get(..23).map_or(text.clone(), |short| format!("{short}Z"))
}

pub(super) fn bytes(count: Option<u64>) -> String {
    let Some(count) = count else { return dash() };
    let mut amount = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            return if unit == "B" {
                format!("{count}B")
            } else {
                format!("{amount:.1}{unit}")
            };
        }
        amount /= 1024.0;
    }
    format!("{amount:.1}PiB")
}

pub(super) fn dash() -> String {
    "-".to_owned()
}

/// Text from outside: a command may name itself with an escape sequence, which must not reach a terminal.
pub(super) fn text(text: Option<&str>) -> String {
    let Some(text) = text else { return dash() };
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
