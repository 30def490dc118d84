//! Which library encrypts a process's connections, as far as its memory map tells.
//!
//! A shared library is mapped under its name, also when the file was replaced by an upgrade since. What is linked into
//! an executable shows no name: Go marks its executables, others (rustls, OpenSSL inside Node) are not told. A process
//! that maps several is counted under the first of [`LIBRARIES`]: which of them made a connection is not seen.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, Read as _},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;

use crate::{event::Process, kernel::libssl};

/// What stands for a library that cannot be told.
pub const UNKNOWN: &str = "unknown";
/// The one that is read.
pub const OPENSSL: &str = "openssl";
/// Libraries, by how the file name of a mapping begins. A runtime that brings its own comes first.
const LIBRARIES: [(&str, &str); 8] = [
    ("libjvm.so", "java"),
    ("libssl.so", OPENSSL),
    ("libssl3.so", "nss"),
    ("libgnutls.so", "gnutls"),
    ("libmbedtls.so", "mbedtls"),
    ("libwolfssl.so", "wolfssl"),
    ("libs2n.so", "s2n"),
    ("libbotan-", "botan"),
];
/// Name of the executables that Go makes.
const GO: &str = "go";
/// Owner of the note Go's linker writes, with its length and that of its text in front.
const GO_NOTE: &[u8] = b"Go\0\0";
/// The notes of an executable are within its first bytes.
const NOTES: u64 = 8 << 10;
/// Processes that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Tells libraries and remembers them: a process keeps what it has loaded.
#[derive(Debug)]
pub struct Libraries {
    known: LruCache<(u32, Option<Arc<str>>), &'static str>,
    /// Files of OpenSSL that were met.
    files: HashSet<(u64, u64)>,
    /// Those of them that nobody was told of yet.
    met: Vec<libssl::Library>,
}

impl Default for Libraries {
    fn default() -> Self {
        Libraries {
            known: LruCache::new(REMEMBERED),
            files: HashSet::new(),
            met: Vec::new(),
        }
    }
}

impl Libraries {
    /// The library of a process. One that is gone, or may not be looked at, is [`UNKNOWN`].
    pub fn of(&mut self, process: &Process) -> &'static str {
        let key = (process.pid, process.exe.clone());
        if let Some(known) = self.known.get(&key) {
            return known;
        }
        let Ok(library) = look(process.pid) else {
            return UNKNOWN;
        };
        self.known.put(key, library);
        if library == OPENSSL
            && let Some(file) = libssl::of_process(process.pid)
            && self.files.insert(file.file)
        {
            self.met.push(file);
        }
        library
    }

    /// Those of OpenSSL that were met for the first time.
    pub fn met(&mut self) -> Vec<libssl::Library> {
        std::mem::take(&mut self.met)
    }
}

fn look(pid: u32) -> io::Result<&'static str> {
    let maps = BufReader::new(File::open(format!("/proc/{pid}/maps"))?);
    if let Some(name) = mapped(maps) {
        return Ok(name);
    }
    let mut head = Vec::new();
    File::open(format!("/proc/{pid}/exe"))?
        .take(NOTES)
        .read_to_end(&mut head)?;
    let is_go = memchr::memmem::find_iter(&head, GO_NOTE).any(|at| {
        // Length of the owner, of the text, type of the note.
        at >= 12 && head[at - 12..at - 8] == [4, 0, 0, 0] && head[at - 4..at] == [4, 0, 0, 0]
    });
    Ok(if is_go { GO } else { UNKNOWN })
}

/// The first library of the list that a memory map names.
fn mapped(maps: impl io::BufRead) -> Option<&'static str> {
    let mut best: Option<usize> = None;
    for line in maps.lines().map_while(Result::ok) {
        // The path is the sixth field, and may have blanks in it.
        let Some(slash) = line.find('/') else { continue };
        let file = line[slash..].rsplit('/').next().unwrap_or_default();
        let place = LIBRARIES.iter().position(|(begin, _)| file.starts_with(begin));
        best = match (best, place) {
            (Some(best), Some(place)) => Some(best.min(place)),
            (best, place) => best.or(place),
        };
    }
    best.map(|place| LIBRARIES[place].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> String {
        format!("7f0000000000-7f0000001000 r-xp 00000000 fe:00 1234   {path}\n")
    }

    #[test]
    fn libraries_are_told_by_name() {
        for (paths, library) in [
            (&["/usr/lib/x86_64-linux-gnu/libssl.so.3"][..], Some("openssl")),
            (&["/a b/libssl.so.1.1 (deleted)"], Some("openssl")),
            (
                &["/usr/lib/libgnutls.so.30", "/usr/lib/libssl.so.3"],
                Some("openssl"),
            ),
            (
                &["/usr/lib/libssl.so.3", "/opt/java/lib/server/libjvm.so"],
                Some("java"),
            ),
            (&["/usr/lib/libssl3.so"], Some("nss")),
            (&["/usr/lib/libc.so.6", "/usr/lib/mylibssl.so"], None),
            (&["[heap]"], None),
        ] {
            let maps: String = paths.iter().map(|path| line(path)).collect();
            assert_eq!(mapped(maps.as_bytes()), library, "{maps}");
        }
    }

    #[test]
    fn a_process_that_is_gone_is_unknown_and_not_remembered() {
        let mut libraries = Libraries::default();
        let process = |pid| Process {
            pid,
            comm: None,
            exe: None,
            uid: None,
            cgroup: None,
            unit: None,
            container_id: None,
        };
        assert_eq!(libraries.of(&process(u32::MAX)), UNKNOWN);
        assert_eq!(libraries.known.len(), 0);
        // This test links none of them, but for the client of Kafka's.
        let own = if cfg!(feature = "kafka") {
            "openssl"
        } else {
            UNKNOWN
        };
        assert_eq!(libraries.of(&process(std::process::id())), own);
        assert_eq!(libraries.known.len(), 1);
    }
}
