//! Loading the programs and attaching them by the ladder.
//!
//! Twice: the first pass finds out by trying which method of each fact works here, the second loads afresh with the
//! knobs that follow from that choice. What a refusal was is kept in the kernel's own words.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    path::PathBuf,
    time::Instant,
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
        uprobe::{UProbe, UProbeError, UProbeScope},
    },
};
use netprobe_common::*;

use super::{
    btf::Btf,
    facts::{self, Attach, FACTS, Fact, Hook, Method, STATE_IN_HASH},
    filter,
    libssl::{self, Library},
    offsets::Offsets,
    privilege, refusal, stats, storage,
};
use crate::{
    config::ProbeConfig,
    error::AgentError,
    probe_report::{FactReport, KernelReport, RefusedReport, RungReport, StartReport},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETPROBE_BPF_OBJECT"));

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
/// As a method in `probe.methods`: nothing is attached for this fact.
pub const OFF: &str = "off";
/// From this kernel on a program that sees a packet may ask which process it runs for, and so leave out the agent's own.
const DATAGRAMS: (u32, u32) = (6, 10);
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

/// Whose traffic is the agent's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Namespace of the listener.
    pub netns: u32,
    /// Port of the listener; 0: none.
    pub port: u16,
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
        privilege::lift_memlock();
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

    fn pass(
        &self,
        config: &ProbeConfig,
        own: Own,
        mode: Mode<'_>,
    ) -> Result<(Ebpf, Vec<FactReport>, f64), AgentError> {
        let started = Instant::now();
        let mut ebpf = self.load(config, own, mode)?;
        let load_ms = milliseconds(started);
        let mut attached = BTreeSet::new();
        let mut facts = Vec::new();
        for fact in FACTS {
            let report = match mode.choice(fact.name) {
                None => {
                    let forced = config.methods.get(fact.name);
                    self.choose(&mut ebpf, &mut attached, fact, mode, forced)
                }
                Some(report) => {
                    let again = report
                        .method
                        .as_ref()
                        .map(|method| self.choose(&mut ebpf, &mut attached, fact, mode, Some(method)));
                    FactReport {
                        method: again.and_then(|again| again.method),
                        ..report.clone()
                    }
                }
            };
            let other_trial = mode.is_first_trial() && report.fact == LIFECYCLE && report.method.is_none();
            facts.push(report);
            if other_trial {
                break;
            }
        }
        Ok((ebpf, facts, load_ms))
    }

    fn choose(
        &self,
        ebpf: &mut Ebpf,
        attached: &mut BTreeSet<&'static str>,
        fact: &'static Fact,
        mode: Mode<'_>,
        forced: Option<&String>,
    ) -> FactReport {
        let mut report = FactReport {
            fact: fact.name.to_owned(),
            required: fact.required,
            ladder: fact
                .methods
                .iter()
                .map(|method| RungReport {
                    method: method.name.to_owned(),
                    kernel_floor: method.floor.to_owned(),
                })
                .collect(),
            ..FactReport::default()
        };
        for method in fact.methods {
            if forced.is_some_and(|forced| forced == OFF) {
                report.refused.push(RefusedReport {
                    method: method.name.to_owned(),
                    reason: "this fact is switched off".to_owned(),
                });
                continue;
            }
            if fact.name == LIFECYCLE && mode.state_in_hash() != (method.name == STATE_IN_HASH) {
                continue;
            }
            if let Some(forced) = forced
                && method.name != forced
            {
                let reason = format!("`{forced}` was asked for");
                report.refused.push(RefusedReport {
                    method: method.name.to_owned(),
                    reason,
                });
                continue;
            }
            let stored = facts::IN_STORAGE.contains(&(fact.name, method.name));
            let room = if stored { storage::check(ebpf) } else { Ok(()) };
            match room.and_then(|()| self.try_method(ebpf, attached, method)) {
                Ok(()) => {
                    report.method = Some(method.name.to_owned());
                    report.kernel_floor = Some(method.floor.to_owned());
                    break;
                }
                Err(reason) => report.refused.push(RefusedReport {
                    method: method.name.to_owned(),
                    reason,
                }),
            }
        }
        report
    }

    fn try_method(
        &self,
        ebpf: &mut Ebpf,
        attached: &mut BTreeSet<&'static str>,
        method: &'static Method,
    ) -> Result<(), String> {
        if let Some(missing) = self.offsets.missing(method.members) {
            return Err(missing.to_string());
        }
        for hook in method.hooks {
            if attached.contains(hook.program) {
                continue;
            }
            self.attach_hook(ebpf, hook)
                .map_err(|error| refusal::explain(&error, hook))?;
            attached.insert(hook.program);
        }
        Ok(())
    }

    fn attach_hook(&self, ebpf: &mut Ebpf, hook: &Hook) -> Result<(), ProgramError> {
        let Some(program) = ebpf.program_mut(hook.program) else {
            return Err(ProgramError::IOError(io::Error::other(
                "the BPF object has no such program",
            )));
        };
        match (hook.attach, program) {
            (Attach::TpBtf(tracepoint), Program::BtfTracePoint(program)) => {
                program.load(tracepoint, &self.aya_btf)?;
                program.attach()?;
            }
            (Attach::FExitIfAny(function), _) if !self.btf.has_function(function) => {}
            (Attach::FExit(function) | Attach::FExitIfAny(function), Program::FExit(program)) => {
                program.load(function, &self.aya_btf)?;
                program.attach()?;
            }
            (Attach::Kprobe(function) | Attach::Kretprobe(function), Program::KProbe(program)) => {
                program.load()?;
                program.attach(function, 0)?;
            }
            (Attach::CgroupSockAddr, Program::CgroupSockAddr(program)) => {
                let root = cgroup_root()?;
                program.load()?;
                program.attach(std::fs::File::open(root)?, CgroupAttachMode::Single)?;
            }
            (Attach::SockOps, Program::SockOps(program)) => {
                let root = cgroup_root()?;
                program.load()?;
                program.attach(std::fs::File::open(root)?, CgroupAttachMode::Single)?;
            }
            (attach @ (Attach::PacketOut | Attach::PacketIn), Program::CgroupSkb(program)) => {
                let root = std::fs::File::open(cgroup_root()?)?;
                let way = if attach == Attach::PacketOut {
                    CgroupSkbAttachType::Egress
                } else {
                    CgroupSkbAttachType::Ingress
                };
                program.load()?;
                program.attach(root, way, CgroupAttachMode::Single)?;
            }
            (attach @ (Attach::Library(_) | Attach::LibraryReturns(_)), Program::UProbe(program)) => {
                program.load()?;
                for library in &self.libraries {
                    attach_to(program, attach, library)?;
                }
            }
            _ => return Err(ProgramError::UnexpectedProgramType),
        }
        Ok(())
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

    fn knobs(&self, config: &ProbeConfig, own: Own, mode: Mode<'_>) -> [u64; KNOB_COUNT] {
        let method = |fact: &str| mode.choice(fact).and_then(|report| report.method.as_deref());
        let trial = matches!(mode, Mode::Trial { .. });
        let mut knobs = [0; KNOB_COUNT];
        if !config.own_traffic {
            knobs[KNOB_OWN_TGID] = u64::from(std::process::id());
            knobs[KNOB_OWN_NETNS] = u64::from(own.netns);
            knobs[KNOB_OWN_PORT] = u64::from(own.port);
        }
        knobs[KNOB_SAMPLE_NS] = config.sample_interval.0.as_nanos() as u64;
        knobs[KNOB_WAKE_BYTES] = u64::from(config.ring_bytes.get()) / 2;
        knobs[KNOB_PAYLOAD_WAKE_BYTES] = u64::from(config.payload_ring_bytes.get()) / 2;
        knobs[KNOB_PORT_FILTER] = filter::mode(&config.ports_only, &config.ports_except);
        knobs[KNOB_CIDR_FILTER] = filter::mode(&config.cidrs_only, &config.cidrs_except);
        knobs[KNOB_HOPS_AT_QUEUE] = u64::from(method("nat") != Some("kprobe"));
        let parameters = |function: &str, else_: usize| self.btf.parameters(function).unwrap_or(else_) as u64;
        knobs[KNOB_ACCEPT_RET_ARG] = parameters("inet_csk_accept", 2);
        knobs[KNOB_RECV_RET_ARG] = parameters("tcp_recvmsg", 5);
        knobs[KNOB_DATAGRAMS] = u64::from(facts::version(&self.report.release) >= Some(DATAGRAMS));
        knobs[KNOB_UDP] = u64::from(config.udp);
        knobs[KNOB_EMPTY] = u64::from(config.empty_programs);
        knobs[KNOB_BYTE_CHECK] = u64::from(config.byte_check);
        knobs[KNOB_SYS_EXIT_ACCEPT] = u64::from(trial || method("accept") == Some("sys_exit"));
        knobs[KNOB_STATE_IN_HASH] = u64::from(mode.state_in_hash());
        knobs[KNOB_CONNECT_EXIT] = u64::from(method("connect_failed").is_some());
        knobs[KNOB_SYS_EXIT_CONNECT] = u64::from(trial || method("connect_failed") == Some("sys_exit"));
        knobs
    }
}

/// Attaches to the functions of a library, those that it has: `_ex` came with OpenSSL 1.1.1.
fn attach_to(program: &mut UProbe, attach: Attach, library: &Library) -> Result<(), ProgramError> {
    let functions: &[&str] = match &attach {
        Attach::Library(function) => std::slice::from_ref(function),
        Attach::LibraryReturns(functions) => functions,
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    for function in functions {
        match program.attach(*function, &library.path, UProbeScope::AllProcesses) {
            Ok(_) | Err(ProgramError::UProbeError(UProbeError::SymbolError { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn has_accounting(offsets: &Offsets) -> bool {
    offsets.missing(&[CT_EXT, CT_EXT_ACCT]).is_none()
}

/// A name in `probe.methods` that does not exist is the operator's mistake, not the kernel's.
fn check_forced(config: &ProbeConfig) -> Result<(), AgentError> {
    let list = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<Vec<_>>().join(", ");
    for (name, method) in &config.methods {
        let Some(fact) = super::facts::fact(name) else {
            let known = list(&mut FACTS.iter().map(|fact| fact.name));
            return Err(AgentError::Usage(format!(
                "there is no fact `{name}`; facts are {known}"
            )));
        };
        let off = (!fact.required).then_some(OFF);
        let mut known = fact.methods.iter().map(|method| method.name).chain(off);
        if !known.clone().any(|known| known == method) {
            let known = list(&mut known);
            return Err(AgentError::Usage(format!(
                "fact `{name}` has no method `{method}`; it has {known}"
            )));
        }
    }
    Ok(())
}

/// A required fact, or one whose method was forced, must be served; one that is switched off need not.
fn require(facts: &[FactReport], config: &ProbeConfig) -> Result<(), AgentError> {
    for report in facts {
        let forced = config.methods.get(&report.fact);
        let wanted = report.required || forced.is_some_and(|method| method != OFF);
        if wanted && report.method.is_none() {
            let reasons: Vec<_> = report
                .refused
                .iter()
                .map(|r| format!("{}: {}", r.method, r.reason))
                .collect();
            return Err(AgentError::MissingHook {
                fact: report.fact.clone(),
                reasons: reasons.join("; "),
            });
        }
    }
    Ok(())
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

/// Where cgroup v2 is mounted: at `/sys/fs/cgroup`, or beside v1 controllers.
pub fn cgroup_root() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ');
            let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "cgroup v2 is not mounted"))
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
