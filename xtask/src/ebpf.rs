//! Builds the BPF object into `target/bpf/netprobe.bpf.o`, where the agent's build picks it up.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh::{self, say};
use crate::toolchain;

/// BPF runs in the byte order of its host.
pub(crate) const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};
/// BTF needs debug information; bpf-linker does the rest. Without its "in order" LLVM writes small copies and fills out as
/// loads and stores; with it every fill is a call of a loop over bytes, a nanosecond each.
pub(crate) const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf \
     -C link-arg=--disable-expand-memcpy-in-order -C linker=bpf-linker";

/// The folder of the BPF crate.
pub(crate) fn crate_dir() -> PathBuf {
    sh::root().join("netprobe-ebpf")
}

/// Sets up what is missing, builds, and publishes the object only if its bytes changed, so that an
/// unchanged object does not rebuild the agent. Returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    build_in(sh::root())
}

/// The same in another copy of the repository.
pub(crate) fn build_in(root: &Path) -> Result<PathBuf> {
    build_as(root, None)
}

/// The same for hosts of another architecture: its registers are where uprobes find arguments.
pub(crate) fn build_for(arch: &str) -> Result<PathBuf> {
    build_as(sh::root(), Some(arch))
}

fn build_as(root: &Path, arch: Option<&str>) -> Result<PathBuf> {
    let tools = toolchain::find_or_install()?;
    toolchain::ensure_linker()?;

    let dir = root.join("netprobe-ebpf");
    let built_in = dir.join("target").join(arch.unwrap_or_default());
    let mut cmd = tools.cargo(&dir);
    if let Some(arch) = arch {
        cmd.env("AYA_BPF_TARGET_ARCH", arch);
    }
    sh::run(
        cmd.env("RUSTFLAGS", RUSTFLAGS)
            .args(["build", "--release", "-Z", "build-std=core", "--target", TARGET])
            .args(["--bin", "netprobe-ebpf", "--target-dir"])
            .arg(&built_in),
    )
    .context("the BPF programs did not build")?;

    let built = built_in.join(TARGET).join("release/netprobe-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // As netprobe-agent/build.rs looks for it.
    let name = arch.map_or_else(
        || "netprobe.bpf.o".to_owned(),
        |arch| format!("netprobe.{arch}.bpf.o"),
    );
    let object = root.join("target/bpf").join(name);
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        say!("BPF object unchanged: {} ({} bytes)", shown(&object), bytes.len());
        return Ok(object);
    }
    let folder = object.parent().context("target/bpf has no parent")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Rename, so that a reader sees the old object or the new one and never half of it.
    let staged = folder.join(format!(".netprobe.bpf.o.{}", std::process::id()));
    fs::write(&staged, &bytes).with_context(|| format!("cannot write {}", staged.display()))?;
    fs::rename(&staged, &object).with_context(|| format!("cannot write {}", object.display()))?;
    say!("BPF object built: {} ({} bytes)", shown(&object), bytes.len());
    Ok(object)
}

fn shown(object: &Path) -> String {
    object
        .strip_prefix(sh::root())
        .unwrap_or(object)
        .display()
        .to_string()
}
