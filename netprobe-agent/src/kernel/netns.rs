//! Network namespaces: which there are, and how to run a piece of work inside one.
//!
//! A namespace is named by its inode, as in the records of the BPF programs. What leads to it (a process, or a
//! mount of nsfs) is remembered as a path and checked against the inode when it is opened: an open descriptor
//! kept here would hold the namespace, its addresses and its sockets alive after its container is gone.
//!
//! Not found: namespaces held only by an open descriptor, a socket, or a thread other than its process's first.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::AsFd,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Processes looked at by [`enumerate`] unless told otherwise.
pub const DEFAULT_MAX_PIDS: usize = 32_768;

/// A network namespace and the way into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetNs {
    /// Inode number in nsfs, unique on this host while the namespace lives.
    pub inode: u64,
    /// A file that was this namespace when it was found.
    pub path: PathBuf,
    /// A process in it, lowest pid first; none when only a mount holds it.
    pub pid: Option<u32>,
}

/// What [`enumerate`] found.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// One entry an inode, in ascending order.
    pub found: Vec<NetNs>,
    /// Processes whose namespace could not be read (CAP_SYS_PTRACE is missing).
    pub denied: usize,
    /// True when the limit on processes ended the scan early.
    pub truncated: bool,
}

impl NetNs {
    /// The namespace of the calling thread.
    pub fn own() -> io::Result<NetNs> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let inode = fs::metadata(&path)?.ino();
        // `thread-self` would be another thread's when it is opened elsewhere: name this one.
        let target = fs::read_link("/proc/thread-self")?;
        let path = Path::new("/proc").join(target).join("ns/net");
        Ok(NetNs {
            inode,
            path,
            pid: Some(std::process::id()),
        })
    }

    /// The namespace that a file stands for.
    pub fn at(path: PathBuf) -> io::Result<NetNs> {
        Ok(NetNs {
            inode: fs::metadata(&path)?.ino(),
            path,
            pid: None,
        })
    }

    /// Opens the namespace, by another path when the process it was found by has ended since. Refuses with
    /// [`io::ErrorKind::NotFound`] when nothing leads to it any more.
    pub fn open(&self) -> io::Result<File> {
        match self.open_at(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let again = enumerate(DEFAULT_MAX_PIDS)?;
                match again.found.iter().find(|other| other.inode == self.inode) {
                    Some(other) => self.open_at(&other.path),
                    None => Err(error),
                }
            }
            done => done,
        }
    }

    fn open_at(&self, path: &Path) -> io::Result<File> {
        let explain = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => gone(self.inode),
            io::ErrorKind::PermissionDenied => io::Error::new(
                e.kind(),
                format!(
                    "cannot open {}: {e}; run with CAP_SYS_PTRACE and CAP_SYS_ADMIN",
                    path.display()
                ),
            ),
            kind => io::Error::new(kind, format!("cannot open {}: {e}", path.display())),
        };
        let file = File::open(path).map_err(explain)?;
        if file.metadata()?.ino() == self.inode {
            Ok(file)
        } else {
            Err(gone(self.inode))
        }
    }
}

fn gone(inode: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("network namespace {inode} is gone; enumerate the namespaces again"),
    )
}

/// Inode of the calling thread's network namespace.
pub fn own_inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Lists the namespaces that processes or mounts lead to, looking at `max_pids` processes at most.
///
/// One `readlink` a process: about 2 µs each.
pub fn enumerate(max_pids: usize) -> io::Result<Namespaces> {
    let mut by_inode = BTreeMap::new();
    let mut out = Namespaces::default();
    let own = NetNs::own()?;
    by_inode.insert(own.inode, own);

    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) {
            pids.push(pid);
        }
    }
    out.truncated = pids.len() > max_pids;
    for pid in pids.into_iter().take(max_pids) {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        match fs::read_link(&path) {
            Ok(target) => {
                if let Some(inode) = link_inode(target.as_os_str().as_bytes()) {
                    by_inode.entry(inode).or_insert(NetNs {
                        inode,
                        path,
                        pid: Some(pid),
                    });
                }
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => out.denied += 1,
            // The process ended meanwhile, or is a zombie without namespaces.
            Err(_) => {}
        }
    }
    for (inode, path) in nsfs_mounts(&fs::read("/proc/thread-self/mountinfo")?) {
        by_inode.entry(inode).or_insert(NetNs {
            inode,
            path,
            pid: None,
        });
    }
    out.found = by_inode.into_values().collect();
    Ok(out)
}

/// Runs `f` in a thread of its own inside `ns`; the calling thread stays where it is.
///
/// A panic of `f` goes on in the caller. Sockets that `f` opens belong to `ns` and may be returned.
pub fn in_netns<T: Send>(ns: &NetNs, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    // Entering asks for CAP_SYS_ADMIN even where one already is.
    let target = if own_inode()? == ns.inode {
        None
    } else {
        Some(ns.open()?)
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || {
                if let Some(file) = target {
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                        |e| {
                            let hint = if e == rustix::io::Errno::PERM {
                                "; run with CAP_SYS_ADMIN"
                            } else {
                                ""
                            };
                            io::Error::new(
                                io::Error::from(e).kind(),
                                format!("cannot enter network namespace {}: {e}{hint}", ns.inode),
                            )
                        },
                    )?;
                }
                Ok(f())
            })?;
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Inode out of a link text such as `net:[4026531840]`.
fn link_inode(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Network namespaces mounted somewhere (`ip netns`, container runtimes), from the text of `mountinfo`.
fn nsfs_mounts(mountinfo: &[u8]) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    for line in mountinfo.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b' ');
        // id, parent, major:minor, root, mount point, options…; the root of an nsfs mount is its link text.
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        if let Some(inode) = link_inode(root) {
            found.push((inode, unescape(point)));
        }
    }
    found
}

/// Undoes the octal escapes of `/proc` mount tables (`\040` is a space).
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(d) = octal {
            let value = d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'));
            out.push(value as u8);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_texts() {
        assert_eq!(link_inode(b"net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(link_inode(b"mnt:[4026531840]"), None);
        assert_eq!(link_inode(b"net:[]"), None);
        assert_eq!(link_inode(b"net:[12"), None);
    }

    #[test]
    fn mounts_of_nsfs() {
        let text = b"22 1 0:21 / /proc rw - proc proc rw\n\
            90 25 0:4 net:[4026532281] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw\n\
            91 25 0:4 mnt:[4026532282] /run/other rw - nsfs nsfs rw\n\
            short line\n";
        assert_eq!(
            nsfs_mounts(text),
            [(4_026_532_281, PathBuf::from("/run/netns/a b"))]
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"a\\134b"), PathBuf::from("a\\b"));
        assert_eq!(unescape(b"a\\9"), PathBuf::from("a\\9"));
        assert_eq!(unescape(b"a\\"), PathBuf::from("a\\"));
    }

    #[test]
    fn own_namespace_is_found_and_entered_without_privilege() {
        let own = NetNs::own().unwrap();
        let all = enumerate(DEFAULT_MAX_PIDS).unwrap();
        assert!(all.found.iter().any(|n| n.inode == own.inode));
        assert_eq!(in_netns(&own, || own_inode().unwrap()).unwrap(), own.inode);
    }

    #[test]
    fn another_inode_behind_the_path_is_refused() {
        let mut wrong = NetNs::own().unwrap();
        wrong.inode += 1;
        assert_eq!(wrong.open().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(
            in_netns(&wrong, || ()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn scan_is_bounded() {
        assert!(enumerate(1).unwrap().truncated);
    }
}
