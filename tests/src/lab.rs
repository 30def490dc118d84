//! Network namespaces with veth pairs and nftables gateways.
//!
//! Names carry the process id, so runs can stand side by side; what a killed run left behind is removed by the
//! next one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};

use anyhow::{Context, Result, anyhow};

use crate::tools;
use crate::traffic::Endpoint;

const PREFIX: &str = "npt";
const FOLDER: &str = "/run/netns";

/// A set of namespaces. They go with this value.
pub struct Lab {
    id: String,
    names: Vec<String>,
}

impl Lab {
    /// An empty lab.
    pub fn new() -> Result<Self> {
        static CLEAN: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        CLEAN.call_once(remove_stale);
        let id = format!(
            "{PREFIX}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Ok(Self {
            id,
            names: Vec::new(),
        })
    }

    /// Adds a namespace.
    pub fn add(&mut self, name: &str) -> Result<()> {
        tools::run("ip", &["netns", "add", &self.full(name)])?;
        self.names.push(name.to_owned());
        self.ip(name, "link set lo up")
    }

    /// Joins two namespaces by a veth pair, up on both sides.
    pub fn link(&self, a: &str, a_if: &str, b: &str, b_if: &str) -> Result<()> {
        let (fa, fb) = (self.full(a), self.full(b));
        let command = format!("link add {a_if} netns {fa} type veth peer name {b_if} netns {fb}");
        tools::run("ip", &command.split(' ').collect::<Vec<_>>())?;
        self.ip(a, &format!("link set {a_if} up"))?;
        self.ip(b, &format!("link set {b_if} up"))
    }

    /// Runs `ip` commands in a namespace, one a line.
    pub fn ip(&self, name: &str, commands: &str) -> Result<()> {
        let program = tools::find("ip").context("ip is not installed")?;
        let input: String = commands
            .lines()
            .map(|line| format!("{}\n", line.trim()))
            .collect();
        tools::run_with_input(
            Command::new(program).args(["-n", &self.full(name), "-batch", "-"]),
            input.trim_start(),
        )?;
        Ok(())
    }

    /// Loads an nftables script in a namespace.
    pub fn nft(&self, name: &str, script: &str) -> Result<()> {
        let program = tools::find("nft").context("nft is not installed")?;
        // Entering by thread, not by `ip netns exec`: that would also need a writable /sys.
        let path = self.path(name);
        tools::within(&path, || {
            tools::run_with_input(Command::new(program).args(["-f", "-"]), script)
        })?;
        Ok(())
    }

    /// Sets a `net.*` sysctl (path with slashes) in a namespace.
    pub fn sysctl(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{key}");
        tools::within(&self.path(name), || {
            std::fs::write(&file, value).with_context(|| format!("cannot set {file}"))
        })
    }

    /// Makes a namespace forward IPv4 and IPv6.
    pub fn forward(&self, name: &str) -> Result<()> {
        self.sysctl(name, "net/ipv4/ip_forward", "1")?;
        self.sysctl(name, "net/ipv6/conf/all/forwarding", "1")
    }

    /// File that stands for a namespace.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(self.full(name))
    }

    /// Inode of a namespace: its identity in events.
    pub fn inode(&self, name: &str) -> Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(
            self.path(name),
        )?))
    }

    /// Starts an endpoint in a namespace.
    pub fn endpoint(&self, name: &str, comm: &str) -> Result<Endpoint> {
        Endpoint::start(comm, Some(&self.path(name).display().to_string()))
    }

    /// Runs a program in a namespace.
    pub fn run(&self, name: &str, program: &str, args: &[&str]) -> Result<String> {
        tools::within(&self.path(name), || tools::run(program, args))
    }

    fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            // What stays behind is removed by the next run.
            let _ = tools::run("ip", &["netns", "del", &self.full(name)]);
        }
    }
}

/// Removes namespaces of runs that are gone.
fn remove_stale() {
    let Ok(folder) = std::fs::read_dir(FOLDER) else {
        return;
    };
    for name in folder
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let mut parts = name.split('-');
        let (prefix, pid) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok()));
        if prefix == Some(PREFIX) && pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = tools::run("ip", &["netns", "del", &name]);
        }
    }
}

/// Address of the client behind the gateway.
pub const CLIENT: &str = "10.77.1.2";
/// Address of the server behind the gateway.
pub const SERVER: &str = "10.77.2.2";
/// Address the gateway masquerades as.
pub const GATEWAY: &str = "10.77.2.1";
/// Gateway as the client sees it.
pub const GATEWAY_INSIDE: &str = "10.77.1.1";
/// Address translated to the server: port 80 to 8080, ports 20000 to 29999 as they are.
pub const VIRTUAL: &str = "10.77.1.100";
/// The same for IPv6.
pub const CLIENT6: &str = "fd77:1::2";
/// The same for IPv6.
pub const SERVER6: &str = "fd77:2::2";
/// The same for IPv6.
pub const GATEWAY6: &str = "fd77:2::1";
/// The same for IPv6.
pub const VIRTUAL6: &str = "fd77:1::100";

/// A socket address from its parts.
pub fn addr(ip: &str, port: u16) -> SocketAddr {
    // Only called with the literals of this package; a wrong one is a broken test.
    let ip = ip
        .parse()
        .unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    SocketAddr::new(ip, port)
}

/// The lab most cases share: `cli` – `gw` – `srv`, the gateway translates as the constants say. Ports 30000 to
/// 30999 of the server pass untranslated; port 8888 of the gateway is redirected to its own 9999; everything
/// else towards the server is masqueraded. Server ports are the caller's, so cases do not meet.
pub fn gateway() -> Result<Arc<Lab>> {
    let mut shared = SHARED
        .lock()
        .map_err(|_| anyhow!("the lab could not be made before"))?;
    if let Some(lab) = &*shared {
        return Ok(lab.clone());
    }
    let lab = Arc::new(build_gateway()?);
    *shared = Some(lab.clone());
    Ok(lab)
}

/// Made once and held, so that the shared agent sees its namespaces to the end.
static SHARED: Mutex<Option<Arc<Lab>>> = Mutex::new(None);

/// Removes the shared lab; for the end of the program, since statics are never dropped.
pub fn remove_shared() {
    if let Ok(mut lab) = SHARED.lock() {
        *lab = None;
    }
}

/// A lab like the shared one, of one's own.
pub fn build_gateway() -> Result<Lab> {
    let mut lab = Lab::new()?;
    for name in ["cli", "gw", "srv"] {
        lab.add(name)?;
    }
    lab.link("cli", "c0", "gw", "g0")?;
    lab.link("srv", "s0", "gw", "g1")?;
    lab.forward("gw")?;
    lab.ip(
        "cli",
        "addr add 10.77.1.2/24 dev c0
         addr add fd77:1::2/64 dev c0 nodad
         route add default via 10.77.1.1
         route add 10.77.1.100/32 via 10.77.1.1
         route add ::/0 via fd77:1::1
         route add fd77:1::100/128 via fd77:1::1",
    )?;
    lab.ip(
        "gw",
        "addr add 10.77.1.1/24 dev g0
         addr add fd77:1::1/64 dev g0 nodad
         addr add 10.77.2.1/24 dev g1
         addr add fd77:2::1/64 dev g1 nodad",
    )?;
    lab.ip(
        "srv",
        "addr add 10.77.2.2/24 dev s0
         addr add fd77:2::2/64 dev s0 nodad
         route add default via 10.77.2.1
         route add ::/0 via fd77:2::1",
    )?;
    lab.nft(
        "gw",
        "table ip nat {
          chain pre {
            type nat hook prerouting priority dstnat;
            ip daddr 10.77.1.100 tcp dport 80 dnat to 10.77.2.2:8080
            ip daddr 10.77.1.100 meta l4proto { tcp, udp } th dport 20000-29999 dnat to 10.77.2.2
            ip daddr 10.77.1.1 tcp dport 8888 redirect to :9999
          }
          chain post {
            type nat hook postrouting priority srcnat;
            oifname g1 tcp dport 30000-30999 accept
            oifname g1 masquerade
          }
        }
        table ip6 nat {
          chain pre {
            type nat hook prerouting priority dstnat;
            ip6 daddr fd77:1::100 tcp dport 80 dnat to [fd77:2::2]:8080
            ip6 daddr fd77:1::100 meta l4proto { tcp, udp } th dport 20000-29999 dnat to fd77:2::2
          }
          chain post {
            type nat hook postrouting priority srcnat;
            oifname g1 masquerade
          }
        }",
    )?;
    Ok(lab)
}
