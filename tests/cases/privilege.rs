//! Processes that may do less than root: what goes, and what is said.

use anyhow::{Context, Result, ensure};
use netprobe_tests::{ladder, tools};

use super::Case;

pub(crate) const CASES: &[Case] = &[Case::new("capabilities_one_at_a_time", capabilities)];

/// What a fact's line in the doctor's table says, the reasons below it included.
pub(crate) fn lines_of(table: &str, fact: &str) -> String {
    let mut mine = table
        .lines()
        .skip_while(|line| line.split(' ').next() != Some(fact));
    let first = mine.next().unwrap_or_default().to_owned();
    let reasons = mine.take_while(|line| line.starts_with(' '));
    std::iter::once(first)
        .chain(reasons.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("\n")
}

/// `FACT METHOD` of every line of the doctor's table.
pub(crate) fn chosen(table: &str) -> Vec<(String, String)> {
    let words = table
        .lines()
        .filter(|line| line.contains(">= ") || line.contains(" none "));
    words
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

/// What root has, but for kprobes where the kernel keeps perf events to CAP_SYS_ADMIN, as Debian's does: the table must
/// say so.
fn unless_perf_is_closed(everything: &str, table: &str) -> Vec<(String, String)> {
    let less = chosen(table);
    let mut wanted = chosen(everything);
    for (fact, method) in &mut wanted {
        let refused = format!("not {method}: `perf_event_open` failed");
        if lines_of(table, fact).contains(&refused)
            && let Some((_, other)) = less.iter().find(|(known, _)| known == fact)
        {
            method.clone_from(other);
        }
    }
    wanted
}

/// With these all programs load; without one of them, something goes, and the capability is named.
fn capabilities() -> Result<()> {
    const HELD: [&str; 4] = ["bpf", "perfmon", "net_admin", "sys_resource"];
    let kernel = tools::kernel().context("the kernel has no version")?;
    // The last one only where maps still count as locked memory, and the agent has to lift the limit.
    let held = if kernel < (5, 11) { &HELD[..] } else { &HELD[..3] };
    let doctor = |without: Option<&str>| {
        let kept = held.iter().filter(|name| Some(**name) != without);
        let bounding = kept.fold("-all".to_owned(), |all, name| format!("{all},+{name}"));
        ladder::doctor_through(&["setpriv", "--inh-caps", "-all", "--bounding-set", &bounding])
    };
    let (_, everything, _) = ladder::doctor_through(&["env"])?;
    let (code, table, said) = doctor(None)?;
    ensure!(code == Some(0), "with {held:?} it ends with {code:?}: {said}");
    ensure!(
        chosen(&table) == unless_perf_is_closed(&everything, &table),
        "with {held:?}:\n{table}\nas root:\n{everything}"
    );

    let (code, table, said) = doctor(Some("bpf"))?;
    ensure!(
        code == Some(3) && said.contains("CAP_BPF"),
        "without bpf: {code:?} {said}"
    );
    ensure!(table.is_empty(), "without bpf there is a table: {table}");

    let (code, table, said) = doctor(Some("perfmon"))?;
    ensure!(
        code == Some(6) && said.contains("lifecycle"),
        "without perfmon: {code:?} {said}"
    );
    for fact in ["lifecycle", "retransmits", "resets"] {
        let lines = lines_of(&table, fact);
        ensure!(
            lines.contains(" none ") && lines.contains("CAP_PERFMON"),
            "without perfmon: {lines}"
        );
    }

    let (code, table, said) = doctor(Some("net_admin"))?;
    if kernel < (5, 12) {
        // There connections are named by a hook at the root of cgroup v2.
        ensure!(
            code == Some(6) && said.contains("lifecycle") && said.contains("CAP_NET_ADMIN"),
            "without net_admin: {code:?} {said}"
        );
        return Ok(());
    }
    ensure!(code == Some(0), "without net_admin: {code:?} {said}");
    let mut less = unless_perf_is_closed(&everything, &table);
    if let Some(udp) = less.iter_mut().find(|(_, method)| method == "tp_btf+cgroup") {
        udp.1 = "tp_btf".to_owned();
        let lines = lines_of(&table, "udp");
        ensure!(lines.contains("CAP_NET_ADMIN"), "without net_admin: {lines}");
    }
    if let Some(requests) = less.iter_mut().find(|(fact, _)| fact == "requests") {
        requests.1 = "none".to_owned();
        let lines = lines_of(&table, "requests");
        ensure!(lines.contains("CAP_NET_ADMIN"), "without net_admin: {lines}");
    }
    ensure!(
        chosen(&table) == less,
        "without net_admin:\n{table}\nas root:\n{everything}"
    );
    Ok(())
}
