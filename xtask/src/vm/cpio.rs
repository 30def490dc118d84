//! A cpio archive in the "newc" format, the one the kernel unpacks as its first file system.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What stands at a path.
#[derive(Debug)]
enum Entry {
    Folder,
    Bytes(Vec<u8>),
    Host(PathBuf),
    Link(String),
    Device { major: u32, minor: u32 },
}

/// A file system to be, by absolute path. Sorted, so a folder stands before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, (u32, Entry)>);

impl Tree {
    /// An empty folder, with its parents.
    pub(crate) fn folder(&mut self, path: &str) {
        self.add(path, 0o040_755, Entry::Folder);
    }

    /// A file with the given contents.
    pub(crate) fn bytes(&mut self, path: &str, contents: impl Into<Vec<u8>>) {
        self.add(path, 0o100_644, Entry::Bytes(contents.into()));
    }

    /// A copy of a host file, executable.
    pub(crate) fn host(&mut self, path: &str, file: PathBuf) {
        self.add(path, 0o100_755, Entry::Host(file));
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.add(path, 0o120_777, Entry::Link(to.to_owned()));
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, 0o020_600, Entry::Device { major, minor });
    }

    /// Whether something stands there already.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn add(&mut self, path: &str, mode: u32, entry: Entry) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str)
            && parent != "/"
            && !self.has(parent)
        {
            self.folder(parent);
        }
        self.0.insert(path.to_owned(), (mode, entry));
    }

    /// Writes the archive.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (number, (path, (mode, entry))) in (1..).zip(&self.0) {
            let (contents, device) = match entry {
                Entry::Folder => (Vec::new(), (0, 0)),
                Entry::Bytes(bytes) => (bytes.clone(), (0, 0)),
                Entry::Host(file) => {
                    let read = fs::read(file);
                    (
                        read.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?,
                        (0, 0),
                    )
                }
                Entry::Link(to) => (to.clone().into_bytes(), (0, 0)),
                Entry::Device { major, minor } => (Vec::new(), (*major, *minor)),
            };
            record(
                out,
                number,
                path.trim_start_matches('/'),
                *mode,
                &contents,
                device,
            )?;
        }
        record(out, 0, "TRAILER!!!", 0, &[], (0, 0))
    }
}

fn record(
    out: &mut impl Write,
    inode: u32,
    name: &str,
    mode: u32,
    contents: &[u8],
    device: (u32, u32),
) -> io::Result<()> {
    let size = u32::try_from(contents.len())
        .map_err(|_| io::Error::other(format!("{name} is larger than the format can say")))?;
    // inode mode uid gid links time size | device of the file system, of the file | length of the name, sum
    let name_size = name.len() as u32 + 1;
    let fields = [
        inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
    ];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(b"\0")?;
    // Header and name together, then the contents, are padded to four bytes.
    out.write_all(padding(110 + name.len() + 1))?;
    out.write_all(contents)?;
    out.write_all(padding(contents.len()))
}

fn padding(length: usize) -> &'static [u8] {
    &[0; 3][..length.wrapping_neg() % 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn padding_fills_to_four() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(|n| padding(n).len()), [0, 3, 2, 1, 0, 3]);
    }

    /// The judge is GNU cpio; where it is not installed the machines themselves are.
    #[test]
    fn cpio_reads_what_we_write() {
        let mut tree = Tree::default();
        tree.bytes("/etc/hello", "hello\n");
        tree.link("/usr", ".");
        tree.device("/dev/console", 5, 1);
        let mut archive = Vec::new();
        tree.write(&mut archive).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let out = cpio.wait_with_output().unwrap();
        assert!(out.status.success());
        let listing = String::from_utf8(out.stdout).unwrap();
        let names: Vec<&str> = listing
            .lines()
            .filter_map(|l| l.split_whitespace().nth(8).or(None))
            .collect();
        assert!(listing.contains("usr -> ."), "{listing}");
        assert!(
            listing
                .lines()
                .any(|l| l.starts_with("crw") && l.contains("5,   1") && l.ends_with("dev/console")),
            "{listing}"
        );
        assert!(names.contains(&"etc/hello"), "{listing}");
    }
}
