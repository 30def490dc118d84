//! Measurements: what the agent costs. Never part of the tests.
//!
//! Throughput is measured in interleaved rounds, agent off and on and in between, in changing order, because the
//! machine's own drift is larger than what is looked for; a round gives one ratio, all ratios a bootstrap interval.

mod api;
mod browser;
mod clients;
mod cost;
mod inside;
mod requests;
mod stats;
mod stream;
mod workload;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::agent::{Agent, Settings};
pub use api::Api;
pub use browser::Late;
pub use cost::{Cost, Program, hold};
pub use inside::{archive, kafka};
pub use requests::{Requests, requests};
pub use stats::{Interval, bootstrap, median};
pub use stream::Step;
pub use workload::Workload;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pairs per workload.
    pub pairs: u32,
    /// Length of one measurement.
    pub slice: Duration,
    /// Connections for the figures per event and at saturation.
    pub connections: u64,
    /// Live flows for the figure of memory.
    pub live: u64,
    /// Lines for `[probe]` of the agent under test.
    pub probe: String,
    /// Events of the day the archive is asked about.
    pub day: u64,
    /// Steps of the stream with so many clients only.
    pub clients: Option<usize>,
}

/// One workload: raw rates of every pair and what they come to.
#[derive(Clone, Debug, Serialize)]
pub struct Pairs {
    /// Workload.
    pub workload: Workload,
    /// Unit of the rates.
    pub unit: &'static str,
    /// Rates with the agent off, by pair.
    pub off: Vec<f64>,
    /// Rates with empty programs on the same hooks, by pair.
    pub empty: Vec<f64>,
    /// Rates with the agent on, by pair.
    pub on: Vec<f64>,
    /// Rates with the agent on, without the facts that need a hook on every system call, by pair.
    pub light: Vec<f64>,
    /// On ÷ off.
    pub ratio: Interval,
    /// Empty ÷ off: the price of the hooks alone.
    pub empty_ratio: Interval,
    /// Light ÷ off: what is left without `sys_exit`.
    pub light_ratio: Interval,
}

/// What runs beside the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Off,
    Empty,
    On,
    Light,
}

impl Variant {
    /// Orders that put each variant in each place and after each other one, so that a drift within a round favours none.
    const ORDERS: [[Variant; 4]; 4] = [
        [Variant::Off, Variant::Empty, Variant::On, Variant::Light],
        [Variant::Empty, Variant::Light, Variant::Off, Variant::On],
        [Variant::Light, Variant::On, Variant::Empty, Variant::Off],
        [Variant::On, Variant::Off, Variant::Light, Variant::Empty],
    ];

    fn start(self, options: &Options) -> Result<Option<Agent>> {
        match self {
            Variant::Off => Ok(None),
            Variant::Empty => Agent::start(&empty(options)).map(Some),
            Variant::On => Agent::start(&quiet(options)).map(Some),
            Variant::Light => Agent::start(&light(options)).map(Some),
        }
    }
}

/// A part that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Throughput with the agent off and on, and the agent's own cost
    Cost,
    /// From the hook to clients of the stream
    Stream,
    /// From the hook to a page in a browser
    Browser,
    /// Answers of the API, scrapes, and series as flows grow
    Api,
    /// What is durable when, throughput of the spool, recovery, and a day that is asked
    Archive,
    /// Events into Kafka: throughput, price and delay
    Kafka,
    /// Reading requests of nginx and wrk, in clear and in TLS; slices of whole seconds
    Requests,
}

/// The stream, a browser and the API, as of one machine.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Kernel, processors, date and the like.
    pub machine: BTreeMap<String, String>,
    /// The stream.
    pub stream: Vec<Step>,
    /// A page in a browser.
    pub browser: Vec<Late>,
    /// The API.
    pub api: Option<Api>,
}

impl Seen {
    /// Measures the parts wanted.
    pub fn measure(options: &Options, parts: &[Part]) -> Result<Seen> {
        let stream = if parts.contains(&Part::Stream) {
            stream::measure(options).context("the stream")?
        } else {
            Vec::new()
        };
        let browser = if parts.contains(&Part::Browser) {
            browser::measure(options).context("the browser")?
        } else {
            Vec::new()
        };
        let api = parts
            .contains(&Part::Api)
            .then(|| api::measure(options).context("the API"));
        Ok(Seen {
            api: api.transpose()?,
            stream,
            browser,
            machine: machine(),
        })
    }

    /// As Markdown tables.
    pub fn markdown(&self) -> String {
        let mut text = table(&self.machine);
        if !self.stream.is_empty() {
            text.push_str(&stream::markdown(&self.stream));
        }
        if !self.browser.is_empty() {
            text.push_str(&browser::markdown(&self.browser));
        }
        if let Some(api) = &self.api {
            text.push_str(&api::markdown(api));
        }
        text
    }
}

/// The value below which a share of sorted values lies; not a number without values.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Everything measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Kernel, processors, date and the like.
    pub machine: BTreeMap<String, String>,
    /// Throughput.
    pub pairs: Vec<Pairs>,
    /// Cost inside and outside the kernel.
    pub cost: Cost,
}

/// Measures everything.
pub fn run(options: &Options) -> Result<Report> {
    let mut raw: BTreeMap<Workload, [Vec<f64>; 4]> = BTreeMap::new();
    for pair in 0..options.pairs {
        eprintln!("bench: round {} of {}", pair + 1, options.pairs);
        for variant in Variant::ORDERS[pair as usize % Variant::ORDERS.len()] {
            let agent = variant.start(options)?;
            for workload in Workload::ALL {
                let rate = workload.measure(options.slice)?;
                raw.entry(workload).or_default()[variant as usize].push(rate);
            }
            if let Some(agent) = agent {
                agent.stop()?;
            }
        }
    }
    let ratio = |over: &[f64], under: &[f64]| {
        let ratios: Vec<f64> = over.iter().zip(under).map(|(a, b)| a / b).collect();
        stats::bootstrap(&ratios)
    };
    let pairs = raw
        .into_iter()
        .map(|(workload, [off, empty, on, light])| Pairs {
            workload,
            unit: workload.unit(),
            ratio: ratio(&on, &off),
            empty_ratio: ratio(&empty, &off),
            light_ratio: ratio(&light, &off),
            off,
            empty,
            on,
            light,
        })
        .collect();
    Ok(Report {
        machine: machine(),
        pairs,
        cost: cost::measure(options)?,
    })
}

/// As in production: no events on stdout, everything else as it is by default.
pub(crate) fn quiet(options: &Options) -> Settings {
    Settings {
        silent: true,
        probe: options.probe.clone(),
        ..Settings::default()
    }
}

/// The same hooks with programs that return at once.
pub(crate) fn empty(options: &Options) -> Settings {
    Settings {
        probe: format!("{}\nempty_programs = true", options.probe),
        ..quiet(options)
    }
}

/// As [`quiet`], without what only a hook on every system call can give where there is no fexit.
fn light(options: &Options) -> Settings {
    let without = ["--method", "accept=first_io", "--method", "connect_failed=off"];
    Settings {
        args: without.map(str::to_owned).into(),
        ..quiet(options)
    }
}

/// What was measured on.
pub fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let model = read("/proc/cpuinfo").lines().find_map(|line| {
        line.strip_prefix("model name")
            .map(|l| l.trim_start_matches([' ', '\t', ':']).to_owned())
    });
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    [
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("processor", model.unwrap_or_default()),
        ("processors", processors.to_string()),
        ("load average at the end", read("/proc/loadavg")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn table(machine: &BTreeMap<String, String>) -> String {
    let mut text = String::from("| machine | |\n|---|---|\n");
    for (key, value) in machine {
        text.push_str(&format!("| {key} | {value} |\n"));
    }
    text
}

/// The report as Markdown tables.
pub fn markdown(report: &Report) -> String {
    let mut text = table(&report.machine);
    text.push_str(
        "\n| workload | off (median) | empty ÷ off | on ÷ off | 95 % interval of on ÷ off | without sys_exit ÷ off | rounds |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for p in &report.pairs {
        text.push_str(&format!(
            "| {} | {:.0} {} | {:.4} ({:.4} to {:.4}) | {:.4} | {:.4} to {:.4} | {:.4} ({:.4} to {:.4}) | {} |\n",
            p.workload.name(),
            stats::median(&p.off),
            p.unit,
            p.empty_ratio.middle,
            p.empty_ratio.low,
            p.empty_ratio.high,
            p.ratio.middle,
            p.ratio.low,
            p.ratio.high,
            p.light_ratio.middle,
            p.light_ratio.low,
            p.light_ratio.high,
            p.off.len(),
        ));
    }
    text.push_str(&cost::markdown(&report.cost));
    text
}
