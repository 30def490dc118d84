//! Requests: counted from their events, one a request.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    histogram::Histogram,
    page::{Kind, Page},
    pair::side,
    series::Series,
    show::{ROLES, Snapshot},
};
use crate::event::{Event, FlowRole, Request};

/// Requests of one side of a pair to one route.
#[derive(Clone, Debug, Default)]
pub(super) struct OfRoute {
    /// By method and class of status.
    counts: Vec<(Arc<str>, &'static str, u64)>,
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
