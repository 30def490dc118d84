//! A Prometheus of the distribution scrapes the agent; its queries give the numbers of the traffic.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings, free_port};
use netprobe_tests::event::Event;
use netprobe_tests::{http, tools, wait_for};
use serde_json::Value;

use super::{Case, Need};

pub(crate) const CASES: &[Case] =
    &[Case::new("prometheus_reads_the_numbers", scraped).needs(&[Need::Program("prometheus")])];

/// Connections served, bytes each sent, and connects refused.
const SERVED: u64 = 20;
const BYTES: u64 = 1000;
const REFUSED: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Prometheus that scrapes its targets every second.
pub(super) struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It is ours, and holds nothing anybody wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts one with one target, and rules of these texts.
    pub(super) fn start(target: SocketAddr, features: &str, rules: &[String]) -> Result<Prometheus> {
        let scrape = format!("  - job_name: netprobe\n    static_configs: [{{targets: [\"{target}\"]}}]\n");
        Self::start_on(&scrape, features, rules)
    }

    /// Starts one that finds its targets as this list of `scrape_configs` says.
    pub(super) fn start_on(scrape: &str, features: &str, rules: &[String]) -> Result<Prometheus> {
        let folder = tempfile::tempdir()?;
        for (index, text) in rules.iter().enumerate() {
            std::fs::write(folder.path().join(format!("rules-{index}.yaml")), text)?;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let config = folder.path().join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"rules-*.yaml\"]\n\
                 scrape_configs:\n{scrape}"
            ),
        )?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = Command::new(tools::find("prometheus").context("prometheus is not installed")?)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--enable-feature={features}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Prometheus {
            child,
            address,
            _folder: folder,
        })
    }

    /// GET of its API.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = http::get(self.address, &format!("/api/v1/{path}"))?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Asks a query.
    pub(super) fn ask(&self, path: &str, query: &str) -> Result<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.get(&format!("{path}?query={encoded}"))
            .context(query.to_owned())
    }

    /// The value of a query with one result.
    fn value(&self, query: &str) -> Result<f64> {
        let answer = self.ask("query", query)?;
        let results = answer["data"]["result"].as_array().context("no result")?;
        ensure!(results.len() == 1, "{query}: {} results", results.len());
        let text = results[0]["value"][1].as_str().context("no value")?;
        Ok(text.parse()?)
    }

    /// Waits until a query has this value.
    pub(super) fn expect(&self, query: &str, expected: f64) -> Result<()> {
        let mut last = String::new();
        wait_for(query, PATIENCE, || {
            let got = self.value(query);
            last = format!("{got:?}");
            got.is_ok_and(|got| got == expected).then_some(())
        })
        .with_context(|| format!("expected {expected}, last {last}"))
    }
}

fn traffic() -> Result<(SocketAddr, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let served = listener.local_addr()?;
    for _ in 0..SERVED {
        let mut client = TcpStream::connect(served)?;
        client.write_all(&vec![0; BYTES as usize])?;
        client.shutdown(std::net::Shutdown::Write)?;
        let mut server = listener.accept()?.0;
        server.read_to_end(&mut Vec::new())?;
    }
    let refused = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    for _ in 0..REFUSED {
        ensure!(TcpStream::connect(refused).is_err(), "{refused} is served");
    }
    Ok((served, refused))
}

fn scraped() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    let plain = Prometheus::start(agent.listen(), "exemplar-storage", &[])?;
    let native = Prometheus::start(agent.listen(), "native-histograms", &[])?;
    let (served, refused) = traffic()?;
    let client = format!("peer=\"{served}\",role=\"client\"");
    for prometheus in [&plain, &native] {
        prometheus.expect("up{job=\"netprobe\"}", 1.0)?;
        for (query, expected) in [
            (
                format!("netprobe_tcp_connects_total{{{client},result=\"ok\"}}"),
                SERVED,
            ),
            (
                format!("netprobe_tcp_connects_total{{peer=\"{refused}\",error_type=\"ECONNREFUSED\"}}"),
                REFUSED,
            ),
            // Every one but the first came after a failed one.
            (
                format!("netprobe_tcp_connect_retries_total{{peer=\"{refused}\"}}"),
                REFUSED - 1,
            ),
            (
                format!("netprobe_tcp_bytes_total{{peer=\"{served}\",direction=\"sent\"}}"),
                SERVED * BYTES,
            ),
        ] {
            prometheus.expect(&query, expected as f64)?;
        }
    }
    // Classic buckets in one, native ones in the other: the same observations.
    let name = "netprobe_tcp_connect_duration_seconds";
    plain.expect(&format!("{name}_count{{{client}}}"), SERVED as f64)?;
    plain.expect(&format!("{name}_bucket{{{client},le=\"+Inf\"}}"), SERVED as f64)?;
    native.expect(&format!("histogram_count({name}{{{client}}})"), SERVED as f64)?;
    let sum = plain.value(&format!("{name}_sum{{{client}}}"))?;
    native.expect(&format!("histogram_sum({name}{{{client}}})"), sum)?;
    let median = native.value(&format!("histogram_quantile(0.5, {name}{{{client}}})"))?;
    let upper = plain.value(&format!("histogram_quantile(1, {name}_bucket{{{client}}})"))?;
    ensure!(
        median > 0.0 && median <= upper,
        "median {median}, highest bucket {upper}"
    );
    exemplars(&agent, &plain, &format!("{name}_bucket{{{client}}}"))?;
    states(&agent, served, refused)
}

/// What an exemplar names is the event of the connection it was measured on.
fn exemplars(agent: &Agent, prometheus: &Prometheus, series: &str) -> Result<()> {
    let found = wait_for("exemplars", PATIENCE, || {
        let answer = prometheus.ask("query_exemplars", series).ok()?;
        let all: Vec<(String, f64)> = answer["data"]
            .as_array()?
            .iter()
            .flat_map(|of| of["exemplars"].as_array().into_iter().flatten())
            .filter_map(|exemplar| {
                let seconds = exemplar["value"].as_str()?.parse().ok()?;
                Some((exemplar["labels"]["trace_id"].as_str()?.to_owned(), seconds))
            })
            .collect();
        (!all.is_empty()).then_some(all)
    })?;
    let events = agent.events();
    for (trace, seconds) in found {
        // Others have been as fast: the trace alone would be that of any neighbour, the time alone anybody's.
        let is_its = |event: &Event| {
            let connect_ms = event.flow.as_ref().and_then(|flow| flow.connect_ms);
            event.trace_id == trace && connect_ms.is_some_and(|ms| (ms / 1e3 - seconds).abs() < 1e-9)
        };
        ensure!(
            events.iter().any(|event| is_its(event)),
            "no event has the trace {trace} and the {seconds} s of an exemplar"
        );
    }
    Ok(())
}

/// `/resilience/state` and `/metrics/network` of the same traffic.
fn states(agent: &Agent, served: SocketAddr, refused: SocketAddr) -> Result<()> {
    let get = |path: &str| -> Result<Value> {
        let (status, body) = agent.get(path)?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    };
    let of = |list: &Value, peer: SocketAddr| -> Result<Value> {
        let list = list.as_array().context("not a list")?;
        let found = list.iter().find(|of| {
            of["peer"] == peer.to_string() && of["role"].as_str().is_none_or(|role| role == "client")
        });
        found
            .cloned()
            .with_context(|| format!("nothing of {peer}: {list:?}"))
    };
    let state = get("/resilience/state")?;
    let (good, bad) = (
        of(&state["destinations"], served)?,
        of(&state["destinations"], refused)?,
    );
    ensure!(
        good["state"] == "healthy" && bad["state"] == "failing",
        "{good} {bad}"
    );
    ensure!(bad["evidence"]["refused"] == REFUSED, "{bad}");
    let network = get("/metrics/network")?;
    let pair = of(&network["pairs"], served)?;
    let five = pair["windows"]
        .as_array()
        .context("no windows")?
        .last()
        .context("none")?
        .clone();
    ensure!(
        five["traffic"]["connects"] == SERVED && five["connect"]["count"] == SERVED,
        "{pair}"
    );
    ensure!(five["traffic"]["errors"]["refused"] == 0, "{pair}");
    Ok(())
}
