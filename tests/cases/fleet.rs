//! Three hosts, client, gateway and server, with an agent each: one archive, one topic, one Prometheus, and one story.
//!
//! The hosts are network namespaces of this machine, and each agent follows its own alone (`probe.netns`). `cargo xtask fleet` plays
//! the long form and keeps what came of it in the folder that `NETPROBE_FLEET` names.

mod check;
mod play;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::lab::{self, Lab, addr};
use nix::sys::signal::Signal;

use super::archive::{kafka::Brokers, python};
use super::prometheus::Prometheus;
use super::requests::web::Web;
use super::{Case, Need, history};
use play::Fetch;

pub(crate) const CASES: &[Case] = &[Case::new("three_hosts_tell_one_story", fleet).alone().needs(&[
    Need::Program("nginx"),
    Need::Program("curl"),
    Need::Program("prometheus"),
    Need::Engine("duckdb"),
    Need::Kafka,
    Need::Speed,
])];

/// Name of each host, and its namespace.
const HOSTS: [(&str, &str); 3] = [("client-1", "cli"), ("gateway-1", "gw"), ("server-1", "srv")];
const SERVER: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);

/// Where everything is.
struct Fleet {
    folder: PathBuf,
    lab: Lab,
    agents: Vec<Agent>,
    brokers: Brokers,
}

impl Fleet {
    fn start(folder: PathBuf) -> Result<Fleet> {
        let lab = lab::build_gateway()?;
        // So that the gateway's connections have bytes.
        lab.sysctl("gw", "net/netfilter/nf_conntrack_acct", "1")?;
        let brokers = Brokers::start(python("kafka").context("no client of Kafka")?)?;
        let mut fleet = Fleet {
            folder,
            lab,
            agents: Vec::new(),
            brokers,
        };
        fleet.agents = thread::scope(|scope| {
            let start = |host| scope.spawn(move || fleet_agent(host));
            let started: Vec<_> = (0..HOSTS.len()).map(|host| start(fleet.settings(host))).collect();
            let agent = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().map_err(|_| anyhow!("a thread panicked"))?
            };
            started.into_iter().map(agent).collect::<Result<_>>()
        })?;
        Ok(fleet)
    }

    fn settings(&self, host: usize) -> Settings {
        let (name, netns) = HOSTS[host];
        let settings = history::host(name, &self.folder.join(name), &self.archive());
        Settings {
            probe: format!("netns = \"{}\"", self.lab.path(netns).display()),
            sections: format!("[kafka]\nbrokers = [\"{}\"]\n", self.brokers.address),
            ..settings
        }
    }

    fn archive(&self) -> PathBuf {
        self.folder.join("archive")
    }

    /// The same as `netprobe` wants it.
    fn url(&self) -> String {
        format!("file://{}", self.archive().display())
    }

    /// The file that names the three to Prometheus.
    fn targets(&self) -> PathBuf {
        self.folder.join("targets.json")
    }

    fn write_targets(&self) -> Result<()> {
        let group = |(agent, (name, _)): (&Agent, &(&str, &str))| serde_json::json!({ "targets": [agent.listen().to_string()], "labels": { "host": name } });
        let groups: Vec<_> = self.agents.iter().zip(&HOSTS).map(group).collect();
        // Renamed into its place: nobody reads half of it.
        let new = self.targets().with_extension("new");
        fs::write(&new, serde_json::to_string_pretty(&groups)?)?;
        Ok(fs::rename(new, self.targets())?)
    }

    /// A Prometheus that finds them by that file.
    fn prometheus(&self) -> Result<Prometheus> {
        self.write_targets()?;
        let scrape = format!(
            "  - job_name: netprobe\n    file_sd_configs: [{{files: [\"{}\"]}}]\n",
            self.targets().display()
        );
        Prometheus::start_on(&scrape, "exemplar-storage", &[])
    }

    /// The agent of a host dies; what happens until it is back is not seen there.
    fn kill(&mut self, host: usize, meanwhile: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        self.agents[host].signal(Signal::SIGKILL)?;
        meanwhile(&self.lab)?;
        self.agents[host] = fleet_agent(self.settings(host))?;
        // It has another port: Prometheus reads the file again.
        self.write_targets()
    }
}

fn fleet_agent(settings: Settings) -> Result<Agent> {
    if let Some(home) = &settings.archive_in {
        fs::create_dir_all(home)?;
    }
    Agent::start(&settings)
}

fn fleet() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let kept = std::env::var_os("NETPROBE_FLEET").map(PathBuf::from);
    let folder = kept.clone().unwrap_or_else(|| temporary.path().to_owned());
    let times = if kept.is_some() { play::LONG } else { play::SHORT };
    let mut fleet = Fleet::start(folder)?;
    let prometheus = fleet.prometheus()?;
    let since = history::time(history::now())?;
    let at = addr(lab::SERVER, 8080);
    let mut web = Some(Web::start(&fleet.lab, "srv", at)?);
    let script = play::incident(&fleet.lab, at, &mut web, times)?;
    // Fetched while the server's host has no agent.
    let mut unseen = Vec::new();
    fleet.kill(SERVER, |lab| {
        unseen = play::fetch(lab, 3)?;
        Ok(())
    })?;
    let after = play::fetch(&fleet.lab, 10)?;
    let until = history::time(history::now())?;
    let translated = check::truth(&fleet.lab, &after)?;
    prometheus.expect("count(up{job=\"netprobe\"} == 1)", HOSTS.len() as f64)?;
    let delivered = "count(netprobe_events_delivered_total{sink=\"archive\"} > 0)";
    prometheus.expect(delivered, HOSTS.len() as f64)?;
    for agent in &fleet.agents {
        agent.ledger_at_rest(PATIENCE)?;
    }
    for agent in std::mem::take(&mut fleet.agents) {
        agent.stop_well()?;
    }
    let counts = check::contents(&mut fleet)?;
    let stories = check::stories(&fleet.url(), &translated, &unseen)?;
    let incident = check::incident(&fleet, &script, (&since, &until))?;
    if kept.is_some() {
        println!("{stories}\n{incident}\n{counts}");
    }
    Ok(())
}
