//! `netprobe archive`: the history, read from the archive itself. Needs no agent.

mod ls;
mod query;
mod restore;
mod verify;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{config::ConfigArgs, observe::time};
use crate::{
    archive::{
        read::{self, Segment, Span},
        store::{Store, StoreError},
    },
    config::Config,
    error::AgentError,
    event::{Event, Nanos},
    filter::Filter,
};

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// The segments, by time and host
    #[command(after_help = "\
Examples:
  netprobe archive ls --since 24h
  netprobe archive ls --service nginx.service -o json | jq -r .key")]
    Ls(ls::LsArgs),
    /// The events of a time, with the filters of `observe`
    #[command(after_help = "\
Examples:
  netprobe archive query --since 2026-11-21T10:00:00Z --until 2026-11-21T11:00:00Z --service nginx.service
  netprobe archive query --since 24h --severity error -o json")]
    Query(query::QueryArgs),
    /// Whether the history is whole and unchanged
    #[command(after_help = "\
Examples:
  netprobe archive verify
  netprobe archive verify --public-key 3b6a… --expect-head 9f86…   with what was noted elsewhere")]
    Verify(verify::VerifyArgs),
    /// Copy what another archive has into this one
    #[command(after_help = "\
Example:
  netprobe archive restore --from s3://backup/netprobe && netprobe archive verify")]
    Restore(restore::RestoreArgs),
}

/// Which archive, and which time.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    config: ConfigArgs,
    /// The archive [default: archive.url of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Only from then on: 2026-11-21T10:00:00Z, or 24h for a day ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Nanos>,
    /// Only before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Nanos>,
}

pub(super) fn archive(command: &ArchiveCommand) -> Result<(), AgentError> {
    wait(async {
        match command {
            ArchiveCommand::Ls(args) => ls::ls(args).await,
            ArchiveCommand::Query(args) => query::query(args).await,
            ArchiveCommand::Verify(args) => verify::verify(args).await,
            ArchiveCommand::Restore(args) => restore::restore(args).await,
        }
    })
}

/// Gives every event of an archive that is in the span and that the filter wants.
pub(super) fn events(
    config: ConfigArgs,
    url: &str,
    span: Span,
    filter: &Filter,
    each: impl FnMut(Event) -> Result<(), AgentError>,
) -> Result<(), AgentError> {
    let place = Place::new(config, Some(url.to_owned()), span);
    wait(query::events(&place, filter, each))
}

pub(super) fn wait(work: impl Future<Output = Result<(), AgentError>>) -> Result<(), AgentError> {
    // Requests overlap, and decompression is quick: one thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            AgentError::other(
                format!("the archive cannot be asked: {error}"),
                "check the limits of open files",
            )
        })?;
    runtime.block_on(work)
}

/// An archive that is opened, and its name for messages.
pub(super) struct Opened {
    config: Config,
    pub(super) store: Store,
    url: String,
    pub(super) span: Span,
}

impl Place {
    pub(super) fn new(config: ConfigArgs, url: Option<String>, span: Span) -> Place {
        Place {
            config,
            url,
            since: span.since,
            until: span.until,
        }
    }

    pub(super) fn open(&self) -> Result<Opened, AgentError> {
        let config = self.config.load()?.config;
        let url = self.url.clone().unwrap_or_else(|| config.archive.url.clone());
        Ok(Opened {
            store: Store::open_existing(&config.archive, &url)?,
            config,
            url,
            span: Span {
                since: self.since,
                until: self.until,
            },
        })
    }
}

impl Opened {
    pub(super) fn unreadable(&self, error: &StoreError) -> AgentError {
        AgentError::other(
            format!("the archive {} cannot be read: {error}", self.url),
            "look at `archive.url`, `archive.endpoint` and the credentials, or name another with --url",
        )
    }

    async fn segments(&self) -> Result<Vec<Segment>, AgentError> {
        let unreadable = |error| self.unreadable(&error);
        let entries = read::entries(&self.store, &self.span).await.map_err(unreadable)?;
        let bar = Bar::new("manifests");
        let steps = entries.len() as u64;
        read::manifests(&self.store, entries, || bar.step(steps))
            .await
            .map_err(unreadable)
    }
}

pub(super) fn damaged(bad: u64) -> Result<(), AgentError> {
    if bad == 0 {
        return Ok(());
    }
    Err(AgentError::other(
        format!("{bad} segments could not be read to their end"),
        "`netprobe archive verify` says what is wrong with them",
    ))
}

/// Progress on stderr, when somebody sees it.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(what: &'static str) -> Bar {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what);
        Bar(bar)
    }

    pub(super) fn step(&self, steps: u64) {
        self.0.set_length(steps);
        self.0.inc(1);
    }

    fn say(&self, text: &str) {
        self.0.suspend(|| eprintln!("netprobe: {text}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
