//! `netprobe archive ls`.

use std::io::{self, Write as _};

use clap::Args;

use super::{super::output::unwritable, Place, damaged};
use crate::{
    archive::{manifest::Manifest, read},
    error::AgentError,
    event::Nanos,
    filter::Filter,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct LsArgs {
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

pub(super) async fn ls(args: &LsArgs) -> Result<(), AgentError> {
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
