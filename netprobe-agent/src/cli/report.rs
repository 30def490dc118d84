//! `netprobe sla`, `netprobe timeline`: reports out of the archive. They need no agent.

use std::{num::NonZero, thread::available_parallelism, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    archive::{Bar, Opened, Place, damaged, wait},
    filters::FilterArgs,
    period, print,
};
use crate::{
    error::AgentError,
    event::Nanos,
    history::{sla, timeline},
};

/// Segments decoded at a time at most: each takes some 50 MB meanwhile.
const MOST_AT_ONCE: usize = 8;

#[derive(Debug, Args)]
pub(super) struct SlaArgs {
    #[command(flatten)]
    place: Place,
    /// Cut the time into periods of this length, a multiple of 10s [default: one period]
    #[arg(long, value_name = "TIME", value_parser = period)]
    period: Option<Duration>,
    /// Tell what each host saw apart
    #[arg(long)]
    by_host: bool,
    /// Form of the report
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Form of a report.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Form {
    /// Tables for people
    #[default]
    Markdown,
    /// One JSON object
    Json,
}

pub(super) fn sla(args: &SlaArgs) -> Result<(), AgentError> {
    let opened = args.place.open()?;
    let (since, until) = span(&opened)?;
    let question = sla::Question::new(since, until, args.period, args.filters.filter()?, args.by_host)
        .map_err(AgentError::Usage)?
        .at_once(at_once());
    wait(async {
        let bar = Bar::new("segments");
        let report = sla::report(&opened.store, &question, |steps| bar.step(steps)).await;
        drop(bar);
        let report = report.map_err(|error| opened.unreadable(&error))?;
        match args.output {
            Form::Markdown => print(report.markdown().as_bytes())?,
            Form::Json => json(&report)?,
        }
        damaged(report.sources.damaged.len() as u64)
    })
}

#[derive(Debug, Args)]
pub(super) struct TimelineArgs {
    #[command(flatten)]
    place: Place,
    /// Form of the report
    #[arg(short, long, value_enum, default_value_t)]
    output: StoryForm,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Form of a story.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum StoryForm {
    /// Text and tables for people
    #[default]
    Markdown,
    /// One file with plots, which loads and runs nothing
    Html,
    /// One JSON object
    Json,
}

pub(super) fn timeline(args: &TimelineArgs) -> Result<(), AgentError> {
    let opened = args.place.open()?;
    let (since, until) = span(&opened)?;
    let question = timeline::Question::new(since, until, args.filters.filter()?)
        .map_err(AgentError::Usage)?
        .at_once(at_once());
    wait(async {
        let bar = Bar::new("segments");
        let report = timeline::report(&opened.store, &question, |steps| bar.step(steps)).await;
        drop(bar);
        let report = report.map_err(|error| opened.unreadable(&error))?;
        match args.output {
            StoryForm::Markdown => print(report.markdown().as_bytes())?,
            StoryForm::Html => print(report.html().as_bytes())?,
            StoryForm::Json => json(&report)?,
        }
        damaged(report.sources.damaged.len() as u64)
    })
}

/// Both ends: a report that depends on when it was made cannot be made again.
fn span(opened: &Opened) -> Result<(Nanos, Nanos), AgentError> {
    opened.span.since.zip(opened.span.until).ok_or_else(|| {
        AgentError::Usage("say from when to when: --since and --until are both needed".to_owned())
    })
}

pub(super) fn at_once() -> usize {
    available_parallelism().map_or(1, NonZero::get).min(MOST_AT_ONCE)
}

fn json(report: &impl serde::Serialize) -> Result<(), AgentError> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|error| AgentError::other(format!("the report has no JSON: {error}"), "report this"))?;
    text.push('\n');
    print(text.as_bytes())
}
