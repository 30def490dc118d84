//! Golden and rule tests of the event schema.

use super::{fixture, *};

fn json(event: &Event) -> String {
    let mut line = Vec::new();
    event.write_line(&mut line).unwrap();
    assert_eq!(line.pop(), Some(b'\n'));
    let line = String::from_utf8(line).unwrap();
    assert!(!line.contains('\n'));
    // Reading back gives the same event, and pretty printing keeps the order of fields for the snapshot.
    assert_eq!(&serde_json::from_str::<Event>(&line).unwrap(), event);
    serde_json::to_string_pretty(event).unwrap()
}

#[test]
fn golden_flow() {
    insta::assert_snapshot!(json(&fixture::flow()));
}

#[test]
fn golden_request() {
    insta::assert_snapshot!(json(&fixture::request()));
}

#[test]
fn golden_gap() {
    insta::assert_snapshot!(json(&fixture::gap()));
}

#[test]
fn golden_agent() {
    insta::assert_snapshot!(json(&fixture::agent()));
}

#[test]
fn every_event_has_every_field() {
    let fields = |event: &Event| {
        let value = serde_json::to_value(event).unwrap();
        value.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    let all = fields(&fixture::flow());
    for event in [fixture::request(), fixture::gap(), fixture::agent()] {
        assert_eq!(fields(&event), all);
    }
}

#[test]
fn another_schema_is_refused() {
    let line = serde_json::to_string(&fixture::gap())
        .unwrap()
        .replace("event/1", "event/2");
    let error = serde_json::from_str::<Event>(&line).unwrap_err().to_string();
    assert!(error.contains("netprobe.event/2"), "{error}");
}

#[test]
fn ids_are_the_sha256_of_the_connection() {
    // printf 'b-1' | sha256sum
    let event = Event::flow(
        &fixture::origin(),
        connection_id("b", 1),
        Severity::Info,
        Flow::new(FlowState::Open),
    );
    assert_eq!(event.trace_id.to_string(), "3e499e752620c6a90ed59a200a181324");
    assert_eq!(event.span_id.to_string(), "11045ba50ea06c76");
    assert_eq!(TraceId::parse(&event.trace_id.to_string()), Some(event.trace_id));
    assert_eq!(SpanId::parse("xyz"), None);
}

#[test]
fn time_has_nine_digits_and_reads_back() {
    for (nanos, text) in [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_795_255_200_123_456_789, "2026-11-21T10:00:00.123456789Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ] {
        assert_eq!(Nanos(nanos).to_string(), text);
        assert_eq!(Nanos::parse(text).unwrap(), Nanos(nanos));
    }
    for nanos in [i64::MIN, i64::MAX] {
        assert_eq!(Nanos::parse(&Nanos(nanos).to_string()).unwrap(), Nanos(nanos));
    }
}

#[test]
fn severity_follows_the_rule() {
    let closed = |reason| Flow {
        close_reason: Some(reason),
        ..Flow::new(FlowState::Closed)
    };
    let bursty = |retransmits, segments| Flow {
        retransmits: Some(retransmits),
        segments_out: Some(segments),
        ..closed(CloseReason::Fin)
    };
    for (flow, data_lost, severity) in [
        (Flow::new(FlowState::Update), true, Severity::Debug),
        (Flow::new(FlowState::Open), false, Severity::Info),
        (Flow::new(FlowState::Failed), false, Severity::Error),
        (closed(CloseReason::Fin), false, Severity::Info),
        (closed(CloseReason::ResetLocal), false, Severity::Warning),
        (closed(CloseReason::ResetRemote), true, Severity::Error),
        (closed(CloseReason::Timeout), false, Severity::Error),
        (bursty(4, 4), false, Severity::Info),
        (bursty(5, 100), false, Severity::Warning),
        (bursty(5, 101), false, Severity::Info),
    ] {
        assert_eq!(flow_severity(&flow, data_lost), severity, "{flow:?}");
    }
}

#[test]
fn must_keep_is_what_the_archive_may_not_lose() {
    let mut event = fixture::flow();
    assert!(must_keep(&event));
    event.flow = Some(Flow::new(FlowState::Update));
    event.severity = Severity::Debug;
    assert!(!must_keep(&event));
    event.severity = Severity::Error;
    assert!(must_keep(&event));
    assert!(must_keep(&fixture::request()));
    assert!(must_keep(&fixture::gap()));
    assert!(!must_keep(&fixture::agent()));
}
