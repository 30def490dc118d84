//! Machines that lack something, or hold something back: what goes, and what is said. Never on somebody's own machine.

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::{lab, ladder, tools};

use super::privilege::{chosen, lines_of};
use super::{Case, Need, Pair, check, check_bytes, check_process};

const VM: &[Need] = &[Need::TestMachine];

pub(crate) const CASES: &[Case] = &[
    Case::new("no_locked_memory_allowed", no_memlock).needs(&[Need::Before(5, 11)]),
    Case::new("unprivileged_bpf_disabled", unprivileged).needs(VM),
    Case::new("jit_switched_off", jit_off).alone().needs(VM),
    // `vm/kernels.toml` has a machine of that name; its cases begin with it.
    Case::new("machine_lockdown_confidentiality", lockdown).needs(&[Need::Machine("lockdown")]),
    Case::new("machine_cgroup_v1_alone", cgroup_v1).needs(&[Need::Machine("cgroup_v1")]),
    Case::new("machine_no_storage_of_sockets", no_storage).needs(&[Need::Machine("no_storage")]),
];

/// Before 5.11 maps count as locked memory: the library that loads them lifts the limit.
fn no_memlock() -> Result<()> {
    let (_, as_ever, _) = ladder::doctor_through(&["env"])?;
    let (code, table, said) = ladder::doctor_through(&["prlimit", "--memlock=0:0"])?;
    ensure!(code == Some(0), "{code:?}: {said}");
    ensure!(
        chosen(&table) == chosen(&as_ever),
        "{table}\nwith a limit as ever:\n{as_ever}"
    );
    Ok(())
}

/// A file below /proc/sys, with its value put back at the end.
struct Sysctl(&'static str, String);

impl Sysctl {
    fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        std::fs::write(path, value).with_context(|| format!("cannot write {value} to {path}"))?;
        Ok(Self(path, before))
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(self.0, &self.1) {
            eprintln!("{} stays changed: {error}", self.0);
        }
    }
}

/// One connection, seen by an agent of its own.
fn one_connection(name: &str) -> Result<()> {
    let agent = Agent::start(&Settings::default())?.into();
    let lab = lab::gateway()?;
    let mut pair = Pair::over(lab, agent, name, "cli", "cli", lab::addr("127.0.0.1", 0))?;
    let (client, server) = pair.open()?;
    pair.cli.send(client.socket, 1234)?;
    pair.srv.recv(server.socket, 1234)?;
    let (c, s) = pair.finish(client, server)?;
    check_bytes(&c, 1234, 0)?;
    check_bytes(&s, 0, 1234)?;
    check_process(&c, &pair.cli)?;
    check_process(&s, &pair.srv)
}

fn unprivileged() -> Result<()> {
    // 1 cannot be taken back before the next boot: the strictest there is.
    std::fs::write("/proc/sys/kernel/unprivileged_bpf_disabled", "1")?;
    one_connection("unprivileged")
}

/// Programs are interpreted. Trampolines need the compiler, so what hangs on them may go; what is left is true.
fn jit_off() -> Result<()> {
    let _off = Sysctl::set("/proc/sys/net/core/bpf_jit_enable", "0")?;
    one_connection("jitoff")
}

/// Programs get no helper that reads kernel memory, and nothing hangs on kernel functions by address: connections are
/// followed all the same, and what is not says why.
fn lockdown() -> Result<()> {
    let (code, table, said) = ladder::doctor_through(&["env"])?;
    ensure!(code == Some(0), "{code:?}: {said}");
    ensure!(
        table.contains("lockdown confidentiality"),
        "the mode is not shown: {table}"
    );
    let lines = lines_of(&table, "lifecycle");
    ensure!(lines.contains(" tp_btf "), "{lines}");
    for (fact, method) in [
        ("accept", "first_io"),
        ("nat", "ctnetlink"),
        ("connect_failed", "none"),
    ] {
        let lines = lines_of(&table, fact);
        ensure!(
            lines.contains(&format!(" {method} ")) && lines.contains("this kernel is locked down"),
            "{lines}"
        );
    }
    one_connection("lockdown")
}

/// The hooks at the root of cgroup v2 have no place to hang on; everything else goes on.
fn cgroup_v1() -> Result<()> {
    let (code, table, said) = ladder::doctor_through(&["env"])?;
    if tools::kernel() < Some((5, 12)) {
        // There connections are named by such a hook.
        ensure!(
            code == Some(6) && said.contains("lifecycle") && said.contains("cgroup v2"),
            "{code:?}: {said}"
        );
        return Ok(());
    }
    ensure!(code == Some(0), "{code:?}: {said}");
    let lines = lines_of(&table, "udp");
    ensure!(
        lines.contains("not tp_btf+cgroup: ") && lines.contains("cgroup v2"),
        "{lines}"
    );
    for fact in ["lifecycle", "accept", "nat"] {
        let lines = lines_of(&table, fact);
        ensure!(!lines.contains(" none "), "{lines}");
    }
    let agent = Agent::start(&Settings::default())?.into();
    let lab = lab::gateway()?;
    let mut pair = Pair::over(lab, agent, "cgroupv1", "cli", "cli", lab::addr("127.0.0.1", 0))?;
    let (client, server) = pair.open()?;
    let (c, _) = pair.finish(client, server)?;
    check_process(&c, &pair.cli)?;
    // The tree that events speak of is not there.
    check(
        &c,
        "process.cgroup",
        c.process.as_ref().and_then(|p| p.cgroup.as_deref()),
        None,
    )
}

/// Programs that use socket storage load, and would find none: the state is in a hash, and nothing is missed.
fn no_storage() -> Result<()> {
    let (code, table, said) = ladder::doctor_through(&["env"])?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let lines = lines_of(&table, "lifecycle");
    ensure!(
        lines.contains(" tp_btf+hash ") && lines.contains("not tp_btf: sockets have no storage here"),
        "{lines}"
    );
    let lines = lines_of(&table, "udp");
    ensure!(
        lines.contains("not tp_btf+cgroup: sockets have no storage"),
        "{lines}"
    );
    one_connection("nostorage")
}
