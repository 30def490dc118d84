//! What a case cannot run without, and which of that may lack where.

use netprobe_tests::parity::version;
use netprobe_tests::tools;

/// Something a machine may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A program.
    Program(&'static str),
    /// A file that the set-up makes.
    File(&'static str),
    /// An engine that reads archives, in the Python environment of this name that the set-up makes.
    Engine(&'static str),
    /// Kafka's client for Python, and an agent that was built with Kafka.
    Kafka,
    /// A PostgreSQL server; its programs are not on the path.
    PostgresServer,
    /// io_uring allowed by the kernel.
    Uring,
    /// TLS in the kernel.
    KernelTls,
    /// A processor that is not emulated.
    Speed,
    /// A kernel of at least this version.
    Kernel(u32, u32),
    /// A kernel before this version: what is tested cannot go wrong later.
    Before(u32, u32),
    /// The virtual machine of the kernel tests: the case changes what belongs to the whole machine.
    TestMachine,
    /// The special machine of this name in `vm/kernels.toml`.
    Machine(&'static str),
}

/// A need that is not met.
#[derive(Clone, Debug)]
pub(crate) struct Lack {
    need: Need,
    /// A sentence.
    pub(crate) reason: String,
}

impl Need {
    /// What is lacking, if anything is.
    pub(crate) fn lacking(self) -> Option<Lack> {
        let reason = match self {
            Need::Program(name) if tools::find(name).is_none() => format!("{name} is not installed"),
            Need::File(path) if !std::path::Path::new(path).exists() => format!("{path} is not there"),
            Need::Engine(name) => match super::archive::python(name) {
                None => format!("{name} is not there: `cargo xtask setup --test` installs it"),
                Some(_) => return None,
            },
            Need::Kafka => super::archive::kafka::lacking()?,
            Need::PostgresServer => match super::programs::postgres_folder() {
                Err(error) => format!("{error:#}"),
                Ok(_) => return None,
            },
            Need::Uring => match netprobe_tests::traffic::uring_refused() {
                Some(why) => format!("the kernel refuses io_uring: {why}"),
                None => return None,
            },
            Need::KernelTls => match std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp") {
                Ok(layers) if layers.split_whitespace().any(|layer| layer == "tls") => return None,
                _ => "the kernel has no TLS, or its module is not loaded".to_owned(),
            },
            Need::Speed if emulated() => "the processor is emulated: too slow for this volume".to_owned(),
            Need::Kernel(major, minor) if tools::kernel()? < (major, minor) => {
                format!("the kernel is older than {major}.{minor}")
            }
            Need::Before(major, minor) if tools::kernel()? >= (major, minor) => {
                format!("the kernel is not older than {major}.{minor}")
            }
            Need::TestMachine if !in_vm() => {
                "it changes the whole machine, which it may in the test machine only".to_owned()
            }
            Need::Machine(name) if machine().as_deref() != Some(name) => {
                format!("only in the machine {name} of vm/kernels.toml")
            }
            Need::Program(_)
            | Need::File(_)
            | Need::Kernel(..)
            | Need::Before(..)
            | Need::TestMachine
            | Need::Machine(_)
            | Need::Speed => return None,
        };
        Some(Lack { need: self, reason })
    }
}

/// Which virtual machine of the kernel tests this is, if it is one: its runner says so.
fn machine() -> Option<String> {
    std::env::var("NETPROBE_VM").ok()
}

/// Whether it is any of them.
pub(crate) fn in_vm() -> bool {
    machine().is_some()
}

/// The kernels and machines that tests run on, of `vm/kernels.toml`.
#[derive(Default, serde::Deserialize)]
struct Matrix {
    kernel: Vec<Named>,
    machine: Vec<Named>,
}

#[derive(serde::Deserialize)]
struct Named {
    name: String,
}

impl Matrix {
    fn read() -> Self {
        // An unreadable file permits nothing, so whatever lacks something fails.
        toml::from_str(include_str!("../../vm/kernels.toml")).unwrap_or_default()
    }

    fn has_kernel(&self, wanted: impl Fn((u32, u32)) -> bool) -> bool {
        self.kernel
            .iter()
            .any(|kernel| version(&kernel.name).is_some_and(&wanted))
    }
}

/// Whether the processor is not a real one.
pub(crate) fn emulated() -> bool {
    in_vm()
}

/// Programs that only the host has; cases that need them may be skipped in the virtual machine.
const HOST_PROGRAMS: &[&str] = &[
    "nginx",
    "openssl",
    "python3",
    "dnsmasq",
    "dig",
    "wrk",
    "haproxy",
    "psql",
    "pgbouncer",
    "redis-server",
    "redis-cli",
    "promtool",
    "prometheus",
    "ceph",
    "ceph-mon",
    "ceph-osd",
    "radosgw",
    "amtool",
    "jsonnet",
    "tmux",
    "node",
    "systemd-analyze",
    "chromium",
];

/// The table of permitted skips. Everything else that cannot run fails.
pub(crate) fn skip_permitted(_case: &str, lack: &Lack) -> bool {
    match lack.need {
        Need::Program(name) => in_vm() && HOST_PROGRAMS.contains(&name),
        Need::PostgresServer | Need::Engine(_) => in_vm(),
        // Plain cargo builds an agent without it; `cargo xtask` never does.
        Need::Kafka => true,
        // Kernels are built without it, and administrators switch it off.
        Need::Uring => true,
        // The virtual machine's kernels have it, but for the oldest.
        Need::KernelTls => !in_vm() || tools::kernel() < Some((6, 1)),
        Need::TestMachine => !in_vm(),
        Need::Speed | Need::File(_) => in_vm(),
        // Some kernel or machine of the matrix must do, or the test would never run anywhere.
        Need::Kernel(major, minor) => Matrix::read().has_kernel(|known| known >= (major, minor)),
        Need::Before(major, minor) => Matrix::read().has_kernel(|known| known < (major, minor)),
        Need::Machine(name) => Matrix::read().machine.iter().any(|machine| machine.name == name),
    }
}
