//! Distribution packages: which, what for, and how they get here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh::{self, say};

/// When a package is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// To build and run whatever is Rust.
    Build,
    /// To build the agent with all its features.
    Agent,
    /// To run something in a virtual machine.
    Vm,
    /// To run every test.
    Test,
}

/// One thing a distribution installs. Names are those of apt, dnf, zypper and pacman.
#[derive(Debug)]
pub(crate) struct Package {
    need: Need,
    apt: &'static str,
    dnf: &'static str,
    zypper: &'static str,
    pacman: &'static str,
    /// A program that proves it is there, whoever installed it.
    program: &'static str,
    why: &'static str,
}

macro_rules! packages {
    ($($need:ident $apt:literal $dnf:literal $zypper:literal $pacman:literal $program:literal $why:literal;)*) => {
        &[$(Package { need: Need::$need, apt: $apt, dnf: $dnf, zypper: $zypper, pacman: $pacman,
                      program: $program, why: $why }),*]
    };
}

#[rustfmt::skip]
const PACKAGES: &[Package] = packages! {
    // need  apt                dnf                 zypper              pacman              program               why
    Build "gcc"              "gcc"               "gcc"               "gcc"               "cc"                  "links host programs";
    Build "libc6-dev"        "glibc-devel"       "glibc-devel"       "glibc"             ""                    "C headers and start files";
    Agent "make"             "make"              "make"              "make"              "make"                "builds librdkafka";
    Agent "pkg-config"       "pkgconf-pkg-config" "pkgconf-pkg-config" "pkgconf"          "pkg-config"          "finds OpenSSL";
    Agent "libssl-dev"       "openssl-devel"     "libopenssl-devel"  "openssl"           ""                    "TLS of librdkafka";
    Vm    "iproute2"         "iproute"           "iproute2"          "iproute2"          "ip"                  "namespaces, veth pairs, ss";
    Vm    "nftables"         "nftables"          "nftables"          "nftables"          "nft"                 "the NAT gateway";
    Vm    "conntrack"        "conntrack-tools"   "conntrack-tools"   "conntrack-tools"   "conntrack"           "NAT truth";
    Vm    "curl"             "curl"              "curl"              "curl"              "curl"                "a real client";
    Vm    "tcpdump"          "tcpdump"           "tcpdump"           "tcpdump"           "tcpdump"             "latency truth";
    Vm    "socat"            "socat"             "socat"             "socat"             "socat"               "odd sockets";
    Test  "nginx"            "nginx"             "nginx"             "nginx"             "nginx"               "a server that uses sendfile";
    Test  "dnsmasq-base"      "dnsmasq"           "dnsmasq"           "dnsmasq"           "dnsmasq"             "a name server";
    Test  "bind9-dnsutils"    "bind-utils"        "bind-utils"        "bind"              "dig"                 "asks name servers";
    Test  "wrk"               "wrk"               "wrk"               "wrk"               "wrk"                 "loads web servers";
    Test  "haproxy"          "haproxy"           "haproxy"           "haproxy"           "haproxy"             "a proxy that splices";
    Test  "postgresql"       "postgresql-server" "postgresql-server" "postgresql"        ""                    "a database server";
    Test  "pgbouncer"        "pgbouncer"         "pgbouncer"         "pgbouncer"         "pgbouncer"           "a connection pool";
    Test  "redis-server"     "redis"             "redis"             "redis"             "redis-server"        "a key-value server";
    Test  "prometheus"       "golang-github-prometheus" "golang-github-prometheus-prometheus" "prometheus" "promtool" "checks the exposition";
    Test  "prometheus-alertmanager" "golang-github-prometheus-alertmanager" "golang-github-prometheus-alertmanager" "alertmanager" "amtool" "checks the routing of alerts";
    Test  "jsonnet"           "jsonnet"           "jsonnet"           "jsonnet"           "jsonnet"             "evaluates the mixin";
    Test  "tmux"              "tmux"              "tmux"              "tmux"              "tmux"                "a terminal that a test can read";
    Test  "ceph-mon"         "ceph-mon"          "ceph-mon"          "ceph"              "ceph-mon"            "an S3 service for the archive";
    Test  "ceph-osd"         "ceph-osd"          "ceph-osd"          "ceph"              "ceph-osd"            "an S3 service for the archive";
    Test  "radosgw"          "ceph-radosgw"      "ceph-radosgw"      "ceph"              "radosgw"             "an S3 service for the archive";
    Test  "ceph-common"      "ceph-common"       "ceph-common"       "ceph"              "ceph"                "an S3 service for the archive";
    Test  "python3-venv"     "python3"           "python3"           "python"            "python3"             "runs those who read archive and Kafka";
    Test  "e2fsprogs"        "e2fsprogs"         "e2fsprogs"         "e2fsprogs"         "mkfs.ext4"           "a file system that loses power";
    Test  "xfsprogs"         "xfsprogs"          "xfsprogs"          "xfsprogs"          "mkfs.xfs"            "a file system that loses power";
    Test  "btrfs-progs"      "btrfs-progs"       "btrfsprogs"        "btrfs-progs"       "mkfs.btrfs"          "a file system that loses power";
    Test  "chromium"         "chromium"          "chromium"          "chromium"          "chromium"            "opens the dashboard";
    Test  "nodejs"           "nodejs"            "nodejs-default"    "nodejs"            "node"                "builds the dashboard, drives the browser";
    Test  "npm"              "nodejs-npm"        "npm-default"       "npm"               "npm"                 "fetches what those two need";
    Vm    "kmod"             "kmod"              "kmod"              "kmod"              "modprobe"            "modules of the VM kernels";
    Vm    "dpkg"             "dpkg"              "dpkg"              "dpkg"              "dpkg-deb"            "unpacks the VM kernels";
    Vm    "xz-utils"         "xz"                "xz"                "xz"                "xz"                  "unpacks the VM kernels";
};

/// The emulator differs by machine: the VM runs the host's own architecture.
const QEMU: Package = if cfg!(target_arch = "aarch64") {
    Package {
        need: Need::Vm,
        apt: "qemu-system-arm",
        dnf: "qemu-system-aarch64-core",
        zypper: "qemu-arm",
        pacman: "qemu-system-aarch64",
        program: "qemu-system-aarch64",
        why: "runs other kernels",
    }
} else {
    Package {
        need: Need::Vm,
        apt: "qemu-system-x86",
        dnf: "qemu-system-x86-core",
        zypper: "qemu-x86",
        pacman: "qemu-system-x86",
        program: "qemu-system-x86_64",
        why: "runs other kernels",
    }
};

/// Set-up cannot go on by itself: somebody has to install something. Exit code 2.
#[derive(Debug)]
pub(crate) struct SetupNeeded(pub(crate) String);

impl std::fmt::Display for SetupNeeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupNeeded {}

fn wanted(need: Need) -> impl Iterator<Item = &'static Package> {
    PACKAGES
        .iter()
        .chain(std::iter::once(&QEMU))
        .filter(move |p| p.need <= need)
}

/// Whether the thing is there by another way than the package manager's word.
fn works(package: &Package) -> bool {
    match package.apt {
        "postgresql" => postgres_bin().is_some(),
        "libssl-dev" => sh::output(sh::clean("pkg-config").args(["--exists", "openssl"])).is_ok(),
        // Python alone is often there; what makes environments is a package of its own.
        "python3-venv" => sh::output(sh::clean("python3").args(["-c", "import ensurepip, venv"])).is_ok(),
        // The C start files are what linking needs; gcc without them is a frequent half-installation.
        "libc6-dev" => {
            ["/usr/lib", "/usr/lib64"]
                .iter()
                .any(|d| Path::new(d).join("crt1.o").is_file())
                || sh::output(sh::clean("cc").arg("-print-file-name=crt1.o"))
                    .is_ok_and(|p| p.trim().starts_with('/'))
        }
        _ => sh::which(package.program).is_some(),
    }
}

/// The folder with PostgreSQL's server programs; distributions keep it off PATH.
fn postgres_bin() -> Option<PathBuf> {
    if let Some(file) = sh::which("postgres") {
        return file.parent().map(Path::to_owned);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .filter_map(|v| Some(v.ok()?.path().join("bin")))
        .find(|bin| bin.join("postgres").is_file())
}

/// Installs what is missing for `need`, or says what has to be installed.
pub(crate) fn ensure(need: Need) -> Result<()> {
    let missing: Vec<&Package> = wanted(need).filter(|p| !works(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for p in &missing {
        say!("missing: {} ({})", p.apt, p.why);
    }
    if sh::which("apt-get").is_none() {
        return Err(SetupNeeded(by_hand(&missing)).into());
    }
    install_named(&missing.iter().map(|p| p.apt).collect::<Vec<_>>())?;
    let still: Vec<&str> = missing.iter().filter(|p| !works(p)).map(|p| p.apt).collect();
    if !still.is_empty() {
        return Err(SetupNeeded(format!("installed, and yet not usable: {}", still.join(" "))).into());
    }
    Ok(())
}

/// One message with the exact packages for every manager that is not apt.
fn by_hand(missing: &[&Package]) -> String {
    let names = |f: fn(&Package) -> &'static str| missing.iter().map(|p| f(p)).collect::<Vec<_>>().join(" ");
    format!(
        "there is no apt-get here. Install these and run the same command again:\n  \
         dnf install {}\n  zypper install {}\n  pacman -S {}",
        names(|p| p.dnf),
        names(|p| p.zypper),
        names(|p| p.pacman)
    )
}

/// `apt-get install` of packages by name, with the index refreshed only when a name is unknown.
pub(crate) fn install_named(names: &[&str]) -> Result<()> {
    if sh::which("apt-get").is_none() {
        return Err(SetupNeeded(format!("there is no apt-get here to install {}", names.join(" "))).into());
    }
    say!("apt-get install {}", names.join(" "));
    if apt(&["install", "--no-install-recommends"], names).is_err() {
        say!("the package index may be old: apt-get update, then once more");
        apt(&["update"], &[])?;
        apt(&["install", "--no-install-recommends"], names)
            .with_context(|| format!("apt-get could not install {}", names.join(" ")))?;
    }
    Ok(())
}

/// Runs apt-get with packaged daemons kept from starting: the tests start their own, on their own ports.
fn apt(verb: &[&str], names: &[&str]) -> Result<()> {
    // 101 is policy-rc.d's "forbidden". One that is there already belongs to somebody else and stays.
    const SCRIPT: &str = r#"
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy"
        fi
        DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@""#;
    sh::run(
        sh::privileged("sh")?
            .args(["-c", SCRIPT, "apt-get"])
            .args(verb)
            .args(names),
    )
    .with_context(|| format!("apt-get {} failed", verb.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_every_manager_and_package() {
        let all: Vec<&Package> = wanted(Need::Test).collect();
        let text = by_hand(&all);
        for p in &all {
            for name in [p.dnf, p.zypper, p.pacman] {
                assert!(
                    !name.is_empty() && text.contains(name),
                    "{} is not in the message",
                    p.apt
                );
            }
        }
    }

    /// The linker of the workspace installs them before xtask itself can be built.
    #[test]
    fn the_linker_names_what_building_needs() {
        let script = std::fs::read_to_string(sh::root().join("xtask/cc")).unwrap();
        let build: Vec<&Package> = wanted(Need::Build).collect();
        let line = |f: fn(&Package) -> &'static str| build.iter().map(|p| f(p)).collect::<Vec<_>>().join(" ");
        for command in [
            format!("install --no-install-recommends {}", line(|p| p.apt)),
            format!("dnf install {}\n", line(|p| p.dnf)),
            format!("zypper install {}\n", line(|p| p.zypper)),
            format!("pacman -S {}\"", line(|p| p.pacman)),
        ] {
            assert!(script.contains(&command), "xtask/cc does not say `{command}`");
        }
    }

    #[test]
    fn build_needs_less_than_test() {
        assert!(wanted(Need::Build).count() < wanted(Need::Test).count());
        assert!(wanted(Need::Build).all(|p| p.need == Need::Build));
    }
}
