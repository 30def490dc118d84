//! The machine's only file system: init, the programs with their libraries, the modules, the job.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use super::Job;
use super::cpio::Tree;
use super::kernels::Unpacked;
use crate::sh::{self, say};

/// What tests and people call inside; without one of these a test would be skipped for the wrong reason.
const TOOLS: &[&str] = &[
    "ip",
    "ss",
    "nft",
    "conntrack",
    "curl",
    "tcpdump",
    "socat",
    "sysctl",
    "setpriv",
    "prlimit",
    "sh",
    "cat",
    "ls",
    "sleep",
    "mkdir",
    "rm",
    "env",
    "uname",
    "dmesg",
    "mount",
    "kill",
    "true",
    "false",
    "head",
    "tail",
    "grep",
    "wc",
    "find",
];

/// Enough of /etc for name lookups by programs that insist on them.
const ETC: &[(&str, &str)] = &[
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/hostname", "netprobe-vm\n"),
];

/// Writes the initramfs and returns its path.
pub(crate) fn write(kernel: &Unpacked, init: &Path, job: &Job) -> Result<PathBuf> {
    let mut tree = Tree::default();
    for folder in [
        "/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/var", "/bin", "/lib",
    ] {
        tree.folder(folder);
    }
    // One folder of programs and one of libraries under all their names.
    for (name, to) in [
        ("/usr", "."),
        ("/sbin", "bin"),
        ("/var/run", "/run"),
        ("/var/tmp", "/tmp"),
    ] {
        tree.link(name, to);
    }
    // The kernel opens it for init before anything is mounted.
    tree.device("/dev/console", 5, 1);
    for (path, text) in ETC {
        tree.bytes(path, *text);
    }
    tree.host("/init", init.to_owned());
    for tool in TOOLS {
        let host = sh::which(tool).with_context(|| format!("`{tool}` is not installed"))?;
        program(&mut tree, &host, &format!("/bin/{tool}"))?;
    }
    for (host, guest) in &job.programs {
        program(&mut tree, host, guest)?;
    }

    let mut modules = String::new();
    for file in &kernel.modules {
        let name = file
            .file_name()
            .context("a module has no name")?
            .to_string_lossy();
        let guest = format!("/lib/modules/{}", name.split(".ko").next().unwrap_or(&name));
        tree.bytes(&guest, module(file)?);
        modules.push_str(&guest);
        modules.push('\n');
    }
    tree.bytes("/vm/modules", modules);
    tree.bytes("/vm/argv", job.argv.join("\0"));
    tree.bytes(
        "/vm/env",
        format!(
            "PATH=/bin\0HOME=/root\0TERM=dumb\0RUST_BACKTRACE=1\0NETPROBE_BIN=/bin/netprobe\0NETPROBE_VM={}",
            job.machine.name
        ),
    );

    // Several are made at once.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = super::folder().join(format!(
        "initramfs-{}-{}.cpio",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    tree.write(&mut out)
        .and_then(|()| out.flush())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A program with every shared library the loader would look for.
fn program(tree: &mut Tree, host: &Path, guest: &str) -> Result<()> {
    let real = host
        .canonicalize()
        .with_context(|| format!("cannot find {}", host.display()))?;
    tree.host(guest, real.clone());
    // ldd fails for a static program, which needs nothing more.
    let Ok(listed) = sh::output(sh::clean("ldd").arg(&real)) else {
        return Ok(());
    };
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("{} lacks a library on this machine:{line}", host.display());
        }
        let Some(library) = library(line) else { continue };
        let guest = library.strip_prefix("/usr").unwrap_or(library);
        if !tree.has(guest) {
            tree.host(
                guest,
                Path::new(library)
                    .canonicalize()
                    .with_context(|| format!("cannot find {library}"))?,
            );
        }
    }
    Ok(())
}

/// The path in a line of ldd: `name => /path (0x…)` or `/path (0x…)`.
fn library(line: &str) -> Option<&str> {
    let path = line
        .split_once("=>")
        .map_or(line, |(_, path)| path)
        .split('(')
        .next()?
        .trim();
    path.starts_with('/').then_some(path)
}

/// A module's bytes; not every kernel can unpack them itself.
fn module(file: &Path) -> Result<Vec<u8>> {
    let tool = match file.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let out = sh::clean(tool)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("cannot start {tool}"))?;
    if !out.status.success() {
        say!("{}", String::from_utf8_lossy(&out.stderr).trim());
        bail!("{tool} cannot unpack {}", file.display());
    }
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::library;

    #[test]
    fn ldd_lines() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
    }
}
