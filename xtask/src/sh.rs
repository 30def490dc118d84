//! Running other programs: one clean environment, one way to report a failure.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Prints one short progress line. Progress goes to stderr; stdout belongs to the command that was asked for.
macro_rules! say {
    ($($arg:tt)*) => { eprintln!("xtask: {}", format_args!($($arg)*)) };
}
pub(crate) use say;

/// What the outer `cargo xtask` leaves behind that would steer an inner cargo: the toolchain it ran on, its
/// flags, and the library path of its own compiler (bpf-linker looks for LLVM there).
const LEAKS: &[&str] = &[
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "LD_LIBRARY_PATH",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// A command without what the outer cargo put into the environment.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut cmd = Command::new(program);
    for name in LEAKS {
        cmd.env_remove(name);
    }
    // Those of the outer package. Build scripts depend on some: the inner cargo would build anew what was built without.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cmd.env_remove(&name);
        }
    }
    cmd
}

/// `cargo`, on the given rustup toolchain or on the default one, started in the repository.
pub(crate) fn cargo(toolchain: Option<&str>) -> Command {
    let mut cmd = clean("cargo");
    if let Some(name) = toolchain {
        cmd.arg(format!("+{name}"));
    }
    cmd.current_dir(root());
    cmd
}

/// Runs a command with its output passed through; anything but success is an error that names the command.
pub(crate) fn run(cmd: &mut Command) -> Result<()> {
    let status = cmd
        .status()
        .with_context(|| format!("cannot start `{}`", shown(cmd)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(cmd));
    }
    Ok(())
}

/// Runs a command and returns its standard output; its standard error is part of the failure.
pub(crate) fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(cmd)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed ({}): {}", shown(cmd), out.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The command as a person would type it.
pub(crate) fn shown(cmd: &Command) -> String {
    std::iter::once(cmd.get_program())
        .chain(cmd.get_args())
        .map(|a| a.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The repository. xtask runs from its own build, so where it was compiled is where it works.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where cargo puts host builds: `target/` unless the caller moved it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Finds a program on PATH, or in the sbin folders that an ordinary user's PATH leaves out.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Whether we are root (`/proc/self` belongs to the effective user).
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// `program`, through sudo when we are not root.
pub(crate) fn privileged(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(clean(program));
    }
    if which("sudo").is_none() {
        bail!(
            "`{}` needs root and there is no sudo: run this as root",
            program.as_ref().to_string_lossy()
        );
    }
    let mut cmd = clean("sudo");
    cmd.arg(program);
    Ok(cmd)
}
