//! The composition root: the one place that wires the stages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    config::Config,
    error::AgentError,
    event::Origin,
    fanout::Fanout,
    flow::{
        clock::WallClock, events::Maker, pipeline::Pipeline, report::Reporter, state::State, udp::UdpMap,
    },
    kernel::load::{Kernel, Own, Probe},
    metrics::{Metrics, MetricsSink},
    output::Output,
    probe_report::ProbeReport,
    query,
    recent::Recent,
    ring::{self, Ring},
};

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End by itself after so long.
    pub duration: Option<Duration>,
    /// Write every event to standard output.
    pub jsonl: bool,
}

/// Runs the agent until it is told to stop.
pub fn run(config: Config, options: &Options) -> Result<(), AgentError> {
    let config = Arc::new(config);
    let stop = Arc::new(AtomicBool::new(false));
    let output = if options.jsonl {
        Some(Output::stdout()?)
    } else {
        None
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| {
            AgentError::other(
                format!("no threads for the API: {error}"),
                "check the limits of processes",
            )
        })?;

    let kernel = Kernel::detect()?;
    let own = Own::default();
    let probe = kernel.attach(&config.probe, own)?;

    let metrics = Metrics::new(&config.metrics);
    let recent = Recent::new(config.api.recent_events, config.api.recent_bytes);
    let (_handle, queries) = query::channel();
    let reader_gone = output.as_ref().map(Output::reader_gone);
    let pipeline = pipeline(
        &kernel,
        probe,
        &config,
        metrics.clone(),
        recent.clone(),
        output,
        queries,
    )?;

    let thread = spawn(pipeline, stop.clone())?;
    runtime.block_on(until_stopped(
        options.duration,
        reader_gone,
        thread.thread().id(),
        &stop,
    ));
    stop.store(true, Ordering::Relaxed);
    thread.join().map_err(|_| {
        AgentError::other(
            "the pipeline thread ended by a panic",
            "report its last log lines",
        )
    })
}

/// What this kernel allows; nothing stays attached.
pub fn doctor(config: &Config) -> Result<ProbeReport, AgentError> {
    let kernel = Kernel::detect()?;
    let facts = kernel.survey(&config.probe)?;
    Ok(ProbeReport {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.report.clone(),
        facts,
        ..ProbeReport::default()
    })
}

fn pipeline(
    kernel: &Kernel,
    mut probe: Probe,
    config: &Arc<Config>,
    metrics: Arc<Metrics>,
    recent: Recent,
    output: Option<Output>,
    queries: tokio::sync::mpsc::Receiver<query::Query>,
) -> Result<Pipeline, AgentError> {
    let origin = Origin::detect().map_err(|error| {
        AgentError::other(format!("the host's name cannot be read: {error}"), "mount /proc")
    })?;
    let ring = Ring::open(&mut probe.ebpf, config.probe.ring_bytes.get())?;
    let udp = UdpMap::new(ring::take(&mut probe.ebpf, "UDP_FLOWS")?);
    let mut fanout = Fanout::new(origin.clone());
    fanout.add(Box::new(MetricsSink(metrics.clone())));
    fanout.add(Box::new(recent));
    if let Some(output) = output {
        fanout.add(Box::new(output));
    }
    let maker = Maker {
        origin,
        wall: WallClock::new(),
        nat_method: chosen(&probe, "nat"),
        accepts_seen: probe.method("accept").is_some_and(|method| method != "first_io"),
    };
    let state = State::new(&config.flow, maker, fanout, metrics);
    let reporter = Reporter::new(kernel.report.clone(), &probe);
    Ok(Pipeline::new(
        probe,
        ring,
        udp,
        state,
        queries,
        reporter,
        config.clone(),
    ))
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

fn spawn(mut pipeline: Pipeline, stop: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<()>, AgentError> {
    std::thread::Builder::new()
        .name("pipeline".to_owned())
        .spawn(move || {
            pipeline.baseline();
            pipeline.run(&stop);
        })
        .map_err(|error| {
            AgentError::other(
                format!("no thread for the pipeline: {error}"),
                "check the limits of processes",
            )
        })
}

/// Waits for a signal, the end of the set time, or the end of whoever reads the events.
async fn until_stopped(
    duration: Option<Duration>,
    reader_gone: Option<Arc<AtomicBool>>,
    _thread: std::thread::ThreadId,
    stop: &AtomicBool,
) {
    use tokio::signal::unix::{SignalKind, signal};
    let end = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let gone = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if reader_gone
                .as_ref()
                .is_some_and(|gone| gone.load(Ordering::Relaxed))
                || stop.load(Ordering::Relaxed)
            {
                break;
            }
        }
    };
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::error!("SIGTERM cannot be caught: {error}");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = end => {}
        () = gone => {}
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
