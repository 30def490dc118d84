//! `netprobe top`: live flows, ranked.
//!
//! One thread asks the agent, another one draws and takes keys: an agent that is slow to answer does not hold up the
//! keyboard. Rates are differences of two answers by the connection, so they need no state in the agent.

mod ranking;
mod screen;

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroU16,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use self::ranking::{Ranking, Sort};
use super::{AgentArgs, client::Client, filters::FilterArgs, output, period};
use crate::{api::FlowsAnswer, error::AgentError, event::Event};

/// Flows read at most: a table nobody scrolls through would only cost the agent.
const MOST: usize = 20_000;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Time between two looks, at least 200ms
    #[arg(short = 'd', long, default_value = "1s", value_parser = pace)]
    interval: Duration,
    /// What to rank by
    #[arg(short, long, value_enum, default_value_t)]
    sort: Sort,
    /// Print one table, of two looks one interval apart, and end; so does output that is no terminal
    #[arg(long)]
    once: bool,
    /// Rows of that table
    #[arg(short = 'n', long, value_name = "N", default_value = "20")]
    rows: NonZeroU16,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    filters: FilterArgs,
}

fn pace(text: &str) -> Result<Duration, String> {
    let pace = period(text)?;
    if pace < Duration::from_millis(200) {
        return Err("200ms is the least: every look reads the whole table".to_owned());
    }
    Ok(pace)
}

/// What one look saw.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// The filter asked with.
    filter: String,
    flows: Vec<Event>,
    /// Whether there are more than were read.
    more: bool,
}

pub(super) fn top(args: &TopArgs) -> Result<(), AgentError> {
    let filter = args.filters.filter()?.to_string();
    let client = args.agent.client()?;
    if args.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return once(args, &client, &filter);
    }
    // Whoever wants an agent that is not there is told so as by every other command.
    let first = look(&client, &filter)?;
    let (ask, asked) = channel();
    let (answer, answers) = sync_channel(1);
    let interval = args.interval;
    let begun = filter.clone();
    thread::spawn(move || follow(&client, begun, interval, &asked, &answer));
    screen::run(Ranking::new(args.sort), first, filter, &ask, &answers)
}

fn once(args: &TopArgs, client: &Client, filter: &str) -> Result<(), AgentError> {
    let mut ranking = Ranking::new(args.sort);
    ranking.take(look(client, filter)?);
    thread::sleep(args.interval);
    let seen = look(client, filter)?;
    let more = seen.more;
    ranking.take(seen);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in ranking.lines(usize::from(args.rows.get())) {
        writeln!(out, "{line}").map_err(output::unwritable)?;
    }
    out.flush().map_err(output::unwritable)?;
    if more {
        // Diagnostics do not belong to the records.
        let _ = writeln!(io::stderr(), "netprobe: {}", beyond());
    }
    Ok(())
}

/// Said when the table is longer than what is ranked.
fn beyond() -> String {
    format!("there are more than {MOST} flows; the ranking is of that many: narrow it with a filter")
}

/// Asks until the screen is gone: every interval, and at once with another filter.
fn follow(
    client: &Client,
    mut filter: String,
    interval: Duration,
    asked: &Receiver<String>,
    answer: &SyncSender<Result<Look, AgentError>>,
) {
    loop {
        match asked.recv_timeout(interval) {
            Ok(other) => filter = asked.try_iter().last().unwrap_or(other),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // A screen that has not taken the last look yet wants none now.
        if let Err(TrySendError::Disconnected(_)) = answer.try_send(look(client, &filter)) {
            return;
        }
    }
}

fn look(client: &Client, filter: &str) -> Result<Look, AgentError> {
    let mut flows = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut parameters = vec![("filter", filter), ("limit", "1000")];
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: FlowsAnswer = client.get("/api/v1/flows", &parameters)?;
        flows.extend(page.flows);
        cursor = page.next_cursor;
        if cursor.is_none() || flows.len() >= MOST {
            return Ok(Look {
                at: Instant::now(),
                filter: filter.to_owned(),
                flows,
                more: cursor.is_some(),
            });
        }
    }
}
