//! Debian kernels by name: fetched once, checked against their pinned sums, unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::sh::{self, say};

/// `vm/kernels.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    modules: Vec<String>,
    kernel: Vec<Kernel>,
    emulator: Vec<Package>,
    machine: Vec<Machine>,
}

/// A machine in which something is different.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// Also the beginning of its tests' names, after `machine_`.
    pub(crate) name: String,
    /// More words on the kernel's command line; `key=value` without a dot reaches init's environment.
    #[serde(default)]
    pub(crate) append: String,
    /// Without what its kernel needs of the emulator.
    #[serde(default)]
    pub(crate) bare: bool,
    /// Where it is tried.
    kernels: Vec<String>,
}

/// The machine in which nothing is different.
pub(crate) const PLAIN: &str = "plain";

/// Names of tests that only a special machine can run begin so, its own name behind.
pub(crate) const SPECIAL_TESTS: &str = "machine_";

/// What the names of a special machine's tests begin with; `None`: the plain one runs everything.
pub(crate) fn tests_of(machine: &Machine) -> Option<String> {
    (machine.name != PLAIN).then(|| format!("{SPECIAL_TESTS}{}", machine.name))
}

/// The machine called so; without a name, the plain one.
pub(crate) fn machine(name: Option<&str>) -> Result<Machine> {
    let plain = Machine {
        name: PLAIN.to_owned(),
        append: String::new(),
        bare: false,
        kernels: Vec::new(),
    };
    let Some(name) = name.filter(|name| *name != PLAIN) else {
        return Ok(plain);
    };
    let all = pins()?.machine;
    let names: Vec<_> = all.iter().map(|machine| machine.name.clone()).collect();
    all.into_iter()
        .find(|machine| machine.name == name)
        .with_context(|| {
            format!(
                "there is no machine {name}; there are {PLAIN}, {}",
                names.join(", ")
            )
        })
}

/// The machines to try on a kernel, the plain one first.
pub(crate) fn machines(kernel: &str) -> Result<Vec<Machine>> {
    let special = pins()?
        .machine
        .into_iter()
        .filter(|machine| machine.kernels.iter().any(|name| name == kernel));
    Ok(std::iter::once(machine(None)?).chain(special).collect())
}

/// Every kernel of this architecture, as the file has them.
pub(crate) fn all() -> Result<Vec<Kernel>> {
    let mine = |kernel: &Kernel| kernel.arch == std::env::consts::ARCH;
    Ok(pins()?.kernel.into_iter().filter(mine).collect())
}

/// One kernel that can be booted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    arch: String,
    /// Needs this instruction, and so the pinned emulator, on every machine that is not bare.
    #[serde(default)]
    pub(crate) cmpxchg16b: bool,
    pub(crate) package: Vec<Package>,
}

/// Where one package of a kernel comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// `debian` or `debian-security`.
    archive: String,
    /// Below the archive's root.
    pub(crate) path: String,
    sha256: String,
}

/// A kernel on disk.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The bootable image.
    pub(crate) kernel: PathBuf,
    /// Module files in load order; what they need stands before them.
    pub(crate) modules: Vec<PathBuf>,
}

fn pins() -> Result<Pins> {
    let path = sh::root().join("vm/kernels.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not what it should be", path.display()))
}

/// The kernels asked for, or the default one.
pub(crate) fn select(wanted: &[String]) -> Result<Vec<Kernel>> {
    let mine = all()?;
    let names = || {
        mine.iter()
            .map(|k| k.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if mine.is_empty() {
        bail!(
            "vm/kernels.toml pins no kernel for {}: add one",
            std::env::consts::ARCH
        );
    }
    let default = ["6.12".to_owned()];
    let wanted = match wanted {
        [] => &default[..],
        [all] if all == "all" => return Ok(mine),
        some => some,
    };
    wanted
        .iter()
        .map(|name| {
            let found = mine.iter().find(|k| k.name == *name).cloned();
            found.with_context(|| format!("there is no kernel {name}; pinned are {} (or `all`)", names()))
        })
        .collect()
}

/// Fetches and unpacks a kernel unless it is there already.
pub(crate) fn fetch(kernel: &Kernel) -> Result<Unpacked> {
    let place = super::folder().join(format!("kernel-{}", kernel.name));
    unpack(&kernel.package, &place, |place| {
        // Newer packages have no `lib`; depmod looks nowhere else.
        if !place.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", place.join("lib")).context("cannot link lib to usr/lib")?;
        }
        sh::run(
            sh::clean(sh::which("depmod").context("depmod is missing")?)
                .arg("-b")
                .arg(place)
                .arg(release(place)?),
        )
    })?;
    unpacked(&place, &pins()?.modules)
}

/// Fetches and unpacks the pinned emulator unless it is there already; where it is.
pub(crate) fn emulator() -> Result<PathBuf> {
    let place = super::folder().join("emulator");
    unpack(&pins()?.emulator, &place, |_| Ok(()))?;
    Ok(place)
}

/// Fetches and unpacks packages into a folder, and does what is left to do there, unless all of it is done.
fn unpack(packages: &[Package], place: &Path, finish: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let marker = place.join("complete");
    let sums: String = packages.iter().map(|p| format!("{}\n", p.sha256)).collect();
    if fs::read_to_string(&marker).ok().as_deref() == Some(sums.as_str()) {
        return Ok(());
    }
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot replace {}", place.display()))?;
    }
    fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    for package in packages {
        let deb = download(package)?;
        sh::run(sh::clean("dpkg-deb").arg("-x").arg(&deb).arg(place))?;
    }
    finish(place)?;
    fs::write(&marker, sums).with_context(|| format!("cannot write {}", marker.display()))
}

/// The kernel's release: the one folder below `lib/modules`.
fn release(place: &Path) -> Result<String> {
    let folder = place.join("lib/modules");
    let mut found = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let entry = found
        .next()
        .with_context(|| format!("{} is empty", folder.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn unpacked(place: &Path, wanted: &[String]) -> Result<Unpacked> {
    let release = release(place)?;
    let base = place.join("lib/modules").join(&release);
    let kernel = [
        place.join(format!("boot/vmlinuz-{release}")),
        base.join("vmlinuz"),
    ]
    .into_iter()
    .find(|file| file.is_file())
    .with_context(|| format!("no kernel image below {}", place.display()))?;
    let read = |name: &str| {
        fs::read_to_string(base.join(name)).with_context(|| format!("cannot read {} of {release}", name))
    };
    let known = Dependencies::parse(&read("modules.dep")?);
    // Newer packages do not ship it.
    let builtin = fs::read_to_string(base.join("modules.builtin")).unwrap_or_default();
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
    let mut order = Vec::new();
    let mut absent = Vec::new();
    for name in wanted {
        if !known.load(name, &mut order) && !builtin.contains(name) {
            absent.push(name.as_str());
        }
    }
    if !absent.is_empty() {
        say!(
            "{release} has no module {}, or has it built in",
            absent.join(", ")
        );
    }
    Ok(Unpacked {
        kernel,
        modules: order.into_iter().map(|path| base.join(path)).collect(),
    })
}

/// `modules.dep`: which file is which module, and what it needs.
#[derive(Debug)]
struct Dependencies(BTreeMap<String, (String, Vec<String>)>);

impl Dependencies {
    fn parse(text: &str) -> Self {
        let entries = text.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            Some((
                module_name(path),
                (
                    path.to_owned(),
                    needs.split_whitespace().map(module_name).collect(),
                ),
            ))
        });
        Self(entries.collect())
    }

    /// Appends a module's file after those it needs; false when there is no such module.
    fn load(&self, name: &str, order: &mut Vec<String>) -> bool {
        let Some((path, needs)) = self.0.get(name) else {
            return false;
        };
        if !order.contains(path) {
            // depmod lists the nearest first; a cycle is not possible between loadable modules.
            for need in needs.iter().rev() {
                self.load(need, order);
            }
            order.push(path.clone());
        }
        true
    }
}

/// `kernel/net/nf-x.ko.xz` is the module `nf_x`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn download(package: &Package) -> Result<PathBuf> {
    let folder = super::folder().join("packages");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let name = package.path.rsplit('/').next().unwrap_or(&package.path);
    let file = folder.join(name);
    if sum(&file).ok().as_deref() == Some(&package.sha256) {
        return Ok(file);
    }
    let url = format!("{}/{}", mirror(&package.archive), package.path);
    say!("fetching {url}");
    let helper = Path::new("/usr/lib/apt/apt-helper");
    // apt's own fetcher knows the machine's proxy and credentials.
    let fetched = if helper.is_file() {
        sh::run(
            sh::clean(helper)
                .args(["-q", "-o", "APT::Sandbox::User=root", "download-file", &url])
                .arg(&file),
        )
    } else {
        sh::run(
            sh::clean("curl")
                .args(["-fsSL", "--retry", "3", "-o"])
                .arg(&file)
                .arg(&url),
        )
    };
    fetched.with_context(|| {
        format!(
            "cannot fetch {url}; if the mirror has dropped this build, pin a newer one in vm/kernels.toml"
        )
    })?;
    let got = sum(&file)?;
    if got != package.sha256 {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        bail!(
            "{url} has the SHA-256 {got}, pinned is {}: not used",
            package.sha256
        );
    }
    Ok(file)
}

fn sum(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The mirror this machine's apt uses for an archive, else Debian's own.
fn mirror(archive: &str) -> String {
    let sites = sh::output(sh::clean("apt-get").args(["indextargets", "--format", "$(ORIGIN) $(SITE)"]));
    let ending = format!("/{archive}");
    let configured = sites.ok().and_then(|text| {
        let site = |line: &str| Some(line.strip_prefix("Debian ")?.trim_end_matches('/').to_owned());
        text.lines().filter_map(site).find(|site| site.ends_with(&ending))
    });
    configured.unwrap_or_else(|| format!("http://deb.debian.org/{archive}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/nft-nat.ko.xz: kernel/net/nf_nat.ko.xz kernel/net/nf_conntrack.ko.xz\n\
                       kernel/net/nf_nat.ko.xz: kernel/net/nf_conntrack.ko.xz\n\
                       kernel/net/nf_conntrack.ko.xz:\n";

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let known = Dependencies::parse(DEP);
        let mut order = Vec::new();
        assert!(known.load("nft_nat", &mut order));
        assert!(known.load("nf_nat", &mut order));
        assert!(!known.load("absent", &mut order));
        let names: Vec<String> = order.iter().map(|p| module_name(p)).collect();
        assert_eq!(names, ["nf_conntrack", "nf_nat", "nft_nat"]);
    }

    #[test]
    fn the_shipped_pins_parse_and_have_the_default() {
        let pins = pins().unwrap();
        let known = |name: &String| pins.kernel.iter().any(|kernel| kernel.name == *name);
        for machine in &pins.machine {
            assert!(
                !machine.kernels.is_empty() && machine.kernels.iter().all(known),
                "{machine:?}"
            );
        }
        assert!(pins.kernel.iter().any(|k| k.name == "6.12" && k.arch == "x86_64"));
        for package in pins.kernel.iter().flat_map(|k| &k.package).chain(&pins.emulator) {
            assert_eq!(package.sha256.len(), 64, "{}", package.path);
            assert!(
                package.path.starts_with("pool/") && package.path.ends_with(".deb"),
                "{}",
                package.path
            );
        }
    }
}
