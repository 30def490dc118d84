//! Sealing: an open segment becomes the object and the manifest the archive will have.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{Name, Rolled, Sealed, quarantine, remove_if_there};
use crate::{
    archive::{
        cipher::SpoolKey,
        disk::{self, Disk, DiskFile},
        frame::{Frames, Next},
        manifest::{self, Content, Manifest},
        signing::{self, Key},
    },
    event::{Event, Nanos},
};

/// Where a chain ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain.
    pub chain_id: String,
    /// Number of the next segment.
    pub next: u64,
    /// SHA-256 of the last manifest; `None` when a chain begins.
    pub hash: Option<String>,
    /// Why a chain begins.
    pub start: Option<String>,
}

/// Seals segments, one after the other.
#[derive(Debug)]
pub struct Sealer {
    disk: Arc<dyn Disk>,
    key: Arc<Key>,
    spool_key: Option<Arc<SpoolKey>>,
    level: i32,
    /// Where the chain ends.
    pub head: Head,
    /// Sealed, and the open segment could not be removed yet.
    unfinished: Option<(String, bool, Seal)>,
    /// The manifest of the next segment may be on disk: a try failed that had come as far.
    doubtful: bool,
}

/// What became of a segment.
#[derive(Debug, PartialEq)]
pub struct Seal {
    /// The segment; `None` when there was not a single event in it.
    pub sealed: Option<Sealed>,
    /// Events that were in it once and cannot be read any more.
    pub lost: u64,
}

impl Sealer {
    /// A sealer that goes on from `head`, with a compression level of zstd and the key of the open segments.
    pub fn new(
        disk: Arc<dyn Disk>,
        key: Arc<Key>,
        level: i32,
        head: Head,
        spool_key: Option<Arc<SpoolKey>>,
    ) -> Sealer {
        Sealer {
            disk,
            key,
            spool_key,
            level,
            head,
            unfinished: None,
            doubtful: false,
        }
    }

    /// Seals one segment. After an error the same segment has to be sealed again, before any other.
    pub fn seal(&mut self, rolled: &Rolled) -> io::Result<Seal> {
        // It would be sealed twice after a crash: it is not handed on before its open segment is gone.
        if let Some((name, whole, seal)) = self.unfinished.take() {
            if let Err(error) = self.drop_open(&name, whole) {
                self.unfinished = Some((name, whole, seal));
                return Err(error);
            }
            return Ok(seal);
        }
        let number = self.head.next;
        let object = Name::Object(number).text();
        if self.doubtful {
            // For good: a crash must not find it beside the object of this try.
            remove_if_there(&*self.disk, &Name::Manifest(number).text())?;
            self.disk.sync_folder()?;
            self.doubtful = false;
        }
        let compressed = self.compress(rolled, &object)?;
        let expected = rolled.content.as_ref().map_or(0, |content| content.events);
        let lost = expected.saturating_sub(compressed.content.events);
        if !compressed.whole {
            // Damage after it was synced. A copy stays for whoever can read more out of it.
            tracing::error!(
                file = rolled.name,
                lost,
                "a segment of the spool is damaged: it is sealed up to there"
            );
        }
        if compressed.content.events == 0 {
            self.drop_open(&rolled.name, compressed.whole)?;
            remove_if_there(&*self.disk, &object)?;
            return Ok(Seal { sealed: None, lost });
        }
        let manifest = Manifest {
            schema: manifest::SCHEMA.to_owned(),
            chain_id: self.head.chain_id.clone(),
            index: number,
            previous: self.head.hash.clone(),
            chain_start: self.head.start.clone(),
            key: compressed.content.key(),
            sha256: compressed.sha256,
            bytes: compressed.bytes,
            sealed_at: Nanos::now(),
            content: compressed.content,
        };
        let bytes = self.key.sign(&manifest)?;
        // A file system without a journal keeps no order of names: the object's has to be there first.
        self.disk.sync_folder()?;
        self.doubtful = true;
        disk::write_whole(&*self.disk, &Name::Manifest(number).text(), &bytes)?;
        self.disk.sync_folder()?;
        self.doubtful = false;
        // From here on it is sealed, whatever comes.
        self.head = Head {
            chain_id: self.head.chain_id.clone(),
            next: number + 1,
            hash: Some(signing::sha256(&bytes)),
            start: None,
        };
        let seal = Seal {
            sealed: Some(Sealed {
                number,
                manifest,
                manifest_bytes: bytes.into(),
            }),
            lost,
        };
        self.unfinished = Some((rolled.name.clone(), compressed.whole, seal));
        self.seal(rolled)
    }

    fn drop_open(&self, name: &str, whole: bool) -> io::Result<()> {
        if whole {
            remove_if_there(&*self.disk, name)?;
        } else {
            quarantine(&*self.disk, name)?;
        }
        self.disk.sync_folder()
    }

    /// Writes the lines of a segment as an object and syncs it.
    fn compress(&self, rolled: &Rolled, object: &str) -> io::Result<Compressed> {
        let mut frames = Frames::new(
            self.disk.open(&rolled.name)?.take(rolled.len),
            self.spool_key.as_deref(),
        );
        let out = Hashing {
            file: self.disk.create(object)?,
            hasher: Sha256::new(),
            bytes: 0,
        };
        let mut encoder = zstd::stream::write::Encoder::new(out, self.level)?;
        // Readers find a flipped bit by themselves, without a manifest.
        encoder.include_checksum(true)?;
        let mut content = Content::default();
        let whole = loop {
            // A place of the disk that cannot be read is damage like any other: it must not hold up what comes after.
            match frames.read().unwrap_or(Next::Corrupt) {
                Next::Frame { seq, line } => {
                    if rolled.content.is_none() {
                        let Ok(event) = serde_json::from_slice::<Event>(line) else {
                            // Sound bytes of another version: they are kept as they are, but nothing is known of them.
                            break false;
                        };
                        content.add(&event, seq, line.len());
                    } else {
                        content.events += 1;
                    }
                    encoder.write_all(line)?;
                }
                Next::End => break true,
                Next::Torn | Next::Corrupt | Next::Locked => break false,
            }
        };
        let mut out = encoder.finish()?;
        out.file.sync()?;
        match &rolled.content {
            Some(known) if known.events == content.events => content = known.clone(),
            // Less than there was: what is left has to be counted line by line.
            Some(_) => {
                let without = Rolled {
                    content: None,
                    len: frames.good,
                    ..rolled.clone()
                };
                let again = self.compress(&without, object)?;
                return Ok(Compressed {
                    whole: false,
                    ..again
                });
            }
            None => {}
        }
        Ok(Compressed {
            content,
            whole,
            sha256: signing::hex(&out.hasher.finalize()),
            bytes: out.bytes,
        })
    }
}

struct Compressed {
    content: Content,
    whole: bool,
    sha256: String,
    bytes: u64,
}

/// A file whose bytes are hashed on their way.
struct Hashing {
    file: Box<dyn DiskFile>,
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.append(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
