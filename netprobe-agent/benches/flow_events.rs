//! What a flow event costs the agent after decoding: making it, offering it to the sinks, counting, writing it as
//! JSON; and what a scrape costs. `cargo bench -p netprobe-agent --bench flow_events`.
//!
//! Time on a shared machine is noise; instructions are not:
//! `valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*write_events*' BENCH --bench --test write`
//! runs the step once over [`EVENTS`] events and prints the instructions of all (BENCH: the path `cargo bench --no-run`
//! prints; the steps are the functions marked `inline(never)` below).

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use netprobe_agent::{
    config::MetricsConfig,
    event::{
        CloseReason, Event, Family, Flow, FlowRole, FlowState, Hop, HopTuple, Nanos, Nat, NatStatus, Origin,
        Process, Protocol, connection_id, flow_severity,
    },
    fanout::{Fanout, Sink},
    flow::delta::{FlowDelta, Observer as _},
    metrics::{Format, Metrics, MetricsSink},
    recent::Recent,
};

/// Events a step handles in one call.
const EVENTS: u32 = 1000;

/// A host's traffic: clients of a few services, servers of many addresses, some translated, some IPv6.
struct Host {
    origin: Origin,
    processes: Vec<(Arc<str>, Arc<Process>)>,
}

/// One connection of the host.
struct Connection {
    cookie: u64,
    role: FlowRole,
    owner: usize,
    local: IpAddr,
    peer: IpAddr,
    port: u16,
    translated: bool,
}

impl Host {
    fn new() -> Host {
        let processes = [
            ("nginx", true),
            ("postgres", true),
            ("curl", false),
            ("billing-api", true),
        ];
        let process = |(pid, (name, unit)): (u32, (&str, bool))| {
            let process = Process {
                pid: 1000 + pid,
                comm: Some(name.into()),
                exe: Some(format!("/usr/bin/{name}").into()),
                uid: Some(1000),
                cgroup: Some(format!("/system.slice/{name}.service").into()),
                unit: unit.then(|| format!("{name}.service").into()),
                container_id: None,
            };
            (Arc::from(name), Arc::new(process))
        };
        Host {
            origin: Origin::new(
                "web-1.example.org",
                "6f1f7a5e-8a3c-4b52-9f0e-2f6f5d1c9a77",
                "00f1e2d3c4b5a697",
            ),
            processes: (0..).zip(processes).map(process).collect(),
        }
    }

    fn connection(index: u32) -> Connection {
        let low = index as u8;
        let role = if index.is_multiple_of(2) {
            FlowRole::Client
        } else {
            FlowRole::Server
        };
        let address = |last: u8| {
            if index.is_multiple_of(8) {
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, u16::from(last)))
            } else {
                IpAddr::V4(Ipv4Addr::new(10, 0, 3, last))
            }
        };
        Connection {
            cookie: 1 << 20 | u64::from(index),
            role,
            owner: index as usize % 4,
            local: address(1),
            // A client dials one of 32 peers; a server is dialed by 256, each from another port.
            peer: address(if role == FlowRole::Client { low % 32 } else { low }),
            port: if role == FlowRole::Client {
                5432
            } else {
                32_768 + index as u16
            },
            translated: index.is_multiple_of(5),
        }
    }

    fn event(&self, of: &Connection) -> Event {
        let mut flow = Flow::new(FlowState::Closed);
        if of.role == FlowRole::Client {
            flow.connect_ms = Some(0.25 + of.cookie as f64 / 1e6);
            flow.syn_retransmits = Some(0);
        } else {
            flow.accept_wait_ms = Some(0.031_417);
        }
        flow.rtt_ms = Some(0.125 + of.cookie as f64 / 1e3);
        flow.rtt_var_ms = Some(0.0625);
        flow.retransmits = Some(0);
        flow.segments_out = Some(7);
        flow.segments_in = Some(6);
        flow.close_reason = Some(CloseReason::Fin);
        let id = connection_id(&self.origin.boot_id, of.cookie);
        let severity = flow_severity(&flow, false);
        let mut event = Event::flow(&self.origin, id, severity, flow);
        event.started_at = Some(Nanos(1_795_255_200_000_000_001 + of.cookie as i64 * 1_234_567));
        event.elapsed_ms = Some(123.456_788 + of.cookie as f64);
        let (service, process) = &self.processes[of.owner];
        event.service = Some(service.clone());
        event.protocol = Some(Protocol::Tcp);
        event.family = Some(Family::of(of.peer));
        event.role = Some(of.role);
        event.netns = Some(4_026_531_840);
        (event.internal_ip, event.internal_port) = (Some(of.local), Some(40_000));
        (event.external_ip, event.external_port) = (Some(of.local), Some(40_000));
        (event.peer_ip, event.peer_port) = (Some(of.peer), Some(of.port));
        (event.actual_peer_ip, event.actual_peer_port) = (Some(of.peer), Some(of.port));
        let tuple = |src_ip, dst_ip| HopTuple {
            src_ip,
            src_port: 40_000,
            dst_ip,
            dst_port: of.port,
        };
        let hop = || Hop {
            netns: 4_026_532_001,
            zone: 0,
            orig: tuple(of.local, of.peer),
            reply: tuple(of.peer, of.local),
        };
        event.nat = Some(Nat {
            status: if of.translated {
                NatStatus::Dnat
            } else {
                NatStatus::None
            },
            method: Some("net_dev_queue".into()),
            hops: if of.translated { vec![hop()] } else { Vec::new() },
        });
        event.process = Some(process.clone());
        event.bytes_sent = Some(73);
        event.bytes_received = Some(1024 + of.cookie);
        event
    }

    /// What the flow table tells the metrics of a short connection: that it is established, then what it moved.
    fn deltas(&self, of: &Connection) -> [FlowDelta<'_>; 2] {
        let mut delta = FlowDelta::new(Protocol::Tcp, of.role);
        delta.service = Some(&self.processes[of.owner].0);
        delta.peer = Some((of.peer, of.port));
        let mut moved = delta;
        delta.established = true;
        match of.role {
            FlowRole::Client => delta.connect_seconds = Some(250e-6),
            _ => delta.accept_wait_seconds = Some(31e-6),
        }
        moved.bytes_sent = 73;
        moved.bytes_received = 1024;
        moved.rtt_seconds = Some(125e-6);
        [delta, moved]
    }
}

#[inline(never)]
fn make_events(host: &Host) -> Vec<Event> {
    (0..EVENTS)
        .map(|index| host.event(&Host::connection(index)))
        .collect()
}

#[inline(always)]
fn emit(fanout: &mut Fanout, events: Vec<Event>) {
    for event in events {
        black_box(fanout.emit(event));
    }
}

#[inline(always)]
fn observe(host: &Host, metrics: &Metrics) {
    for index in 0..EVENTS {
        for delta in host.deltas(&Host::connection(index)) {
            metrics.observe_flow(&delta);
        }
    }
}

#[inline(always)]
fn shift(host: &Host, metrics: &Metrics) {
    for index in 0..EVENTS {
        let of = Host::connection(index);
        let place = Some((Some(&*host.processes[of.owner].0), of.role));
        metrics.move_active(None, place);
        metrics.move_active(place, None);
    }
}

#[inline(never)]
fn write_events(events: &[Event], line: &mut Vec<u8>) {
    for event in events {
        line.clear();
        event.write_line(line).expect("an event is JSON");
        black_box(&line);
    }
}

#[inline(never)]
fn render_page(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render(None, Format::Text)).expect("text")
}

#[inline(never)]
fn emit_events(fanout: &mut Fanout, events: Vec<Event>) {
    emit(fanout, events);
}

#[inline(never)]
fn observe_events(host: &Host, metrics: &Metrics) {
    observe(host, metrics);
}

#[inline(never)]
fn move_events(host: &Host, metrics: &Metrics) {
    shift(host, metrics);
}

fn flow_events(criterion: &mut Criterion) {
    let host = Host::new();
    let metrics = Metrics::new(&MetricsConfig::default(), host.origin.boot_id.clone());
    let mut group = criterion.benchmark_group("flow_events");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    group.bench_function("make", |bencher| bencher.iter(|| make_events(&host)));
    // Each step is done once before it is measured, so that no series is made within.
    group.bench_function("emit", |bencher| {
        let mut fanout = Fanout::new(host.origin.clone());
        let recent = Recent::new(10_000, 16 << 20);
        let sinks: [Box<dyn Sink>; 2] = [Box::new(MetricsSink(metrics.clone())), Box::new(recent)];
        sinks.into_iter().for_each(|sink| fanout.add(sink));
        emit(&mut fanout, make_events(&host));
        bencher.iter_batched(
            || make_events(&host),
            |events| emit_events(&mut fanout, events),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("observe", |bencher| {
        observe(&host, &metrics);
        bencher.iter(|| observe_events(&host, &metrics));
    });
    group.bench_function("move", |bencher| {
        shift(&host, &metrics);
        bencher.iter(|| move_events(&host, &metrics));
    });
    group.bench_function("write", |bencher| {
        let events = make_events(&host);
        let mut line = Vec::new();
        bencher.iter(|| write_events(&events, &mut line));
    });
    group.finish();
}

fn scrape(criterion: &mut Criterion) {
    let host = Host::new();
    let config = MetricsConfig {
        max_peers: 10_000,
        max_pairs: 10_000,
        ..MetricsConfig::default()
    };
    let mut group = criterion.benchmark_group("scrape");
    // Each pair of service and peer has 22 series of connect duration, 22 of round-trip time and 3 counters.
    for pairs in [21, 211, 2110_u16] {
        let metrics = Metrics::new(&config, host.origin.boot_id.clone());
        for pair in 0..pairs {
            let mut of = Host::connection(u32::from(pair) * 2);
            of.port = 1000 + pair;
            for delta in host.deltas(&of) {
                metrics.observe_flow(&delta);
            }
        }
        measure(&mut group, &metrics, "series");
    }
    // The page of a host with the default bounds, after so many flows to as many peers.
    for flows in [1_000, 10_000, 100_000, 1_000_000] {
        let metrics = Metrics::new(&MetricsConfig::default(), host.origin.boot_id.clone());
        for flow in 0..flows {
            let mut of = Host::connection(flow * 2);
            of.peer = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + flow));
            for delta in host.deltas(&of) {
                metrics.observe_flow(&delta);
            }
        }
        measure(&mut group, &metrics, &format!("series_after_{flows}_flows"));
    }
    group.finish();
}

fn measure(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    metrics: &Metrics,
    what: &str,
) {
    let series = render_page(metrics)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    group.throughput(Throughput::Elements(series as u64));
    for (form, format) in [
        ("text", Format::Text),
        ("openmetrics", Format::OpenMetrics),
        ("protobuf", Format::Protobuf),
    ] {
        group.bench_function(format!("{form}_{series}_{what}"), |bencher| {
            bencher.iter(|| black_box(metrics.render(None, format)));
        });
    }
}

criterion_group!(benches, flow_events, scrape);
criterion_main!(benches);
