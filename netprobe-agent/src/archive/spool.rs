//! The spool: events on disk until the archive has them.
//!
//! One flat folder, one owner (`lock`, held by the kernel for the process).
//!
//! | file | is |
//! |---|---|
//! | `RUN.run` | mark of a run that has not ended in order |
//! | `RUN-FIRSTSEQ.open` | a segment being written, or waiting to be sealed: [frames](super::frame) |
//! | `NUMBER.jsonl.zst` | a sealed segment: the very bytes of the object |
//! | `NUMBER.manifest.json` | its manifest, signed; the commit of the seal |
//! | `NUMBER.done.json` | the same manifest once the archive has both. The newest stays: it is the head of the chain. One beside its object is kept for a [follower](super::follow) |
//! | `NAME.cursor` | how far a follower has come |
//! | `signing.key` | the key, unless `archive.signing_key` names another |
//! | `….tmp` | unfinished; removed at start |
//! | `….quarantined` | what could not be read; never touched again |
//!
//! Invariants, each with its reason; the model test in `spool/model_tests.rs` takes the power away between any two
//! steps and holds them against what was acknowledged:
//!
//! 1. `durable_seq` moves only after the frames are synced and, for a new file, the folder.
//! 2. After a failed write or sync a file is never written again. What it had when it was last synced counts; what
//!    came since is written anew, to another file. So a number may stand in two open segments: a segment ends before
//!    the first number of the next one of its run.
//! 3. Segments of a run are sealed in the order of their numbers.
//! 4. A seal is: object written and synced, folder synced; manifest written aside and synced, renamed, folder synced;
//!    then the open segment goes, folder synced. Only then may the object be uploaded. A manifest without an open segment is
//!    complete; with one, the open segment is a leftover. A seal that failed is begun anew: first its manifest goes, if
//!    there is one, folder synced.
//! 5. An object is removed only after the archive has confirmed both it and its manifest, and the rename to
//!    `.done.json` is synced; with a follower, also not before that is past it or has given it up. Uploading again what was uploaded is harmless: same name, same bytes.
//! 6. The manifest with the highest number is the head of the chain, and is never removed.

mod names;
mod recover;
mod seal;
mod write;

use std::{io, sync::Arc};

pub use names::Name;
pub use recover::{Recovered, recover};
pub use seal::{Head, Seal, Sealer};
pub use write::{Committed, Limits, Writer};

use super::{
    disk::Disk,
    manifest::{Content, Manifest},
};
use crate::event::Nanos;

/// An open segment nobody writes to any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Rolled {
    /// Name of its file.
    pub name: String,
    /// Bytes of it that count.
    pub len: u64,
    /// What is in it; `None` when it is of an earlier run.
    pub content: Option<Content>,
    /// `ts` of its first event, when that is known.
    pub since: Option<Nanos>,
}

/// A sealed segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// Number in the spool, and place in the chain.
    pub number: u64,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it stands in the file.
    pub manifest_bytes: Arc<[u8]>,
}

/// Says that the archive has a segment, so that its object can go, unless it is kept for a follower.
pub fn confirm(disk: &dyn Disk, number: u64, keep: bool) -> io::Result<()> {
    disk.rename(&Name::Manifest(number).text(), &Name::Done(number).text())?;
    disk.sync_folder()?;
    if keep { Ok(()) } else { forget(disk, number) }
}

/// Removes the object of a segment that the archive has, and manifests nobody needs any more.
pub fn forget(disk: &dyn Disk, number: u64) -> io::Result<()> {
    remove_if_there(disk, &Name::Object(number).text())?;
    let names: Vec<_> = disk
        .list()?
        .iter()
        .filter_map(|(name, _)| Name::parse(name))
        .collect();
    let done = names.iter().filter_map(|name| match name {
        Name::Done(number) => Some(*number),
        _ => None,
    });
    let newest = done.clone().max();
    for number in done {
        // Heads of the past: a newer one is synced. What is kept needs its own.
        if Some(number) != newest && !names.contains(&Name::Object(number)) {
            remove_if_there(disk, &Name::Done(number).text())?;
        }
    }
    Ok(())
}

/// Moves a file out of the way for good.
pub fn quarantine(disk: &dyn Disk, name: &str) -> io::Result<()> {
    disk.rename(name, &format!("{name}{}", names::QUARANTINED))
}

/// Says that a run has begun and not ended.
pub fn begin_run(disk: &dyn Disk, run: &str) -> io::Result<()> {
    disk.create(&Name::Run(run.into()).text())?.sync()?;
    disk.sync_folder()
}

/// Says that a run has ended in order: everything it had is in the spool or further.
pub fn end_run(disk: &dyn Disk, run: &str) -> io::Result<()> {
    remove_if_there(disk, &Name::Run(run.into()).text())?;
    disk.sync_folder()
}

fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod tests;
