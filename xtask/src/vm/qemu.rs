//! One boot under QEMU: the console read line by line until the verdict, a panic or a hang.

use std::fmt;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Job, emulator::Emulator};
use crate::follow::{self, Ended};
use crate::sh;

/// What init prints when the machine is prepared.
const PREPARED: &str = "netprobe-vm: prepared";
/// What init prints last.
const VERDICT: &str = "netprobe-vm: verdict ";

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ended with this exit code.
    Verdict(i32),
    /// The machine went away without a verdict: a kernel panic, or QEMU itself.
    Died(String),
    /// Nothing on the console for this long; the machine was stopped.
    Silent(Duration),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(0) => f.write_str("succeeded"),
            Self::Verdict(code) => write!(f, "exit code {code}"),
            Self::Died(how) => write!(f, "died without a verdict: {how}"),
            Self::Silent(limit) => write!(f, "hung: nothing on the console for {} s", limit.as_secs()),
        }
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) end: End,
    /// The console, line by line.
    pub(crate) console: Vec<String>,
    /// From start to the command's own start, if it came that far.
    pub(crate) booted: Option<Duration>,
    /// From start to end.
    pub(crate) took: Duration,
}

/// Boots, with the words of the job's machine on the kernel's command line, and waits. The console passes through to
/// stdout, each line behind the job's label.
pub(crate) fn run(emulator: &Emulator, kernel: &Path, initramfs: &Path, job: &Job) -> Result<Outcome> {
    let started = Instant::now();
    let mut child = command(emulator, kernel, initramfs, job)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let result = watch(&mut child, job);
    // Whatever happened, no machine is left behind; ending one that has ended is no error worth telling.
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_file(initramfs);
    let (end, console, booted) = result?;
    Ok(Outcome {
        end,
        console,
        booted: booted.map(|at| at - started),
        took: started.elapsed(),
    })
}

fn command(emulator: &Emulator, kernel: &Path, initramfs: &Path, job: &Job) -> Command {
    let program = &emulator.program;
    // Where it is there, setpriv sees to it that the machine does not outlive us, whatever ends us.
    let mut cmd = match sh::which("setpriv") {
        Some(setpriv) => {
            let mut cmd = sh::clean(setpriv);
            cmd.args(["--pdeathsig", "KILL"]).arg(program);
            cmd
        }
        None => sh::clean(program),
    };
    // Emulation with one CPU: it runs on machines that are virtual themselves, and more CPUs were seen to crash.
    for folder in &emulator.firmware {
        cmd.arg("-L").arg(folder);
    }
    cmd.args([
        "-accel",
        "tcg,thread=single",
        "-cpu",
        emulator.processor,
        "-smp",
        "1",
        "-m",
        "2048",
    ])
    .args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-nic",
        "none",
    ])
    // A panic reboots at once, and a reboot ends QEMU. 5.10 checks that the emulated timer works, and gives up on a busy
    // host.
    .args(["-no-reboot", "-append"])
    .arg(format!(
        "console=ttyS0 quiet loglevel=3 panic=-1 oops=panic mitigations=off no_timer_check {}",
        job.machine.append
    ))
    .arg("-kernel")
    .arg(kernel)
    .arg("-initrd")
    .arg(initramfs);
    for (number, card) in job.cards.iter().enumerate() {
        let server = if card.makes { "on" } else { "off" };
        cmd.arg("-netdev").arg(format!(
            "stream,id=wire{number},server={server},addr.type=unix,addr.path={}",
            card.wire.display()
        ));
        cmd.arg("-device")
            .arg(format!("virtio-net-pci,netdev=wire{number},mac={}", card.mac));
    }
    cmd
}

fn watch(child: &mut Child, job: &Job) -> Result<(End, Vec<String>, Option<Instant>)> {
    let stdout = child.stdout.take().context("QEMU has no console")?;
    let mut stderr = child.stderr.take().context("QEMU has no stderr")?;
    let mut console = Vec::new();
    let mut booted = None;
    let ended = follow::lines(stdout, job.silence, |line| {
        if let Some(code) = verdict(&line) {
            return ControlFlow::Break(code);
        }
        if line.ends_with(PREPARED) {
            booted = Some(Instant::now());
            return ControlFlow::Continue(());
        }
        println!("{}{line}", job.label);
        console.push(line);
        ControlFlow::Continue(())
    });
    let end = match ended {
        Ended::Told(code) => End::Verdict(code),
        Ended::Silent => End::Silent(job.silence),
        Ended::Closed => {
            let mut said = String::new();
            // Best effort: QEMU's own last words, if any.
            let _ = stderr.read_to_string(&mut said);
            let panic = console.iter().rev().find(|l| l.contains("Kernel panic"));
            let how = panic.map_or_else(|| said.trim().to_owned(), Clone::clone);
            End::Died(if how.is_empty() { "powered off".into() } else { how })
        }
    };
    Ok((end, console, booted))
}

/// The verdict may follow unfinished output on the same line.
fn verdict(line: &str) -> Option<i32> {
    line.split_once(VERDICT)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn verdict_lines() {
        assert_eq!(verdict("netprobe-vm: verdict 0"), Some(0));
        assert_eq!(verdict("half a linenetprobe-vm: verdict 137"), Some(137));
        assert_eq!(verdict("netprobe-vm: cannot load x"), None);
    }
}
