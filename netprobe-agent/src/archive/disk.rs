//! The spool's folder behind a trait, so that a test can take the power away between any two steps.
//!
//! The contract is what POSIX and Linux promise and no more: bytes are there after a crash once [`DiskFile::sync`]
//! returned, names once [`Disk::sync_folder`] returned, and after a failed sync nothing is known about what was
//! written since the last good one. Writing to the same file again after that is not allowed.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// A flat folder of files.
pub trait Disk: Debug + Send + Sync {
    /// Makes an empty file in place of what has the name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Reads a file from its begin.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// Cuts a file and syncs it.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;

    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Names and lengths, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes every change of names so far last.
    fn sync_folder(&self) -> io::Result<()>;
}

/// A file that is written once, from front to end.
pub trait DiskFile: Send {
    /// Appends all bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was appended last.
    fn sync(&mut self) -> io::Result<()>;
}

/// Writes a whole file under its name in one step that a crash cannot cut: under another name first. The folder is
/// left to the caller to sync.
pub fn write_whole(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = format!("{name}.tmp");
    let mut file = disk.create(&draft)?;
    file.append(bytes)?;
    file.sync()?;
    disk.rename(&draft, name)
}

/// All bytes of a file.
pub fn read_whole(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    disk.open(name)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A folder of this host, held by one owner as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Its lock is the ownership; the kernel drops it with the process, however that ends.
    _lock: File,
}

/// Name of the file that carries the lock.
pub const LOCK: &str = "lock";

impl Folder {
    /// Makes the folder if need be, private to its user, and takes it. Fails with `WouldBlock` when somebody else has
    /// it.
    pub fn take(path: &Path) -> io::Result<Folder> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Folder {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for Folder {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        // Not emptied but made anew: what the system knows of failed writes to the old one goes with it.
        match fs::remove_file(self.at(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(self.at(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(BufReader::with_capacity(
            128 << 10,
            File::open(self.at(name))?,
        )))
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.at(name))?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A file may go between the two calls: then it is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && entry.file_name() != LOCK {
                files.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
            }
        }
        Ok(files)
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// So much at a time is worth telling the disk of.
const MUCH: usize = 1 << 20;

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        if bytes.len() >= MUCH {
            begin_writing(self)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        // The length is part of what has to be there to read the data back, so this is enough.
        self.sync_data()
    }
}

/// Has the disk begin with what was appended, so that the sync to come waits for less. It promises nothing. Its error is one
/// of the disk, and of bytes that a later sync may know nothing of any more.
fn begin_writing(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call touches no memory of this process.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Whoever filters system calls may not know this one: then the sync does all of it.
    if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
        return Ok(());
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let first = Folder::take(&path).unwrap();
        assert_eq!(Folder::take(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        Folder::take(&path).unwrap();
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::take(folder.path()).unwrap();
        write_whole(&disk, "a", b"one").unwrap();
        write_whole(&disk, "a", b"other").unwrap();
        disk.sync_folder().unwrap();
        assert_eq!(read_whole(&disk, "a").unwrap(), b"other");
        let much = vec![7; MUCH];
        let mut file = disk.create("much").unwrap();
        file.append(&much).unwrap();
        file.sync().unwrap();
        assert_eq!(read_whole(&disk, "much").unwrap(), much);
        disk.remove("much").unwrap();
        disk.truncate("a", 2).unwrap();
        assert_eq!(disk.list().unwrap(), [("a".to_owned(), 2)]);
        disk.rename("a", "b").unwrap();
        disk.remove("b").unwrap();
        assert!(disk.list().unwrap().is_empty());
    }
}
