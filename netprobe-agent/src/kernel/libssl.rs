//! OpenSSL's shared libraries: which there are, and which a process has mapped.
//!
//! A file is known by its device and inode, so one that was replaced by an upgrade and is still in use is another than its
//! successor. What a process maps is reached through `/proc/PID/map_files`, in containers and after it was deleted too.

use std::{
    collections::HashSet,
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How the name of the file begins; that of NSS, `libssl3.so`, does not.
const NAME: &str = "libssl.so";
/// Where systems keep libraries.
const FOLDERS: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];

/// A library's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where it can be opened now.
    pub path: PathBuf,
    /// Device and inode.
    pub file: (u64, u64),
}

impl Library {
    fn at(path: PathBuf) -> io::Result<Library> {
        let about = fs::metadata(&path)?;
        Ok(Library {
            path,
            file: (about.dev(), about.ino()),
        })
    }
}

/// Those that are installed, and those that processes use, each once.
pub fn all() -> Vec<Library> {
    let mut seen = HashSet::new();
    let installed = FOLDERS.iter().flat_map(|folder| in_folder(Path::new(folder)));
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let used = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(of_process);
    installed
        .chain(used)
        .filter(|library| seen.insert(library.file))
        .collect()
}

fn in_folder(folder: &Path) -> Vec<Library> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(NAME))
        })
        .filter_map(|entry| Library::at(entry.path()).ok())
        .collect()
}

/// The one a process has mapped, if it has and it may be looked at.
pub fn of_process(pid: u32) -> Option<Library> {
    let maps = BufReader::new(fs::File::open(format!("/proc/{pid}/maps")).ok()?);
    let range = maps.lines().map_while(Result::ok).find_map(|line| range(&line))?;
    Library::at(format!("/proc/{pid}/map_files/{range}").into()).ok()
}

/// The range of addresses of a line that maps code of the library.
fn range(line: &str) -> Option<String> {
    let (range, rest) = line.split_once(' ')?;
    let file = &line[line.find('/')?..];
    let name = file.rsplit('/').next()?;
    (rest.starts_with("r-x") && name.starts_with(NAME)).then(|| range.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_library_is_found() {
        let line = |perms: &str, path: &str| format!("7f00-7f10 {perms} 0001e000 fe:00 1234   {path}");
        for (line, found) in [
            (line("r-xp", "/usr/lib/libssl.so.3"), true),
            (line("r-xp", "/a b/libssl.so.1.1 (deleted)"), true),
            (line("r--p", "/usr/lib/libssl.so.3"), false),
            (line("r-xp", "/usr/lib/libssl3.so"), false),
            (line("r-xp", "[vdso]"), false),
            (String::new(), false),
        ] {
            assert_eq!(range(&line), found.then(|| "7f00-7f10".to_owned()), "{line}");
        }
    }
}
