//! What is counted, and how often.

mod page;
mod policy;

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::{
    event::{CloseReason, Flow, FlowState, Nanos, Protocol, fixture},
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

/// What is known to be possible is there before it happens: to Prometheus a series that begins at one never rose.
#[test]
fn errors_are_counted_from_zero_on() {
    let metrics = metrics();
    let mut delta = client((address(1), 80));
    (delta.established, delta.connect_seconds) = (true, Some(1e-3));
    metrics.observe_flow(&delta);
    let page = page(&metrics);
    let pair = "{service=\"curl\",peer=\"192.0.0.1:80\"}";
    for series in [
        format!("tcp_timeouts_total{pair}"),
        format!("tcp_retransmits_total{pair}"),
        format!("tcp_connect_retries_total{pair}"),
        "tcp_resets_total{origin=\"remote\"}".to_owned(),
        "label_overflow_total{label=\"peer\"}".to_owned(),
    ] {
        assert_eq!(value(&page, &format!("netprobe_{series}")), Some(0.0), "{series}");
    }
}

#[test]
fn a_destination_that_fails_is_an_incident() {
    let metrics = metrics();
    let event = |peer: (IpAddr, u16), state| {
        let mut event = fixture::flow();
        (event.peer_ip, event.peer_port) = (Some(peer.0), Some(peer.1));
        event.service = Some("curl".into());
        event.role = Some(FlowRole::Client);
        event.flow = Some(Flow {
            close_reason: Some(CloseReason::Refused),
            ..Flow::new(state)
        });
        event
    };
    let (bad, good) = ((address(1), 80), (address(2), 80));
    for peer in [bad, good] {
        let mut delta = client(peer);
        (delta.established, delta.connect_seconds) = (true, Some(1e-3));
        metrics.observe_flow(&delta);
    }
    metrics.tick();
    assert!(!metrics.is_incident(Some("curl"), Some(bad)));
    for _ in 0..3 {
        metrics.consume(&event(bad, FlowState::Failed));
    }
    metrics.tick();
    assert!(metrics.is_incident(Some("curl"), Some(bad)));
    // Whoever asks for it: the state is that of the destination.
    assert!(metrics.is_incident(Some("wget"), Some(bad)));
    assert!(!metrics.is_incident(Some("curl"), Some(good)));
    assert!(!metrics.is_incident(None, None));
}

#[test]
fn a_request_that_failed_is_tried_again_once() {
    let metrics = metrics();
    let begin = fixture::request().started_at.expect("a begin").0;
    let ask = |second: i64, route: &str, status: u16| {
        let mut event = fixture::request();
        (event.started_at, event.elapsed_ms) = (Some(Nanos(begin + second * 1_000_000_000)), Some(1.0));
        event.role = Some(FlowRole::Client);
        if let Some(request) = &mut event.request {
            (request.status_code, request.route) = (Some(status), Some(route.into()));
        }
        metrics.consume(&event);
        let page = page(&metrics);
        let line = page
            .lines()
            .find(|line| line.starts_with("netprobe_request_retries_total{"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    assert_eq!(ask(0, "/a", 200), Some(0));
    assert_eq!(ask(1, "/a", 503), Some(0));
    assert_eq!(ask(2, "/b", 200), Some(0), "another route");
    assert_eq!(ask(3, "/a", 503), Some(1));
    assert_eq!(ask(4, "/a", 200), Some(2));
    assert_eq!(ask(5, "/a", 200), Some(2));
    assert_eq!(ask(6, "/a", 404), Some(2));
    assert_eq!(
        ask(7, "/a", 200),
        Some(2),
        "what the client did wrong is not worth trying again"
    );
}

#[test]
fn the_last_minutes_have_requests_and_their_errors() {
    let metrics = metrics();
    for status in [Some(200), Some(204), Some(404), Some(503), None] {
        let mut event = fixture::request();
        if let Some(request) = &mut event.request {
            request.status_code = status;
        }
        metrics.consume(&event);
    }
    let pairs = metrics.network();
    let minute = &pairs[0].windows[1];
    assert_eq!(minute.request.map(|quantiles| quantiles.count), Some(5));
    let traffic = minute.traffic.as_ref().expect("traffic of the minute");
    assert_eq!(traffic.requests, 5);
    let errors = RequestErrors {
        client: 1,
        server: 1,
        unanswered: 1,
    };
    assert_eq!(traffic.request_errors, errors);
    assert!(traffic.requests_per_second > 0.0);
}
