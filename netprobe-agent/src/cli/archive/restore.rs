//! `netprobe archive restore`.

use std::io::{self, Write as _};

use clap::Args;

use super::{super::output::unwritable, Bar, Place, damaged};
use crate::{
    archive::{restore, store::Store},
    error::AgentError,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    #[command(flatten)]
    place: Place,
    /// The archive to copy from; it is asked with the credentials and the endpoint of the configuration
    #[arg(long, value_name = "URL")]
    from: String,
}

pub(super) async fn restore(args: &RestoreArgs) -> Result<(), AgentError> {
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
    let restored = restore::restore(&from.store, &to, &from.span, |steps| bar.step(steps))
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
