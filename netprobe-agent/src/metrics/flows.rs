//! Families that count flows.

use std::sync::Arc;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    labels::Overflow,
    series::{Series, side},
};
use crate::{
    event::{CloseReason, Event, FlowRole, FlowState, Protocol},
    flow::delta::FlowDelta,
};

/// Bounds in seconds of `connect_duration`, `rtt` and `accept_wait`: from 50 µs (a connect on loopback takes 20 to
/// 100 µs) in steps of about 2 to 60 s (past it a connect has timed out with the default of six SYN retries).
pub const CONNECT_BUCKETS: [f64; 19] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

type Text = Arc<str>;
type One = [(&'static str, Text); 1];
type Two = [(&'static str, Text); 2];
type Three = [(&'static str, Text); 3];
type Five = [(&'static str, Text); 5];
type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// Every family counted in place.
#[derive(Clone, Debug)]
pub(super) struct Families {
    connects: Family<Five, Counter>,
    connect_duration: Histograms<Three>,
    active: Family<Two, Gauge>,
    tcp_bytes: Family<Three, Counter>,
    udp_bytes: Family<Three, Counter>,
    udp_datagrams: Family<Three, Counter>,
    rtt: Histograms<Two>,
    retransmits: Family<Two, Counter>,
    syn_retransmits: Counter,
    resets: Family<[(&'static str, &'static str); 1], Counter>,
    timeouts: Family<Two, Counter>,
    accept_wait: Histograms<One>,
    nat_lookups: Family<Two, Counter>,
    forwarded_active: Gauge,
    pub(super) label_overflow: Overflow,
    names: Names,
}

/// Fixed label values, made once.
#[derive(Clone, Debug)]
struct Names {
    client: Text,
    server: Text,
    forwarded: Text,
    ok: Text,
    failed: Text,
    sent: Text,
    received: Text,
}

fn histogram() -> Histogram {
    Histogram::new(CONNECT_BUCKETS)
}

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Families {
        let make: fn() -> Histogram = histogram;
        let all = Families {
            connects: Family::default(),
            connect_duration: Family::new_with_constructor(make),
            active: Family::default(),
            tcp_bytes: Family::default(),
            udp_bytes: Family::default(),
            udp_datagrams: Family::default(),
            rtt: Family::new_with_constructor(make),
            retransmits: Family::default(),
            syn_retransmits: Counter::default(),
            resets: Family::default(),
            timeouts: Family::default(),
            accept_wait: Family::new_with_constructor(make),
            nat_lookups: Family::default(),
            forwarded_active: Gauge::default(),
            label_overflow: Family::default(),
            names: Names {
                client: FlowRole::Client.name().into(),
                server: FlowRole::Server.name().into(),
                forwarded: FlowRole::Forwarded.name().into(),
                ok: "ok".into(),
                failed: "failed".into(),
                sent: "sent".into(),
                received: "received".into(),
            },
        };
        registry.register(
            "tcp_connects",
            "TCP connections that were established or failed to be",
            all.connects.clone(),
        );
        registry.register_with_unit(
            "tcp_connect_duration",
            "Time from the first SYN to ESTABLISHED",
            Unit::Seconds,
            all.connect_duration.clone(),
        );
        registry.register(
            "tcp_connections_active",
            "Live TCP connections",
            all.active.clone(),
        );
        registry.register(
            "tcp_bytes",
            "TCP payload moved, counted as it happens, SYN and FIN not counted",
            all.tcp_bytes.clone(),
        );
        registry.register("udp_bytes", "UDP payload moved", all.udp_bytes.clone());
        registry.register("udp_datagrams", "UDP datagrams moved", all.udp_datagrams.clone());
        registry.register_with_unit(
            "tcp_rtt",
            "Smoothed round-trip time of TCP connections, at samples and at the end",
            Unit::Seconds,
            all.rtt.clone(),
        );
        registry.register(
            "tcp_retransmits",
            "TCP segments sent again",
            all.retransmits.clone(),
        );
        registry.register(
            "tcp_syn_retransmits",
            "SYN segments sent again",
            all.syn_retransmits.clone(),
        );
        registry.register(
            "tcp_resets",
            "TCP connections that ended by a reset",
            all.resets.clone(),
        );
        registry.register(
            "tcp_timeouts",
            "TCP connections and connects that ended because nobody answered",
            all.timeouts.clone(),
        );
        registry.register_with_unit(
            "tcp_accept_wait",
            "Time from ESTABLISHED to accept on the server side",
            Unit::Seconds,
            all.accept_wait.clone(),
        );
        registry.register(
            "nat_lookups",
            "Finished flows by what was found out about their translation, and by which method",
            all.nat_lookups.clone(),
        );
        registry.register(
            "forwarded_connections_active",
            "Live connections this host forwards",
            all.forwarded_active.clone(),
        );
        registry.register(
            "label_overflow",
            "Observations whose label value was replaced because of a bound",
            all.label_overflow.clone(),
        );
        all
    }

    pub(super) fn observe(&self, delta: &FlowDelta<'_>, series: &mut Series) {
        if delta.role == FlowRole::Forwarded {
            // Forwarded bytes are IP bytes of both ends' traffic: they would be counted beside payload.
            return;
        }
        let no_error = (delta.established && delta.protocol == Protocol::Tcp).then(|| series.no_error());
        let pair = series.pair(delta.service, delta.peer, delta.role);
        let (service, peer) = (&pair.service, &pair.peer);
        let bytes = [delta.bytes_sent, delta.bytes_received];
        if delta.protocol == Protocol::Udp {
            let datagrams = [delta.datagrams_sent, delta.datagrams_received];
            self.add(&self.udp_bytes, &mut pair.udp_bytes, service, peer, bytes);
            self.add(
                &self.udp_datagrams,
                &mut pair.udp_datagrams,
                service,
                peer,
                datagrams,
            );
            return;
        }
        self.add(&self.tcp_bytes, &mut pair.tcp_bytes, service, peer, bytes);
        let of_side = &mut pair.sides[side(delta.role)];
        if let Some(no_error) = no_error {
            of_side
                .connects
                .get_or_insert_with(|| {
                    self.connects.get_or_create_owned(&[
                        ("service", service.clone()),
                        ("peer", peer.clone()),
                        ("role", self.role(delta.role)),
                        ("result", self.names.ok.clone()),
                        ("error_type", no_error),
                    ])
                })
                .inc();
        }
        if let Some(seconds) = delta.connect_seconds {
            of_side
                .connect_duration
                .get_or_insert_with(|| {
                    self.connect_duration.get_or_create_owned(&[
                        ("service", service.clone()),
                        ("peer", peer.clone()),
                        ("role", self.role(delta.role)),
                    ])
                })
                .observe(seconds);
        }
        if let Some(seconds) = delta.accept_wait_seconds {
            pair.accept_wait
                .get_or_insert_with(|| {
                    self.accept_wait
                        .get_or_create_owned(&[("service", service.clone())])
                })
                .observe(seconds);
        }
        if delta.syn_retransmits > 0 {
            self.syn_retransmits.inc_by(delta.syn_retransmits);
        }
        let labels = || [("service", service.clone()), ("peer", peer.clone())];
        if let Some(seconds) = delta.rtt_seconds {
            pair.rtt
                .get_or_insert_with(|| self.rtt.get_or_create_owned(&labels()))
                .observe(seconds);
        }
        if delta.retransmits > 0 {
            pair.retransmits
                .get_or_insert_with(|| self.retransmits.get_or_create_owned(&labels()))
                .inc_by(delta.retransmits);
        }
    }

    pub(super) fn move_active(
        &self,
        from: Option<(Option<&str>, FlowRole)>,
        to: Option<(Option<&str>, FlowRole)>,
        series: &mut Series,
    ) {
        for (place, step) in [(from, -1), (to, 1)] {
            match place {
                None => {}
                Some((_, FlowRole::Forwarded)) => drop(self.forwarded_active.inc_by(step)),
                Some((service, role)) => {
                    let make = |service| {
                        let place = [("service", service), ("role", self.role(role))];
                        self.active.get_or_create_owned(&place)
                    };
                    series.active(service, role, make).inc_by(step);
                }
            }
        }
    }

    pub(super) fn consume(&self, event: &Event, series: &mut Series) {
        let Some(flow) = event.flow.as_ref().filter(|flow| flow.state.is_final()) else {
            return;
        };
        if let Some(nat) = &event.nat {
            let make = |method| {
                let result: Text = nat.status.name().into();
                self.nat_lookups
                    .get_or_create_owned(&[("result", result), ("method", method)])
            };
            series.nat_lookups(nat.status, nat.method.as_deref(), make).inc();
        }
        let Some(role @ (FlowRole::Client | FlowRole::Server)) = event.role else {
            return;
        };
        if event.protocol != Some(Protocol::Tcp) {
            return;
        }
        let timed_out = flow.close_reason == Some(CloseReason::Timeout);
        let failed = flow.state == FlowState::Failed;
        if failed || timed_out {
            let pair = series.pair(event.service.as_deref(), event.peer_ip.zip(event.peer_port), role);
            let (service, peer) = (pair.service.clone(), pair.peer.clone());
            if timed_out {
                pair.timeouts
                    .get_or_insert_with(|| {
                        let labels = [("service", service.clone()), ("peer", peer.clone())];
                        self.timeouts.get_or_create_owned(&labels)
                    })
                    .inc();
            }
            if failed {
                let error = flow.error.as_deref().or(flow.close_reason.map(CloseReason::name));
                let error_type = match error {
                    Some(error) => series.error(error),
                    None => series.no_error(),
                };
                self.connects
                    .get_or_create(&[
                        ("service", service),
                        ("peer", peer),
                        ("role", self.role(role)),
                        ("result", self.names.failed.clone()),
                        ("error_type", error_type),
                    ])
                    .inc();
            }
        }
        let (at, origin) = match flow.close_reason {
            Some(CloseReason::ResetLocal) => (0, "local"),
            Some(CloseReason::ResetRemote) => (1, "remote"),
            _ => return,
        };
        series.resets[at]
            .get_or_insert_with(|| self.resets.get_or_create_owned(&[("origin", origin)]))
            .inc();
    }

    /// Adds what was sent and received.
    fn add(
        &self,
        family: &Family<Three, Counter>,
        handles: &mut [Option<Counter>; 2],
        service: &Text,
        peer: &Text,
        amounts: [u64; 2],
    ) {
        let directions = [&self.names.sent, &self.names.received];
        for ((handle, direction), amount) in handles.iter_mut().zip(directions).zip(amounts) {
            if amount > 0 {
                handle
                    .get_or_insert_with(|| {
                        family.get_or_create_owned(&[
                            ("service", service.clone()),
                            ("peer", peer.clone()),
                            ("direction", direction.clone()),
                        ])
                    })
                    .inc_by(amount);
            }
        }
    }

    fn role(&self, role: FlowRole) -> Text {
        match role {
            FlowRole::Client => &self.names.client,
            FlowRole::Server => &self.names.server,
            FlowRole::Forwarded => &self.names.forwarded,
        }
        .clone()
    }
}
