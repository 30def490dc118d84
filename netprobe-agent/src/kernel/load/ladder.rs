//! The ladder: which method of a fact serves here, found by trying, and attached.

use std::{collections::BTreeSet, io, path::PathBuf, time::Instant};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
        uprobe::{UProbe, UProbeError, UProbeScope},
    },
};

use super::{
    super::{
        facts::{self, Attach, FACTS, Fact, Hook, Method, STATE_IN_HASH},
        libssl::Library,
        refusal, storage,
    },
    Kernel, LIFECYCLE, Mode, OFF, Own, milliseconds,
};
use crate::{
    config::ProbeConfig,
    error::AgentError,
    probe_report::{FactReport, RefusedReport, RungReport},
};

impl Kernel {
    /// Loads, and climbs each fact's ladder: the programs, what was chosen, and how long the loading took.
    pub(super) fn pass(
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
        let off = forced.is_some_and(|forced| forced == OFF);
        let mut report = FactReport {
            fact: fact.name.to_owned(),
            required: fact.required,
            off,
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
            if off {
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
}

/// Attaches to the functions of a library, those that it has: `_ex` came with OpenSSL 1.1.1.
pub(super) fn attach_to(program: &mut UProbe, attach: Attach, library: &Library) -> Result<(), ProgramError> {
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

/// A name in `probe.methods` that does not exist is the operator's mistake, not the kernel's.
pub(super) fn check_forced(config: &ProbeConfig) -> Result<(), AgentError> {
    let list = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<Vec<_>>().join(", ");
    for (name, method) in &config.methods {
        let Some(fact) = facts::fact(name) else {
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
pub(super) fn require(facts: &[FactReport], config: &ProbeConfig) -> Result<(), AgentError> {
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
