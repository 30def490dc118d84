//! Counters of `/metrics` against what the generator did and what the kernel says.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::lab::{self, Lab, addr};
use netprobe_tests::traffic::proto::{Cmd, ConnectMode, ConnectOptions};
use netprobe_tests::{http, tools, wait_for};

use super::{Case, Pair, comm, udp};

pub(crate) const CASES: &[Case] = &[
    Case::new("metrics_count_datagrams", datagrams).needs(udp::LENGTHS),
    Case::new("metrics_count_what_is_left_out", left_out),
    Case::new("metrics_count_listen_overflows", listen_overflows),
    Case::new("metrics_show_recursion_of_every_program", recursion),
];

/// `/metrics` of one moment.
pub(super) struct Page(String);

impl Page {
    /// Over the Unix socket: a TCP connection would itself be counted.
    pub(super) fn scrape(agent: &Agent) -> Result<Page> {
        let (status, text) = http::get_unix(&agent.socket(), "/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        Ok(Page(text))
    }

    /// Every series of these families, with its value.
    pub(super) fn series(&self, families: &[&str]) -> BTreeMap<String, String> {
        let samples = self.0.lines().filter_map(|line| line.rsplit_once(' '));
        samples
            .filter(|(series, _)| families.contains(&series.split('{').next().unwrap_or(series)))
            .map(|(series, value)| (series.to_owned(), value.to_owned()))
            .collect()
    }

    /// Sum of the series of a family that have these labels; `None`: there are none.
    pub(super) fn sum(&self, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(family))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter_map(|rest| rest.rsplit_once(' '))
            .filter(|(had, _)| {
                let had: Vec<&str> = had.trim_matches(['{', '}']).split(',').collect();
                labels.iter().all(|label| had.contains(&label.as_str()))
            })
            .map(|(_, value)| value.parse::<f64>().ok())
            .reduce(|a, b| Some(a? + b?))?
    }
}

/// Waits until a family's series with these labels add up to `want`.
pub(super) fn comes_to(agent: &Agent, family: &str, labels: &[(&str, &str)], want: f64) -> Result<()> {
    let mut last = None;
    wait_for(&format!("{family} {labels:?} to be {want}"), PATIENCE, || {
        last = Page::scrape(agent).ok()?.sum(family, labels);
        (last == Some(want)).then_some(())
    })
    .with_context(|| format!("it is {last:?}"))
}

fn datagrams() -> Result<()> {
    const COUNT: &str = "netprobe_udp_datagrams_total";
    const BYTES: &str = "netprobe_udp_bytes_total";
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let names = [comm('c', "metricsudp"), comm('s', "metricsudp")];
    let before = Page::scrape(&agent)?;
    for name in &names {
        let service = [("service", name.as_str())];
        ensure!(before.sum(COUNT, &service).is_none(), "{name} was there before");
    }
    let mut cli = lab.endpoint("cli", &names[0])?;
    let mut srv = lab.endpoint("cli", &names[1])?;
    let (server, bound) = udp::udp(&mut srv, Some(addr("127.0.0.1", 0)), None)?;
    let to = bound.local.context("no address")?;
    let (client, _) = udp::udp(&mut cli, Some(addr("127.0.0.1", 0)), Some(to))?;
    cli.call(Cmd::SendTo {
        socket: client,
        addr: None,
        count: 5,
        bytes: 300,
    })?;
    let got = srv.call(Cmd::RecvFrom {
        socket: server,
        count: 5,
    })?;
    srv.call(Cmd::SendTo {
        socket: server,
        addr: got.remote,
        count: 2,
        bytes: 1000,
    })?;
    cli.call(Cmd::RecvFrom {
        socket: client,
        count: 2,
    })?;
    let (there, back) = ((5.0, 1500.0), (2.0, 2000.0));
    for (name, sent, received) in [(&names[0], there, back), (&names[1], back, there)] {
        for (direction, (count, bytes)) in [("sent", sent), ("received", received)] {
            let labels = [("service", name.as_str()), ("direction", direction)];
            comes_to(&agent, COUNT, &labels, count)?;
            comes_to(&agent, BYTES, &labels, bytes)?;
        }
    }
    Ok(())
}

fn left_out() -> Result<()> {
    const FAMILY: &str = "netprobe_records_suppressed_total";
    const PORT: u16 = 30_421;
    let agent = Arc::new(Agent::start(&Settings {
        // Nobody else has this port, so what is counted is ours to the last one.
        probe: format!("ports_except = [{PORT}]"),
        ..Settings::default()
    })?);
    let (filter, own) = ([("reason", "filter")], [("reason", "own")]);
    comes_to(&agent, FAMILY, &filter, 0.0)?;
    let lab = lab::gateway()?;
    let mut pair = Pair::over(
        lab,
        agent.clone(),
        "leftout",
        "cli",
        "cli",
        addr("127.0.0.1", PORT),
    )?;
    let (client, server) = pair.open()?;
    pair.cli.close(client.socket)?;
    pair.srv.drain(server.socket)?;
    pair.srv.close(server.socket)?;
    // Both ends.
    comes_to(&agent, FAMILY, &filter, 2.0)?;
    let before = Page::scrape(&agent)?.sum(FAMILY, &own);
    agent.get("/health/live")?;
    wait_for("own traffic to be counted", PATIENCE, || {
        (Page::scrape(&agent).ok()?.sum(FAMILY, &own) > before).then_some(())
    })?;
    comes_to(&agent, FAMILY, &filter, 2.0)
}

/// How often accept queues of a namespace overflowed, by its own statistics.
fn overflows(lab: &Lab, name: &str) -> Result<u64> {
    let text = tools::within(&lab.path(name), || {
        Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?)
    })?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (
        lines.next().context("no TcpExt")?,
        lines.next().context("no values")?,
    );
    let place = names
        .split(' ')
        .position(|name| name == "ListenOverflows")
        .context("the kernel does not count ListenOverflows")?;
    Ok(values.split(' ').nth(place).context("no value")?.parse()?)
}

fn listen_overflows() -> Result<()> {
    const FAMILY: &str = "netprobe_listen_overflows_total";
    let mut lab = Lab::new()?;
    lab.add("q")?;
    let number = lab.inode("q")?;
    let inode = number.to_string();
    let labels = [("netns", inode.as_str())];
    let mut srv = lab.endpoint("q", "s-overflow")?;
    let mut cli = lab.endpoint("q", "c-overflow")?;
    let agent = Agent::start(&Settings {
        flow: "reconcile_every = \"1s\"".to_owned(),
        ..Settings::default()
    })?;
    comes_to(&agent, FAMILY, &labels, 0.0)?;
    // Room for one connection that nobody takes.
    let at = srv
        .call(Cmd::Listen {
            addr: addr("127.0.0.1", 0),
            backlog: 0,
            fast_open: false,
        })?
        .local
        .context("no address")?;
    let options = ConnectOptions {
        mode: ConnectMode::StartOnly,
        ..ConnectOptions::default()
    };
    let mut started = Vec::new();
    for _ in 0..5 {
        started.push(cli.connect_with(at, options)?.socket);
    }
    wait_for("accept queues to overflow", PATIENCE, || {
        (overflows(&lab, "q").ok()? >= 3).then_some(())
    })?;
    // What is not connected yet does not try again once it is closed.
    for socket in started {
        cli.close(socket)?;
    }
    comes_to(&agent, FAMILY, &labels, overflows(&lab, "q")? as f64)?;
    // What was let in still waits to be accepted.
    let mut last = String::new();
    wait_for("the accept queue to be told", PATIENCE, || {
        last = agent.get("/metrics/network").ok()?.1;
        let network: serde_json::Value = serde_json::from_str(&last).ok()?;
        let queues = network["saturation"]["accept_queues"].as_array()?;
        let ours =
            |queue: &&serde_json::Value| queue["netns"] == number && queue["listener"] == at.to_string();
        let waiting = queues.iter().find(ours)?["waiting"].as_u64()?;
        (waiting >= 1).then_some(())
    })
    .with_context(|| last)
}

/// Nothing provokes a program to interrupt itself: that its skipped runs are shown is all that can be seen here.
fn recursion() -> Result<()> {
    const FAMILY: &str = "netprobe_bpf_program_recursion_misses_total";
    let agent = Agent::shared()?;
    let probe = agent.probe()?;
    let programs = probe["programs"].as_array().context("no programs")?;
    ensure!(!programs.is_empty(), "no programs");
    let page = Page::scrape(&agent)?;
    for program in programs {
        let name = program["name"].as_str().context("a program without name")?;
        let before = program["recursion_misses"]
            .as_u64()
            .with_context(|| format!("{name}: how many runs were skipped is not known"))?;
        let shown = page
            .sum(FAMILY, &[("program", name)])
            .with_context(|| format!("{name} is not shown"))?;
        ensure!(shown >= before as f64, "{name}: {shown}, and {before} before");
    }
    Ok(())
}
