//! Processes that may do less than root: what goes, and what is said.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{Lab, addr};
use netprobe_tests::traffic::proto::Socket;
use netprobe_tests::traffic::{Connection, Endpoint};
use netprobe_tests::{http, ladder, tools};

use super::{Case, comm};

pub(crate) const CASES: &[Case] = &[
    Case::new("capabilities_one_at_a_time", capabilities),
    Case::new("a_running_agent_lacks_one_capability_at_a_time", running),
];

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

/// A server and a client of it, with a connection between them.
pub(super) struct Talk {
    cli: Endpoint,
    srv: Endpoint,
    listener: Socket,
    older: (Connection, Connection),
}

impl Talk {
    pub(super) fn begin(mut cli: Endpoint, mut srv: Endpoint) -> Result<Talk> {
        let (listener, at) = srv.listen(addr("127.0.0.1", 0))?;
        let older = (cli.connect(at)?, srv.accept(listener)?);
        Ok(Talk {
            cli,
            srv,
            listener,
            older,
        })
    }

    /// Closes the connection and gives the client's final event.
    fn end(&mut self, agent: &Agent, (client, server): (Connection, Connection)) -> Result<Arc<Event>> {
        self.cli.send(client.socket, 10)?;
        self.srv.recv(server.socket, 10)?;
        self.cli.close(client.socket)?;
        self.srv.drain(server.socket)?;
        self.srv.close(server.socket)?;
        agent.wait_final("client", self.cli.info().netns, &client)
    }

    /// Whether the agent's table of live connections has the older one.
    pub(super) fn is_listed(&self, agent: &Agent) -> Result<bool> {
        let (status, flows) = http::get_unix(&agent.socket(), "/api/v1/flows?limit=10000")?;
        ensure!(status == 200, "/api/v1/flows answers {status}: {flows}");
        Ok(flows.contains(&format!("-{}\"", self.older.0.cookie)))
    }

    /// The client's final event of a connection that is opened now.
    fn new_one(&mut self, agent: &Agent) -> Result<Arc<Event>> {
        let client = self.cli.connect(self.older.0.remote)?;
        let server = self.srv.accept(self.listener)?;
        self.end(agent, (client, server))
    }
}

/// What an agent with these capabilities tells.
struct Seen {
    /// Of another user's process here: of a connection older than the agent, and of a new one.
    stranger: (Arc<Event>, Arc<Event>),
    /// Of a process of root in another network namespace: whether the older connection is in the table, and the new one.
    elsewhere: (bool, Arc<Event>),
    notices: String,
}

fn seen(capabilities: &[&str]) -> Result<Seen> {
    const NOBODY: &str = "65534";
    let stranger = |side| {
        let mut command = Command::new(tools::find("setpriv").context("setpriv is not installed")?);
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(std::env::current_exe()?);
        Endpoint::start_with(&comm(side, "stranger"), None, &mut command)
    };
    let mut lab = Lab::new()?;
    lab.add("else")?;
    let elsewhere = |side| lab.endpoint("else", &comm(side, "elsewhere"));
    let mut strangers = Talk::begin(stranger('c')?, stranger('s')?)?;
    let mut others = Talk::begin(elsewhere('c')?, elsewhere('s')?)?;
    let bounding = capabilities
        .iter()
        .fold("-all".to_owned(), |all, name| format!("{all},+{name}"));
    let wrapper = ["setpriv", "--inh-caps", "-all", "--bounding-set", &bounding];
    let agent = Agent::start(&Settings {
        through: wrapper.map(str::to_owned).into(),
        ..Settings::default()
    })?;
    Ok(Seen {
        elsewhere: (others.is_listed(&agent)?, others.new_one(&agent)?),
        stranger: (
            strangers.end(&agent, strangers.older)?,
            strangers.new_one(&agent)?,
        ),
        notices: agent.probe()?["notices"].to_string(),
    })
}

fn exe(event: &Event) -> Option<&str> {
    event.process.as_ref()?.exe.as_deref()
}

/// What the table of docs/privileges.md says of the capabilities a running agent keeps for what is not BPF.
fn running() -> Result<()> {
    const HELD: [&str; 7] = [
        "bpf",
        "perfmon",
        "net_admin",
        "sys_admin",
        "sys_ptrace",
        "dac_read_search",
        "sys_resource",
    ];
    let without = |name: Option<&str>| {
        let held: Vec<_> = HELD.into_iter().filter(|held| Some(*held) != name).collect();
        seen(&held).with_context(|| format!("without {name:?}"))
    };
    let told = |event: &Event| serde_json::to_string(event).unwrap_or_default();

    let all = without(None)?;
    for (event, what) in [
        (&all.stranger.0, "older, of another user"),
        (&all.stranger.1, "new, of another user"),
        (&all.elsewhere.1, "new, of another namespace"),
    ] {
        ensure!(exe(event).is_some(), "{what}: no executable: {}", told(event));
    }
    // Whoever moves data next stands for a process that was not found, and the flag says so.
    let found = |event: &Event| event.process.is_some() && !event.has_flag("upper_bound");
    ensure!(
        found(&all.stranger.0),
        "the process of the older one of another user was not found: {}",
        told(&all.stranger.0)
    );
    ensure!(
        all.elsewhere.0,
        "the older one of another namespace is not in the table"
    );

    let less = without(Some("sys_admin"))?;
    ensure!(
        less.notices.contains("network namespace"),
        "without sys_admin: nothing is said of namespaces: {}",
        less.notices
    );
    ensure!(
        !less.elsewhere.0,
        "without sys_admin: the older one of another namespace was listed"
    );
    ensure!(
        exe(&less.elsewhere.1).is_some() && exe(&less.stranger.0).is_some(),
        "without sys_admin: {} {}",
        told(&less.elsewhere.1),
        told(&less.stranger.0)
    );

    let less = without(Some("sys_ptrace"))?;
    ensure!(
        !found(&less.stranger.0),
        "without sys_ptrace: the process of the older one was found: {}",
        told(&less.stranger.0)
    );
    let new = &less.stranger.1;
    ensure!(
        new.process.is_some() && exe(new).is_none(),
        "without sys_ptrace: the new one: {}",
        told(new)
    );

    let less = without(Some("dac_read_search"))?;
    ensure!(
        !found(&less.stranger.0),
        "without dac_read_search: the process of the older one was found: {}",
        told(&less.stranger.0)
    );
    ensure!(
        exe(&less.stranger.1).is_some(),
        "without dac_read_search: the new one: {}",
        told(&less.stranger.1)
    );
    Ok(())
}
