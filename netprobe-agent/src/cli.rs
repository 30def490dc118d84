//! The command line. Records go to stdout and nothing else does; a reader that goes away is success.

mod archive;
mod client;
mod colour;
mod config;
mod doctor;
mod filters;
mod flows;
mod observe;
mod output;
mod report;
mod token;
mod top;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{
    app,
    config::{Loaded, Period, Profile},
    error::{AgentError, Exit},
    logging,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done                                 5  kernel older than the floor
  1  something else went wrong            6  a required fact has no method
  2  command line or configuration wrong  7  address or socket in use
  3  privileges are missing               8  output cannot be written
  4  kernel without BTF                   9  no agent answers";

/// A kernel-level network probe: every TCP connection of this host as one record, with latency, bytes, process and
/// NAT addresses.
#[derive(Debug, Parser)]
#[command(name = "netprobe", version, max_term_width = 110, after_help = EXIT_CODES, disable_help_subcommand = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    #[command(after_help = "\
Examples:
  netprobe run                                        with /etc/netprobe/netprobe.toml, if it is there
  netprobe run --profile dev --duration 30s           for half a minute, with logs for people
  netprobe run --output jsonl | jq .connection_id     every event as a line of JSON
  NETPROBE_PROBE_PORTS_ONLY=5432 netprobe run         a key of the configuration as a variable")]
    Run(RunArgs),
    /// What this kernel allows: every fact, the method chosen, and why not the better ones
    #[command(after_help = "\
Examples:
  netprobe doctor
  netprobe doctor -o json | jq '.facts[] | select(.method == null)'
  netprobe doctor --method accept=kretprobe           whether another method works, and if not, why")]
    Doctor(doctor::DoctorArgs),
    /// Events, from the running agent, a file or the archive
    #[command(after_help = "\
Examples:
  netprobe observe -f --severity warning              what goes wrong, as it happens
  netprobe observe --last 100 --to-port 5432          the last hundred to PostgreSQL
  netprobe observe --since 5m --not --comm curl       the last five minutes, without curl
  netprobe observe --filter 'flow.connect_ms>50,nat.status!=none' -o json
  netprobe observe --input-file events.jsonl --ip 10.0.0.0/8 -o table
  netprobe observe --input-file file:///var/lib/netprobe/archive --since 24h --severity error
  netprobe observe --input-file s3://bucket/prefix --since 1h --connection ID   on every host it passed")]
    Observe(observe::ObserveArgs),
    /// The live flows, like ss
    #[command(after_help = "\
Examples:
  netprobe flows
  netprobe flows --service nginx.service --filter 'bytes_sent>1000000'
  netprobe flows -o json | jq -r .peer_ip | sort | uniq -c")]
    Flows(flows::FlowsArgs),
    /// Live flows, ranked; keys choose, filter and pause
    #[command(after_help = "\
Keys:
  up down    choose a flow; enter shows all of it      left right  rank by another column, r the other way round
  /          filter, as in --filter, while it is typed  p           pause, q quit

Examples:
  netprobe top                                        by payload a second
  netprobe top --sort retransmits --service nginx.service
  netprobe top --once -n 5 --to-port 5432             the five busiest to PostgreSQL, as text")]
    Top(top::TopArgs),
    /// The history: list, query, verify and restore it
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// Uptime and 95th percentiles per destination and period, out of the archive
    #[command(after_help = "\
Examples:
  netprobe sla --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z --period 24h
  netprobe sla --since 24h --until 0s --to-port 5432 -o json | jq '.destinations[] | .outages'
  netprobe sla --url s3://bucket/prefix --since 2026-11-21T09:00:00Z --until 2026-11-21T11:00:00Z --by-host")]
    Sla(report::SlaArgs),
    /// The story of an incident, out of the archive: first symptom, causes, whom it affected, recovery
    #[command(after_help = "\
Examples:
  netprobe timeline --since 2026-11-21T09:40:00Z --until 2026-11-21T10:05:00Z
  netprobe timeline --since 30m --until 0s -o html > incident.html
  netprobe timeline --since 1h --until 0s --service shop.service -o json | jq '.incidents[].causes'")]
    Timeline(report::TimelineArgs),
    /// Check the configuration, or show what is in force
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Tokens of the API
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print the contract of the HTTP API, OpenAPI 3.1
    Openapi,
    /// Print completions of a shell
    #[command(after_help = "Example:\n  netprobe completions bash > /etc/bash_completion.d/netprobe")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them to a folder
    Man {
        /// Folder to write one page a command to
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: config::ConfigArgs,
    /// End after this time, like 30s or 5m
    #[arg(long, value_parser = period)]
    duration: Option<Duration>,
    /// Also write every event to stdout
    #[arg(long, value_enum)]
    output: Option<RunOutput>,
    #[command(flatten)]
    methods: MethodArgs,
}

/// Choice of methods.
#[derive(Clone, Debug, Args)]
struct MethodArgs {
    /// Use this method for a fact or fail, or "off" to do without it; wins over probe.methods
    #[arg(long, value_name = "FACT=METHOD", value_parser = pair)]
    method: Vec<(String, String)>,
}

impl MethodArgs {
    fn apply(&self, loaded: &mut Loaded) -> Result<(), AgentError> {
        if self.method.is_empty() {
            return Ok(());
        }
        let methods = self.method.iter().cloned();
        let methods = methods.map(|(fact, method)| (fact, method.into()));
        loaded.set_by_flag(
            "probe",
            "methods",
            toml::Value::Table(methods.collect()),
            "--method",
        )?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RunOutput {
    /// One JSON object a line
    Jsonl,
}

/// Where the agent is.
#[derive(Clone, Debug, Args)]
struct AgentArgs {
    /// Unix socket of the agent [default: api.socket of the configuration]
    #[arg(long, value_name = "PATH", env = "NETPROBE_SOCKET")]
    socket: Option<PathBuf>,
    /// Configuration file [default: /etc/netprobe/netprobe.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AgentArgs {
    fn client(&self) -> Result<client::Client, AgentError> {
        if let Some(socket) = &self.socket {
            return client::Client::new(socket.clone());
        }
        client::Client::new(self.configuration().load()?.config.api.socket)
    }

    fn configuration(&self) -> config::ConfigArgs {
        config::ConfigArgs {
            config: self.config.clone(),
            profile: Profile::default(),
        }
    }
}

fn period(text: &str) -> Result<Duration, String> {
    Period::parse(text).map(|period| period.0)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((fact, method)) if !fact.is_empty() && !method.is_empty() => {
            Ok((fact.to_owned(), method.to_owned()))
        }
        _ => Err("write fact=method; `netprobe doctor` lists both".to_owned()),
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but successes to us; a closed stdout is no reason to fail.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                Exit::Usage as u8
            } else {
                Exit::Ok as u8
            });
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(AgentError::UnwritableOutput { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nothing can be done when stderr is closed as well.
            let _ = writeln!(io::stderr(), "netprobe: {error}\n  {}", error.advice());
            ExitCode::from(error.exit() as u8)
        }
    }
}

fn dispatch(command: Command) -> Result<(), AgentError> {
    match command {
        Command::Run(args) => run(args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Observe(args) => observe::observe(&args),
        Command::Flows(args) => flows::flows(&args),
        Command::Top(args) => top::top(&args),
        Command::Archive(command) => archive::archive(&command),
        Command::Sla(args) => report::sla(&args),
        Command::Timeline(args) => report::timeline(&args),
        Command::Config(command) => config::config(&command),
        Command::Token(command) => token::token(&command),
        Command::Openapi => print(crate::api::contract().as_bytes()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "netprobe", &mut script);
            print(&script)
        }
        Command::Man { folder } => man(folder),
    }
}

fn run(args: RunArgs) -> Result<(), AgentError> {
    let mut loaded = args.config.load()?;
    args.methods.apply(&mut loaded)?;
    logging::start(&loaded.config.log);
    let options = app::Options {
        duration: args.duration,
        jsonl: args.output.is_some(),
    };
    app::run(loaded, &options)
}

fn man(folder: Option<PathBuf>) -> Result<(), AgentError> {
    let command = Cli::command();
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(output::unwritable)?;
        return print(&page);
    };
    let unwritable = |error| AgentError::UnwritableOutput {
        output: folder.display().to_string(),
        error,
    };
    std::fs::create_dir_all(&folder).map_err(unwritable)?;
    clap_mangen::generate_to(command, &folder).map_err(unwritable)
}

fn print(bytes: &[u8]) -> Result<(), AgentError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(output::unwritable)
}
