//! Dashboards and rules against a real Prometheus that scrapes a real agent while things go wrong: every expression
//! must give data, and the alerts that are about it must fire.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings, free_port};
use netprobe_tests::lab::addr;
use netprobe_tests::traffic::proto::{Cmd, ConnectOptions, SendHow};
use netprobe_tests::{tools, wait_for};
use serde_json::Value;

use super::prometheus::Prometheus;
use super::retransmit::lossy;
use super::{Case, Need, Pair};

pub(crate) const CASES: &[Case] = &[
    Case::new("every_expression_gives_data", expressions)
        .alone()
        .needs(&[Need::Program("prometheus")]),
    Case::new("rules_pass_promtool", promtool).needs(&[
        Need::Program("promtool"),
        Need::Program("amtool"),
        Need::Program("jsonnet"),
    ]),
];

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards");
const RUNBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Scrapes and evaluations are a second apart here; rates need some of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// Labels of peers there may be; the test's own come first.
const MAX_PEERS: u16 = 100;

/// Expressions that cannot give data within minutes, by what stands in them, and why; `promtool` has them all.
const NOT_HERE: &[(&str, &str)] = &[
    ("same_hour", "the same hour of earlier days is at least a day ago"),
    (
        "offset 23h30m",
        "the same hour of earlier days is at least a day ago",
    ),
    ("offset 7d", "the week before is a week ago"),
    ("absent(", "it gives data when there is no agent at all"),
    ("records_rejected", "a record that is not valid takes a defect"),
];

fn rules(file: &str) -> PathBuf {
    Path::new(FOLDER).join("prometheus").join(file)
}

/// A file of rules, without the times that a test has not got.
fn impatient(file: &str) -> Result<String> {
    let text = std::fs::read_to_string(rules(file))?;
    let waits = |line: &&str| {
        !["for: ", "interval: "]
            .iter()
            .any(|key| line.trim_start().starts_with(key))
    };
    Ok(text
        .lines()
        .filter(waits)
        .map(|line| format!("{line}\n"))
        .collect())
}

/// Every expression of the dashboards and its place, as Grafana would send it with everything chosen.
fn of_dashboards() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(Path::new(FOLDER).join("grafana"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        let title = board["title"].as_str().context("no title")?;
        for panel in board["panels"].as_array().context("no panels")? {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{title}: {}", panel["title"]);
                found.push((place, chosen(target["expr"].as_str().context("no expression")?)));
            }
        }
        for variable in board["templating"]["list"].as_array().context("no variables")? {
            let Some(labels) = variable["query"]
                .as_str()
                .and_then(|text| text.strip_prefix("label_values("))
            else {
                continue;
            };
            let (metric, label) = labels
                .trim_end_matches(')')
                .rsplit_once(", ")
                .context("no label")?;
            found.push((
                format!("{title}: variable {label}"),
                format!("count by ({label}) ({})", chosen(metric)),
            ));
        }
    }
    Ok(found)
}

/// An expression with its variables filled in.
fn chosen(expression: &str) -> String {
    ["$job", "$instance", "$service", "$peer"]
        .iter()
        .fold(expression.replace("$__rate_interval", "15s"), |text, variable| {
            text.replace(variable, ".+")
        })
}

/// Every rule Prometheus has: name, expression, and whether it alerts. An alert gives data when it fires; what it
/// judges must always be there, so its comparisons give 0 or 1 here.
fn of_rules(prometheus: &Prometheus) -> Result<Vec<(String, String)>> {
    let answer = prometheus.get("rules")?;
    let mut found = Vec::new();
    for group in answer["data"]["groups"].as_array().context("no groups")? {
        for rule in group["rules"].as_array().context("no rules")? {
            ensure!(rule["health"] != "err", "{rule}");
            let (name, query) = (
                rule["name"].as_str().context("no name")?,
                rule["query"].as_str().context("no query")?,
            );
            let mut query = query.to_owned();
            if rule["type"] == "alerting" {
                let page = rule["annotations"]["runbook"]
                    .as_str()
                    .with_context(|| format!("{name} has no runbook"))?;
                ensure!(
                    Path::new(RUNBOOK).join(page).is_file(),
                    "{name}: {page} is not there"
                );
                for judge in [" > ", " < ", " == ", " >= "] {
                    query = query.replace(judge, &format!("{judge}bool "));
                }
            }
            found.push((format!("rule {name}"), query));
        }
    }
    Ok(found)
}

/// Whether an answer has a number in it.
fn has_data(answer: &Value) -> bool {
    let results = answer["data"]["result"].as_array();
    results.is_some_and(|all| {
        all.iter()
            .filter_map(|of| of["value"][1].as_str()?.parse::<f64>().ok())
            .any(|value| !value.is_nan())
    })
}

/// What goes wrong, and the ordinary beside it, until told to stop.
struct Incident {
    lossy: Pair,
    across: Pair,
    served: TcpListener,
    refused: SocketAddr,
    /// One that stays open: of it there are updates, which the archive leaves out.
    _held: (TcpStream, TcpStream),
}

impl Incident {
    fn begin(agent: &Arc<Agent>) -> Result<Incident> {
        let lab = Arc::new(lossy(
            "tcp dport 7001 drop; tcp dport 7000 meta length > 100 numgen random mod 100 < 10 drop",
        )?);
        let served = TcpListener::bind("127.0.0.1:0")?;
        let _held = (TcpStream::connect(served.local_addr()?)?, served.accept()?.0);
        Ok(Incident {
            _held,
            lossy: Pair::over(lab, agent.clone(), "rules", "cli", "srv", addr("10.83.1.1", 7000))?,
            across: Pair::over(
                netprobe_tests::lab::gateway()?,
                agent.clone(),
                "rulesnat",
                "cli",
                "srv",
                addr(netprobe_tests::lab::SERVER, 20_470),
            )?,
            served,
            refused: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
        })
    }

    /// Connections that are served, refused, reset, lost on the way, translated and not answered; datagrams.
    fn round(&mut self) -> Result<()> {
        let at = self.served.local_addr()?;
        for reset in [false, true] {
            let mut client = TcpStream::connect(at)?;
            client.write_all(&[0; 500])?;
            let mut server = self.served.accept()?.0;
            if !reset {
                drop(client);
                std::io::copy(&mut server, &mut std::io::sink())?;
            }
        }
        for _ in 0..4 {
            ensure!(
                TcpStream::connect(self.refused).is_err(),
                "{} is served",
                self.refused
            );
        }
        let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        one.send_to(&[0; 100], other.local_addr()?)?;
        other.recv(&mut [0; 100])?;
        let (client, server) = self.across.open_to(addr(netprobe_tests::lab::VIRTUAL, 20_470))?;
        self.across.cli.send(client.socket, 1000)?;
        self.across.cli.close(client.socket)?;
        self.across.srv.drain(server.socket)?;
        self.across.srv.close(server.socket)?;
        let (client, server) = self.lossy.open()?;
        self.lossy.srv.begin(&Cmd::Recv {
            socket: server.socket,
            bytes: Some(50_000),
            how: netprobe_tests::traffic::proto::RecvHow::Recv,
        })?;
        self.lossy.cli.call(Cmd::Send {
            socket: client.socket,
            bytes: 50_000,
            chunk: 16_384,
            how: SendHow::Send,
        })?;
        self.lossy.srv.finish()?;
        self.lossy.cli.close(client.socket)?;
        self.lossy.srv.close(server.socket)?;
        let gone = self.lossy.cli.attempt(Cmd::Connect {
            addr: addr("10.83.1.1", 7001),
            options: ConnectOptions {
                user_timeout_ms: Some(1000),
                ..ConnectOptions::default()
            },
        })?;
        ensure!(gone.errno != 0, "what is dropped is answered");
        Ok(())
    }

    /// More connections than a small spool has room for, and more peers than there may be labels.
    fn flood(&self) -> Result<()> {
        for port in 1..=MAX_PEERS + 50 {
            // Whether somebody listens there is all the same.
            let _ = TcpStream::connect(addr("127.0.0.2", port));
        }
        let at = self.served.local_addr()?;
        for _ in 0..8000 {
            let client = TcpStream::connect(at)?;
            drop(self.served.accept()?);
            drop(client);
        }
        Ok(())
    }
}

fn expressions() -> Result<()> {
    let home = tempfile::tempdir()?;
    let agent = Arc::new(Agent::start(&Settings {
        probe: "statistics = true".to_owned(),
        flow: "udp_idle = \"1s\"\nreconcile_every = \"1s\"\nupdate_every = \"1s\"".to_owned(),
        archive: "seal_after = \"500ms\"\nspool_bytes = 1048576".to_owned(),
        archive_in: Some(home.path().to_owned()),
        sections: format!("[metrics]\nmax_peers = {MAX_PEERS}"),
        ..Settings::default()
    })?);
    let prometheus = Prometheus::start(
        agent.listen(),
        "exemplar-storage",
        &[impatient("recording.yaml")?, impatient("alerts.yaml")?],
    )?;
    prometheus.expect("up", 1.0)?;
    let mut incident = Incident::begin(&agent)?;
    incident.round()?;
    // The archive goes away: what was a folder is a file.
    let archive = home.path().join("archive");
    wait_for("a segment to be archived", PATIENCE, || {
        archive.join("v1").exists().then_some(())
    })?;
    std::fs::remove_dir_all(&archive)?;
    std::fs::write(&archive, "gone")?;
    incident.flood()?;
    let refused = incident.refused;
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let stop = stop.clone();
        std::thread::spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                incident.round()?;
            }
            Ok(())
        })
    };
    let result = give_data(&prometheus).and_then(|()| alerts(&prometheus, refused));
    stop.store(true, Ordering::Relaxed);
    let traffic = thread
        .join()
        .map_err(|_| anyhow::anyhow!("the traffic panicked"))?;
    result.and(traffic)?;
    // An agent that is gone.
    agent.stop()?;
    prometheus.expect(
        r#"count(ALERTS{alertname="NetprobeDown",alertstate="firing"})"#,
        1.0,
    )?;
    prometheus.expect(
        r#"count(ALERTS{alertname="NetprobeAbsent",alertstate="firing"})"#,
        1.0,
    )
}

fn give_data(prometheus: &Prometheus) -> Result<()> {
    let mut open = of_dashboards()?;
    ensure!(
        open.len() > 100,
        "only {} expressions in the dashboards",
        open.len()
    );
    let of_rules = of_rules(prometheus)?;
    ensure!(of_rules.len() > 40, "only {} rules", of_rules.len());
    open.extend(of_rules);
    for (text, why) in NOT_HERE {
        ensure!(
            open.iter().any(|(_, of)| of.contains(text)),
            "nothing has `{text}` ({why})"
        );
        open.retain(|(_, of)| !of.contains(text));
    }
    let tried = wait_for("every expression to give data", PATIENCE, || {
        let mut still = Vec::new();
        for (place, expression) in std::mem::take(&mut open) {
            match prometheus.ask("query", &expression) {
                Ok(answer) if has_data(&answer) => {}
                Ok(_) => still.push((place, expression)),
                Err(error) => return Some(Err(error.context(place))),
            }
        }
        open = still;
        std::thread::sleep(Duration::from_secs(1));
        open.is_empty().then_some(Ok(()))
    });
    match tried {
        Ok(done) => done,
        Err(error) => {
            let left: Vec<_> = open.iter().map(|(place, of)| format!("{place}: {of}")).collect();
            Err(error.context(format!("no data:\n{}", left.join("\n"))))
        }
    }
}

/// What is wrong is told, with its name, and what is well is not.
fn alerts(prometheus: &Prometheus, refused: SocketAddr) -> Result<()> {
    for (matchers, count) in [
        (
            format!(r#"alertname="NetprobeDestinationFailing",peer="{refused}""#),
            1.0,
        ),
        (
            format!(r#"alertname="NetprobeConnectErrorBudgetBurn",peer="{refused}""#),
            4.0,
        ),
        (r#"alertname="NetprobeArchiveUnreachable""#.to_owned(), 1.0),
        (
            r#"alertname="NetprobeEventsLost",sink="archive",reason="spool_full""#.to_owned(),
            1.0,
        ),
    ] {
        prometheus.expect(
            &format!(r#"count(ALERTS{{{matchers},alertstate="firing"}})"#),
            count,
        )?;
    }
    let well = "NetprobeDown|NetprobeAbsent|NetprobeFactMissing|NetprobeRecordsRejected|NetprobeSpoolDamaged";
    let answer = prometheus.ask("query", &format!(r#"ALERTS{{alertname=~"{well}"}}"#))?;
    ensure!(answer["data"]["result"] == serde_json::json!([]), "{answer}");
    Ok(())
}

/// What promtool and amtool say; and that the tests have every alert in them.
fn promtool() -> Result<()> {
    let run = |program: &str, arguments: &[&str], files: &[&str]| {
        tools::run_command(
            Command::new(tools::find(program).with_context(|| format!("{program} is not installed"))?)
                .args(arguments)
                .args(files.iter().map(|file| rules(file))),
        )
    };
    run(
        "promtool",
        &["check", "rules"],
        &["recording.yaml", "alerts.yaml"],
    )?;
    run(
        "promtool",
        &["test", "rules"],
        &["tests.yaml", "tests-recording.yaml"],
    )?;
    run("amtool", &["check-config"], &["alertmanager.yml"])?;
    mixin()?;
    let tests = std::fs::read_to_string(rules("tests.yaml"))?;
    let text = std::fs::read_to_string(rules("alerts.yaml"))?;
    let mut severities: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut alert = "";
    for line in text.lines().map(str::trim) {
        alert = line.strip_prefix("- alert: ").unwrap_or(alert);
        if let Some(rest) = line.strip_prefix("labels: {severity: ") {
            let severity = rest.split([',', '}']).next().unwrap_or_default();
            severities.entry(alert).or_default().insert(severity);
        }
    }
    ensure!(severities.len() > 20, "only {} alerts", severities.len());
    for (alert, severities) in severities {
        for severity in severities {
            let fired = format!(r#"{{labels: '{{alertname="{alert}", severity="{severity}""#);
            ensure!(
                tests.contains(&fired),
                "tests.yaml does not make {alert} fire as {severity}"
            );
        }
    }
    Ok(())
}

/// The mixin has every file.
fn mixin() -> Result<()> {
    let summary = format!(
        "local of = import '{FOLDER}/mixin.libsonnet'; [std.objectFieldsAll(of.grafanaDashboards), \
         std.length(of.prometheusRules.groups), std.length(of.prometheusAlerts.groups)]"
    );
    let said: Value = serde_json::from_str(&tools::run("jsonnet", &["-e", &summary])?)?;
    let mut there = Vec::new();
    for entry in std::fs::read_dir(Path::new(FOLDER).join("grafana"))? {
        there.push(entry?.file_name().to_string_lossy().into_owned());
    }
    there.retain(|name| name.ends_with(".json"));
    there.sort();
    ensure!(
        said[0] == serde_json::json!(there),
        "the mixin has {}, the folder {there:?}",
        said[0]
    );
    ensure!(
        said[1].as_u64() > Some(0) && said[2].as_u64() > Some(0),
        "no rules in the mixin: {said}"
    );
    Ok(())
}
