//! `netprobe observe --connection`: one connection on every host it passed.

use std::{fmt::Write as _, io, net::SocketAddr};

use super::{
    super::{
        archive::{Bar, Place, damaged, wait},
        output::{Form, Printer, bytes, detail, nat, text},
        print,
        report::at_once,
    },
    ObserveArgs,
};
use crate::{
    archive::read::Span,
    config,
    error::AgentError,
    event::{Event, FlowRole, NatStatus},
    history::{
        path::{self, Leg, Pair, Path, Wire},
        sources::HostSource,
    },
};

pub(super) fn path(args: &ObserveArgs, id: &str) -> Result<(), AgentError> {
    if !args.filters.is_empty() {
        return Err(AgentError::Usage(
            "--connection is one connection: leave the filters out".to_owned(),
        ));
    }
    let url = match &args.input_file {
        None => None,
        Some(file) => match file.to_str().filter(|text| config::Place::parse(text).is_ok()) {
            Some(url) => Some(url.to_owned()),
            None => {
                return Err(AgentError::Usage(format!(
                    "{} is no archive: with --connection name one, like file:///var/lib/netprobe/archive",
                    file.display()
                )));
            }
        },
    };
    let span = Span {
        since: args.since,
        until: args.until,
    };
    let opened = Place::new(args.agent.configuration(), url, span).open()?;
    let question = path::Question {
        connection: id.to_owned(),
        span,
        at_once: at_once(),
    };
    wait(async {
        let bar = Bar::new("segments");
        let path = path::path(&opened.store, &question, |steps| bar.step(steps)).await;
        drop(bar);
        let path = path.map_err(|error| opened.unreadable(&error))?.ok_or_else(|| {
            AgentError::other(
                format!("the archive has nothing of the connection {id}"),
                "look with an earlier --since, and wait for `archive.seal_after`: what is not sealed is not there yet",
            )
        })?;
        if args.output == Form::Compact {
            print(story(&path).as_bytes())?;
        } else {
            let mut printer = Printer::events(io::stdout().lock(), args.output).coloured(args.color);
            for leg in &path.legs {
                [&leg.flow]
                    .into_iter()
                    .chain(&leg.requests)
                    .try_for_each(|event| printer.event(event))?;
            }
            printer.flush()?;
            unknown(&path)
                .iter()
                .for_each(|what| eprintln!("netprobe: {what}"));
        }
        damaged(path.sources.damaged.len() as u64)
    })
}

/// The way as text: a paragraph a host, and between two of them what was on the wire.
fn story(path: &Path) -> String {
    let mut out = String::new();
    let mut last: Option<Wire> = None;
    for leg in &path.legs {
        let wire = Wire::of(&leg.flow);
        if let Some(last) = last {
            let shown = last.server.map_or_else(|| "?".to_owned(), wire_text);
            // Writing to a string does not fail.
            let _ = writeln!(out, "    │\n    │ {shown}\n    ▼");
        }
        last = wire;
        host(&mut out, leg);
    }
    out.push('\n');
    for what in unknown(path) {
        let _ = writeln!(out, "not known: {what}");
    }
    out
}

fn host(out: &mut String, leg: &Leg) {
    let flow = &leg.flow;
    let role = flow.role.map_or("?", FlowRole::name);
    let _ = write!(out, "{role} {}", text(Some(&flow.host)));
    if let Some(service) = flow.service.as_deref() {
        let _ = write!(out, "  {}", text(Some(service)));
        if let Some(process) = &flow.process {
            let _ = write!(out, "[{}]", process.pid);
        }
    }
    let _ = writeln!(out, "  {}", flow.connection_id.as_deref().unwrap_or_default());
    let began = flow
        .started_at
        .map_or_else(|| "older than its agent".to_owned(), |at| at.to_string());
    let _ = write!(out, "    {began}");
    if let Some(ms) = flow.elapsed_ms {
        let _ = write!(out, "  {ms:.3}ms");
    }
    let state = flow.flow.as_ref().map_or("?", |flow| flow.state.name());
    let _ = writeln!(
        out,
        "  {state}  sent {} received {}  {}",
        bytes(flow.bytes_sent),
        bytes(flow.bytes_received),
        detail(flow)
    );
    if flow.nat.as_ref().is_some_and(|nat| nat.status != NatStatus::None) {
        let wire = Wire::of(flow);
        let side = |pair: Option<Pair>| pair.map_or_else(|| "?".to_owned(), wire_text);
        let _ = writeln!(
            out,
            "    {}: {}  becomes  {}",
            nat(flow),
            side(wire.and_then(|wire| wire.client)),
            side(wire.and_then(|wire| wire.server))
        );
    }
    for request in &leg.requests {
        let _ = writeln!(out, "    {}", request_text(request));
    }
}

fn request_text(event: &Event) -> String {
    let ms = |ms: Option<f64>| ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.3}ms"));
    let ttfb = event.request.as_ref().and_then(|request| request.ttfb_ms);
    format!(
        "{}  first byte {}  whole {}",
        detail(event),
        ms(ttfb),
        ms(event.elapsed_ms)
    )
}

fn wire_text((_, from, to): Pair) -> String {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    format!("{} → {}", plain(from), plain(to))
}

/// What the archive does not tell of this connection, a sentence each.
fn unknown(path: &Path) -> Vec<String> {
    let mut said = Vec::new();
    for (role, whose) in [(FlowRole::Client, "client"), (FlowRole::Server, "server")] {
        if !path.legs.iter().any(|leg| leg.flow.role == Some(role)) {
            said.push(format!(
                "the {whose}'s side: no host of this archive tells of it (no agent there, or translated where none is)"
            ));
        }
    }
    for pair in path.legs.windows(2) {
        let (a, b) = (Wire::of(&pair[0].flow), Wire::of(&pair[1].flow));
        let joined = a.zip(b).is_some_and(|(a, b)| a.server == b.client || a == b);
        if !joined {
            said.push(format!(
                "how it came from {} to {}",
                text(Some(&pair[0].flow.host)),
                text(Some(&pair[1].flow.host))
            ));
        }
    }
    if path.alike {
        said.push(
            "whether it is this one: another connection had the same addresses within a minute, and the nearest was taken"
                .to_owned(),
        );
    }
    // A host that tells of it has lost nothing of it.
    let silent = |host: &&HostSource| !path.legs.iter().any(|leg| leg.flow.host == host.host);
    let hosts = path.sources.hosts.iter().filter(silent);
    for (host, loss) in hosts.flat_map(|host| host.losses.iter().map(move |loss| (host, loss))) {
        if loss.hides_connections() {
            said.push(format!(
                "what {} lost from {} to {} ({} {})",
                text(Some(&host.host)),
                loss.from,
                loss.to,
                text(Some(&loss.stage)),
                text(Some(&loss.reason))
            ));
        }
    }
    said.extend(
        path.sources
            .damaged
            .iter()
            .map(|what| format!("what is in a damaged segment: {}", text(Some(what)))),
    );
    said
}
