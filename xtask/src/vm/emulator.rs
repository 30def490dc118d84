//! Which emulator runs a machine, and with which processor.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::kernels;

/// An emulator.
pub(crate) struct Emulator {
    /// Its program, or the name of one on the path.
    pub(crate) program: PathBuf,
    /// Where its firmware is, if not where it looks by itself.
    pub(crate) firmware: Vec<PathBuf>,
    /// Its processor.
    pub(crate) processor: &'static str,
}

impl Emulator {
    /// The one that is installed. No `cmpxchg16b`: QEMU 7.2 emulates it wrongly, and a kernel whose allocator uses it
    /// dies at random (6.12: 5 of 8 boots, right after that instruction; 0 of 28 without it).
    pub(crate) fn of_the_system() -> Self {
        Self {
            program: format!("qemu-system-{}", std::env::consts::ARCH).into(),
            firmware: Vec::new(),
            processor: "qemu64,-cx16",
        }
    }

    /// The pinned one, for kernels that need what the other emulates wrongly.
    pub(crate) fn pinned() -> Result<Self> {
        let place = kernels::emulator()?;
        let below = |path: &str| Path::new(&place).join(path);
        Ok(Self {
            program: below(&format!("usr/bin/qemu-system-{}", std::env::consts::ARCH)),
            firmware: vec![below("usr/share/qemu"), below("usr/share/seabios")],
            processor: "qemu64,+cx16",
        })
    }
}
