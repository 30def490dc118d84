//! Who a process is: what the kernel saw (pid, name, user, cgroup) completed from `/proc` and remembered.
//!
//! Nothing wrong is reported. A pid means its process only if that process is older than the record: then, still
//! alive, it has held the pid all the time. A process that is gone, or younger, keeps what the kernel saw and has
//! no `exe`. Its unit and container still come from the cgroup id. The `exe` is taken only while the name the
//! kernel saw is still that of the process or of the thread: otherwise another program may have been executed.
//!
//! Names: the kernel reports a thread's name. `comm` is the process's, where that is known for sure.
//!
//! A remembered identity is believed for [`RECHECK_NS`] of record time: an exec under the same name, or a pid that
//! comes again with the same name, user and cgroup, is noticed after that. A connection keeps the identity of its
//! beginning, so do not look it up again at its end, when the process is often gone.

use std::{
    fs,
    io::{self, Read},
    num::NonZeroUsize,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use lru::LruCache;
use netprobe_common::Process as Seen;
use rustix::{
    fs::{Mode, OFlags, open, openat, readlinkat},
    time::{ClockId, clock_gettime},
};

use super::cgroup::{Cgroup, CgroupIds, path_of_process};
use crate::event::Process;

/// Identities remembered unless told otherwise: about 10 MB when full.
pub const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// How long an identity is believed without looking, in nanoseconds of record time.
pub const RECHECK_NS: u64 = 5_000_000_000;
/// Inode of the initial pid namespace, a constant of the kernel.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A process and the service it belongs to; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As events show it.
    pub process: Arc<Process>,
    /// Container name, else systemd service, else command name.
    pub service: Arc<str>,
}

/// What lookups came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounters {
    /// Answered from memory.
    pub hits: u64,
    /// Looked up in `/proc`.
    pub misses: u64,
    /// Of the misses: the process had ended, or its pid is another's now. `exe` is unknown.
    pub gone: u64,
    /// Of the misses: the process may have executed another program since. `exe` is unknown.
    pub unsure: u64,
    /// Of the misses: `exe` may not be read (CAP_SYS_PTRACE is missing).
    pub denied: u64,
    /// Identities forgotten to make room.
    pub evicted: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    tgid: u32,
    uid: u32,
    cgroup_id: u64,
    comm: [u8; 16],
}

struct Entry {
    identity: Identity,
    /// Time of the record it was last checked for.
    checked_ns: u64,
    /// Start of the process, rounded down; 0: it was gone.
    started_ns: u64,
}

/// Remembers identities, bounded; for one thread.
pub struct ProcessCache {
    entries: LruCache<Key, Entry>,
    cgroups: CgroupIds,
    counters: ProcessCounters,
    /// `/proc` shows the pids of the initial namespace, as records do.
    initial_pids: bool,
}

impl ProcessCache {
    /// An empty cache for so many identities.
    pub fn new(capacity: NonZeroUsize) -> ProcessCache {
        use std::os::unix::fs::MetadataExt;
        let initial_pids = fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == INITIAL_PID_NAMESPACE);
        ProcessCache {
            entries: LruCache::new(capacity),
            cgroups: CgroupIds::new(),
            counters: ProcessCounters::default(),
            initial_pids,
        }
    }

    /// What lookups came to so far.
    pub fn counters(&self) -> ProcessCounters {
        self.counters
    }

    /// True when `/proc` shows other pids than records do (the agent is in a pid namespace), so that each
    /// process counts as gone.
    pub fn blind(&self) -> bool {
        !self.initial_pids
    }

    /// Identities remembered now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when none is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The identity of a process in a record of time `ts_ns` (`CLOCK_MONOTONIC`); `None`: the record has none.
    pub fn lookup(&mut self, seen: &Seen, ts_ns: u64) -> Option<Identity> {
        if seen.tgid == 0 {
            return None;
        }
        let key = Key {
            tgid: seen.tgid,
            uid: seen.uid,
            cgroup_id: seen.cgroup_id,
            comm: seen.comm,
        };
        if let Some(entry) = self.entries.get(&key) {
            let fresh = ts_ns.saturating_sub(entry.checked_ns) < RECHECK_NS;
            // A record from before this process began belongs to an earlier owner of the pid.
            if fresh && ts_ns >= entry.started_ns {
                self.counters.hits += 1;
                return Some(entry.identity.clone());
            }
        }
        self.counters.misses += 1;
        let (identity, started_ns) = self.identify(seen, ts_ns);
        let entry = Entry {
            identity: identity.clone(),
            checked_ns: ts_ns,
            started_ns,
        };
        match self.entries.peek_mut(&key) {
            // A late record of an earlier owner does not displace the present one.
            Some(present) if present.checked_ns > ts_ns => {}
            Some(present) => *present = entry,
            None => {
                let full = self.entries.len() == self.entries.cap().get();
                self.counters.evicted += u64::from(full);
                self.entries.put(key, entry);
            }
        }
        Some(identity)
    }

    fn identify(&mut self, seen: &Seen, ts_ns: u64) -> (Identity, u64) {
        let seen_comm = text(&seen.comm);
        let found = self
            .initial_pids
            .then(|| Found::read(seen.tgid).ok())
            .flatten()
            .filter(|f| {
                // `/proc` rounds the start down to 10 ms: only a start after the record is surely another process.
                f.started_ns <= ts_ns
            });
        let mut cgroup = self.cgroups.get(seen.cgroup_id);
        let (mut comm, mut exe, mut started_ns) = (seen_comm.clone(), None, 0);
        match found {
            None => self.counters.gone += 1,
            Some(found) => {
                started_ns = found.started_ns;
                if cgroup.is_none() {
                    cgroup = found.cgroup.as_deref().map(Cgroup::from_path).map(Arc::new);
                }
                if found.comm == seen_comm || found.thread_comm(seen.tid).is_some_and(|c| c == seen_comm) {
                    comm = found.comm;
                    exe = found.exe;
                    self.counters.denied += u64::from(found.denied);
                } else {
                    self.counters.unsure += 1;
                }
            }
        }
        (
            identity(seen.tgid, comm, exe, Some(seen.uid), cgroup.as_deref()),
            started_ns,
        )
    }
}

/// The identity of a process that lives now, for connections older than the agent; not remembered.
pub fn identify_live(pid: u32) -> io::Result<Identity> {
    let found = Found::read(pid)?;
    let uid = found.effective_uid();
    let cgroup = found.cgroup.as_deref().map(Cgroup::from_path);
    Ok(identity(pid, found.comm, found.exe, uid, cgroup.as_ref()))
}

fn identity(
    pid: u32,
    comm: Arc<str>,
    exe: Option<Arc<str>>,
    uid: Option<u32>,
    cgroup: Option<&Cgroup>,
) -> Identity {
    let container = cgroup.and_then(|c| c.container.as_ref());
    let unit = cgroup.and_then(|c| c.unit.clone());
    let service = container
        .and_then(|c| c.name.clone())
        .or_else(|| unit.clone().filter(|unit| unit.ends_with(".service")))
        .unwrap_or_else(|| comm.clone());
    let process = Process {
        pid,
        comm: Some(comm),
        exe,
        uid,
        cgroup: cgroup.map(|c| c.path.clone()),
        unit,
        container_id: container.map(|c| c.id.clone()),
    };
    Identity {
        process: Arc::new(process),
        service,
    }
}

/// Text up to the first NUL.
fn text(bytes: &[u8]) -> Arc<str> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into()
}

/// A process in `/proc`. The folder stays open while it is read: its files never become another process's.
struct Found {
    folder: OwnedFd,
    comm: Arc<str>,
    started_ns: u64,
    exe: Option<Arc<str>>,
    /// `exe` exists and may not be read.
    denied: bool,
    cgroup: Option<String>,
}

impl Found {
    fn read(pid: u32) -> io::Result<Found> {
        let folder = open(
            format!("/proc/{pid}"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = read_at(&folder, "stat")?;
        let (comm, ticks) = parse_stat(&stat)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as expected")))?;
        let exe = readlinkat(&folder, "exe", Vec::new());
        let denied = matches!(exe, Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM));
        let exe = exe
            .ok()
            .map(|path| String::from_utf8_lossy(path.as_bytes()).into());
        let cgroup = read_at(&folder, "cgroup")
            .ok()
            .and_then(|bytes| path_of_process(&String::from_utf8_lossy(&bytes)).map(str::to_owned));
        Ok(Found {
            started_ns: monotonic_ns(ticks),
            comm: text(comm),
            exe,
            denied,
            cgroup,
            folder,
        })
    }

    fn thread_comm(&self, tid: u32) -> Option<Arc<str>> {
        let bytes = read_at(&self.folder, &format!("task/{tid}/comm")).ok()?;
        Some(text(bytes.strip_suffix(b"\n").unwrap_or(&bytes)))
    }

    fn effective_uid(&self) -> Option<u32> {
        let status = read_at(&self.folder, "status").ok()?;
        let status = String::from_utf8_lossy(&status);
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        ids.split_whitespace().nth(1)?.parse().ok()
    }
}

fn read_at(folder: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let file = openat(
        folder.as_fd(),
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut bytes = Vec::with_capacity(1024);
    fs::File::from(file).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Name and start time, in clock ticks since boot, out of `/proc/<pid>/stat`. The name may hold anything, also
/// spaces and parentheses: it ends at the last one.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u64)> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let comm = stat.get(open + 1..close)?;
    let after = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // State is field 3, the start time field 22.
    let ticks = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((comm, ticks))
}

/// Clock ticks since boot, suspended time included, as nanoseconds of `CLOCK_MONOTONIC`, which leaves it out.
fn monotonic_ns(ticks: u64) -> u64 {
    let ns = |clock| {
        let now = clock_gettime(clock);
        (now.tv_sec as u64)
            .saturating_mul(1_000_000_000)
            .saturating_add(now.tv_nsec as u64)
    };
    let suspended = ns(ClockId::Boottime).saturating_sub(ns(ClockId::Monotonic));
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    ticks.saturating_mul(tick).saturating_sub(suspended)
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
