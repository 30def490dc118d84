//! The page as a whole: every family, as tools and documents have it.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use super::*;

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
            FactReport {
                fact: "tls".to_owned(),
                off: true,
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
        limits: vec![LimitReport {
            what: "tcp_orphans".to_owned(),
            used: 1,
            limit: 10,
        }],
        stream: Some(StreamReport::default()),
        archive: Some(ArchiveReport {
            segments: BTreeMap::from([("archived".to_owned(), 1)]),
            ..ArchiveReport::default()
        }),
        kafka: Some(KafkaReport {
            messages: BTreeMap::from([("delivered".to_owned(), 1)]),
            ..KafkaReport::default()
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
    assert_eq!(
        value(&page, "netprobe_probe_attached{fact=\"tls\",method=\"off\"}"),
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
    let mut documented: Vec<_> = include_str!("../../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    families.sort_unstable();
    documented.sort_unstable();
    assert_eq!(families, documented);
}
