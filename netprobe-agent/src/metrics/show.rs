//! What is counted here, as families.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    labels::Bounds,
    page::{Kind, LabelSet, Page, Value},
    pair::{Key, Totals},
    series::{OfHost, OfService, Series},
    window::{Quantiles, Scratch, Span, Window},
};
use crate::event::{FlowRole, NatStatus};

/// Roles and directions, in the order of the arrays.
pub(super) const ROLES: [&str; 2] = [FlowRole::Client.name(), FlowRole::Server.name()];
const DIRECTIONS: [&str; 2] = ["sent", "received"];

/// Everything counted, as of one moment: writing it takes longer than the pipeline should wait.
#[derive(Debug)]
pub(super) struct Snapshot {
    pairs: Vec<(Key, Totals)>,
    services: BTreeMap<Arc<str>, OfService>,
    host: OfHost,
    windows: Vec<(&'static str, Span, Quantiles)>,
}

impl Series {
    pub(super) fn snapshot(&self, now_ms: u64) -> Snapshot {
        let windows = &self.windows;
        let mut scratch = Scratch::new();
        let named: [(&str, &Window); 4] = [
            ("connect", &windows.connect),
            ("rtt", &windows.rtt),
            ("accept_wait", &windows.accept_wait),
            ("request", &windows.request),
        ];
        let mut quantiles = Vec::new();
        for (metric, window) in named {
            for span in Span::ALL {
                let held = window.quantiles(now_ms, span, &mut scratch);
                quantiles.extend(held.map(|held| (metric, span, held)));
            }
        }
        Snapshot {
            pairs: self
                .pairs
                .iter()
                .map(|pair| (pair.key.clone(), pair.totals.clone()))
                .collect(),
            services: self
                .services
                .iter()
                .map(|(name, of)| (name.clone(), of.clone()))
                .collect(),
            host: self.host.clone(),
            windows: quantiles,
        }
    }
}

impl Snapshot {
    /// Writes every family. Pairs are in the order of their names: the same counts give the same page.
    pub(super) fn write(mut self, page: &mut dyn Page) {
        self.pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        self.connects(page);
        self.traffic(page);
        self.requests(page);
        self.of_services(page);
        self.of_host(page);
        page.family(
            "window_latency_seconds",
            "Quantiles of a sliding window over all services and peers, never below and at most 0.8 % above the true one",
            Kind::Gauge,
        );
        for (metric, span, held) in &self.windows {
            for (q, ms) in [("0.5", held.p50_ms), ("0.95", held.p95_ms), ("0.99", held.p99_ms)] {
                let labels = [("metric", *metric), ("q", q), ("window", span.name())];
                page.sample(&labels, (ms / 1e3).into(), None);
            }
        }
    }

    fn connects(&self, page: &mut dyn Page) {
        page.family(
            "tcp_connects",
            "TCP connections that were established or failed to be",
            Kind::Counter,
        );
        for (service, peer, totals) in self.pairs() {
            for (role, of_side) in ROLES.into_iter().zip(&totals.sides) {
                let labels = |result, error| {
                    [
                        ("service", service),
                        ("peer", peer),
                        ("role", role),
                        ("result", result),
                        ("error_type", error),
                    ]
                };
                if of_side.connects > 0 {
                    page.sample(&labels("ok", ""), of_side.connects.into(), None);
                }
                for (error, count, exemplar) in &of_side.failed {
                    page.sample(&labels("failed", error), (*count).into(), Some(exemplar));
                }
            }
        }
        page.family(
            "tcp_connect_duration_seconds",
            "Time from the first SYN to ESTABLISHED",
            Kind::Histogram,
        );
        for (service, peer, totals) in self.pairs() {
            for (role, of_side) in ROLES.into_iter().zip(&totals.sides) {
                if let Some(durations) = &of_side.connect_duration {
                    let labels = [("service", service), ("peer", peer), ("role", role)];
                    page.histogram(&labels, durations);
                }
            }
        }
    }

    fn traffic(&self, page: &mut dyn Page) {
        let by_direction = |page: &mut dyn Page, amounts: fn(&Totals) -> &[u64; 2]| {
            for (service, peer, totals) in self.pairs() {
                for (direction, amount) in DIRECTIONS.into_iter().zip(amounts(totals)) {
                    let labels = [("service", service), ("peer", peer), ("direction", direction)];
                    some(page, &labels, *amount);
                }
            }
        };
        page.family(
            "tcp_bytes",
            "TCP payload moved, counted as it happens, SYN and FIN not counted",
            Kind::Counter,
        );
        by_direction(page, |totals| &totals.tcp_bytes);
        page.family("udp_bytes", "UDP payload moved", Kind::Counter);
        by_direction(page, |totals| &totals.udp_bytes);
        page.family("udp_datagrams", "UDP datagrams moved", Kind::Counter);
        by_direction(page, |totals| &totals.udp_datagrams);
        page.family(
            "tcp_rtt_seconds",
            "Smoothed round-trip time of TCP connections, at samples and at the end",
            Kind::Histogram,
        );
        for (service, peer, totals) in self.pairs() {
            if let Some(rtt) = &totals.rtt {
                page.histogram(&[("service", service), ("peer", peer)], rtt);
            }
        }
        // Zeros are shown: what first shows with its first count is no increase to Prometheus.
        let by_pair = |page: &mut dyn Page, amount: fn(&Totals) -> u64| {
            for (service, peer, totals) in self.pairs().filter(|(.., totals)| totals.has_tcp()) {
                let labels = [("service", service), ("peer", peer)];
                page.sample(&labels, amount(totals).into(), None);
            }
        };
        page.family("tcp_retransmits", "TCP segments sent again", Kind::Counter);
        by_pair(page, |totals| totals.retransmits);
        page.family(
            "tcp_timeouts",
            "TCP connections and connects that ended because nobody answered",
            Kind::Counter,
        );
        by_pair(page, |totals| totals.timeouts);
        page.family(
            "tcp_connect_retries",
            "Connects begun within 60 s after a failed one of the same service and peer, one for each failed one",
            Kind::Counter,
        );
        by_pair(page, |totals| totals.retries);
    }

    fn of_services(&self, page: &mut dyn Page) {
        page.family("tcp_connections_active", "Live TCP connections", Kind::Gauge);
        for (service, of) in &self.services {
            for (role, active) in ROLES.into_iter().zip(of.active) {
                if let Some(active) = active {
                    page.sample(&[("service", service), ("role", role)], active.into(), None);
                }
            }
        }
        page.family(
            "tcp_accept_wait_seconds",
            "Time from ESTABLISHED to accept on the server side",
            Kind::Histogram,
        );
        for (service, of) in &self.services {
            if let Some(wait) = &of.accept_wait {
                page.histogram(&[("service", service)], wait);
            }
        }
    }

    fn of_host(&self, page: &mut dyn Page) {
        let host = &self.host;
        page.family("tcp_syn_retransmits", "SYN segments sent again", Kind::Counter);
        page.sample(&[], host.syn_retransmits.into(), None);
        page.family(
            "tcp_resets",
            "TCP connections that ended by a reset",
            Kind::Counter,
        );
        for (origin, count) in ["local", "remote"].into_iter().zip(host.resets) {
            page.sample(&[("origin", origin)], count.into(), None);
        }
        page.family(
            "nat_lookups",
            "Finished flows by what was found out about their translation, and by which method",
            Kind::Counter,
        );
        for (method, counts) in &host.nat_lookups {
            for (status, count) in NatStatus::ALL.iter().zip(counts) {
                some(page, &[("result", status.name()), ("method", method)], *count);
            }
        }
        page.family(
            "forwarded_connections_active",
            "Live connections this host forwards",
            Kind::Gauge,
        );
        page.sample(&[], host.forwarded_active.into(), None);
        page.family(
            "label_overflow",
            "Observations whose label value was replaced because of a bound",
            Kind::Counter,
        );
        for ((_, label), count) in Bounds::NAMES.iter().zip(host.overflows) {
            page.sample(&[("label", label)], count.into(), None);
        }
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str, &Totals)> {
        self.pairs
            .iter()
            .map(|((service, peer), totals)| (&**service, &**peer, totals))
    }
}

/// A sample, unless nothing was counted.
fn some(page: &mut dyn Page, labels: &LabelSet<'_>, amount: u64) {
    if amount > 0 {
        page.sample(labels, Value::Whole(amount), None);
    }
}
