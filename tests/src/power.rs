//! A disk whose power can be taken: an image under a loop device, served by a file system of our own (FUSE), so that
//! every write and every flush of the file system on it passes here.
//!
//! What was written and not flushed may be there after a power failure, or not, or in part: that is what a disk with a
//! cache of its own promises.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

use crate::tools;

/// Name of the image in its file system.
const NAME: &str = "image";
/// Smallest part of a write that is there or not.
const SECTOR: usize = 512;

/// A mounted file system; unmounted with this value.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts an image through a loop device.
    pub fn image(image: &Path, folder: &Path) -> Result<Mounted> {
        std::fs::create_dir_all(folder)?;
        tools::run_command(Command::new("mount").args(["-o", "loop"]).arg(image).arg(folder))?;
        Ok(Mounted(folder.to_owned()))
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let umount = |lazily: &[&str]| Command::new("umount").args(lazily).arg(&self.0).output();
        // Lazily where need be: an error on the disk must not leave it mounted.
        if !umount(&[]).is_ok_and(|output| output.status.success()) {
            let _ = umount(&["-l"]);
        }
    }
}

/// Makes an image with a file system in it.
pub fn format(kind: &str, image: &Path, bytes: u64) -> Result<()> {
    File::create(image)?.set_len(bytes)?;
    let force = if kind == "ext4" { "-F" } else { "-f" };
    tools::run(
        &format!("mkfs.{kind}"),
        &["-q", force, image.to_str().context("a path in UTF-8")?],
    )
    .map(drop)
}

/// The disk.
pub struct Disk {
    mounted: Option<Mounted>,
    session: Option<BackgroundSession>,
    platter: Arc<Mutex<Platter>>,
}

/// What the disk holds.
struct Platter {
    /// As of the last flush.
    image: File,
    path: PathBuf,
    size: u64,
    /// Written since, in order: offset and bytes.
    cache: Vec<(u64, Vec<u8>)>,
    /// Nothing can be written any more.
    broken: bool,
    flushes: u64,
}

impl Disk {
    /// Puts an image with a file system into a disk and mounts it; what is needed for that is made below `folder`.
    pub fn start(image: &Path, folder: &Path) -> Result<Disk> {
        let file = OpenOptions::new().read(true).write(true).open(image)?;
        let platter = Arc::new(Mutex::new(Platter {
            size: file.metadata()?.len(),
            image: file,
            path: image.to_owned(),
            cache: Vec::new(),
            broken: false,
            flushes: 0,
        }));
        let served = folder.join("served");
        std::fs::create_dir_all(&served)?;
        let session = fuser::spawn_mount(Server(platter.clone()), &served, &Config::default())
            .context("a file system of our own (FUSE) cannot be mounted")?;
        let mut disk = Disk {
            mounted: None,
            session: Some(session),
            platter,
        };
        disk.mounted = Some(Mounted::image(&served.join(NAME), &folder.join("mounted"))?);
        Ok(disk)
    }

    /// Where its file system is mounted.
    pub fn path(&self) -> &Path {
        self.mounted.as_ref().map_or(Path::new("/"), Mounted::path)
    }

    /// From now on every write and flush is an I/O error.
    pub fn break_down(&self) {
        lock(&self.platter).broken = true;
    }

    /// Flushes so far.
    pub fn flushes(&self) -> u64 {
        lock(&self.platter).flushes
    }

    /// Writes an image of what the disk might hold if the power went now, or a moment later when there are some writes
    /// in its cache; how many there were.
    pub fn cut(&self, random: &mut fastrand::Rng, image: &Path) -> Result<usize> {
        let (begin, wanted) = (Instant::now(), random.usize(0..8));
        let platter = loop {
            let platter = lock(&self.platter);
            if platter.cache.len() >= wanted || begin.elapsed() > Duration::from_millis(200) {
                break platter;
            }
            drop(platter);
            std::thread::sleep(Duration::from_micros(50));
        };
        tools::run_command(
            Command::new("cp")
                .arg("--sparse=always")
                .arg(&platter.path)
                .arg(image),
        )?;
        let file = OpenOptions::new().write(true).open(image)?;
        for (offset, bytes) in &platter.cache {
            let fate = random.u8(0..3);
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                // All of it, nothing, or parts.
                if fate == 0 || fate == 1 && random.bool() {
                    file.write_all_at(sector, offset + (index * SECTOR) as u64)?;
                }
            }
        }
        Ok(platter.cache.len())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.mounted.take());
        // With it goes what served it.
        drop(self.session.take());
    }
}

fn lock(platter: &Mutex<Platter>) -> MutexGuard<'_, Platter> {
    platter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Platter {
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let len = len.min(self.size.saturating_sub(offset) as usize);
        let mut bytes = vec![0; len];
        self.image.read_exact_at(&mut bytes, offset)?;
        for (at, written) in &self.cache {
            let (from, to) = (
                offset.max(*at),
                (offset + len as u64).min(at + written.len() as u64),
            );
            if from < to {
                bytes[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&written[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.broken || offset + bytes.len() as u64 > self.size {
            return Err(io::ErrorKind::Other.into());
        }
        self.cache.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::Other.into());
        }
        for (offset, bytes) in self.cache.drain(..) {
            self.image.write_all_at(&bytes, offset)?;
        }
        self.flushes += 1;
        Ok(())
    }
}

/// A folder with one file.
struct Server(Arc<Mutex<Platter>>);

/// What the kernel may keep.
const LASTING: Duration = Duration::from_secs(3600);
const IMAGE: INodeNo = INodeNo(2);

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let folder = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if folder { 0 } else { lock(&self.0).size },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if folder {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&LASTING, &self.attributes(IMAGE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LASTING, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.0).write(offset, bytes) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match lock(&self.0).flush() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
