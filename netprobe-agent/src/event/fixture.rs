//! Events for tests: one of every kind, every field that applies set.

use std::net::Ipv4Addr;

use super::*;

pub(crate) fn origin() -> Origin {
    Origin::new(
        "web-1",
        "6f1f7a5e-8a3c-4b52-9f0e-2f6f5d1c9a77",
        "00f1e2d3c4b5a697",
    )
}

fn ip(last: u8) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
}

fn stamped(mut event: Event, seq: u64) -> Event {
    event.seq = Some(seq);
    event.ts = Nanos(1_795_255_200_123_456_789);
    event
}

/// A client behind DNAT and SNAT that ended in order.
pub(crate) fn flow() -> Event {
    let origin = origin();
    let id = connection_id(&origin.boot_id, 4711);
    let mut flow = Flow::new(FlowState::Closed);
    flow.connect_ms = Some(0.25);
    flow.syn_retransmits = Some(0);
    flow.rtt_ms = Some(0.125);
    flow.rtt_var_ms = Some(0.0625);
    flow.retransmits = Some(0);
    flow.segments_out = Some(7);
    flow.segments_in = Some(6);
    flow.close_reason = Some(CloseReason::Fin);
    let mut event = stamped(Event::flow(&origin, id, flow_severity(&flow, false), flow), 42);
    event.started_at = Some(Nanos(1_795_255_200_000_000_001));
    event.elapsed_ms = Some(123.456788);
    event.service = Some("curl".into());
    event.protocol = Some(Protocol::Tcp);
    event.family = ip(2).map(Family::of);
    event.role = Some(FlowRole::Client);
    event.netns = Some(4_026_531_840);
    (event.internal_ip, event.internal_port) = (ip(2), Some(40_000));
    (event.external_ip, event.external_port) = (ip(254), Some(40_000));
    (event.peer_ip, event.peer_port) = (ip(100), Some(80));
    (event.actual_peer_ip, event.actual_peer_port) = (ip(200), Some(8080));
    let tuple = |src, src_port, dst, dst_port| HopTuple {
        src_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, src)),
        src_port,
        dst_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, dst)),
        dst_port,
    };
    event.nat = Some(Nat {
        status: NatStatus::SnatDnat,
        method: Some("net_dev_queue".into()),
        hops: vec![Hop {
            netns: 4_026_532_001,
            zone: 0,
            orig: tuple(2, 40_000, 100, 80),
            reply: tuple(200, 8080, 254, 40_000),
        }],
    });
    event.process = Some(Arc::new(Process {
        pid: 777,
        comm: Some("curl".into()),
        exe: Some("/usr/bin/curl".into()),
        uid: Some(1000),
        cgroup: Some("/user.slice".into()),
        unit: None,
        container_id: None,
    }));
    event.bytes_sent = Some(73);
    event.bytes_received = Some(1024);
    event.flags = Flags::TFO | Flags::UPPER_BOUND;
    event
}

/// A request inside [`flow`].
pub(crate) fn request() -> Event {
    let mut event = flow();
    event.kind = EventKind::Request;
    event.seq = Some(43);
    event.flow = None;
    event.flags = Flags::default();
    event.parent_span_id = Some(event.span_id);
    event.span_id = SpanId([1; 8]);
    event.request_id = Some("r-1".into());
    event.request = Some(Box::new(Request {
        protocol: Some("http".into()),
        method: Some("GET".into()),
        route: Some("/items/{id}".into()),
        status_code: Some(200),
        ttfb_ms: Some(1.5),
        send_ms: Some(0.25),
        wait_ms: Some(1.0),
        receive_ms: Some(0.25),
        error: None,
        tls: Some(false),
    }));
    event
}

/// A loss at a sink.
pub(crate) fn gap() -> Event {
    let gap = Gap {
        stage: "output".into(),
        reason: "queue_full".into(),
        count: Some(3),
        from_seq: Some(10),
        to_seq: Some(12),
        scope: GapScope::Agent,
    };
    stamped(Event::gap(&origin(), gap), 44)
}

/// The begin of a run.
pub(crate) fn agent() -> Event {
    let agent = Agent {
        action: AgentAction::Start,
        version: "0.1.0".into(),
        message: None,
    };
    stamped(Event::agent(&origin(), Severity::Info, agent), 1)
}
