//! Which process holds a socket: for connections older than the agent, whose connect or accept nobody saw.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, ErrorKind},
    time::Instant,
};

/// What [`inode_owners`] found.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Process by socket inode; of several that share a socket, the lowest pid.
    pub by_inode: HashMap<u64, u32>,
    /// Processes whose descriptors could not be read (CAP_SYS_PTRACE is missing).
    pub denied: usize,
    /// True when the deadline ended the scan: an inode without owner may have one.
    pub stopped_early: bool,
}

/// Looks through the descriptors of all processes for the given socket inodes, until `deadline`.
///
/// About 1 µs a descriptor. Ends as soon as each inode has an owner.
pub fn inode_owners(inodes: &HashSet<u64>, deadline: Instant) -> io::Result<Owners> {
    let mut owners = Owners::default();
    // 0 is a socket without a file: nobody holds it, and it must not keep the scan going to its end.
    let wanted = inodes.iter().filter(|inode| **inode != 0).count();
    let mut pids: Vec<u32> = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok()),
        );
    }
    pids.sort_unstable();
    for pid in pids {
        if owners.by_inode.len() == wanted {
            break;
        }
        let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => descriptors,
            Err(e) => {
                owners.denied += usize::from(e.kind() == ErrorKind::PermissionDenied);
                continue;
            }
        };
        // An error in the middle: the process ended, and its sockets with it.
        for descriptor in descriptors.map_while(Result::ok) {
            // Asked for each descriptor: one process may hold a million.
            if Instant::now() >= deadline {
                owners.stopped_early = true;
                return Ok(owners);
            }
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            if let Some(inode) = target
                .to_str()
                .and_then(socket_inode)
                .filter(|i| *i != 0 && inodes.contains(i))
            {
                owners.by_inode.entry(inode).or_insert(pid);
            }
        }
    }
    Ok(owners)
}

/// Inode out of a link text such as `socket:[12345]`.
fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, os::unix::fs::MetadataExt, time::Duration};

    fn inode_of(socket: &TcpListener) -> u64 {
        use std::os::fd::AsRawFd;
        fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd()))
            .unwrap()
            .ino()
    }

    #[test]
    fn own_socket_is_ours_and_an_unknown_one_nobodys() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode_of(&socket);
        let wanted = HashSet::from([inode, u64::MAX]);
        let owners = inode_owners(&wanted, Instant::now() + Duration::from_secs(30)).unwrap();
        assert_eq!(owners.by_inode, HashMap::from([(inode, std::process::id())]));
        assert!(!owners.stopped_early);
    }

    #[test]
    fn nothing_wanted_nothing_scanned() {
        // A deadline that is over is not even met.
        let owners = inode_owners(&HashSet::from([0]), Instant::now()).unwrap();
        assert!(owners.by_inode.is_empty() && !owners.stopped_early);
    }

    #[test]
    fn a_deadline_in_the_past_is_said() {
        let owners = inode_owners(&HashSet::from([u64::MAX]), Instant::now()).unwrap();
        assert!(owners.stopped_early && owners.by_inode.is_empty());
    }

    #[test]
    fn link_texts() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        assert_eq!(socket_inode("pipe:[123]"), None);
        assert_eq!(socket_inode("socket:[]"), None);
    }
}
