//! Requests: counted from their events, one a request.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    histogram::Histogram,
    page::{Kind, Page},
    pair::{Failed, side},
    series::Series,
    show::{ROLES, Snapshot},
};
use crate::event::{Event, FlowRole, Nanos, Request};

/// Requests of one side of a pair to one route.
#[derive(Clone, Debug, Default)]
pub(super) struct OfRoute {
    /// By method and class of status.
    counts: Vec<(Arc<str>, &'static str, u64)>,
    /// Those that failed, by method, at clients.
    failed: Vec<(Arc<str>, Failed)>,
    durations: Histogram,
}

/// By side and route.
pub(super) type Routes = BTreeMap<(usize, Arc<str>), OfRoute>;

impl Series {
    /// Counts a request. `told`: its event is, so an exemplar may lead to it.
    pub(super) fn count_request(&mut self, event: &Event, request: &Request, told: bool, now_ms: u64) {
        let Some(role @ (FlowRole::Client | FlowRole::Server)) = event.role else {
            return;
        };
        let detail = self.detail;
        let is_dns = request.protocol.as_deref() == Some(DNS);
        // Names that are asked for are too many for a label.
        let route = if is_dns {
            Some(DNS)
        } else {
            request.route.as_deref()
        };
        let service = event.service.as_deref();
        let route = self.route(service, route.unwrap_or(""));
        let method = self.request_method(request.method.as_deref().unwrap_or(""));
        let peer = event.peer_ip.zip(event.peer_port);
        let pair = self.pair(service, peer, role, now_ms);
        let of = pair.totals.requests.entry((side(role), route)).or_default();
        let class = class(request, is_dns);
        if detail {
            let recent = pair.recent[side(role)].get_or_insert_default();
            let counts = recent.rates.current(now_ms);
            counts.requests += 1;
            match class {
                "4xx" => counts.client_errors += 1,
                "5xx" | "failed" => counts.server_errors += 1,
                "none" => counts.unanswered_requests += 1,
                _ => {}
            }
        }
        if let (FlowRole::Client, Some(started_at)) = (role, event.started_at) {
            let took_ns = (event.elapsed_ms.unwrap_or(0.0) * 1e6) as i64;
            let ended_at = Nanos(started_at.0 + took_ns);
            let again = of.is_retry(&method, started_at, has_failed(class).then_some(ended_at));
            pair.totals.request_retries += u64::from(again);
        }
        match of.counts.iter_mut().find(|(m, c, _)| *m == method && *c == class) {
            Some((.., count)) => *count += 1,
            None => of.counts.push((method, class, 1)),
        }
        let Some(ns) = event.elapsed_ms.map(|ms| (ms * 1e6) as u64) else {
            return;
        };
        of.durations
            .observe(ns, now_ms, || (detail && told).then_some(event.trace_id));
        if detail {
            let recent = pair.recent[side(role)].get_or_insert_default();
            recent.request.record(now_ms, ns);
        }
        self.windows.request.record(now_ms, ns);
    }
}

impl OfRoute {
    /// Whether a request that began then is a failed one tried again. `failed_at`: when it failed itself.
    fn is_retry(&mut self, method: &Arc<str>, started_at: Nanos, failed_at: Option<Nanos>) -> bool {
        let known = self.failed.iter_mut().find(|(of, _)| of == method);
        match (known, failed_at) {
            (Some((_, failed)), failed_at) => {
                let again = failed.is_retry(started_at);
                if let Some(at) = failed_at {
                    failed.add(at);
                }
                again
            }
            (None, Some(at)) => {
                let mut failed = Failed::default();
                failed.add(at);
                self.failed.push((method.clone(), failed));
                false
            }
            (None, None) => false,
        }
    }
}

/// Whether it is worth trying again: the server could not, or nobody answered.
fn has_failed(class: &str) -> bool {
    matches!(class, "5xx" | "failed" | "none")
}

/// Protocol whose routes are names.
const DNS: &str = "dns";

/// Label of a status; `none`: there was none.
fn class(request: &Request, is_dns: bool) -> &'static str {
    match request.status_code {
        Some(0) if is_dns => "noerror",
        Some(3) if is_dns => "nxdomain",
        Some(_) if is_dns => "failed",
        Some(100..200) => "1xx",
        Some(200..300) => "2xx",
        Some(300..400) => "3xx",
        Some(400..500) => "4xx",
        Some(500..600) => "5xx",
        Some(_) => "other",
        None => "none",
    }
}

impl Snapshot {
    /// Writes the families of requests.
    pub(super) fn requests(&self, page: &mut dyn Page) {
        page.family("requests", "Requests read from connections", Kind::Counter);
        for (service, peer, totals) in self.pairs() {
            for ((side, route), of) in &totals.requests {
                for (method, class, count) in &of.counts {
                    let labels = [
                        ("service", service),
                        ("peer", peer),
                        ("role", ROLES[*side]),
                        ("route", route),
                        ("method", method),
                        ("status_class", *class),
                    ];
                    page.sample(&labels, (*count).into(), None);
                }
            }
        }
        page.family(
            "request_retries",
            "Requests begun within 60 s after a failed one (5xx, DNS failure, no answer) of the same service, peer, route and method, one for each failed one",
            Kind::Counter,
        );
        for (service, peer, totals) in self.pairs().filter(|(.., totals)| totals.asks()) {
            let labels = [("service", service), ("peer", peer)];
            page.sample(&labels, totals.request_retries.into(), None);
        }
        page.family(
            "request_duration_seconds",
            "Time from the first byte of a request to the last of its response",
            Kind::Histogram,
        );
        for (service, peer, totals) in self.pairs() {
            for ((side, route), of) in totals.requests.iter().filter(|(_, of)| of.durations.count() > 0) {
                let labels = [
                    ("service", service),
                    ("peer", peer),
                    ("role", ROLES[*side]),
                    ("route", route),
                ];
                page.histogram(&labels, &of.durations);
            }
        }
    }
}
