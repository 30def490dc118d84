//! Reads the spool for a follower, and notes what is done.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use super::{
    super::{
        cipher::SpoolKey,
        disk::{self, Disk},
        spool::{self, Name},
        state::{EXPIRED, SPOOL_CORRUPT, Shared, State},
    },
    Follow,
    lines::{Line, Lines},
};
use crate::{
    event::Nanos,
    journal::{Done, Item, Journal},
    probe_report::ChainHead,
};

/// A follower of the spool.
pub(in crate::archive) struct Follower {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    key: Option<Arc<SpoolKey>>,
    run: Arc<str>,
    /// Name of the file with its place.
    file: String,
    max_age: Option<Duration>,
    /// Read up to this number, by run.
    read: BTreeMap<Arc<str>, u64>,
    /// Events of this run read or known to be lost.
    told: u64,
    /// What is being read.
    source: Option<Source>,
    /// The place has changed since it was saved.
    dirty: bool,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

struct Source {
    run: Arc<str>,
    first: u64,
    sealed: bool,
    /// `None`: it cannot be read, and has to wait for what sealing makes of it.
    lines: Option<Lines>,
}

/// The next segment to read.
struct Piece {
    run: Arc<str>,
    first: u64,
    /// Its last number, when it has ended.
    last: Option<u64>,
    place: Place,
}

enum Place {
    /// Sealed: number and hash of the object.
    Object(u64, String),
    /// Open: name, and bytes of it that are synced.
    Open(String, u64),
    /// Of an earlier run: it is sealed first.
    Unsealed,
}

/// How reading a segment ended.
enum Read {
    /// There is more.
    More,
    /// There is no more, or not yet.
    End,
    /// It cannot be read as it is.
    Stuck,
}

impl Follower {
    pub(in crate::archive) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        key: Option<Arc<SpoolKey>>,
        run: Arc<str>,
        file: String,
        max_age: Option<Duration>,
    ) -> Follower {
        let mut follower = Follower {
            shared,
            disk,
            key,
            run,
            file,
            max_age,
            read: BTreeMap::new(),
            told: 0,
            source: None,
            dirty: false,
        };
        follower.rewind();
        follower
    }

    /// Lets go of what is done or too old.
    fn release(&self) {
        let mut done = Vec::new();
        {
            let mut state = self.shared.lock();
            let Some(follow) = &mut state.follow else { return };
            let mut kept = std::mem::take(&mut follow.kept);
            kept.retain(|sealed| {
                let wanted = follow.wants(&sealed.manifest.content);
                if !wanted {
                    done.push(sealed.number);
                }
                wanted
            });
            follow.kept = kept;
            while let (Some(oldest), Some(most)) = (follow.kept.front(), self.max_age) {
                let age = Nanos::now().0.saturating_sub(oldest.manifest.content.ts_max.0);
                if u128::try_from(age).is_ok_and(|age| age <= most.as_nanos()) {
                    break;
                }
                done.extend(follow.give_up(&self.run, EXPIRED).map(|(number, _)| number));
            }
        }
        for number in done {
            if let Err(error) = spool::forget(&*self.disk, number) {
                tracing::warn!(%error, number, "a segment of the spool that is done cannot be removed");
            }
        }
    }

    fn position(&self, run: &str) -> u64 {
        self.read.get(run).copied().unwrap_or(0)
    }

    /// The next segment that is not read, and what of this run was lost before it.
    fn next(&self) -> (Option<Item>, Option<Piece>) {
        let state = self.shared.lock();
        let Some(follow) = &state.follow else {
            return (None, None);
        };
        let piece = self.first_unread(&state, follow);
        let before = piece
            .as_ref()
            .map_or(u64::MAX, |piece| match piece.run == self.run {
                true => piece.first,
                // Those of this run come after it.
                false => 0,
            });
        let hole = follow
            .ends
            .iter()
            .find(|end| end.first < before && end.until > self.told)
            .map(|end| Item::Lost {
                run: self.run.clone(),
                seq: end.last,
                reason: end.gone.unwrap_or(SPOOL_CORRUPT),
                count: end.until - self.told,
            });
        (hole, piece)
    }

    fn first_unread(&self, state: &State, follow: &Follow) -> Option<Piece> {
        let sealed = follow.kept.iter().chain(&state.sealed).find_map(|sealed| {
            let content = &sealed.manifest.content;
            (self.position(&content.run) < content.last_seq).then(|| Piece {
                run: content.run.clone(),
                first: content.first_seq,
                last: Some(content.last_seq),
                place: Place::Object(sealed.number, sealed.manifest.sha256.clone()),
            })
        });
        let rolled = || {
            state.rolled.iter().find_map(|rolled| {
                let Some(Name::Open(run, first)) = Name::parse(&rolled.name) else {
                    return None;
                };
                let (last, place) = match &rolled.content {
                    Some(content) => (
                        Some(content.last_seq),
                        Place::Open(rolled.name.clone(), rolled.len),
                    ),
                    None => (None, Place::Unsealed),
                };
                let unread = last.is_none_or(|last| self.position(&run) < last);
                unread.then_some(Piece {
                    run,
                    first,
                    last,
                    place,
                })
            })
        };
        let writing = || {
            let (name, len) = state.writing.clone()?;
            let Some(Name::Open(run, first)) = Name::parse(&name) else {
                return None;
            };
            Some(Piece {
                run,
                first,
                last: None,
                place: Place::Open(name, len),
            })
        };
        sealed.or_else(rolled).or_else(writing)
    }

    /// Reads on in a segment; whether the next one can follow.
    fn take(&mut self, piece: &Piece, bytes: &mut usize, items: &mut Vec<Item>) -> io::Result<bool> {
        let sealed = matches!(piece.place, Place::Object(..));
        let own = piece.run == self.run;
        let mut source = match self.source.take() {
            Some(source)
                if source.run == piece.run && source.first == piece.first && source.sealed == sealed =>
            {
                source
            }
            _ => Source {
                run: piece.run.clone(),
                first: piece.first,
                sealed,
                lines: self.open(&piece.place)?,
            },
        };
        let mut position = self.position(&piece.run);
        let read = loop {
            let Some(lines) = &mut source.lines else {
                // What cannot be read of a sealed segment is lost; of an open one, sealing decides.
                break if sealed { Read::End } else { Read::Stuck };
            };
            if *bytes == 0 {
                break Read::More;
            }
            if let Place::Open(_, len) = piece.place {
                lines.reach(len);
            }
            match lines.read() {
                Line::Event { seq, line } if seq > position => {
                    *bytes = bytes.saturating_sub(line.len());
                    items.push(Item::Event {
                        run: piece.run.clone(),
                        seq,
                        line,
                    });
                    position = seq;
                    self.told += u64::from(own);
                }
                Line::Event { .. } => {}
                Line::End => break Read::End,
                Line::Damaged => {
                    tracing::error!(
                        run = %piece.run,
                        first = piece.first,
                        after = position,
                        "a segment of the spool is damaged: Kafka gets what can be read of it"
                    );
                    source.lines = None;
                }
            }
        };
        let last = piece.last.unwrap_or(u64::MAX);
        if sealed && matches!(read, Read::End) {
            position = position.max(last);
        }
        self.read.insert(piece.run.clone(), position);
        self.source = Some(source);
        Ok(match read {
            Read::More => true,
            Read::End => position >= last,
            Read::Stuck => false,
        })
    }

    fn open(&self, place: &Place) -> io::Result<Option<Lines>> {
        match place {
            Place::Object(number, sha256) => Lines::sealed(&*self.disk, *number, sha256),
            Place::Open(name, _) => Lines::open(&*self.disk, name, self.key.clone()).map(Some),
            Place::Unsealed => Ok(None),
        }
    }
}

impl Journal for Follower {
    fn read(&mut self, mut bytes: usize) -> io::Result<Vec<Item>> {
        self.release();
        let mut items = Vec::new();
        while bytes > 0 {
            let (hole, piece) = self.next();
            if let Some(hole) = hole {
                if let Item::Lost { seq, count, .. } = &hole {
                    self.told += count;
                    let read = self.read.entry(self.run.clone()).or_default();
                    *read = (*read).max(*seq);
                }
                items.push(hole);
                continue;
            }
            let Some(piece) = piece else { break };
            match self.take(&piece, &mut bytes, &mut items) {
                Ok(true) => {}
                Ok(false) => break,
                // It has just been sealed, or removed: there is another way to it, or none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if items.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(items)
    }

    fn wait(&self, most: Duration) {
        drop(Shared::wait(&self.shared.synced, self.shared.lock(), most));
    }

    fn settle(&mut self, run: &Arc<str>, seq: u64, done: Done) {
        self.dirty = true;
        let mut state = self.shared.lock();
        let Some(follow) = &mut state.follow else { return };
        let cursor = follow.cursor.entry(run.clone()).or_default();
        *cursor = (*cursor).max(seq);
        if *run != self.run {
            return;
        }
        follow.settled.delivered += done.delivered;
        for (reason, count) in done.lost {
            *follow.settled.lost.entry(reason).or_default() += count;
        }
        let passed = follow.passed();
        while follow.ends.front().is_some_and(|end| end.until <= passed) {
            follow.ends.pop_front();
        }
    }

    fn rewind(&mut self) {
        self.source = None;
        let state = self.shared.lock();
        if let Some(follow) = &state.follow {
            self.read = follow.cursor.clone();
            self.told = follow.passed();
        }
    }

    fn save(&mut self) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let cursor = {
            let mut state = self.shared.lock();
            let mut wanted: Vec<Arc<str>> = vec![self.run.clone()];
            let sealed = state
                .follow
                .iter()
                .flat_map(|follow| &follow.kept)
                .chain(&state.sealed);
            wanted.extend(sealed.map(|sealed| sealed.manifest.content.run.clone()));
            wanted.extend(
                state
                    .rolled
                    .iter()
                    .filter_map(|rolled| match Name::parse(&rolled.name) {
                        Some(Name::Open(run, _)) => Some(run),
                        _ => None,
                    }),
            );
            let Some(follow) = &mut state.follow else {
                return Ok(());
            };
            // Of runs that have nothing in the spool there is nothing to remember.
            follow.cursor.retain(|run, _| wanted.contains(run));
            serde_json::to_vec(&follow.cursor)?
        };
        disk::write_whole(&*self.disk, &self.file, &cursor)?;
        self.disk.sync_folder()?;
        self.dirty = false;
        Ok(())
    }

    fn head(&self) -> Option<ChainHead> {
        self.shared.lock().chain_head()
    }
}
