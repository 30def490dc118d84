//! Other kernels: one command in a small virtual machine, its verdict back on the console.
//!
//! What runs is the same binary as on the host. The machine has no disk and no network: everything is in the
//! initramfs, everything comes back over the serial line.

mod cpio;
mod emulator;
pub(crate) mod image;
pub(crate) mod kernels;
pub(crate) mod matrix;
pub(crate) mod nodes;
pub(crate) mod page;
mod qemu;
pub(crate) mod record;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::emulator::Emulator;
use crate::sh::{self, say};
use crate::{build, packages};

pub(crate) use qemu::{End, Outcome};

/// What to run in a machine.
#[derive(Debug)]
pub(crate) struct Job {
    /// The command, as the guest sees it.
    pub(crate) argv: Vec<String>,
    /// Host programs it needs besides the usual tools, and where the guest finds them.
    pub(crate) programs: Vec<(PathBuf, String)>,
    /// What is special about the machine.
    pub(crate) machine: kernels::Machine,
    /// Stands before each line of its console.
    pub(crate) label: String,
    /// Network cards.
    pub(crate) cards: Vec<Card>,
    /// No console output for this long is a hang.
    pub(crate) silence: Duration,
}

/// A network card, wired to that of another machine of this host.
#[derive(Debug)]
pub(crate) struct Card {
    /// Its hardware address.
    pub(crate) mac: String,
    /// The Unix socket that is the wire.
    pub(crate) wire: PathBuf,
    /// Whether it makes the socket; the other end, started later, finds it.
    pub(crate) makes: bool,
}

/// `cargo xtask vm run`: one command per kernel. `netprobe` is the agent of this tree; a path to a file is
/// copied in; anything else must be one of the guest's tools.
pub(crate) fn run(
    wanted: &[String],
    machine: Option<&str>,
    command: &[String],
    silence: Duration,
) -> Result<()> {
    packages::ensure(packages::Need::Vm)?;
    let agent = build::agent()?;
    let init = build::vm_init()?;
    let mut job = Job {
        argv: command.to_vec(),
        programs: vec![netprobe(agent)],
        machine: kernels::machine(machine)?,
        label: String::new(),
        cards: Vec::new(),
        silence,
    };
    let program = job
        .argv
        .first_mut()
        .context("no command: cargo xtask vm run -- netprobe doctor")?;
    if program.contains('/') && Path::new(program).is_file() {
        let host = PathBuf::from(&*program);
        let name = host
            .file_name()
            .context("the command has no file name")?
            .to_string_lossy();
        let guest = format!("/bin/{name}");
        *program = guest.clone();
        job.programs.push((host, guest));
    } else if !program.contains('/') {
        *program = format!("/bin/{program}");
    }
    let mut failed = Vec::new();
    for kernel in kernels::select(wanted)? {
        let outcome = boot(&kernel, &init, &job)?;
        say!(
            "kernel {}: {} after {:.0} s",
            kernel.name,
            outcome.end,
            outcome.took.as_secs_f64()
        );
        if outcome.end != End::Verdict(0) {
            failed.push(kernel.name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "`{}` did not succeed on kernel {}",
            command.join(" "),
            failed.join(", ")
        );
    }
    Ok(())
}

/// Boots one kernel with one job; its console passes through to stdout.
pub(crate) fn boot(kernel: &kernels::Kernel, init: &Path, job: &Job) -> Result<Outcome> {
    let unpacked = kernels::fetch(kernel)?;
    let initramfs = image::write(&unpacked, init, job)?;
    say!(
        "kernel {}: {} in a virtual machine",
        kernel.name,
        job.argv.join(" ")
    );
    let emulator = if kernel.cmpxchg16b && !job.machine.bare {
        Emulator::pinned()?
    } else {
        Emulator::of_the_system()
    };
    qemu::run(&emulator, &unpacked.kernel, &initramfs, job)
}

/// The agent, and where tests look for it.
pub(crate) fn netprobe(binary: PathBuf) -> (PathBuf, String) {
    (binary, "/bin/netprobe".to_owned())
}

/// Kernels, images and downloads; outside cargo's own folders, so that they outlive them.
fn folder() -> PathBuf {
    sh::root().join("target/vm")
}
