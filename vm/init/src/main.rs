//! PID 1 of the test virtual machines: mounts, loads modules, runs one command, says how it ended, powers off.
//!
//! `cargo xtask vm` builds it statically and puts it into the initramfs as `/init`, beside three files that say
//! what to do: `/vm/argv` and `/vm/env` (NUL-separated) and `/vm/modules` (paths in load order, one a line).
//! `netprobe-vm: prepared` on the console comes just before the command's own output.
//! The last line on the console is `netprobe-vm: verdict N`: the command's exit code, 128 + its signal, or 125
//! when the machine could not be prepared. No such line means that the machine died.

use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcdrain;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, getpid, sethostname};

/// The machine could not be prepared, so the command never ran.
const NOT_PREPARED: i32 = 125;

/// What to mount: file system, place, and whether the tests can do without it.
const MOUNTS: &[(&str, &str, bool)] = &[
    ("proc", "/proc", true),
    ("sysfs", "/sys", true),
    ("devtmpfs", "/dev", true),
    ("devpts", "/dev/pts", false),
    ("tmpfs", "/dev/shm", false),
    ("tmpfs", "/tmp", true),
    ("tmpfs", "/run", true),
    ("securityfs", "/sys/kernel/security", false),
    ("bpf", "/sys/fs/bpf", false),
    ("tracefs", "/sys/kernel/tracing", false),
];

fn main() -> ExitCode {
    if getpid() != Pid::from_raw(1) {
        eprintln!("netprobe-vm: this is the first process of a test machine; `cargo xtask vm` starts it");
        return ExitCode::from(2);
    }
    let verdict = match prepare().and_then(|()| run_job()) {
        Ok(code) => code,
        Err(error) => {
            println!("netprobe-vm: {error}");
            NOT_PREPARED
        }
    };
    finish(verdict)
}

fn prepare() -> io::Result<()> {
    for (kind, place, required) in MOUNTS {
        let mounted = fs::create_dir_all(place).and_then(|()| {
            mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>).map_err(io::Error::from)
        });
        match mounted {
            Err(error) if *required => {
                return Err(context(error, &format!("cannot mount {kind} on {place}")));
            }
            Err(error) => println!("netprobe-vm: cannot mount {kind} on {place}: {error}"),
            Ok(()) => {}
        }
    }
    mount_cgroups()?;
    sethostname("netprobe-vm")?;
    for module in fs::read_to_string("/vm/modules")?.lines() {
        let file = File::open(module).map_err(|e| context(e, module))?;
        let flags = ModuleInitFlags::empty();
        match finit_module(&file, &CString::default(), flags) {
            // A module may have come in with another one.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => println!("netprobe-vm: cannot load {module}: {error}"),
        }
    }
    // Without it nothing on 127.0.0.1 answers.
    let up = Command::new("/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    if !up.success() {
        return Err(io::Error::other(format!(
            "cannot bring up lo: ip ended with {up}"
        )));
    }
    Ok(())
}

/// cgroup v2, or v1 alone where the kernel's command line says `netprobe_cgroup=v1`: the kernel hands such words to us
/// as environment.
fn mount_cgroups() -> io::Result<()> {
    let old = env::var("netprobe_cgroup").is_ok_and(|version| version == "v1");
    let (kind, data) = if old {
        ("cgroup", Some("none,name=netprobe"))
    } else {
        ("cgroup2", None)
    };
    let place = "/sys/fs/cgroup";
    mount(Some(kind), place, Some(kind), MsFlags::empty(), data)
        .map_err(|error| context(error.into(), &format!("cannot mount {kind} on {place}")))
}

/// Runs the command and reaps whatever else is orphaned to us meanwhile.
fn run_job() -> io::Result<i32> {
    let argv = strings("/vm/argv")?;
    let (program, args) = argv
        .split_first()
        .ok_or_else(|| io::Error::other("/vm/argv is empty"))?;
    let env = strings("/vm/env")?;
    println!("netprobe-vm: prepared");
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(env.iter().filter_map(|pair| pair.split_once('=')))
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| context(e, program))?;
    let child = Pid::from_raw(child.id().cast_signed());
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                println!("netprobe-vm: {program} was ended by {signal}");
                return Ok(128 + signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn finish(verdict: i32) -> ExitCode {
    // Everybody but us; ESRCH when there is nobody left.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    println!("netprobe-vm: verdict {verdict}");
    // Powering off does not wait for the serial line, and a verdict cut short is no verdict.
    let _ = io::stdout().flush();
    let _ = tcdrain(io::stdout());
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    println!("netprobe-vm: cannot power off: {error}");
    // PID 1 returning is a kernel panic, which ends the machine too.
    ExitCode::FAILURE
}

/// NUL-separated strings of a file.
fn strings(path: &str) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|e| context(e, path))?;
    Ok(text
        .split('\0')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect())
}

fn context(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
