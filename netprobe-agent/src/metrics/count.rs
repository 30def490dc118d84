//! What a flow counts in.

use super::{
    labels::UNKNOWN,
    pair::{Pair, side},
    rates::Counts,
    series::Series,
    window::Window,
};
use crate::{
    event::{
        CloseReason, Event, FlowRole, FlowState, Nanos, Protocol, TraceId, connection_id, of_connection,
        retransmit_burst,
    },
    flow::delta::FlowDelta,
};

impl Series {
    /// Counts what a flow did since it was last observed. Its trace follows from the boot id of the kernel.
    pub(super) fn observe(&mut self, delta: &FlowDelta<'_>, now_ms: u64, boot_id: &str) {
        if delta.role == FlowRole::Forwarded {
            // Forwarded bytes are IP bytes of both ends' traffic: they would be counted beside payload.
            return;
        }
        let detail = self.detail;
        let trace = || {
            let cookie = delta.cookie.filter(|_| detail)?;
            Some(of_connection(&connection_id(boot_id, cookie)).0)
        };
        let pair = self.pair(delta.service, delta.peer, delta.role, now_ms);
        if delta.protocol == Protocol::Udp {
            add(
                &mut pair.totals.udp_bytes,
                [delta.bytes_sent, delta.bytes_received],
            );
            add(
                &mut pair.totals.udp_datagrams,
                [delta.datagrams_sent, delta.datagrams_received],
            );
            return;
        }
        let service = pair.count(delta, detail, now_ms, trace);
        self.host.syn_retransmits += delta.syn_retransmits;
        let windows = &mut self.windows;
        for (window, seconds) in [
            (&mut windows.connect, delta.connect_seconds),
            (&mut windows.rtt, delta.rtt_seconds),
            (&mut windows.accept_wait, delta.accept_wait_seconds),
        ] {
            record(window, seconds, now_ms);
        }
        if let (Some(seconds), Some(service)) = (delta.accept_wait_seconds, service) {
            let wait = &mut self.service(&service).accept_wait;
            wait.get_or_insert_default()
                .observe(nanos(seconds), now_ms, trace);
        }
    }

    /// Counts what a final flow event says once and for all.
    pub(super) fn consume(&mut self, event: &Event, told: bool, now_ms: u64) {
        if let Some(request) = &event.request {
            self.count_request(event, request, told, now_ms);
            return;
        }
        let Some(flow) = event.flow.as_ref().filter(|flow| flow.state.is_final()) else {
            return;
        };
        if let Some(nat) = &event.nat {
            self.count_nat(nat.status, nat.method.as_deref());
        }
        let Some(role @ (FlowRole::Client | FlowRole::Server)) = event.role else {
            return;
        };
        if event.protocol != Some(Protocol::Tcp) {
            return;
        }
        match flow.close_reason {
            Some(CloseReason::ResetLocal) => self.host.resets[0] += 1,
            Some(CloseReason::ResetRemote) => self.host.resets[1] += 1,
            _ => {}
        }
        let mut counts = Counts::default();
        let failed = flow.state == FlowState::Failed;
        match (failed, flow.close_reason) {
            (true, Some(CloseReason::Refused)) => counts.refused = 1,
            (true, Some(CloseReason::Timeout | CloseReason::Abandoned)) => counts.unanswered = 1,
            (true, _) => counts.failed = 1,
            (false, Some(CloseReason::Timeout)) => counts.broken = 1,
            (false, Some(CloseReason::ResetRemote)) => counts.resets = 1,
            _ => {}
        }
        counts.bursts = u64::from(retransmit_burst(flow));
        if counts == Counts::default() {
            return;
        }
        let error = failed.then(|| {
            let name = flow.error.as_deref().or(flow.close_reason.map(CloseReason::name));
            name.map_or_else(|| "".into(), |name| self.error(name))
        });
        let detail = self.detail;
        let peer = event.peer_ip.zip(event.peer_port);
        let pair = self.pair(event.service.as_deref(), peer, role, now_ms);
        pair.totals.timeouts += u64::from(flow.close_reason == Some(CloseReason::Timeout));
        if let Some(error) = error {
            pair.totals.sides[side(role)].count_failed(error, event.trace_id, now_ms);
            if let (FlowRole::Client, Some(started_at)) = (role, event.started_at) {
                let retry = u64::from(pair.connects.is_retry(started_at));
                pair.totals.retries += retry;
                counts.retries = retry;
                let took_ns = (event.elapsed_ms.unwrap_or(0.0) * 1e6) as i64;
                pair.connects.add(Nanos(started_at.0 + took_ns));
            }
        }
        if detail {
            let recent = pair.recent[side(role)].get_or_insert_default();
            recent.rates.current(now_ms).add(&counts);
        }
    }

    /// Moves a live flow from one place to another.
    pub(super) fn move_flow(
        &mut self,
        from: Option<(Option<&str>, FlowRole)>,
        to: Option<(Option<&str>, FlowRole)>,
    ) {
        for (place, step) in [(from, -1), (to, 1)] {
            match place {
                None => {}
                Some((_, FlowRole::Forwarded)) => self.host.forwarded_active += step,
                Some((service, role)) => {
                    let of = self.service(service.unwrap_or(UNKNOWN));
                    *of.active[side(role)].get_or_insert(0) += step;
                }
            }
        }
    }
}

impl Pair {
    /// Counts a TCP flow. Returns the label of its service when its wait in the accept queue is known.
    fn count(
        &mut self,
        delta: &FlowDelta<'_>,
        detail: bool,
        now_ms: u64,
        trace: impl Fn() -> Option<TraceId>,
    ) -> Option<std::sync::Arc<str>> {
        let retry = delta.role == FlowRole::Client
            && delta.established
            && delta
                .started_at
                .is_some_and(|started_at| self.connects.is_retry(started_at));
        let totals = &mut self.totals;
        add(&mut totals.tcp_bytes, [delta.bytes_sent, delta.bytes_received]);
        totals.retransmits += delta.retransmits;
        totals.retries += u64::from(retry);
        let of_side = &mut totals.sides[side(delta.role)];
        of_side.connects += u64::from(delta.established);
        if let Some(seconds) = delta.connect_seconds {
            let durations = of_side.connect_duration.get_or_insert_default();
            durations.observe(nanos(seconds), now_ms, &trace);
        }
        if let Some(seconds) = delta.rtt_seconds {
            totals
                .rtt
                .get_or_insert_default()
                .observe(nanos(seconds), now_ms, &trace);
        }
        if detail {
            let recent = self.recent[side(delta.role)].get_or_insert_default();
            let counts = recent.rates.current(now_ms);
            counts.connects += u64::from(delta.established);
            counts.retries += u64::from(retry);
            counts.syn_retransmits += delta.syn_retransmits;
            counts.retransmits += delta.retransmits;
            counts.sent += delta.bytes_sent;
            counts.received += delta.bytes_received;
            record(&mut recent.connect, delta.connect_seconds, now_ms);
            record(&mut recent.rtt, delta.rtt_seconds, now_ms);
            record(&mut recent.accept_wait, delta.accept_wait_seconds, now_ms);
        }
        delta.accept_wait_seconds.map(|_| self.key.0.clone())
    }
}

fn add(to: &mut [u64; 2], amounts: [u64; 2]) {
    to[0] += amounts[0];
    to[1] += amounts[1];
}

fn record(window: &mut Window, seconds: Option<f64>, now_ms: u64) {
    if let Some(seconds) = seconds {
        window.record(now_ms, nanos(seconds));
    }
}

/// Whole nanoseconds of what was measured in them.
fn nanos(seconds: f64) -> u64 {
    // Half up is a few instructions; `round` is a call.
    (seconds * 1e9 + 0.5) as u64
}
