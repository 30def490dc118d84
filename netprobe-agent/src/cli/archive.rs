//! `netprobe archive`: the history, read from the archive itself. Needs no agent.

use std::{
    io::{self, Write as _},
    ops::ControlFlow,
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    config::ConfigArgs,
    filters::FilterArgs,
    observe::time,
    output::{Form, Printer, unwritable},
};
use crate::{
    archive::{
        manifest::Manifest,
        read::{self, Segment, SegmentError, Span},
        store::{Store, StoreError},
        verify::{self, Trust, Verdict},
    },
    config::Config,
    error::AgentError,
    event::Nanos,
    filter::Filter,
};

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// The segments, by time and host
    #[command(after_help = "\
Examples:
  netprobe archive ls --since 24h
  netprobe archive ls --service nginx.service -o json | jq -r .key")]
    Ls(LsArgs),
    /// The events of a time, with the filters of `observe`
    #[command(after_help = "\
Examples:
  netprobe archive query --since 2026-11-21T10:00:00Z --until 2026-11-21T11:00:00Z --service nginx.service
  netprobe archive query --since 24h --severity error -o json")]
    Query(QueryArgs),
    /// Whether the history is whole and unchanged
    #[command(after_help = "\
Examples:
  netprobe archive verify
  netprobe archive verify --public-key 3b6a… --expect-head 9f86…   with what was noted elsewhere")]
    Verify(VerifyArgs),
    /// Copy what another archive has into this one
    #[command(after_help = "\
Example:
  netprobe archive restore --from s3://backup/netprobe && netprobe archive verify")]
    Restore(RestoreArgs),
}

/// Which archive, and which time.
#[derive(Debug, Args)]
struct Place {
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

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    place: Place,
    /// Only segments with events of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Form of a segment; json is the manifest
    #[arg(short, long, value_enum, default_value = "table")]
    output: LsForm,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LsForm {
    /// Columns
    Table,
    /// The manifest, one JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    place: Place,
    /// Form of an event
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// A head hash noted elsewhere: the history must have it. May be repeated
    #[arg(long, value_name = "SHA256")]
    expect_head: Vec<String>,
    /// A public key that may sign; without, any may. May be repeated
    #[arg(long, value_name = "HEX")]
    public_key: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    place: Place,
    /// The archive to copy from; it is asked with the credentials and the endpoint of the configuration
    #[arg(long, value_name = "URL")]
    from: String,
}

pub(super) fn archive(command: &ArchiveCommand) -> Result<(), AgentError> {
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
    runtime.block_on(async {
        match command {
            ArchiveCommand::Ls(args) => ls(args).await,
            ArchiveCommand::Query(args) => query(args).await,
            ArchiveCommand::Verify(args) => verify(args).await,
            ArchiveCommand::Restore(args) => restore(args).await,
        }
    })
}

/// An archive that is opened, and its name for messages.
struct Opened {
    config: Config,
    store: Store,
    url: String,
    span: Span,
}

impl Place {
    fn open(&self) -> Result<Opened, AgentError> {
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
    fn unreadable(&self, error: &StoreError) -> AgentError {
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

async fn ls(args: &LsArgs) -> Result<(), AgentError> {
    let opened = args.place.open()?;
    let segments = opened.segments().await?;
    let filter = match &args.service {
        Some(service) => Filter::from_pairs([("service", service)])
            .map_err(|error| AgentError::Usage(error.to_string()))?,
        None => Filter::default(),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    if matches!(args.output, LsForm::Table) {
        writeln!(
            out,
            "{:<20}  {:<20}  {:<16}  {:<16}  {:>21}  {:>8}  {:>10}",
            "FROM", "TO", "HOST", "RUN", "SEQ", "EVENTS", "BYTES"
        )
        .map_err(unwritable)?;
    }
    let mut bad = 0;
    for segment in &segments {
        let manifest = match &segment.manifest {
            Ok(manifest) => &manifest.document,
            Err(error) => {
                bad += 1;
                eprintln!(
                    "netprobe: {} is no manifest: {error}",
                    segment.entry.manifest_key()
                );
                continue;
            }
        };
        if !read::may_hold(manifest, &opened.span, &filter) {
            continue;
        }
        row(&mut out, args.output, manifest).map_err(unwritable)?;
    }
    out.flush().map_err(unwritable)?;
    damaged(bad)
}

fn row(out: &mut impl io::Write, form: LsForm, manifest: &Manifest) -> io::Result<()> {
    if matches!(form, LsForm::Json) {
        serde_json::to_writer(&mut *out, manifest)?;
        return writeln!(out);
    }
    let content = &manifest.content;
    // Whole seconds: the rest is in the manifest.
    let second = |ts: Nanos| format!("{}Z", &ts.to_string()[..19]);
    writeln!(
        out,
        "{:<20}  {:<20}  {:<16}  {:<16}  {:>21}  {:>8}  {:>10}",
        second(content.ts_min),
        second(content.ts_max),
        content.host,
        content.run,
        format!("{}-{}", content.first_seq, content.last_seq),
        content.events,
        manifest.bytes
    )
}

async fn query(args: &QueryArgs) -> Result<(), AgentError> {
    let filter = args.filters.filter()?;
    let opened = args.place.open()?;
    let mut printer = Printer::events(io::stdout().lock(), args.output);
    let segments = opened.segments().await?;
    let bar = Bar::new("segments");
    let wanted: Vec<_> = segments
        .iter()
        .filter_map(|segment| match &segment.manifest {
            Ok(manifest) => {
                let manifest = &manifest.document;
                read::may_hold(manifest, &opened.span, &filter).then_some((segment, Some(manifest)))
            }
            Err(_) => Some((segment, None)),
        })
        .collect();
    let mut bad = 0;
    for (segment, manifest) in &wanted {
        bar.step(wanted.len() as u64);
        let read = match manifest {
            Some(manifest) => read::object(&opened.store, segment, &manifest.sha256).await,
            None => {
                bad += 1;
                bar.say(&format!("{} is no manifest", segment.entry.manifest_key()));
                continue;
            }
        };
        let printed = read.map_err(Failed::Segment).and_then(|object| {
            read::events(&object, |event| {
                if opened.span.holds(event.ts) && filter.matches(&event) {
                    printer.event(&event).map_err(Failed::Output)?;
                }
                Ok(ControlFlow::Continue(()))
            })
        });
        match printed {
            Ok(()) => {}
            Err(Failed::Output(error)) => return Err(error),
            Err(Failed::Segment(SegmentError::Missing)) if segment.entry.tombstone => {
                bar.say(&format!(
                    "{} was given up; its tombstone says why",
                    segment.entry.object_key()
                ));
            }
            Err(Failed::Segment(SegmentError::Store(error))) => return Err(opened.unreadable(&error)),
            Err(Failed::Segment(error)) => {
                bad += 1;
                bar.say(&format!("{}: {error}", segment.entry.object_key()));
            }
        }
    }
    drop(bar);
    printer.flush()?;
    damaged(bad)
}

/// Why a segment was not printed to its end.
enum Failed {
    Segment(SegmentError),
    Output(AgentError),
}

impl From<SegmentError> for Failed {
    fn from(error: SegmentError) -> Failed {
        Failed::Segment(error)
    }
}

fn damaged(bad: u64) -> Result<(), AgentError> {
    if bad == 0 {
        return Ok(());
    }
    Err(AgentError::other(
        format!("{bad} segments could not be read to their end"),
        "`netprobe archive verify` says what is wrong with them",
    ))
}

async fn verify(args: &VerifyArgs) -> Result<(), AgentError> {
    let opened = args.place.open()?;
    let trust = Trust {
        heads: args.expect_head.clone(),
        keys: args.public_key.clone(),
    };
    let bar = Bar::new("segments");
    let verdict = verify::verify(&opened.store, &opened.span, &trust, |steps| bar.step(steps))
        .await
        .map_err(|error| opened.unreadable(&error))?;
    drop(bar);
    report(&mut io::stdout().lock(), &verdict).map_err(unwritable)?;
    let Some(first) = verdict.findings.first() else {
        return Ok(());
    };
    let place = match first.seq {
        Some(seq) => format!("run {}, seq {seq}, {}", first.run, first.fault),
        None => first.fault.to_string(),
    };
    Err(AgentError::other(
        format!(
            "the archive does not verify: {} findings, the first: {place}: {}",
            verdict.findings.len(),
            first.detail
        ),
        "docs/runbook/archive.md says what each of them means",
    ))
}

fn report(out: &mut impl io::Write, verdict: &Verdict) -> io::Result<()> {
    for chain in &verdict.chains {
        writeln!(
            out,
            "chain {} host {} segments {}-{} events {} dropped {}",
            chain.id, chain.host, chain.first, chain.last, chain.events, chain.dropped
        )?;
        if let Some(start) = &chain.start {
            writeln!(out, "  begins because {start}")?;
        }
        for key in &chain.keys {
            writeln!(out, "  signed by {key}")?;
        }
        let tail = if chain.witnessed {
            "witnessed"
        } else {
            "tail not witnessed"
        };
        writeln!(out, "  head {} ({tail})", chain.head)?;
    }
    for finding in &verdict.findings {
        let seq = finding.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        writeln!(
            out,
            "{}: chain {} index {} run {} seq {seq}: {}",
            finding.fault, finding.chain_id, finding.index, finding.run, finding.detail
        )?;
    }
    if verdict.uncommitted > 0 {
        writeln!(
            out,
            "{} objects without a manifest: not committed, not verified",
            verdict.uncommitted
        )?;
    }
    let sum = if verdict.findings.is_empty() {
        "verified"
    } else {
        "NOT verified"
    };
    writeln!(
        out,
        "{sum}: {} chains, {} findings",
        verdict.chains.len(),
        verdict.findings.len()
    )?;
    out.flush()
}

async fn restore(args: &RestoreArgs) -> Result<(), AgentError> {
    // Made if need be: a lost archive is what this is for.
    let config = args.place.config.load()?.config;
    let url = args
        .place
        .url
        .clone()
        .unwrap_or_else(|| config.archive.url.clone());
    let to = Store::open_url(&config.archive, &url)?;
    let place = Place {
        config: args.place.config.clone(),
        url: Some(args.from.clone()),
        ..args.place
    };
    let from = place.open()?;
    let bar = Bar::new("segments");
    let restored = verify::restore(&from.store, &to, &from.span, |steps| bar.step(steps))
        .await
        .map_err(|error| from.unreadable(&error))?;
    drop(bar);
    for refused in &restored.refused {
        eprintln!("netprobe: not copied: {refused}");
    }
    let text = format!(
        "{} segments with {} events in {} bytes are in {url} as they are in {}\n",
        restored.segments, restored.events, restored.bytes, args.from
    );
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(unwritable)?;
    drop(from.config);
    damaged(restored.refused.len() as u64)
}

/// Progress on stderr, when somebody sees it.
struct Bar(ProgressBar);

impl Bar {
    fn new(what: &'static str) -> Bar {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what);
        Bar(bar)
    }

    fn step(&self, steps: u64) {
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
