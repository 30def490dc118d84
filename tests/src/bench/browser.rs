//! From the hook to a page in a browser, which draws meanwhile.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::clients::{NET, traffic};
use super::stats::median;
use super::{Options, quantile, quiet};
use crate::agent::Agent;
use crate::tools;

/// Connections a second, two events each.
const RATES: [u64; 2] = [500, 5_000];
const ROUNDS: u32 = 3;
/// Where the page's sources and what drives it are.
const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/web");

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Late {
    /// Events a second that were wanted.
    pub rate: u64,
    /// Which round.
    pub round: u32,
    /// Events a second that were made.
    pub events_per_second: f64,
    /// Of the events made, the share that came to the page.
    pub received: f64,
    /// Events the page was told it missed.
    pub missed: u64,
    /// Milliseconds from the CLOSE in the kernel until the page had dealt with the event: median and 99th percentile.
    pub latency_ms: (f64, f64),
}

/// What the page says of a step.
#[derive(Deserialize)]
struct Said {
    came: u64,
    missed: u64,
    late: Vec<f64>,
}

pub(super) fn measure(options: &Options) -> Result<Vec<Late>> {
    let agent = Agent::start(&quiet(options))?;
    let mut page = Page::open(&agent)?;
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        for rate in RATES {
            eprintln!("bench: a browser at {} events/s", rate * 2);
            page.end_step()?;
            let begun = Instant::now();
            let made = 2 * traffic(rate, options.slice)?;
            let seconds = begun.elapsed().as_secs_f64();
            // What is on its way comes within the longest a client may be behind.
            std::thread::sleep(Duration::from_secs(6));
            let mut said = page.end_step()?;
            said.late.sort_by(f64::total_cmp);
            all.push(Late {
                rate: rate * 2,
                round,
                events_per_second: made as f64 / seconds,
                received: said.came as f64 / made as f64,
                missed: said.missed,
                latency_ms: (quantile(&said.late, 0.5), quantile(&said.late, 0.99)),
            });
        }
    }
    page.close()?;
    agent.stop()?;
    Ok(all)
}

/// The overview in a browser.
struct Page {
    node: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Page {
    fn open(agent: &Agent) -> Result<Page> {
        let chromium = tools::find("chromium").context("chromium is not installed")?;
        let mut node = Command::new(tools::find("node").context("node is not installed")?)
            .arg(Path::new(WEB).join("test/latency.mjs"))
            .env("NETPROBE_URL", format!("http://{}/", agent.listen()))
            .env("NETPROBE_NET", format!("\"{}.{}.", NET[0], NET[1]))
            .env("CHROMIUM", chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = node.stdin.take().context("no standard input")?;
        let stdout = BufReader::new(node.stdout.take().context("no standard output")?).lines();
        let mut page = Page { node, stdin, stdout };
        let said = page.line()?;
        ensure!(said == "ready", "the browser says {said}");
        Ok(page)
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.stdout.next().context("the browser has ended")??)
    }

    fn end_step(&mut self) -> Result<Said> {
        writeln!(self.stdin, "step")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn close(self) -> Result<()> {
        let Page { mut node, stdin, .. } = self;
        drop(stdin);
        let status = node.wait()?;
        ensure!(status.success(), "the browser ended with {status}");
        Ok(())
    }
}

pub(super) fn markdown(all: &[Late]) -> String {
    let mut text = format!(
        "\nA page in a browser, medians of {ROUNDS} rounds:\n\n\
         | events/s | received | told as missed | hook to page p50 | p99 |\n|---|---|---|---|---|\n"
    );
    for rate in RATES {
        let these: Vec<&Late> = all.iter().filter(|late| late.rate == rate * 2).collect();
        let middle = |of: fn(&Late) -> f64| median(&these.iter().map(|late| of(late)).collect::<Vec<_>>());
        text.push_str(&format!(
            "| {:.0} | {:.2} % | {} | {:.1} ms | {:.1} ms |\n",
            middle(|late| late.events_per_second),
            middle(|late| late.received) * 100.0,
            these.iter().map(|late| late.missed).sum::<u64>(),
            middle(|late| late.latency_ms.0),
            middle(|late| late.latency_ms.1),
        ));
    }
    text
}
