//! Tests of counting, bounds and the page.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
};

use super::*;
use crate::{
    event::{CloseReason, Flow, FlowState, Protocol, fixture},
    probe_report::*,
};

fn metrics() -> Arc<Metrics> {
    with(&MetricsConfig::default())
}

fn with(config: &MetricsConfig) -> Arc<Metrics> {
    Metrics::new(config, fixture::origin().boot_id)
}

fn address(last: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, (last >> 8) as u8, last as u8))
}

fn client(peer: (IpAddr, u16)) -> FlowDelta<'static> {
    let mut delta = FlowDelta::new(Protocol::Tcp, FlowRole::Client);
    delta.service = Some("curl");
    delta.peer = Some(peer);
    delta
}

fn page(metrics: &Metrics) -> String {
    render(metrics, None, Format::Text)
}

fn render(metrics: &Metrics, report: Option<&ProbeReport>, format: Format) -> String {
    String::from_utf8(metrics.render(report, format)).unwrap()
}

/// The value of a series, by its name with labels as written.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn series<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .collect()
}

#[test]
fn deltas_add_up_and_final_events_count_once() {
    let metrics = metrics();
    let peer = (address(1), 80);
    let mut delta = client(peer);
    (delta.established, delta.connect_seconds) = (true, Some(60e-6));
    (delta.bytes_sent, delta.bytes_received) = (100, 200);
    metrics.observe_flow(&delta);
    let mut delta = client(peer);
    (delta.bytes_sent, delta.retransmits, delta.rtt_seconds) = (11, 2, Some(0.3));
    delta.syn_retransmits = 3;
    metrics.observe_flow(&delta);
    // The final event carries totals; none of them may be added again.
    metrics.consume(&fixture::flow());
    let page = page(&metrics);
    let pair = "service=\"curl\",peer=\"192.0.0.1:80\"";
    for (series, expected) in [
        (
            format!("netprobe_tcp_bytes_total{{{pair},direction=\"sent\"}}"),
            111.0,
        ),
        (
            format!("netprobe_tcp_bytes_total{{{pair},direction=\"received\"}}"),
            200.0,
        ),
        (
            format!("netprobe_tcp_connects_total{{{pair},role=\"client\",result=\"ok\",error_type=\"\"}}"),
            1.0,
        ),
        (
            format!("netprobe_tcp_connect_duration_seconds_count{{{pair},role=\"client\"}}"),
            1.0,
        ),
        (
            format!("netprobe_tcp_connect_duration_seconds_bucket{{{pair},role=\"client\",le=\"5e-05\"}}"),
            0.0,
        ),
        (
            format!("netprobe_tcp_connect_duration_seconds_bucket{{{pair},role=\"client\",le=\"0.0001\"}}"),
            1.0,
        ),
        (format!("netprobe_tcp_rtt_seconds_sum{{{pair}}}"), 0.3),
        (format!("netprobe_tcp_retransmits_total{{{pair}}}"), 2.0),
        ("netprobe_tcp_syn_retransmits_total".to_owned(), 3.0),
        (
            "netprobe_nat_lookups_total{result=\"snat+dnat\",method=\"net_dev_queue\"}".to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(value(&page, &series), Some(expected), "{series}\n{page}");
    }
    assert_eq!(series(&page, "netprobe_tcp_bytes_total").len(), 2);
}

#[test]
fn endings_are_counted_by_what_they_were() {
    let metrics = metrics();
    for (state, reason, error) in [
        (FlowState::Failed, CloseReason::Refused, Some("ECONNREFUSED")),
        (FlowState::Failed, CloseReason::Timeout, Some("ETIMEDOUT")),
        (FlowState::Closed, CloseReason::ResetLocal, None),
        (FlowState::Closed, CloseReason::ResetRemote, None),
        (FlowState::Closed, CloseReason::ResetRemote, None),
        (FlowState::Update, CloseReason::ResetRemote, None),
    ] {
        let mut event = fixture::flow();
        let error = error.map(Into::into);
        event.flow = Some(Flow {
            close_reason: Some(reason),
            error,
            ..Flow::new(state)
        });
        metrics.consume(&event);
    }
    let page = page(&metrics);
    let failed = |error: &str| {
        let pair = "service=\"curl\",peer=\"10.0.0.100:80\",role=\"client\"";
        value(
            &page,
            &format!("netprobe_tcp_connects_total{{{pair},result=\"failed\",error_type=\"{error}\"}}"),
        )
    };
    assert_eq!(
        (failed("ECONNREFUSED"), failed("ETIMEDOUT")),
        (Some(1.0), Some(1.0))
    );
    assert_eq!(
        value(&page, "netprobe_tcp_resets_total{origin=\"local\"}"),
        Some(1.0)
    );
    assert_eq!(
        value(&page, "netprobe_tcp_resets_total{origin=\"remote\"}"),
        Some(2.0)
    );
    assert_eq!(series(&page, "netprobe_tcp_timeouts_total").len(), 1);
}

#[test]
fn live_flows_move_between_services() {
    let metrics = metrics();
    let unknown = Some((None, FlowRole::Server));
    let nginx = Some((Some("nginx"), FlowRole::Server));
    metrics.move_active(None, unknown);
    metrics.move_active(unknown, nginx);
    metrics.move_active(None, nginx);
    metrics.move_active(nginx, None);
    metrics.move_active(None, Some((None, FlowRole::Forwarded)));
    let page = page(&metrics);
    let active = |service: &str| {
        value(
            &page,
            &format!("netprobe_tcp_connections_active{{service=\"{service}\",role=\"server\"}}"),
        )
    };
    assert_eq!((active("nginx"), active(UNKNOWN)), (Some(1.0), Some(0.0)));
    assert_eq!(value(&page, "netprobe_forwarded_connections_active"), Some(1.0));
}

#[test]
fn peers_are_named_by_the_rule() {
    let mut config = MetricsConfig {
        max_peers: 2,
        max_peer_networks: 1,
        ..MetricsConfig::default()
    };
    config
        .peers
        .insert("192.0.2.0/24".parse().unwrap(), "known".to_owned());
    config
        .peers
        .insert("192.0.2.7/32".parse().unwrap(), "mail".to_owned());
    let metrics = with(&config);
    let name = |address: &str, port: u16, role: FlowRole| {
        let peer = Some((address.parse().unwrap(), port));
        metrics.series().pair(Some("s"), peer, role, 0).key.1.to_string()
    };
    use FlowRole::{Client, Server};
    for (address, port, role, expected) in [
        ("192.0.2.7", 25, Client, "mail"),
        ("192.0.2.8", 25, Server, "known"),
        ("10.0.0.1", 80, Client, "10.0.0.1:80"),
        ("10.1.2.3", 50_000, Server, "10.1.0.0/16"),
        ("10.0.0.1", 81, Client, "10.0.0.1:81"),
        ("10.1.0.1", 82, Client, "10.1.0.0/16"),
        ("10.2.0.1", 82, Client, OTHER),
        ("2001:db8::1", 82, Server, OTHER),
        // What was admitted stays admitted.
        ("10.0.0.1", 80, Client, "10.0.0.1:80"),
    ] {
        assert_eq!(name(address, port, role), expected, "{address}:{port}");
    }
    assert_eq!(&*metrics.series().pair(Some("s"), None, Client, 0).key.1, UNKNOWN);
    assert_eq!(
        value(&page(&metrics), "netprobe_label_overflow_total{label=\"peer\"}"),
        Some(3.0)
    );
}

#[test]
fn series_stay_bounded_whatever_the_traffic() {
    let config = MetricsConfig {
        max_services: 5,
        max_pairs: 50,
        max_values: 3,
        ..MetricsConfig::default()
    };
    let metrics = with(&config);
    let total = |metrics: &Metrics| {
        page(metrics)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    };
    let mut counts = Vec::new();
    for round in 0..3_u16 {
        for index in 0..2000_u16 {
            let service = format!("service-{}", index % 97);
            let mut delta = client((address(index), round * 100 + index % 7));
            delta.service = Some(&service);
            (delta.bytes_sent, delta.established, delta.connect_seconds) = (1, true, Some(0.1));
            metrics.observe_flow(&delta);
            let mut event = fixture::flow();
            let error = format!("E{index}").into();
            event.flow = Some(Flow {
                error: Some(error),
                ..Flow::new(FlowState::Failed)
            });
            metrics.consume(&event);
        }
        counts.push(total(&metrics));
    }
    assert_eq!(counts[0], counts[2], "series grow with flows");
    let page = page(&metrics);
    assert!(series(&page, "netprobe_tcp_bytes_total").len() <= 50 + 6);
    let sum: f64 = series(&page, "netprobe_tcp_bytes_total")
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(sum, 6000.0, "a bound may hide a name, never an amount");
}

/// Labels without a memory of routes, asked the same, decide the same; and a bound met counts every time.
#[test]
fn kept_decisions_are_the_decisions() {
    let config = MetricsConfig {
        peers: BTreeMap::from([("192.0.7.0/24".parse().unwrap(), "known".to_owned())]),
        max_peers: 100,
        peer_prefix_v4: 24,
        max_peer_networks: 10,
        max_services: 4,
        max_pairs: 60,
        ..MetricsConfig::default()
    };
    let metrics = with(&config);
    let mut labels = labels::Labels::new(&config);
    let mut met = BTreeMap::new();
    // Past the number of decisions kept, and back to the first.
    for index in (0..3000_u16).chain(0..3000).chain(2000..2100) {
        let names = ["a", "b", "c", "d", "e", "~other"];
        let service = names.get(usize::from(index) % 7).copied();
        for role in [FlowRole::Client, FlowRole::Server] {
            let peer = (index % 11 != 0).then(|| (address(index), index % 13));
            let (service_label, peer_label, bounds) = labels.pair(service, peer, role);
            for (_, name) in labels::Bounds::NAMES
                .iter()
                .filter(|(bound, _)| bounds.contains(*bound))
            {
                *met.entry(*name).or_insert(0.0) += 1.0;
            }
            let mut series = metrics.series();
            let pair = series.pair(service, peer, role, 0);
            assert_eq!(pair.key, (service_label, peer_label), "{index}");
        }
    }
    let page = page(&metrics);
    assert_eq!(
        met.keys().copied().collect::<Vec<_>>(),
        ["peer", "service", "service,peer"]
    );
    for (name, count) in met {
        let series = format!("netprobe_label_overflow_total{{label=\"{name}\"}}");
        assert_eq!(value(&page, &series), Some(count), "{name}");
    }
}

#[test]
fn refused_names_share_a_series() {
    let config = MetricsConfig {
        max_services: 1,
        max_values: 1,
        ..MetricsConfig::default()
    };
    let metrics = with(&config);
    for service in ["a", "b", "c", "a"] {
        metrics.move_active(None, Some((Some(service), FlowRole::Server)));
        let mut event = fixture::flow();
        event.nat.as_mut().unwrap().method = Some(service.to_owned().into());
        metrics.consume(&event);
    }
    let page = page(&metrics);
    for (series, expected) in [
        ("tcp_connections_active{service=\"a\",role=\"server\"}", 2.0),
        ("tcp_connections_active{service=\"~other\",role=\"server\"}", 2.0),
        ("nat_lookups_total{result=\"snat+dnat\",method=\"a\"}", 2.0),
        ("nat_lookups_total{result=\"snat+dnat\",method=\"~other\"}", 2.0),
        ("label_overflow_total{label=\"service\"}", 2.0),
        ("label_overflow_total{label=\"method\"}", 2.0),
    ] {
        assert_eq!(
            value(&page, &format!("netprobe_{series}")),
            Some(expected),
            "{series}"
        );
    }
}

/// A series leaves when nothing was counted in it for long, sooner when a bound was met, and goes on where it stood.
#[test]
fn idle_series_leave_and_come_back_where_they_stood() {
    let config = MetricsConfig {
        max_peers: 2,
        max_peer_networks: 0,
        ..MetricsConfig::default()
    };
    let (idle, min_age) = (3_600_000, 600_000);
    let mut series = series::Series::new(&config);
    let count = |series: &mut series::Series, peer: u16, now_ms: u64| {
        let mut delta = client((address(peer), 80));
        (delta.bytes_sent, delta.established, delta.connect_seconds) = (10, true, Some(1e-3));
        series.observe(&delta, now_ms, "boot");
    };
    let shown = |series: &series::Series, peer: &str| {
        let mut page = text::TextPage::new(false);
        series.snapshot(0).write(&mut page);
        let page = page.finish();
        let of = |name: &str| {
            value(
                &page,
                &format!(
                    "netprobe_{name}{{service=\"curl\",peer=\"{peer}\",{}}}",
                    if name.ends_with("count") {
                        "role=\"client\""
                    } else {
                        "direction=\"sent\""
                    }
                ),
            )
        };
        (of("tcp_bytes_total"), of("tcp_connect_duration_seconds_count"))
    };
    count(&mut series, 1, 0);
    count(&mut series, 2, 1000);
    count(&mut series, 2, idle);
    series.sweep(idle - 1);
    assert_eq!(shown(&series, "192.0.0.1:80"), (Some(10.0), Some(1.0)));
    series.sweep(idle);
    assert_eq!(shown(&series, "192.0.0.1:80"), (None, None));
    assert_eq!(shown(&series, "192.0.0.2:80"), (Some(20.0), Some(2.0)));
    count(&mut series, 1, idle + 1);
    assert_eq!(shown(&series, "192.0.0.1:80"), (Some(20.0), Some(2.0)));
    // No room for a third: what is idle for long enough makes way.
    count(&mut series, 3, idle + min_age - 1);
    assert_eq!(shown(&series, OTHER), (Some(10.0), Some(1.0)));
    series.sweep(idle + min_age);
    assert_eq!(shown(&series, "192.0.0.2:80"), (None, None));
    count(&mut series, 3, idle + min_age);
    assert_eq!(shown(&series, "192.0.0.3:80"), (Some(10.0), Some(1.0)));
    assert_eq!(shown(&series, OTHER), (Some(10.0), Some(1.0)));
}

#[test]
fn services_not_on_the_list_are_others_and_no_overflow() {
    let metrics = with(&MetricsConfig {
        services_only: vec!["nginx".to_owned()],
        ..MetricsConfig::default()
    });
    for service in ["nginx", "curl"] {
        metrics.move_active(None, Some((Some(service), FlowRole::Client)));
    }
    let page = page(&metrics);
    let active = series(&page, "netprobe_tcp_connections_active");
    assert_eq!(active.len(), 2, "{active:?}");
    assert!(
        active.iter().any(|line| line.contains("service=\"~other\"")),
        "{active:?}"
    );
    assert!(!page.contains("label_overflow"), "{page}");
}

/// The same flows give the same page, whatever the order in which they come.
#[test]
fn two_runs_agree() {
    let run = |order: &mut dyn Iterator<Item = u16>| {
        let metrics = metrics();
        for index in order {
            let mut delta = client((address(index % 50), 80));
            (delta.bytes_sent, delta.established) = (u64::from(index), true);
            delta.connect_seconds = Some(f64::from(index) * 1.7e-5);
            delta.rtt_seconds = Some(f64::from(index) * 0.3e-5);
            metrics.observe_flow(&delta);
        }
        page(&metrics)
    };
    let page = run(&mut (0..5000));
    assert_eq!(page, run(&mut (0..5000).rev()));
    assert!(page.lines().count() > 2000);
}

/// Exemplars carry the trace of the flow's own events; text 0.0.4 knows none.
#[test]
fn exemplars_lead_to_the_events() {
    let metrics = metrics();
    let boot_id = fixture::origin().boot_id;
    let mut delta = client((address(1), 80));
    (delta.connect_seconds, delta.cookie) = (Some(0.003), Some(77));
    metrics.observe_flow(&delta);
    let mut event = fixture::flow();
    event.flow = Some(Flow::new(FlowState::Failed));
    metrics.consume(&event);
    let open = render(&metrics, None, Format::OpenMetrics);
    let trace = crate::event::of_connection(&format!("{boot_id}-77")).0;
    let exemplar = format!(",le=\"0.005\"}} 1 # {{trace_id=\"{trace}\"}} 0.003 ");
    assert_eq!(open.matches(&exemplar).count(), 1, "{open}");
    let exemplar = format!("error_type=\"\"}} 1 # {{trace_id=\"{}\"}} 1 ", event.trace_id);
    assert_eq!(open.matches(&exemplar).count(), 1, "{open}");
    assert!(!page(&metrics).contains("trace_id"));
}

fn full_report() -> ProbeReport {
    let counts = |name: &str| BTreeMap::from([(name.to_owned(), 7)]);
    ProbeReport {
        agent_version: "0.1.0".to_owned(),
        kernel: KernelReport {
            release: "6.18.0".to_owned(),
            ..Default::default()
        },
        facts: vec![
            FactReport {
                fact: "nat".to_owned(),
                method: Some("net_dev_queue".to_owned()),
                ..Default::default()
            },
            FactReport {
                fact: "accept".to_owned(),
                ..Default::default()
            },
        ],
        programs: vec![ProgramReport {
            name: "state".to_owned(),
            runs: Some(3),
            run_ns: Some(1_500_000_000),
            recursion_misses: Some(0),
            verified_instructions: None,
        }],
        maps: vec![MapReport {
            name: "FLOWS".to_owned(),
            entries: Some(1),
            capacity: 10,
        }],
        ring: Some(RingReport {
            bytes: 65_536,
            fill: 0.25,
        }),
        ledger: Some(LedgerReport {
            kernel: KernelLedger {
                seen: counts("closed"),
                drained: counts("closed"),
                lost: vec![LossReport {
                    stage: "ring".to_owned(),
                    reason: "full".to_owned(),
                    count: 2,
                }],
                rejected: counts("short"),
                suppressed: counts("own"),
                lost_bytes: counts("sent"),
                closes: true,
                difference: 0,
            },
            sinks: vec![SinkLedger {
                sink: "output".to_owned(),
                delivered: 4,
                lost: counts("queue_full"),
                suppressed: counts("reader_gone"),
                queued: 1,
                ..Default::default()
            }],
            emitted: counts("flow"),
        }),
        counters: BTreeMap::from([
            (BYTE_DISAGREEMENTS.to_owned(), 5),
            ("flow_table_full".to_owned(), 6),
            (format!("{}openssl", crate::probe_report::OPAQUE_TLS), 2),
        ]),
        listen_overflows: counts("4026531840"),
        stream: Some(StreamReport::default()),
        archive: Some(ArchiveReport {
            segments: BTreeMap::from([("archived".to_owned(), 1)]),
            ..ArchiveReport::default()
        }),
        governor: Some(GovernorReport {
            cpu_usage: Some(0.25),
            ..GovernorReport::default()
        }),
        cost: Some(CostReport {
            cpu_seconds: 1.5,
            memory_bytes: 1 << 20,
            bpf_seconds: None,
        }),
        ..Default::default()
    }
}

/// Metrics with every family on the page.
fn full() -> Arc<Metrics> {
    let metrics = metrics();
    for (protocol, role) in [
        (Protocol::Tcp, FlowRole::Client),
        (Protocol::Udp, FlowRole::Server),
    ] {
        let mut delta = client((address(9), 53));
        (delta.protocol, delta.role, delta.service) = (protocol, role, Some("a \"quoted\"\\ \n name"));
        (
            delta.bytes_sent,
            delta.bytes_received,
            delta.datagrams_sent,
            delta.datagrams_received,
        ) = (1, 2, 3, 4);
        (
            delta.established,
            delta.connect_seconds,
            delta.accept_wait_seconds,
        ) = (true, Some(0.1), Some(0.2));
        (delta.rtt_seconds, delta.retransmits, delta.syn_retransmits) = (Some(0.1), 1, 1);
        metrics.observe_flow(&delta);
        metrics.move_active(None, Some((Some("curl"), role)));
    }
    // Failed, and tried again.
    for _ in 0..2 {
        let mut event = fixture::flow();
        event.flow = Some(Flow::new(FlowState::Failed));
        event.elapsed_ms = Some(0.0);
        metrics.consume(&event);
    }
    for (state, reason) in [
        (FlowState::Failed, CloseReason::Timeout),
        (FlowState::Closed, CloseReason::ResetLocal),
    ] {
        let mut event = fixture::flow();
        event.flow = Some(Flow {
            close_reason: Some(reason),
            ..Flow::new(state)
        });
        metrics.consume(&event);
    }
    metrics.consume(&fixture::request());
    metrics.series().host.overflows[1] += 1;
    metrics
}

#[test]
fn every_family_of_the_contract_is_on_the_page() {
    let page = render(&full(), Some(&full_report()), Format::Text);
    for name in [
        "tcp_connects_total",
        "tcp_connect_duration_seconds",
        "tcp_connections_active",
        "tcp_bytes_total",
        "tcp_rtt_seconds",
        "tcp_retransmits_total",
        "tcp_syn_retransmits_total",
        "tcp_resets_total",
        "tcp_timeouts_total",
        "tcp_connect_retries_total",
        "window_latency_seconds",
        "tcp_accept_wait_seconds",
        "listen_overflows_total",
        "nat_lookups_total",
        "forwarded_connections_active",
        "records_seen_total",
        "records_drained_total",
        "records_lost_total",
        "lost_bytes_total",
        "records_rejected_total",
        "events_emitted_total",
        "events_delivered_total",
        "events_lost_total",
        "events_suppressed_total",
        "events_queued",
        "probe_attached",
        "bpf_program_run_seconds_total",
        "bpf_program_runs_total",
        "bpf_map_entries",
        "bpf_map_capacity",
        "ring_fill_ratio",
        "byte_disagreement_total",
        "probe_counters_total",
        "label_overflow_total",
        "agent_cpu_seconds_total",
        "agent_memory_bytes",
        "agent_cpu_usage",
        "agent_cpu_budget",
        "governor_level",
        "build_info",
    ] {
        assert_eq!(
            page.matches(&format!("# TYPE netprobe_{name} ")).count(),
            1,
            "{name}\n{page}"
        );
        assert_eq!(
            page.matches(&format!("# HELP netprobe_{name} ")).count(),
            1,
            "{name}"
        );
    }
    assert_eq!(
        value(&page, "netprobe_bpf_program_run_seconds_total{program=\"state\"}"),
        Some(1.5)
    );
    assert_eq!(value(&page, "netprobe_ring_fill_ratio"), Some(0.25));
    assert_eq!(
        value(&page, "netprobe_probe_attached{fact=\"accept\",method=\"none\"}"),
        Some(0.0)
    );
    let open = render(&full(), Some(&full_report()), Format::OpenMetrics);
    assert!(open.ends_with("# EOF\n") && open.matches("# EOF").count() == 1);
    assert!(
        open.contains("# TYPE netprobe_build info\n") && page.contains("# TYPE netprobe_build_info gauge\n")
    );
}

#[test]
fn promtool_finds_the_page_clean() {
    let page = render(&full(), Some(&full_report()), Format::Text);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed: cargo xtask test installs it with the package prometheus");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}

#[test]
fn the_documentation_lists_every_family_and_no_other() {
    let page = render(&full(), Some(&full_report()), Format::Text);
    let mut families: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let mut documented: Vec<_> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    families.sort_unstable();
    documented.sort_unstable();
    assert_eq!(families, documented);
}
