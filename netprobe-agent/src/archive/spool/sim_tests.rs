//! A folder that can lose its power, fill up, and fail.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::archive::disk::{Disk, DiskFile};

/// What the next steps do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Everything works.
    None,
    /// Writes fail half-way: the disk is full.
    Full,
    /// Syncs fail, and what they were to keep is dropped from the cache as clean.
    Sync,
    /// Everything fails.
    All,
}

#[derive(Clone, Debug, Default)]
struct Node {
    cache: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Put(String, usize),
    Drop(String),
    Rename(String, String, usize),
}

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the folder was synced.
    changes: Vec<Change>,
    fault: Fault,
    /// After so many more steps the power is gone: every step fails.
    power: Option<u64>,
    steps: u64,
    random: u64,
}

/// The folder. A clone is the same one.
#[derive(Clone, Debug)]
pub(super) struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub(super) fn new(seed: u64) -> Sim {
        Sim(Arc::new(Mutex::new(State {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            fault: Fault::None,
            power: None,
            steps: 0,
            random: seed | 1,
        })))
    }

    pub(super) fn set(&self, fault: Fault) {
        self.state().fault = fault;
    }

    pub(super) fn power_for(&self, steps: Option<u64>) {
        self.state().power = steps;
    }

    pub(super) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The power is gone and comes back: of what was not synced, some is there and some is not.
    pub(super) fn crash(&self) {
        let mut state = self.state();
        let changes = std::mem::take(&mut state.changes);
        // A file system with a journal keeps the order of names, one without does not.
        let ordered = state.chance(2);
        let keep = if changes.is_empty() {
            0
        } else {
            state.below(changes.len() as u64 + 1) as usize
        };
        for (index, change) in changes.into_iter().enumerate() {
            let kept = if ordered { index < keep } else { state.chance(2) };
            if !kept {
                continue;
            }
            match change {
                Change::Put(name, node) => drop(state.durable_names.insert(name, node)),
                Change::Drop(name) => drop(state.durable_names.remove(&name)),
                // Both names may be there, or the new one alone; never neither.
                Change::Rename(from, to, node) => {
                    state.durable_names.insert(to, node);
                    if ordered || state.chance(2) {
                        state.durable_names.remove(&from);
                    }
                }
            }
        }
        for node in 0..state.nodes.len() {
            let (have, kept) = {
                let node = &state.nodes[node];
                (node.cache.len(), node.durable.len())
            };
            if have > kept {
                // Part of the rest was written back; the last block of it may hold anything.
                let more = state.below((have - kept) as u64 + 1) as usize;
                let garbage = state.chance(3).then(|| state.below(64) as usize);
                let node = &mut state.nodes[node];
                node.durable.extend_from_slice(&node.cache[kept..kept + more]);
                if let Some(garbage) = garbage {
                    let begin = node.durable.len().saturating_sub(garbage).max(kept);
                    node.durable[begin..].fill(0);
                }
            }
            let node = &mut state.nodes[node];
            node.cache = node.durable.clone();
        }
        state.names = state.durable_names.clone();
        state.fault = Fault::None;
        state.power = None;
    }

    /// Flips a bit of a file, on the disk itself.
    pub(super) fn flip(&self, name: &str, at: usize) {
        let mut state = self.state();
        let node = state.names[name];
        let len = state.nodes[node].cache.len();
        state.nodes[node].cache[at % len] ^= 1;
        if let Some(byte) = state.nodes[node].durable.get_mut(at % len) {
            *byte ^= 1;
        }
    }

    pub(super) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|node| state.nodes[*node].cache.clone())
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut file = self.create(name).unwrap();
        file.append(bytes).unwrap();
        file.sync().unwrap();
        self.sync_folder().unwrap();
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift: the same seed gives the same run.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        if let Some(left) = &mut self.power {
            if *left == 0 {
                return Err(io::Error::other("the power is gone"));
            }
            *left -= 1;
        }
        if self.fault == Fault::All {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn node(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put(&mut self, name: &str, node: usize) {
        self.names.insert(name.to_owned(), node);
        self.changes.push(Change::Put(name.to_owned(), node));
    }

    fn drop_name(&mut self, name: &str) {
        self.names.remove(name);
        self.changes.push(Change::Drop(name.to_owned()));
    }
}

impl Disk for Sim {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        if state.fault == Fault::Full {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if state.names.contains_key(name) {
            state.drop_name(name);
        }
        state.nodes.push(Node::default());
        let node = state.nodes.len() - 1;
        state.put(name, node);
        Ok(Box::new(SimFile {
            sim: self.clone(),
            node,
            failed: false,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let mut state = self.state();
        state.step()?;
        let node = state.node(name)?;
        Ok(Box::new(io::Cursor::new(state.nodes[node].cache.clone())))
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let node = state.node(name)?;
        let node = &mut state.nodes[node];
        node.cache.truncate(len as usize);
        node.durable = node.cache.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let node = state.node(from)?;
        state.names.insert(to.to_owned(), node);
        state.names.remove(from);
        state
            .changes
            .push(Change::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.node(name)?;
        state.drop_name(name);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.step()?;
        let state = &*state;
        Ok(state
            .names
            .iter()
            .map(|(name, node)| (name.clone(), state.nodes[*node].cache.len() as u64))
            .collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if state.fault == Fault::Sync {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }
}

struct SimFile {
    sim: Sim,
    node: usize,
    failed: bool,
}

impl DiskFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.sim.state();
        assert!(!self.failed, "a file is written again after a failure");
        let written = match state.step() {
            // A write that the end of the process or of the disk cut short.
            Err(error) => Err((error, state.below(bytes.len() as u64 + 1) as usize)),
            Ok(()) if state.fault == Fault::Full => {
                Err((io::Error::from_raw_os_error(libc::ENOSPC), bytes.len() / 2))
            }
            Ok(()) => Ok(()),
        };
        let count = written
            .as_ref()
            .map_or_else(|(_, count)| *count, |()| bytes.len());
        state.nodes[self.node].cache.extend_from_slice(&bytes[..count]);
        written.map_err(|(error, _)| {
            self.failed = true;
            error
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.sim.state();
        assert!(!self.failed, "a file is synced again after a failure");
        let stepped = state.step();
        if stepped.is_err() || state.fault == Fault::Sync {
            self.failed = true;
            return Err(stepped
                .err()
                .unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO)));
        }
        let node = &mut state.nodes[self.node];
        node.durable = node.cache.clone();
        Ok(())
    }
}
