//! Requests: what reading them costs a web server and who asks it, in clear and in TLS; and whether each is told.
//!
//! nginx and wrk on the loopback, one worker and one thread, so that both and the agent share the machine as they find it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::cost::cpu_seconds;
use super::{Interval, Options, light, machine, quiet, stats, table};
use crate::agent::{Agent, Settings};
use crate::tools;

const PORT: u16 = 20_631;
/// Where nginx listens. Connections to it come from 127.0.0.1, so that a filter by remote address tells the ends apart.
const HOST: &str = "127.0.0.3";
const CONNECTIONS: &str = "16";

/// How much is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Load {
    /// Each connection waits 16 ms between requests: some 1,000 a second.
    Low,
    /// 2 ms: some 6,000 a second.
    Nominal,
    /// As much as the machine gives.
    Peak,
}

impl Load {
    const ALL: [Load; 3] = [Load::Low, Load::Nominal, Load::Peak];

    /// What wrk is told to do between requests.
    const fn script(self) -> Option<&'static str> {
        match self {
            Load::Low => Some("function delay() return 16 end"),
            Load::Nominal => Some("function delay() return 2 end"),
            Load::Peak => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Load::Low => "low",
            Load::Nominal => "nominal",
            Load::Peak => "peak",
        }
    }
}

/// What runs beside nginx and wrk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Variant {
    Off,
    /// The agent, with `requests.enabled = false`.
    Flows,
    On,
    /// The agent of a host that is the server alone, and has fexit: the client's end is left out by its filter, and there is no
    /// program on every system call.
    Server,
}

/// One slice of wrk.
#[derive(Clone, Debug, Serialize)]
struct Slice {
    scheme: &'static str,
    load: Load,
    variant: Variant,
    requests_per_second: f64,
    median_us: f64,
    p99_us: f64,
    /// Agent's processor time a request, microseconds; `None` without one.
    agent_us: Option<f64>,
    /// Lines of the server's log and requests counted at client and server; of `on` alone.
    counts: Option<[u64; 3]>,
}

/// All slices, as of one machine.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    machine: BTreeMap<String, String>,
    slices: Vec<Slice>,
}

/// An nginx that ends with this value.
struct Nginx {
    child: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    fn start(scheme: &str) -> Result<Nginx> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let place = folder.path().display();
        let listen = if scheme == "https" {
            let (key, cert) = (format!("{place}/key"), format!("{place}/cert"));
            let make = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=np.example";
            let mut make: Vec<&str> = make.split(' ').collect();
            make.extend(["-keyout", &key, "-out", &cert]);
            tools::run("openssl", &make)?;
            format!("listen {HOST}:{PORT} ssl; ssl_certificate {cert}; ssl_certificate_key {key};")
        } else {
            format!("listen {HOST}:{PORT};")
        };
        let config = folder.path().join("nginx.conf");
        std::fs::write(
            &config,
            format!(
                "daemon off; worker_processes 1; pid {place}/pid; error_log stderr;
                 events {{ worker_connections 256; }}
                 http {{
                   log_format short '$status'; access_log {place}/log short;
                   keepalive_requests 100000000; client_body_temp_path {place}/b; proxy_temp_path {place}/p;
                   fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
                   server {{ {listen} location / {{ return 200 'fine'; }} }}
                 }}"
            ),
        )?;
        let child = Command::new(tools::find("nginx").context("nginx is not installed")?)
            .args(["-e", "stderr", "-c"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let nginx = Nginx { child, folder };
        let begun = Instant::now();
        while std::net::TcpStream::connect((HOST, PORT)).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nginx)
    }

    fn lines(&self) -> Result<u64> {
        lines(&self.folder.path().join("log"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker ends with a master that is asked to.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn lines(file: &Path) -> Result<u64> {
    Ok(std::fs::read(file)?.iter().filter(|byte| **byte == b'\n').count() as u64)
}

/// Measures rounds of every variant, in changing order.
pub fn requests(options: &Options) -> Result<Requests> {
    const ORDERS: [[Variant; 4]; 4] = [
        [Variant::Off, Variant::Flows, Variant::Server, Variant::On],
        [Variant::On, Variant::Off, Variant::Flows, Variant::Server],
        [Variant::Server, Variant::On, Variant::Off, Variant::Flows],
        [Variant::Flows, Variant::Server, Variant::On, Variant::Off],
    ];
    let mut slices = Vec::new();
    for round in 0..options.pairs {
        eprintln!("bench: requests, round {} of {}", round + 1, options.pairs);
        for variant in ORDERS[round as usize % ORDERS.len()] {
            for scheme in ["http", "https"] {
                for load in Load::ALL {
                    slices.push(slice(options, variant, scheme, load)?);
                }
            }
        }
    }
    Ok(Requests {
        machine: machine(),
        slices,
    })
}

fn slice(options: &Options, variant: Variant, scheme: &'static str, load: Load) -> Result<Slice> {
    let settings = quiet(options);
    let reading = format!("[requests]\ntls = {}", scheme == "https");
    let agent = match variant {
        Variant::Off => None,
        Variant::On => Some(Agent::start(&Settings {
            // Where it is not needed, nobody asks for it.
            sections: reading,
            ..settings
        })?),
        Variant::Server => Some(Agent::start(&Settings {
            probe: format!("{}\ncidrs_except = [\"{HOST}/32\"]", settings.probe),
            sections: reading,
            ..light(options)
        })?),
        Variant::Flows => Some(Agent::start(&Settings {
            sections: "[requests]\nenabled = false".to_owned(),
            ..settings
        })?),
    };
    let nginx = Nginx::start(scheme)?;
    let (before, cpu) = (nginx.lines()?, cpu_of(agent.as_ref())?);
    let length = format!("-d{}s", options.slice.as_secs().max(1));
    let url = format!("{scheme}://{HOST}:{PORT}/users/12345");
    let script = nginx.folder.path().join("load.lua");
    std::fs::write(&script, load.script().unwrap_or_default())?;
    let script = script.display().to_string();
    let said = tools::run(
        "wrk",
        &[
            "-t1",
            "-c",
            CONNECTIONS,
            &length,
            "-s",
            &script,
            "--latency",
            &url,
        ],
    )?;
    let lines = nginx.lines()? - before;
    drop(nginx);
    if let Some(agent) = &agent {
        agent.ledger_at_rest(Duration::from_secs(60))?;
    }
    let spent = cpu_of(agent.as_ref())?
        .zip(cpu)
        .map(|(after, before)| after - before);
    let counts = match &agent {
        Some(agent) if variant == Variant::On => {
            Some([lines, counted(agent, "client")?, counted(agent, "server")?])
        }
        _ => None,
    };
    if let Some(agent) = agent {
        agent.stop()?;
    }
    Ok(Slice {
        scheme,
        load,
        variant,
        requests_per_second: value(&said, "Requests/sec:")?,
        median_us: value(&said, "50%")?,
        p99_us: value(&said, "99%")?,
        agent_us: spent.map(|seconds| seconds * 1e6 / lines.max(1) as f64),
        counts,
    })
}

fn cpu_of(agent: Option<&Agent>) -> Result<Option<f64>> {
    agent.map(|agent| cpu_seconds(agent.pid())).transpose()
}

/// Requests to the template of the address, in the metrics.
fn counted(agent: &Agent, role: &str) -> Result<u64> {
    let (_, metrics) = agent.get("/metrics")?;
    let role = format!("role=\"{role}\"");
    let wanted = |line: &&str| {
        line.starts_with("netprobe_requests_total{")
            && line.contains(&role)
            && line.contains("route=\"/users/:id\"")
    };
    let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    Ok(metrics.lines().filter(wanted).filter_map(count).sum::<f64>() as u64)
}

/// The number behind a word in what wrk says; of times, in microseconds.
fn value(said: &str, word: &str) -> Result<f64> {
    let line = said
        .lines()
        .map(str::trim)
        .find_map(|line| line.strip_prefix(word));
    let text = line.with_context(|| format!("wrk says no {word}"))?.trim();
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("", 1.0)];
    let read = units
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    read.with_context(|| format!("wrk says {text}"))
}

impl Requests {
    /// As Markdown tables.
    pub fn markdown(&self) -> String {
        let mut text = table(&self.machine);
        text.push_str(
            "\n| nginx | load | beside | requests/s | ÷ off | median | ÷ off | 99 % | ÷ off | agent, a request |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for scheme in ["http", "https"] {
            for load in Load::ALL {
                for variant in [Variant::Off, Variant::Flows, Variant::On, Variant::Server] {
                    text.push_str(&self.row(scheme, load, variant));
                }
            }
        }
        text.push_str(
            "\n| nginx | lines of its log | events of the client | of the server |\n|---|---|---|---|\n",
        );
        for scheme in ["http", "https"] {
            let counts = self.slices.iter().filter(|slice| slice.scheme == scheme);
            let sum = counts
                .filter_map(|slice| slice.counts)
                .fold([0; 3], |sum, counts| {
                    [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]]
                });
            text.push_str(&format!("| {scheme} | {} | {} | {} |\n", sum[0], sum[1], sum[2]));
        }
        text
    }

    fn of(&self, scheme: &str, load: Load, variant: Variant, value: impl Fn(&Slice) -> f64) -> Vec<f64> {
        let wanted =
            |slice: &&Slice| slice.scheme == scheme && slice.load == load && slice.variant == variant;
        self.slices.iter().filter(wanted).map(value).collect()
    }

    fn row(&self, scheme: &str, load: Load, variant: Variant) -> String {
        let beside = match variant {
            Variant::Off => "nothing",
            Variant::Flows => "agent, requests off",
            Variant::On => "agent",
            Variant::Server => "agent of the server alone, without `sys_exit`",
        };
        let mut row = format!("| {scheme} | {} | {beside} |", load.name());
        let mut figure = |unit: &str, value: &dyn Fn(&Slice) -> f64| {
            let (here, off) = (
                self.of(scheme, load, variant, value),
                self.of(scheme, load, Variant::Off, value),
            );
            let ratios: Vec<f64> = here.iter().zip(&off).map(|(here, off)| here / off).collect();
            let Interval { middle, low, high } = stats::bootstrap(&ratios);
            let median = stats::median(&here);
            row.push_str(&format!(
                " {median:.0}{unit} | {middle:.3} ({low:.3} to {high:.3}) |"
            ));
        };
        figure("", &|slice| slice.requests_per_second);
        figure(" µs", &|slice| slice.median_us);
        figure(" µs", &|slice| slice.p99_us);
        let agent = self.of(scheme, load, variant, |slice| slice.agent_us.unwrap_or(0.0));
        row.push_str(&format!(" {:.1} µs |\n", stats::median(&agent)));
        row
    }
}
