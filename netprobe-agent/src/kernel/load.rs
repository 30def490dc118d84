//! Loading the programs, and the probe that comes of it.
//!
//! Twice: the first pass finds out by trying which method of each fact works here, the second loads afresh with the
//! knobs that follow from that choice. What a refusal was is kept in the kernel's own words.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::PathBuf,
    time::Instant,
};

use aya::{Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel, programs::Program};
use netprobe_common::*;

use super::{
    btf::Btf,
    facts::{self, STATE_IN_HASH},
    filter,
    libssl::{self, Library},
    offsets::Offsets,
    refusal, stats,
};
use crate::{
    config::ProbeConfig,
    error::AgentError,
    probe_report::{FactReport, KernelReport, StartReport},
};

mod knobs;
mod ladder;

pub use ladder::cgroup_root;
use ladder::{attach_to, check_forced, require};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETPROBE_BPF_OBJECT"));

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
/// As a method in `probe.methods`: nothing is attached for this fact.
pub const OFF: &str = "off";
/// TLS libraries that are read at most; each takes about a dozen descriptors.
const MOST_LIBRARIES: usize = 256;
const LIFECYCLE: &str = "lifecycle";
/// Connections that can be followed at once where their state is in a hash. Half a KiB of kernel memory each while it lives,
/// 16 bytes each from the start.
const CONNECTIONS: u32 = 1 << 20;

/// What a load is for.
#[derive(Clone, Copy)]
enum Mode<'a> {
    /// To find out what works, with the state of connections in storage or in the hash.
    Trial { state_in_hash: bool },
    /// To measure, by these methods.
    Final(&'a [FactReport]),
}

impl<'a> Mode<'a> {
    fn choice(self, fact: &str) -> Option<&'a FactReport> {
        match self {
            Mode::Trial { .. } => None,
            Mode::Final(facts) => facts.iter().find(|report| report.fact == fact),
        }
    }

    /// Whether there is another trial to come when nothing serves `lifecycle`.
    fn is_first_trial(self) -> bool {
        matches!(self, Mode::Trial { state_in_hash: false })
    }

    fn state_in_hash(self) -> bool {
        match self {
            Mode::Trial { state_in_hash } => state_in_hash,
            Mode::Final(facts) => method_of(facts, LIFECYCLE) == Some(STATE_IN_HASH),
        }
    }
}

/// Whose traffic is the agent's own, and whose is followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Namespace of the listener.
    pub netns: u32,
    /// Port of the listener; 0: none.
    pub port: u16,
    /// The one namespace that is followed; 0: all are.
    pub followed: u32,
}

/// The probe in the kernel: dropping it detaches everything.
pub struct Probe {
    /// Programs and maps.
    pub ebpf: Ebpf,
    /// What was chosen.
    pub facts: Vec<FactReport>,
    /// What it took to get here.
    pub start: StartReport,
    /// Files of the TLS libraries that are read.
    libraries: HashSet<(u64, u64)>,
    /// Keeps the kernel's run statistics on.
    _statistics: Option<std::os::fd::OwnedFd>,
}

impl Probe {
    /// Reads what processes hand to this TLS library, from now on.
    /// False: it is read already.
    pub fn read_library(&mut self, library: &Library) -> Result<bool, String> {
        if self.libraries.contains(&library.file) {
            return Ok(false);
        }
        if self.libraries.len() >= MOST_LIBRARIES {
            return Err(format!("{MOST_LIBRARIES} are read already"));
        }
        self.libraries.insert(library.file);
        for hook in facts::fact(facts::TLS)
            .into_iter()
            .flat_map(|fact| fact.methods[0].hooks)
        {
            if let Some(Program::UProbe(program)) = self.ebpf.program_mut(hook.program) {
                attach_to(program, hook.attach, library).map_err(|error| refusal::explain(&error, hook))?;
            }
        }
        Ok(true)
    }

    /// The method chosen for `fact`.
    pub fn method(&self, fact: &str) -> Option<&str> {
        method_of(&self.facts, fact)
    }
}

fn method_of<'a>(facts: &'a [FactReport], fact: &str) -> Option<&'a str> {
    facts.iter().find(|report| report.fact == fact)?.method.as_deref()
}

/// Has the programs measure from now on, all of them from the same instant: attaching takes hundreds of milliseconds,
/// and a connection that only some of them saw begin would be one whose calls do not add up.
fn begin(ebpf: &mut Ebpf) -> Result<(), AgentError> {
    let mut running = take_map::<aya::maps::Array<_, u32>>(ebpf, "RUNNING")?;
    running.set(0, 1, 0).map_err(|error| {
        AgentError::other(
            format!("the programs cannot be told to begin: {error}"),
            "report this",
        )
    })
}

/// What is known of the kernel before anything is loaded.
pub struct Kernel {
    aya_btf: AyaBtf,
    btf: Btf,
    /// Offsets of its structs.
    pub offsets: Offsets,
    /// TLS libraries that are there.
    libraries: Vec<Library>,
    /// Release and state.
    pub report: KernelReport,
}

impl Kernel {
    /// Reads release, type information and offsets of the running kernel.
    pub fn detect() -> Result<Kernel, AgentError> {
        let report = kernel_report();
        if let (Some(version), Some(floor)) = (facts::version(&report.release), facts::floor())
            && version < floor
        {
            return Err(AgentError::KernelTooOld {
                release: report.release,
                floor: format!("{}.{}", floor.0, floor.1),
            });
        }
        let no_btf = |error: String| AgentError::NoBtf {
            path: PathBuf::from(BTF_PATH),
            error,
        };
        let btf = Btf::of_kernel()
            .map_err(|e| no_btf(e.to_string()))?
            .map_err(|e| no_btf(e.to_string()))?;
        let aya_btf = AyaBtf::from_sys_fs().map_err(|e| no_btf(e.to_string()))?;
        let offsets = Offsets::resolve(&btf);
        Ok(Kernel {
            aya_btf,
            btf,
            offsets,
            libraries: libssl::all(),
            report,
        })
    }

    /// Chooses a method for every fact and attaches.
    pub fn attach(&self, config: &ProbeConfig, own: Own) -> Result<Probe, AgentError> {
        check_forced(config)?;
        let started = Instant::now();
        let facts = self.trial(config, own)?;
        require(&facts, config)?;
        let survey_ms = milliseconds(started);
        let started = Instant::now();
        let (mut ebpf, facts, load_ms) = self.pass(config, own, Mode::Final(&facts))?;
        let start = StartReport {
            survey_ms,
            load_ms,
            attach_ms: milliseconds(started) - load_ms,
            map_bytes: stats::map_bytes(),
        };
        require(&facts, config)?;
        let _statistics = if config.statistics {
            Some(aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| {
                AgentError::other(
                    format!("BPF run statistics cannot be switched on: {error}"),
                    "set `probe.statistics = false`",
                )
            })?)
        } else {
            None
        };
        begin(&mut ebpf)?;
        Ok(Probe {
            ebpf,
            facts,
            start,
            libraries: self.libraries.iter().map(|library| library.file).collect(),
            _statistics,
        })
    }

    /// What [`Kernel::attach`] would choose; leaves nothing behind.
    pub fn survey(&self, config: &ProbeConfig) -> Result<Vec<FactReport>, AgentError> {
        check_forced(config)?;
        self.trial(config, Own::default())
    }

    /// Tries every method; leaves nothing attached.
    fn trial(&self, config: &ProbeConfig, own: Own) -> Result<Vec<FactReport>, AgentError> {
        let (ebpf, in_storage, _) = self.pass(config, own, Mode::Trial { state_in_hash: false })?;
        drop(ebpf);
        if method_of(&in_storage, LIFECYCLE).is_some() {
            return Ok(in_storage);
        }
        let (ebpf, mut in_hash, _) = self.pass(config, own, Mode::Trial { state_in_hash: true })?;
        drop(ebpf);
        // Why not the better method is known from the first trial.
        for report in in_hash.iter_mut().filter(|report| report.fact == LIFECYCLE) {
            let first = in_storage.iter().find(|first| first.fact == LIFECYCLE);
            report
                .refused
                .splice(..0, first.into_iter().flat_map(|first| first.refused.clone()));
        }
        Ok(in_hash)
    }

    fn load(&self, config: &ProbeConfig, own: Own, mode: Mode<'_>) -> Result<Ebpf, AgentError> {
        let mut offsets = self.offsets.table;
        // The programs need every offset they use to be one, or the verifier refuses them: that is the refusal of
        // the methods in question, found before by `Offsets::missing`.
        if !has_accounting(&self.offsets) {
            offsets[CT_EXT_ACCT] = OFFSET_ABSENT;
        }
        // The one helper for kernel memory that connections are followed with: without it they are, but for this name.
        if refusal::reads_forbidden() {
            offsets[ULP_NAME] = OFFSET_ABSENT;
        }
        let knobs = self.knobs(config, own, mode);
        // Unused, it is as small as a map can be.
        let by_address = if mode.state_in_hash() { CONNECTIONS } else { 1 };
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("CONNS_BY_ADDRESS", by_address)
            .btf(Some(&self.aya_btf))
            .verifier_log_level(VerifierLogLevel::DEBUG | VerifierLogLevel::STATS)
            .override_global("OFFSETS", &offsets, true)
            .override_global("KNOBS", &knobs, true)
            .map_max_entries("RECORDS", config.ring_bytes.get())
            .map_max_entries("PAYLOADS", config.payload_ring_bytes.get());
        let mut ebpf = loader.load(OBJECT).map_err(|error| load_error(&error))?;
        filter::fill(&mut ebpf, config)?;
        Ok(ebpf)
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn has_accounting(offsets: &Offsets) -> bool {
    offsets.missing(&[CT_EXT, CT_EXT_ACCT]).is_none()
}

fn load_error(error: &aya::EbpfError) -> AgentError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    let mut permission = false;
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            permission |= io.kind() == io::ErrorKind::PermissionDenied;
        }
        cause = inner.source();
    }
    if permission {
        AgentError::NoPrivilege {
            action: "loading BPF".to_owned(),
            error: text,
        }
    } else {
        AgentError::other(
            format!("the BPF object cannot be loaded: {text}"),
            "run `netprobe doctor`, and report its output",
        )
    }
}

fn kernel_report() -> KernelReport {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    KernelReport {
        release: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        machine: std::env::consts::ARCH.to_owned(),
        btf: std::path::Path::new(BTF_PATH).exists(),
        lockdown: refusal::lockdown(),
    }
}

/// Names of the maps whose fill is reported, with their capacity.
pub fn maps(ebpf: &Ebpf) -> BTreeMap<String, u32> {
    ebpf.maps()
        .filter_map(|(name, map)| {
            let info = match map {
                aya::maps::Map::HashMap(data) | aya::maps::Map::LruHashMap(data) => data.info().ok()?,
                _ => return None,
            };
            Some((name.to_owned(), info.max_entries()))
        })
        .collect()
}

/// Takes a map out of the loaded object.
pub fn take_map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, AgentError> {
    let broken = |error: String| {
        AgentError::other(
            format!("map {name} of the BPF object: {error}"),
            "rebuild netprobe",
        )
    };
    let map = ebpf.take_map(name).ok_or_else(|| broken("missing".to_owned()))?;
    T::try_from(map).map_err(|error| broken(error.to_string()))
}
