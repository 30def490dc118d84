//! Taking over what an earlier run left. It never refuses: what cannot be read goes to quarantine, and is told.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{Head, Name, Rolled, Sealed, names::QUARANTINED, quarantine, remove_if_there};
use crate::{
    archive::{
        cipher::SpoolKey,
        disk::{self, Disk},
        frame::{Frames, Next},
        manifest::Manifest,
        signing,
    },
    event::{Gap, GapScope},
};

/// What an earlier run left.
#[derive(Debug, PartialEq)]
pub struct Recovered {
    /// Where the chain ends.
    pub head: Head,
    /// Sealed and not confirmed, oldest first.
    pub sealed: Vec<Sealed>,
    /// Confirmed, and the object is still there, oldest first: a follower may want it.
    pub kept: Vec<Sealed>,
    /// Not sealed, in order.
    pub rolled: Vec<Rolled>,
    /// What was lost, to be told.
    pub gaps: Vec<Gap>,
    /// Files moved to quarantine.
    pub quarantined: u64,
}

/// Reads the spool and sets right what a crash left. Fails only when the folder itself cannot be used.
pub fn recover(disk: &dyn Disk, key: Option<&SpoolKey>) -> io::Result<Recovered> {
    let mut names = Vec::new();
    for (name, _) in disk.list()? {
        match Name::parse(&name) {
            Some(Name::Draft) => disk.remove(&name)?,
            Some(Name::Key | Name::Quarantined | Name::Cursor) => {}
            Some(known) => names.push(known),
            None => tracing::warn!(
                file = name,
                "a file in the spool is not the spool's and is left alone"
            ),
        }
    }
    let mut recovery = Recovery {
        disk,
        key,
        gaps: Vec::new(),
        quarantined: 0,
    };
    let chain = recovery.chain(&names)?;
    let rolled = recovery.open_segments(&names, &chain)?;
    for name in &names {
        if let Name::Run(run) = name {
            recovery.gap("agent", "unclean_stop", None);
            tracing::warn!(%run, "an earlier run did not end in order");
            disk.remove(&name.text())?;
        }
    }
    disk.sync_folder()?;
    Ok(Recovered {
        head: chain.head,
        sealed: chain.sealed,
        kept: chain.kept,
        rolled,
        gaps: recovery.gaps,
        quarantined: recovery.quarantined,
    })
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    key: Option<&'a SpoolKey>,
    gaps: Vec<Gap>,
    quarantined: u64,
}

struct Chain {
    head: Head,
    sealed: Vec<Sealed>,
    kept: Vec<Sealed>,
    /// Run and first number of what is sealed.
    begins: Vec<(Arc<str>, u64)>,
}

impl Recovery<'_> {
    fn gap(&mut self, stage: &'static str, reason: &'static str, count: Option<u64>) {
        self.gaps.push(Gap {
            stage: stage.into(),
            reason: reason.into(),
            count,
            // Numbers are of a run; these were of another one.
            from_seq: None,
            to_seq: None,
            scope: GapScope::Agent,
        });
    }

    fn quarantine(&mut self, name: &Name, why: &str) -> io::Result<()> {
        let name = name.text();
        tracing::error!(
            file = name,
            why,
            "a file of the spool cannot be used and goes to quarantine"
        );
        self.quarantined += 1;
        quarantine(self.disk, &name)
    }

    /// Reads manifests and finds the end of the chain.
    fn chain(&mut self, names: &[Name]) -> io::Result<Chain> {
        let (mut manifests, mut objects) = (BTreeMap::new(), Vec::new());
        for name in names {
            match name {
                // Confirmed is the later word when a crash left both.
                Name::Manifest(number) if names.contains(&Name::Done(*number)) => {
                    remove_if_there(self.disk, &name.text())?;
                }
                Name::Manifest(number) | Name::Done(number) => {
                    manifests.insert(*number, name.clone());
                }
                Name::Object(number) => objects.push(*number),
                _ => {}
            }
        }
        let newest = manifests.last_key_value().map(|(number, _)| *number);
        let (mut sealed, mut kept, mut begins, mut head) = (Vec::new(), Vec::new(), Vec::new(), None);
        let mut unreadable = Vec::new();
        for (number, name) in &manifests {
            let read = disk::read_whole(self.disk, &name.text()).and_then(|bytes| {
                let opened = signing::open::<Manifest>(&bytes)?;
                let fits = opened.authentic && opened.document.index == *number;
                fits.then_some((opened.document, bytes))
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its signature is wrong"))
            });
            let (manifest, bytes) = match read {
                Ok(read) => read,
                Err(error) => {
                    self.quarantine(name, &error.to_string())?;
                    if matches!(name, Name::Manifest(_)) {
                        self.gap("spool", "manifest_unreadable", None);
                    }
                    unreadable.push(*number);
                    continue;
                }
            };
            begins.push((manifest.content.run.clone(), manifest.content.first_seq));
            head = Some(Head {
                chain_id: manifest.chain_id.clone(),
                next: number + 1,
                hash: Some(signing::sha256(&bytes)),
                start: None,
            });
            let segment = Sealed {
                number: *number,
                manifest,
                manifest_bytes: bytes.into(),
            };
            if matches!(name, Name::Manifest(_)) {
                sealed.push(segment);
            } else if objects.contains(number) {
                kept.push(segment);
            }
        }
        let head = match (head, newest) {
            (Some(head), Some(newest)) if head.next == newest + 1 => head,
            // To go on from an older one would fork the chain.
            (_, Some(newest)) => new_chain(
                newest + 1,
                &format!("manifest {newest}, the head of the chain before, cannot be read"),
            )?,
            (_, None) => new_chain(0, "the spool had no chain: a first start, or the spool was lost")?,
        };
        // Their objects are kept as they are: the next start would take one for a seal that was not committed.
        for number in unreadable {
            manifests.remove(&number);
        }
        for number in objects {
            let name = Name::Object(number);
            match manifests.get(&number) {
                Some(_) => {}
                // A seal that was not committed: the open segment is still there.
                None if number >= head.next => remove_if_there(self.disk, &name.text())?,
                None => self.quarantine(&name, "it has no manifest")?,
            }
        }
        Ok(Chain {
            head,
            sealed,
            kept,
            begins,
        })
    }

    /// Open segments of earlier runs, cut to what is whole.
    fn open_segments(&mut self, names: &[Name], chain: &Chain) -> io::Result<Vec<Rolled>> {
        let mut runs: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
        for name in names {
            if let Name::Open(run, first) = name {
                runs.entry(run.clone()).or_default().push(*first);
            }
        }
        let mut rolled = Vec::new();
        for (run, mut firsts) in runs {
            firsts.sort_unstable();
            for (index, first) in firsts.iter().enumerate() {
                let name = Name::Open(run.clone(), *first);
                if chain.begins.contains(&(run.clone(), *first)) {
                    remove_if_there(self.disk, &name.text())?;
                    continue;
                }
                let until = firsts.get(index + 1).copied().unwrap_or(u64::MAX);
                rolled.extend(self.open_segment(&name, until)?);
            }
        }
        Ok(rolled)
    }

    /// One open segment, up to a number that another one has.
    fn open_segment(&mut self, name: &Name, until: u64) -> io::Result<Option<Rolled>> {
        let text = name.text();
        let mut frames = match self.disk.open(&text) {
            Ok(reader) => Frames::new(reader, self.key),
            Err(error) => {
                self.quarantine(name, &error.to_string())?;
                self.gap("spool", "unreadable", None);
                return Ok(None);
            }
        };
        let (mut len, mut count) = (0, 0_u64);
        let corrupt = loop {
            match frames.read() {
                Ok(Next::Frame { seq, .. }) if seq < until => count += 1,
                Ok(Next::Frame { .. } | Next::End | Next::Torn) => break false,
                Ok(Next::Locked) if count == 0 => {
                    self.quarantine(
                        name,
                        "it is encrypted with another key than that of `archive.spool_key`",
                    )?;
                    self.gap("spool", "locked", None);
                    return Ok(None);
                }
                Ok(Next::Corrupt | Next::Locked) => break true,
                Err(error) => {
                    tracing::error!(file = text, %error, "a segment of the spool cannot be read to its end");
                    break true;
                }
            }
            len = frames.good;
        };
        if corrupt {
            tracing::error!(
                file = text,
                at = len,
                "a segment of the spool is damaged: it is taken up to there, and a copy goes to quarantine"
            );
            self.gap("spool", "corrupt", None);
            self.quarantined += 1;
            self.copy_aside(&text)?;
        }
        if count == 0 {
            remove_if_there(self.disk, &text)?;
        } else {
            self.disk.truncate(&text, len)?;
        }
        Ok((count > 0).then_some(Rolled {
            name: text,
            len,
            content: None,
            since: None,
        }))
    }

    /// Copies what can be read of a file into quarantine.
    fn copy_aside(&self, name: &str) -> io::Result<()> {
        let draft = format!("{name}.tmp");
        let mut copy = self.disk.create(&draft)?;
        let mut reader = self.disk.open(name)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => copy.append(&buffer[..got])?,
                Err(error) => {
                    tracing::error!(file = name, %error, "the copy in quarantine ends early");
                    break;
                }
            }
        }
        copy.sync()?;
        self.disk.rename(&draft, &format!("{name}{QUARANTINED}"))
    }
}

/// A new chain.
fn new_chain(next: u64, why: &str) -> io::Result<Head> {
    let chain_id = signing::random(8)?;
    tracing::info!(chain_id, why, "a new chain begins");
    Ok(Head {
        chain_id,
        next,
        hash: None,
        start: Some(why.to_owned()),
    })
}
