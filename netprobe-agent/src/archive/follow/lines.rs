//! The lines of one segment, for a follower: of an open one as far as it is synced, of a sealed one all.

use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;

use crate::archive::{
    cipher::SpoolKey,
    disk::{Disk, read_whole},
    frame::{Frames, Next},
    signing,
    spool::Name,
};

/// The lines that are left.
pub(super) enum Lines {
    /// Of an open segment.
    Open {
        frames: Box<Frames<Arc<SpoolKey>, Limited>>,
        limit: Arc<AtomicU64>,
    },
    /// Of a sealed segment.
    Sealed(Box<dyn BufRead + Send>),
}

/// How they go on.
pub(super) enum Line {
    /// An event, with its newline.
    Event { seq: u64, line: Vec<u8> },
    /// There is no more, or not yet.
    End,
    /// What follows cannot be read.
    Damaged,
}

/// A reader that ends at a limit, until that is moved.
pub(super) struct Limited {
    reader: Box<dyn Read + Send>,
    read: u64,
    limit: Arc<AtomicU64>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.limit.load(Ordering::Relaxed) - self.read;
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self.reader.read(&mut buffer[..most])?;
        self.read += got as u64;
        Ok(got)
    }
}

impl Lines {
    /// Those of an open segment. Nothing is read before it is said how far it goes.
    pub(super) fn open(disk: &dyn Disk, name: &str, key: Option<Arc<SpoolKey>>) -> io::Result<Lines> {
        let limit = Arc::new(AtomicU64::new(0));
        let reader = Limited {
            reader: disk.open(name)?,
            read: 0,
            limit: limit.clone(),
        };
        Ok(Lines::Open {
            frames: Box::new(Frames::new(reader, key)),
            limit,
        })
    }

    /// Those of a sealed segment; `None` when its object is not what was sealed.
    pub(super) fn sealed(disk: &dyn Disk, number: u64, sha256: &str) -> io::Result<Option<Lines>> {
        let object = read_whole(disk, &Name::Object(number).text())?;
        if signing::sha256(&object) != sha256 {
            return Ok(None);
        }
        let decoder = zstd::stream::read::Decoder::with_buffer(Cursor::new(object))?;
        Ok(Some(Lines::Sealed(Box::new(BufReader::new(decoder)))))
    }

    /// An open segment is synced up to here.
    pub(super) fn reach(&self, len: u64) {
        if let Lines::Open { limit, .. } = self {
            limit.fetch_max(len, Ordering::Relaxed);
        }
    }

    /// The next line.
    pub(super) fn read(&mut self) -> Line {
        match self {
            Lines::Open { frames, .. } => match frames.read() {
                Ok(Next::Frame { seq, line }) => Line::Event {
                    seq,
                    line: line.to_vec(),
                },
                Ok(Next::End) => Line::End,
                Ok(Next::Torn | Next::Corrupt | Next::Locked) | Err(_) => Line::Damaged,
            },
            Lines::Sealed(reader) => {
                let mut line = Vec::new();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) => Line::End,
                    Ok(_) => match serde_json::from_slice::<Numbered>(&line) {
                        Ok(Numbered { seq }) => Line::Event { seq, line },
                        Err(_) => Line::Damaged,
                    },
                    Err(_) => Line::Damaged,
                }
            }
        }
    }
}

/// What is needed of a line.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}
