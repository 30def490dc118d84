//! Writing events to open segments.

use std::{
    io, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Name, Rolled};
use crate::{
    archive::{
        cipher::SpoolKey,
        disk::{Disk, DiskFile},
        frame::Framer,
        layout,
        manifest::Content,
    },
    event::Event,
};

/// Bytes that are handed to the file at a time: a commit may be many of them. Tests have small ones.
const PIECE: usize = if cfg!(test) { 2000 } else { 1 << 20 };

/// When a segment is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// It has this many bytes.
    pub bytes: u64,
    /// It is this old.
    pub age: Duration,
}

/// Writes the events of one run.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    run: Arc<str>,
    limits: Limits,
    key: Option<Arc<SpoolKey>>,
    current: Option<Current>,
    /// Of the piece being written; kept for its room.
    bytes: Vec<u8>,
}

/// The segment being written.
struct Current {
    name: String,
    /// `None`: there is no file yet.
    file: Option<Box<dyn DiskFile>>,
    framer: Framer,
    hour: i64,
    /// Bytes written since the last sync.
    unsynced: u64,
    /// Everything here and below is of what is synced.
    len: u64,
    content: Content,
    began: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("name", &self.name)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// What a commit came to.
#[derive(Debug, Default)]
pub struct Committed {
    /// Events, from the first on, that are on disk for good or cannot be written at all.
    pub count: usize,
    /// Of these: events that have no form as JSON.
    pub unwritable: usize,
    /// Why the rest is not.
    pub error: Option<io::Error>,
    /// Segments that were ended on the way.
    pub rolled: Vec<Rolled>,
}

impl Writer {
    /// A writer that has not begun a segment.
    pub fn new(disk: Arc<dyn Disk>, run: Arc<str>, limits: Limits, key: Option<Arc<SpoolKey>>) -> Writer {
        Writer {
            disk,
            run,
            limits,
            key,
            current: None,
            bytes: Vec::new(),
        }
    }

    /// Writes events and syncs. Numbers rise from event to event and from commit to commit.
    pub fn commit(&mut self, events: &[Arc<Event>]) -> Committed {
        let mut done = Committed::default();
        while let Some(first) = events.get(done.count) {
            let hour = layout::hour(first.ts);
            if self.current.as_ref().is_some_and(|current| current.hour != hour) {
                done.rolled.extend(self.roll());
            }
            let rest = &events[done.count..];
            let chunk = rest
                .iter()
                .position(|event| layout::hour(event.ts) != hour)
                .map_or(rest, |end| &rest[..end]);
            match self.write(chunk, hour) {
                Ok(chunk) => {
                    done.count += chunk.events;
                    done.unwritable += chunk.unwritable;
                }
                Err(error) => {
                    // What the file had counts; it is not written again.
                    done.rolled.extend(self.roll());
                    done.error = Some(error);
                    return done;
                }
            }
            let full = |current: &Current| current.len >= self.limits.bytes;
            if self.current.as_ref().is_some_and(full) {
                done.rolled.extend(self.roll());
            }
        }
        done
    }

    /// Ends the segment if it is old enough.
    pub fn roll_if_due(&mut self) -> Option<Rolled> {
        let due = |current: &Current| current.began.elapsed() >= self.limits.age;
        self.current.as_ref().is_some_and(due).then(|| self.roll())?
    }

    /// Ends the segment.
    pub fn roll(&mut self) -> Option<Rolled> {
        let current = self.current.take()?;
        // Nothing synced: the next segment begins with the same number and takes the file's name.
        (current.content.events > 0).then_some(Rolled {
            name: current.name,
            len: current.len,
            since: Some(current.content.ts_first),
            content: Some(current.content),
        })
    }

    /// Name of the segment being written and the bytes of it that are synced, once there are some.
    pub fn synced(&self) -> Option<(String, u64)> {
        let current = self.current.as_ref().filter(|current| current.len > 0)?;
        Some((current.name.clone(), current.len))
    }

    /// Content of the segment being written, once there is some.
    pub fn content(&self) -> Option<&Content> {
        let content = self.current.as_ref().map(|current| &current.content);
        content.filter(|content| content.events > 0)
    }

    /// Writes events of one hour, until the segment is full, and syncs once.
    fn write(&mut self, events: &[Arc<Event>], hour: i64) -> io::Result<Chunk> {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.clear();
        let written = self.fill(events, hour, &mut bytes);
        self.bytes = bytes;
        written
    }

    fn fill(&mut self, events: &[Arc<Event>], hour: i64, bytes: &mut Vec<u8>) -> io::Result<Chunk> {
        let mut chunk = Chunk::default();
        let current = match &mut self.current {
            Some(current) => current,
            None => self.current.insert(Current {
                name: String::new(),
                file: None,
                framer: Framer::new(self.key.as_deref())?,
                hour,
                unsynced: 0,
                len: 0,
                content: Content::default(),
                began: Instant::now(),
            }),
        };
        for event in events {
            let seq = event.seq.unwrap_or(0);
            match current.framer.put(bytes, seq, |line| event.write_line(line)) {
                Ok(line) => {
                    if current.name.is_empty() {
                        current.name = Name::Open(self.run.clone(), seq).text();
                    }
                    chunk.lines.push((chunk.events, line));
                }
                Err(error) => {
                    tracing::error!(%error, seq, "an event cannot be written as JSON and is lost");
                    chunk.unwritable += 1;
                }
            }
            chunk.events += 1;
            if current.len + current.unsynced + bytes.len() as u64 >= self.limits.bytes {
                break;
            }
            if bytes.len() >= PIECE {
                current.append(&*self.disk, bytes)?;
            }
        }
        if !chunk.lines.is_empty() {
            current.append(&*self.disk, bytes)?;
            current.sync(&*self.disk)?;
        }
        for (index, len) in &chunk.lines {
            let event = &events[*index];
            current.content.add(event, event.seq.unwrap_or(0), *len);
        }
        Ok(chunk)
    }
}

impl Current {
    /// Writes bytes to the file, which is made for the first of them.
    fn append(&mut self, disk: &dyn Disk, bytes: &mut Vec<u8>) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = self.file.insert(disk.create(&self.name)?);
                file.append(&self.framer.begin)?;
                file
            }
        };
        file.append(bytes)?;
        self.unsynced += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }

    /// Makes what was written last; the first time its name, too.
    fn sync(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.sync()?;
        }
        if self.len == 0 {
            disk.sync_folder()?;
            self.len = self.framer.begin.len() as u64;
        }
        self.len += mem::take(&mut self.unsynced);
        Ok(())
    }
}

/// Events written together.
#[derive(Default)]
struct Chunk {
    events: usize,
    unwritable: usize,
    /// Place of an event in the commit, and length of its line.
    lines: Vec<(usize, usize)>,
}
