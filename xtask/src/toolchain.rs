//! The compiler for the BPF crate: any Rust with its library source and the LLVM that bpf-linker speaks.
//!
//! The ladder: an installed rustup toolchain that has `rust-src`; `rustup component add rust-src`; the
//! distribution's compiler. See `docs/decisions/0001-bpf-toolchain.md`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::sh::{self, say};

/// The linker that turns LLVM bitcode into a BPF object. 0.11 and later want LLVM 23.
pub(crate) const BPF_LINKER: &str = "0.10.4";
/// The LLVM that `BPF_LINKER` loads from the compiler; bitcode or libraries of another one do not fit.
const LLVM_MAJOR: u32 = 22;
/// Names a rustup toolchain (`stable`, `nightly-2026-04-01`) to use instead of the best one.
const OVERRIDE: &str = "NETPROBE_BPF_TOOLCHAIN";
/// Where the library source lies below a toolchain's folder.
const RUST_SRC: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A compiler that can build `core` for the BPF target.
#[derive(Debug)]
pub(crate) struct BpfToolchain {
    /// What to call it in a message.
    pub(crate) label: String,
    /// The rustup toolchain cargo runs on.
    rustup: String,
    /// Another compiler than that toolchain's own.
    rustc: Option<PathBuf>,
    /// Only nightly takes `-Z` flags by itself.
    nightly: bool,
}

impl BpfToolchain {
    /// `cargo` with everything set so that `-Z build-std` and the BPF target work.
    pub(crate) fn cargo(&self, dir: &Path) -> Command {
        let mut cmd = sh::cargo(Some(&self.rustup));
        cmd.current_dir(dir)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_BUILD_TARGET");
        if !self.nightly || self.rustc.is_some() {
            cmd.env("RUSTC_BOOTSTRAP", "1");
        }
        if let Some(rustc) = &self.rustc {
            cmd.env("RUSTC", rustc);
        }
        cmd
    }

    /// Whether this toolchain can run `cargo COMMAND` (clippy is a component of its own).
    pub(crate) fn has(&self, subcommand: &str) -> bool {
        // The distribution's compiler has no clippy that fits it.
        self.rustc.is_none()
            && sh::cargo(Some(&self.rustup))
                .args([subcommand, "--version"])
                .output()
                .is_ok_and(|o| o.status.success())
    }
}

/// One installed rustup toolchain.
#[derive(Debug)]
struct Installed {
    name: String,
    path: PathBuf,
}

impl Installed {
    fn has_source(&self) -> bool {
        self.path.join(RUST_SRC).is_file()
    }

    fn fits(&self) -> bool {
        llvm_major(&self.path.join("bin/rustc")) == Some(LLVM_MAJOR)
    }

    fn nightly(&self) -> bool {
        self.name.starts_with("nightly")
    }

    /// nightly, then stable, then the rest.
    fn rank(&self) -> u8 {
        match &self.name {
            n if n.starts_with("nightly") => 0,
            n if n.starts_with("stable") => 1,
            _ => 2,
        }
    }

    fn into_toolchain(self) -> BpfToolchain {
        let nightly = self.nightly();
        let label = if nightly {
            self.name.clone()
        } else {
            format!("{} with RUSTC_BOOTSTRAP=1", self.name)
        };
        BpfToolchain {
            label,
            rustup: self.name,
            rustc: None,
            nightly,
        }
    }
}

/// Finds a BPF toolchain or installs what one lacks; says each step.
pub(crate) fn find_or_install() -> Result<BpfToolchain> {
    let wanted = std::env::var(OVERRIDE).ok();
    let chosen = |t: &Installed| wanted.as_ref().is_none_or(|name| t.name.starts_with(name));
    if let Some(found) = installed()?.into_iter().find(|t| t.has_source() && chosen(t)) {
        let found = found.into_toolchain();
        say!("BPF toolchain: {}", found.label);
        return Ok(found);
    }
    // Where an earlier set-up ended at the last step, it goes on there at once: rustup had nothing to give.
    if wanted.is_none()
        && let Some(found) = installed_distribution()?
    {
        say!("BPF toolchain: {}", found.label);
        return Ok(found);
    }
    for candidate in installed()?.into_iter().filter(chosen) {
        say!(
            "no toolchain has rust-src: rustup component add rust-src --toolchain {}",
            candidate.name
        );
        let add = sh::run(sh::clean("rustup").args([
            "component",
            "add",
            "rust-src",
            "--toolchain",
            &candidate.name,
        ]));
        match add {
            Ok(()) if candidate.has_source() => {
                let found = candidate.into_toolchain();
                say!("BPF toolchain: {}", found.label);
                return Ok(found);
            }
            Ok(()) => say!(
                "rustup added rust-src to {} but its files are not there",
                candidate.name
            ),
            Err(e) => say!("{e:#}"),
        }
    }
    distribution()
}

/// The distribution's compiler.
const DISTRIBUTION: &str = "/usr/bin/rustc";

/// Step three: the distribution's compiler and library source, with rustup's cargo in front.
fn distribution() -> Result<BpfToolchain> {
    say!("no rustup toolchain can build for BPF: trying the distribution's rustc-web and rust-web-src");
    packages::install_named(&["rustc-web", "rust-web-src"])?;
    let Some(found) = installed_distribution()? else {
        let major = llvm_major(Path::new(DISTRIBUTION));
        bail!(
            "no compiler here can build the BPF programs: a Rust with LLVM {LLVM_MAJOR} and its library source is \
             needed ({DISTRIBUTION} has LLVM {}). Try `rustup toolchain install 1.95.0 --component rust-src`",
            major.map_or("unknown".into(), |m| m.to_string())
        );
    };
    say!("BPF toolchain: {}", found.label);
    Ok(found)
}

/// The distribution's compiler, if it is there with its library source and the right LLVM.
fn installed_distribution() -> Result<Option<BpfToolchain>> {
    let rustc = PathBuf::from(DISTRIBUTION);
    let complete = rustc.is_file() && Path::new("/usr").join(RUST_SRC).is_file();
    if !complete || llvm_major(&rustc) != Some(LLVM_MAJOR) {
        return Ok(None);
    }
    let front = rustup_toolchains()?
        .into_iter()
        .next()
        .context("rustup has no toolchain: rustup default stable")?;
    Ok(Some(BpfToolchain {
        label: format!("{DISTRIBUTION} under {}'s cargo", front.name),
        rustup: front.name,
        rustc: Some(rustc),
        nightly: false,
    }))
}

/// Installed toolchains whose LLVM is the one bpf-linker speaks, best first.
fn installed() -> Result<Vec<Installed>> {
    Ok(rustup_toolchains()?.into_iter().filter(Installed::fits).collect())
}

fn rustup_toolchains() -> Result<Vec<Installed>> {
    let list = sh::output(sh::clean("rustup").args(["toolchain", "list", "-v"]))
        .context("rustup is needed (https://rustup.rs)")?;
    let mut found: Vec<Installed> = list.lines().filter_map(parse_listed).collect();
    found.sort_by_key(Installed::rank);
    Ok(found)
}

/// A line of `rustup toolchain list -v`: name, notes in brackets, path.
fn parse_listed(line: &str) -> Option<Installed> {
    let (name, rest) = line.split_once(char::is_whitespace)?;
    let path = &rest[rest.find('/')?..];
    Some(Installed {
        name: name.to_owned(),
        path: PathBuf::from(path.trim_end()),
    })
}

fn llvm_major(rustc: &Path) -> Option<u32> {
    let text = sh::output(sh::clean(rustc).arg("-vV")).ok()?;
    parse_llvm_major(&text)
}

fn parse_llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|l| l.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// Installs bpf-linker when it is absent or another version.
pub(crate) fn ensure_linker() -> Result<()> {
    let found = sh::output(sh::clean("bpf-linker").arg("--version")).ok();
    if found.as_deref().and_then(|v| v.split_whitespace().nth(1)) == Some(BPF_LINKER) {
        return Ok(());
    }
    let have = found.map_or("absent".to_owned(), |v| v.trim().to_owned());
    say!("bpf-linker {BPF_LINKER} is needed ({have}): cargo install, about a minute");
    sh::run(sh::cargo(None).args([
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--locked",
        "--force",
    ]))
    .context("cannot install bpf-linker; it needs the network and a C compiler")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_toolchains_with_and_without_notes() {
        let t =
            parse_listed("stable-x86_64-unknown-linux-gnu (active, default) /r/toolchains/stable-x").unwrap();
        assert_eq!(
            (t.name.as_str(), t.path.to_str()),
            ("stable-x86_64-unknown-linux-gnu", Some("/r/toolchains/stable-x"))
        );
        let t = parse_listed("nightly-aarch64-unknown-linux-gnu /home/a b/n\n").unwrap();
        assert_eq!(t.path.to_str(), Some("/home/a b/n"));
        assert!(t.nightly());
        assert!(parse_listed("no installed toolchains").is_none());
    }

    #[test]
    fn llvm_version_is_read() {
        assert_eq!(
            parse_llvm_major("rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2\n"),
            Some(22)
        );
        assert_eq!(parse_llvm_major("rustc 1.95.0\n"), None);
    }
}
