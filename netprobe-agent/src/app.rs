//! The composition root: the one place that wires the stages.

mod keepers;
mod signals;
mod steering;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    api::{Listeners, Server, Service},
    config::{Config, Loaded, ProbeConfig},
    error::AgentError,
    event::Origin,
    fanout::{Fanout, Sink},
    flow::{
        clock::WallClock,
        conntrack,
        events::Maker,
        payload::Sampling,
        pipeline::{Pipeline, Source},
        report::Reporter,
        share::Share,
        state::State,
        udp::UdpMap,
    },
    kernel::{
        debug::KernelLog,
        facts::{REQUESTS, TLS},
        load::{Kernel, OFF, Own, Probe, take_map},
        netns,
    },
    logging,
    metrics::{Metrics, MetricsSink},
    output::{Ending, Output},
    privileges,
    probe_report::{KernelReport, ProbeReport},
    query,
    recent::Recent,
    request::reader::Requests,
    ring::Ring,
    stream::Gateway,
};
use keepers::Keepers;
use signals::Signals;
use steering::Steering;

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End by itself after so long.
    pub duration: Option<Duration>,
    /// Write every event to standard output.
    pub jsonl: bool,
}

/// Runs the agent until it is told to stop.
pub fn run(loaded: Loaded, options: &Options) -> Result<(), AgentError> {
    let config = Arc::new(loaded.config.clone());
    let signals = Signals::catch()?;
    privileges::gain_nothing();
    privileges::open_many_files();
    let stop = Arc::new(AtomicBool::new(false));
    let output = if options.jsonl {
        Some(Output::stdout()?)
    } else {
        None
    };
    let listeners = Listeners::bind(&config.api)?;
    let own = own(&listeners, &config.probe)?;
    let attached = attach(&config, own)?;

    let origin = Origin::detect().map_err(|error| {
        AgentError::other(format!("the host's name cannot be read: {error}"), "mount /proc")
    })?;
    let metrics = Metrics::new(&config.metrics, origin.boot_id.clone());
    let recent = Recent::new(config.api.recent_events, config.api.recent_bytes);
    let (handle, queries) = query::channel();
    let written = output.as_ref().map(Output::ending);
    let mut sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(MetricsSink(metrics.clone())), Box::new(recent.clone())];
    if let Some(output) = output {
        sinks.push(Box::new(output));
    }
    let asked = (queries, handle.bell());
    let (pipeline, keepers) = pipeline(origin.clone(), attached, &config, metrics.clone(), sinks, asked)?;

    let mut steering = Steering::new(loaded, listeners.control(), pipeline.kernel_log.clone());
    // Everything is open and attached; threads have what the one that starts them has.
    privileges::keep(privileges::RUNNING);
    let pipeline = spawn(pipeline, stop.clone())?;
    let address = listeners.address();
    let server = Server::start(
        listeners,
        Service {
            handle,
            metrics,
            archive: keepers.archive,
            kafka: keepers.kafka,
            stream: Gateway::new(recent.clone(), origin.clone(), config.stream.clone()),
            recent,
            run: origin.run,
        },
    );
    if let (Ok(_), Ok(address)) = (&server, address) {
        let scheme = if config.api.has_tls() { "https" } else { "http" };
        tracing::info!(api = %format_args!("{scheme}://{address}"), "ready");
    }
    // Whatever happens from here on, the pipeline ends in order: it detaches, drains and tells.
    if server.is_ok() {
        wait(
            signals,
            options.duration,
            written.as_deref(),
            &mut steering,
            &pipeline,
        );
    }
    stop.store(true, Ordering::Relaxed);
    let ended = pipeline.join().map_err(|_| {
        AgentError::other(
            "the pipeline thread ended by a panic",
            "report its last log lines",
        )
    });
    logging::tell_all_repeats();
    server?.stop();
    // The sinks are at their end: what failed last is known.
    ended.and(written.map_or(Ok(()), |written| written.failure()))
}

/// The probe, what it is attached to, and whose traffic it leaves out.
struct Attached {
    probe: Probe,
    kernel: KernelReport,
    own: Own,
}

/// Attaches the programs. The kernel's type information goes with the end of this: it is tens of megabytes.
fn attach(config: &Config, own: Own) -> Result<Attached, AgentError> {
    let kernel = Kernel::detect()?;
    let probe = kernel.attach(&probe_config(config), own)?;
    let report = kernel.report.clone();
    drop(kernel);
    release_memory();
    Ok(Attached {
        probe,
        kernel: report,
        own,
    })
}

/// What is to be attached: nothing for requests that are not to be read.
fn probe_config(config: &Config) -> ProbeConfig {
    let mut probe = config.probe.clone();
    if !config.requests.enabled {
        probe.methods.insert(REQUESTS.to_owned(), OFF.to_owned());
    }
    if !config.requests.enabled || !config.requests.tls {
        probe.methods.insert(TLS.to_owned(), OFF.to_owned());
    }
    probe
}

/// Gives freed memory back to the system; the allocator would keep it for later.
#[expect(unsafe_code, reason = "one call of the C library no crate wraps")]
fn release_memory() {
    // SAFETY: no preconditions; it only returns unused pages.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What this kernel allows; nothing stays attached.
pub fn doctor(config: &Config) -> Result<ProbeReport, AgentError> {
    let kernel = Kernel::detect()?;
    let facts = kernel.survey(&probe_config(config))?;
    Ok(ProbeReport {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.report.clone(),
        notices: accounting_notice()
            .into_iter()
            .chain(price_notice(|name| {
                let fact = facts.iter().find(|fact| fact.fact == name);
                fact.and_then(|fact| fact.method.as_deref())
            }))
            .collect(),
        facts,
        ..ProbeReport::default()
    })
}

/// Whether forwarded flows of this namespace will have bytes.
fn accounting_notice() -> Option<String> {
    let own = netns::NetNs::own().ok()?;
    match conntrack::accounting(&own) {
        Ok(Some(true)) => None,
        Ok(Some(false)) => Some(
            "conntrack accounting is off: forwarded flows have no bytes; switch it on with \
             `sysctl net.netfilter.nf_conntrack_acct=1` where they are forwarded"
                .to_owned(),
        ),
        Ok(None) => {
            Some("connection tracking is not loaded: nothing is translated in this namespace until it is (found without a \
             restart)"
                .to_owned())
        }
        Err(error) => Some(format!("conntrack accounting cannot be read: {error}")),
    }
}

/// Which methods slow more than connections, and how to do without.
fn price_notice<'a>(method: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut facts = vec!["accept", "connect_failed"];
    facts.retain(|fact| method(fact) == Some("sys_exit"));
    (!facts.is_empty()).then(|| {
        format!(
            "{} by sys_exit: every system call of this host pays some 90 ns; `--method accept=first_io --method \
             connect_failed=off` spares it, for less (docs/limits.md)",
            facts.join(" and ")
        )
    })
}

fn pipeline(
    origin: Origin,
    attached: Attached,
    config: &Arc<Config>,
    metrics: Arc<Metrics>,
    sinks: Vec<Box<dyn Sink>>,
    asked: (tokio::sync::mpsc::Receiver<query::Query>, query::Bell),
) -> Result<(Pipeline, Keepers), AgentError> {
    let Attached {
        mut probe,
        kernel,
        own,
    } = attached;
    let ring = Ring::open(
        &mut probe.ebpf,
        config.probe.ring_bytes.get(),
        config.probe.payload_ring_bytes.get(),
    )?;
    let udp = UdpMap::new(take_map(&mut probe.ebpf, "UDP_FLOWS")?);
    let log = KernelLog::open(&mut probe.ebpf)?;
    let mut fanout = Fanout::new(origin.clone());
    for sink in sinks {
        fanout.add(sink);
    }
    let mut keepers = keepers::start(config, &origin, &mut fanout)?;
    let maker = Maker {
        origin,
        wall: WallClock::new(),
        nat_method: chosen(&probe, "nat"),
        accepts_seen: probe.method("accept").is_some_and(|method| method != "first_io"),
    };
    let mut state = State::new(&config.flow, maker, fanout, metrics);
    if probe.method(REQUESTS).is_some() {
        let sampling = Sampling {
            share: Share::new(config.requests.share),
            slow_ms: config.requests.slow_after.0.as_secs_f64() * 1e3,
            shed: false,
        };
        let reader = Requests::new(&config.requests, probe.method(TLS).is_some());
        state.read_requests(Box::new(reader), sampling);
    }
    let mut reporter = Reporter::new(kernel, &probe, config.probe.statistics);
    reporter.notices.extend(accounting_notice());
    reporter.notices.extend(price_notice(|fact| probe.method(fact)));
    reporter.notices.append(&mut keepers.notices);
    let pipeline = Pipeline::new(
        Source {
            probe,
            ring,
            udp,
            log,
        },
        state,
        asked,
        reporter,
        config.clone(),
        own,
    );
    Ok((pipeline, keepers))
}

/// The ladder's own name of the chosen method.
fn chosen(probe: &Probe, fact: &str) -> Option<&'static str> {
    let method = probe.method(fact)?;
    let fact = crate::kernel::facts::fact(fact)?;
    fact.methods
        .iter()
        .map(|known| known.name)
        .find(|name| *name == method)
}

fn spawn(pipeline: Pipeline, stop: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>, AgentError> {
    std::thread::Builder::new()
        .name("pipeline".to_owned())
        .spawn(move || {
            pipeline.run(&stop);
        })
        .map_err(|error| {
            AgentError::other(
                format!("no thread for the pipeline: {error}"),
                "check the limits of processes",
            )
        })
}

/// Waits for a signal, the end of the set time, of whoever reads the events, or of the room for them.
fn wait(
    signals: Signals,
    duration: Option<Duration>,
    written: Option<&Ending>,
    steering: &mut Steering,
    pipeline: &std::thread::JoinHandle<()>,
) {
    const LOOK: Duration = Duration::from_millis(100);
    let Signals {
        runtime,
        mut stop,
        mut steer,
    } = signals;
    runtime.block_on(async {
        let end = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let gone = async {
            while !pipeline.is_finished() && !written.is_some_and(Ending::is_over) {
                logging::tell_repeats();
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = end => {}
            () = steering.listen(&mut steer) => {}
            () = gone => {}
            () = stop.told() => {}
        }
    });
}

/// The agent's own listener, whose connections are not reported, and the namespace whose are.
fn own(listeners: &Listeners, probe: &ProbeConfig) -> Result<Own, AgentError> {
    let unknown = |error: std::io::Error| {
        AgentError::other(format!("the API's address is not known: {error}"), "mount /proc")
    };
    Ok(Own {
        netns: netns::own_inode().map_err(unknown)? as u32,
        port: listeners.address().map_err(unknown)?.port(),
        followed: followed(&probe.netns)?,
    })
}

/// Inode of the namespace that alone is followed; 0: all are.
fn followed(path: &str) -> Result<u32, AgentError> {
    if path.is_empty() {
        return Ok(0);
    }
    let inode = netns::NetNs::at(path.into()).and_then(|netns| {
        // Whether it is one at all.
        netns::in_netns(&netns, || ())?;
        Ok(netns.inode)
    });
    inode.map(|inode| inode as u32).map_err(|error| {
        AgentError::other(
            format!("`probe.netns` is no network namespace that can be entered: {path}: {error}"),
            "name a file like /run/netns/blue, or leave the key empty to follow all of them",
        )
    })
}
