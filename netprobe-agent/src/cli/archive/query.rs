//! `netprobe archive query`.

use std::{io, ops::ControlFlow};

use clap::Args;

use super::{
    super::{
        filters::FilterArgs,
        output::{Form, Printer},
    },
    Bar, Place, damaged,
};
use crate::{
    archive::read::{self, SegmentError},
    error::AgentError,
    event::Event,
    filter::Filter,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct QueryArgs {
    #[command(flatten)]
    place: Place,
    /// Form of an event
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    filters: FilterArgs,
}

pub(super) async fn query(args: &QueryArgs) -> Result<(), AgentError> {
    let mut printer = Printer::events(io::stdout().lock(), args.output);
    let filter = args.filters.filter()?;
    let read = events(&args.place, &filter, |event| printer.event(&event)).await;
    printer.flush()?;
    read
}

/// Gives every event of a place that the filter wants. What cannot be read is said, counted, and an error in the end.
pub(super) async fn events(
    place: &Place,
    filter: &Filter,
    mut each: impl FnMut(Event) -> Result<(), AgentError>,
) -> Result<(), AgentError> {
    let opened = place.open()?;
    let segments = opened.segments().await?;
    let bar = Bar::new("segments");
    let wanted: Vec<_> = segments
        .iter()
        .filter_map(|segment| match &segment.manifest {
            Ok(manifest) => {
                let manifest = &manifest.document;
                read::may_hold(manifest, &opened.span, filter).then_some((segment, Some(manifest)))
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
                    each(event).map_err(Failed::Output)?;
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
