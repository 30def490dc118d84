//! Golden and rule tests of the event schema.

use proptest::{option, prelude::*, sample::select};

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
fn a_connection_id_is_whole_however_long() {
    for len in [0, 1, 36, 43, 44, 62, 63, 64, 100, 500] {
        let boot_id = "ä".repeat(len / 2) + &"b".repeat(len % 2);
        for cookie in [0, 4711, u64::MAX] {
            assert_eq!(&*connection_id(&boot_id, cookie), format!("{boot_id}-{cookie}"));
        }
    }
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

fn text() -> impl Strategy<Value = Option<Arc<str>>> {
    // Mostly plain, often with what JSON escapes, at every place in a word of the vector.
    option::of("[a-z0-9./-]{0,40}|[ -~]{0,40}|\\PC{0,20}|[\\x00-\\x7f\u{80}-\u{ff}]{0,40}")
        .prop_map(|text| text.map(Into::into))
}

fn number() -> impl Strategy<Value = Option<f64>> {
    option::of(prop_oneof![
        any::<f64>(),
        0.0..1e6,
        select(vec![f64::NAN, f64::INFINITY, -0.0, 1e-7, 1e21])
    ])
}

prop_compose! {
    fn process()(
        pid in any::<u32>(), comm in text(), exe in text(), uid in any::<Option<u32>>(),
        cgroup in text(), unit in text(), container_id in text(),
    ) -> Arc<Process> {
        Arc::new(Process { pid, comm, exe, uid, cgroup, unit, container_id })
    }
}

prop_compose! {
    fn nat()(
        status in select(NatStatus::ALL), method in text(),
        hops in prop::collection::vec((any::<[IpAddr; 4]>(), any::<[u16; 5]>(), any::<u64>()), 0..3),
    ) -> Nat {
        let hops = hops.into_iter().map(|(ips, ports, netns)| Hop {
            netns,
            zone: ports[4],
            orig: HopTuple { src_ip: ips[0], src_port: ports[0], dst_ip: ips[1], dst_port: ports[1] },
            reply: HopTuple { src_ip: ips[2], src_port: ports[2], dst_ip: ips[3], dst_port: ports[3] },
        });
        Nat { status, method: method.map(|name| name.to_string().into()), hops: hops.collect() }
    }
}

prop_compose! {
    fn body()(
        state in select(FlowState::ALL), close_reason in option::of(select(CloseReason::ALL)), error in text(),
        ms in prop::collection::vec(number(), 4), counts in any::<[Option<u64>; 4]>(),
    ) -> Flow {
        Flow {
            connect_ms: ms[0], rtt_ms: ms[1], rtt_var_ms: ms[2], accept_wait_ms: ms[3],
            syn_retransmits: counts[0], retransmits: counts[1], segments_out: counts[2], segments_in: counts[3],
            close_reason, error: error.map(|name| name.to_string().into()), ..Flow::new(state)
        }
    }
}

prop_compose! {
    /// Any value in the fields of one of the four kinds.
    fn event()(
        mut event in select(vec![fixture::flow(), fixture::request(), fixture::gap(), fixture::agent()]),
        texts in prop::collection::vec(text(), 8), times in any::<(i64, Option<i64>)>(), elapsed in number(),
        ids in any::<([u8; 16], [u8; 8], Option<[u8; 8]>)>(), severity in select(Severity::ALL),
        names in (option::of(select(Protocol::ALL)), option::of(select(Family::ALL)), option::of(select(FlowRole::ALL))),
        ips in any::<[Option<IpAddr>; 4]>(), ports in any::<[Option<u16>; 4]>(), counts in any::<[Option<u64>; 4]>(),
        objects in (option::of(nat()), option::of(process()), option::of(process()), option::of(body())),
        flags in any::<[bool; 6]>(),
    ) -> Event {
        let mut texts = texts.into_iter();
        let mut text = || texts.next().flatten();
        if let Some(host) = text() {
            event.host = host;
        }
        (event.connection_id, event.request_id, event.service) = (text(), text(), text());
        if let Some(request) = &mut event.request {
            (request.method, request.route, request.error) = (text(), text(), text().map(|error| error.to_string().into()));
        }
        if let (Some(agent), Some(message)) = (&mut event.agent, text()) {
            agent.message = Some(message.to_string().into());
        }
        (event.ts, event.started_at) = (Nanos(times.0), times.1.map(Nanos));
        event.elapsed_ms = elapsed;
        event.severity = severity;
        (event.trace_id, event.span_id) = (TraceId(ids.0), SpanId(ids.1));
        event.parent_span_id = ids.2.map(SpanId);
        (event.protocol, event.family, event.role) = names;
        [event.internal_ip, event.external_ip, event.peer_ip, event.actual_peer_ip] = ips;
        [event.internal_port, event.external_port, event.peer_port, event.actual_peer_port] = ports;
        [event.seq, event.netns, event.bytes_sent, event.bytes_received] = counts;
        (event.nat, event.process, event.io_process, event.flow) = objects;
        for ((flag, _), _) in Flags::NAMES.iter().zip(flags).filter(|(_, set)| *set) {
            event.flags.insert(*flag);
        }
        event
    }
}

proptest! {
    #[test]
    fn a_line_is_what_serde_json_writes(event in event()) {
        let mut line = b"before".to_vec();
        event.write_line(&mut line).unwrap();
        let expected = format!("before{}\n", serde_json::to_string(&event).unwrap());
        prop_assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn a_time_is_what_jiff_formats(nanos in any::<i64>()) {
        let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
        prop_assert_eq!(Nanos(nanos).to_string(), format!("{time:.9}"));
    }
}
