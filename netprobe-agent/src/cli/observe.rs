//! `netprobe observe`.

mod path;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;

use super::{
    AgentArgs, archive,
    client::Client,
    colour::When,
    filters::FilterArgs,
    output::{Form, Printer},
};
use crate::{
    api::EventsAnswer,
    archive::read::Span,
    config::{Period, Place},
    error::AgentError,
    event::{Event, Gap, GapScope, Nanos, Origin},
    filter::Filter,
};

/// Events shown when nothing says how many.
const LAST: usize = 10;
/// Time between two questions while following.
const POLL: Duration = Duration::from_millis(200);
/// Events asked for at once.
const PAGE: &str = "1000";
/// Lines that are no events told of one by one; the rest are counted.
const TOLD: u64 = 5;

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    /// Go on with new events as they come
    #[arg(short, long, conflicts_with = "input_file")]
    follow: bool,
    /// Only the last so many that match [default: 10, unless --since, --until or --input-file says which]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    last: Option<u16>,
    /// Only events from then on: 2026-11-21T10:00:00Z, or 5m for five minutes ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Nanos>,
    /// Only events before then
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "follow")]
    until: Option<Nanos>,
    /// Form of an event
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Whether lines are coloured by severity; JSON never is
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: When,
    /// Instead of asking the agent, read JSON Lines from a file (- is standard input), or an archive: file:///path or
    /// s3://bucket/prefix
    #[arg(long, value_name = "FILE|URL")]
    input_file: Option<PathBuf>,
    /// One connection on every host it passed, out of the archive: by the connection_id of any of its events [default archive:
    /// archive.url of the configuration]
    #[arg(long, value_name = "ID", conflicts_with_all = ["follow", "last"])]
    connection: Option<String>,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

/// A time, or how long ago.
pub(super) fn time(text: &str) -> Result<Nanos, String> {
    if let Ok(time) = Nanos::parse(text) {
        return Ok(time);
    }
    let ago = Period::parse(text)
        .map_err(|_| "write a time like 2026-11-21T10:00:00Z, or 5m for five minutes ago".to_owned())?;
    let ago = i64::try_from(ago.0.as_nanos()).unwrap_or(i64::MAX);
    Ok(Nanos(Nanos::now().0.saturating_sub(ago)))
}

pub(super) fn observe(args: &ObserveArgs) -> Result<(), AgentError> {
    if let Some(id) = &args.connection {
        return path::path(args, id);
    }
    let filter = args.filters.filter()?;
    let mut printer = Printer::events(io::stdout().lock(), args.output).coloured(args.color);
    let Some(path) = &args.input_file else {
        return from_agent(args, &filter, &mut printer);
    };
    let mut chosen = Chosen {
        printer: &mut printer,
        last: args.last.map(usize::from),
        held: VecDeque::new(),
    };
    let span = Span {
        since: args.since,
        until: args.until,
    };
    let url = path.to_str().filter(|text| Place::parse(text).is_ok());
    let read = match url {
        Some(url) => archive::events(args.agent.configuration(), url, span, &filter, |event| {
            chosen.take(event)
        }),
        None => from_file(path, |event| {
            if span.holds(event.ts) && filter.matches(&event) {
                return chosen.take(event);
            }
            Ok(())
        }),
    };
    // What was read is shown, whatever went wrong then.
    chosen.finish()?;
    read
}

/// Prints events, or the last of them.
struct Chosen<'a, W: io::Write> {
    printer: &'a mut Printer<W>,
    last: Option<usize>,
    held: VecDeque<Event>,
}

impl<W: io::Write> Chosen<'_, W> {
    fn take(&mut self, event: Event) -> Result<(), AgentError> {
        let Some(last) = self.last else {
            return self.printer.event(&event);
        };
        if self.held.len() == last {
            self.held.pop_front();
        }
        self.held.push_back(event);
        Ok(())
    }

    fn finish(self) -> Result<(), AgentError> {
        for event in &self.held {
            self.printer.event(event)?;
        }
        self.printer.flush()
    }
}

fn from_agent<W: io::Write>(
    args: &ObserveArgs,
    filter: &Filter,
    printer: &mut Printer<W>,
) -> Result<(), AgentError> {
    let client = args.agent.client()?;
    let filter = filter.to_string();
    let mut first = vec![("limit", PAGE.to_owned())];
    let bounded = args.since.is_some() || args.until.is_some();
    if let Some(last) = args.last.map(usize::from).or((!bounded).then_some(LAST)) {
        // The page has to hold all of them.
        first = vec![("limit", last.to_string()), ("last", last.to_string())];
    }
    let since = args.since.map(|since| ("since", since.to_string()));
    let until = args.until.map(|until| ("until", until.to_string()));
    let lasting: Vec<_> = [since, until].into_iter().flatten().collect();
    let mut answer = ask(&client, &filter, first.iter().chain(&lasting))?;
    loop {
        tell_holes(&answer, printer)?;
        for event in &answer.events {
            printer.event(event)?;
        }
        printer.flush()?;
        if !answer.more {
            if !args.follow {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        let next = [("cursor", answer.next_cursor), ("limit", PAGE.to_owned())];
        answer = ask(&client, &filter, next.iter().chain(&lasting))?;
    }
}

fn ask<'a>(
    client: &Client,
    filter: &'a str,
    others: impl Iterator<Item = &'a (&'a str, String)>,
) -> Result<EventsAnswer, AgentError> {
    let parameters: Vec<_> = [("filter", filter)]
        .into_iter()
        .chain(others.map(|(name, value)| (*name, value.as_str())))
        .collect();
    client.get("/api/v1/events", &parameters)
}

/// What this reader was too slow for, or what lies between two runs, is a record too.
fn tell_holes<W: io::Write>(answer: &EventsAnswer, printer: &mut Printer<W>) -> Result<(), AgentError> {
    let (reason, count) = match (answer.run_changed, answer.missed) {
        (true, _) => ("run_changed", None),
        (false, 0) => return Ok(()),
        (false, missed) => ("no_longer_held", Some(missed)),
    };
    let run = answer.next_cursor.split('-').next().unwrap_or_default();
    let origin = Origin::detect().map_or_else(
        |_| Origin::new("localhost", "", run),
        |here| Origin::new(&here.host, &here.boot_id, run),
    );
    let gap = Gap {
        stage: "observe".into(),
        reason: reason.into(),
        count,
        from_seq: None,
        to_seq: None,
        scope: GapScope::Client,
    };
    let mut event = Event::gap(&origin, gap);
    event.ts = Nanos::now();
    printer.event(&event)
}

fn from_file(path: &Path, mut each: impl FnMut(Event) -> Result<(), AgentError>) -> Result<(), AgentError> {
    let unreadable = |error: io::Error| {
        AgentError::other(
            format!("cannot read {}: {error}", path.display()),
            "name a file of JSON Lines as `netprobe run --output jsonl` writes them",
        )
    };
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
    };
    let mut bad = 0_u64;
    for (number, line) in (1_u64..).zip(reader.split(b'\n')) {
        let line = line.map_err(unreadable)?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event: Event = match serde_json::from_slice(&line) {
            Ok(event) => event,
            Err(error) => {
                bad += 1;
                if bad <= TOLD {
                    eprintln!("netprobe: {}, line {number} is no event: {error}", path.display());
                }
                continue;
            }
        };
        each(event)?;
    }
    if bad == 0 {
        return Ok(());
    }
    let what = format!(
        "{bad} lines of {} are no events and were left out",
        path.display()
    );
    Err(AgentError::other(
        what,
        "the file may have been cut off, or be of another schema",
    ))
}
