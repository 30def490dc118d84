//! Making events of requests.

use std::sync::Arc;

use super::protocol::{Exchange, Times};
use crate::{
    event::{Event, Flags, FlowRole, Request, Severity, TraceOrigin, span_of},
    flow::events::Maker,
};

/// Name of the protocol whose routes are names.
pub(super) const DNS: &str = "dns";

/// Where an exchange was.
pub(super) struct Place {
    /// Its connection.
    pub(super) connection: Arc<str>,
    /// The how many-th it is there: that tells its span from the others'.
    pub(super) number: u64,
    /// Whether the local socket is the client's.
    pub(super) is_client: bool,
    /// What is to be known of all of the connection.
    pub(super) mark: Flags,
    /// Whether it came through a TLS library.
    pub(super) tls: bool,
}

/// The event of an exchange. `about` tells what is known of its connection.
pub(super) fn request(
    exchange: &Exchange,
    place: Place,
    maker: &Maker,
    about: impl FnOnce(&mut Event),
) -> Event {
    let origin = &maker.origin;
    let Place {
        connection: id,
        number,
        is_client,
        mark,
        tls,
    } = place;
    let times = &exchange.times;
    let begin = times.request_first.or(times.response_first);
    let mut event = Event::request(origin, id.clone(), severity(exchange), body(exchange, tls));
    // Over restarts of the agent, too: numbers begin anew there, times do not.
    event.parent_span_id = Some(event.span_id);
    event.span_id = span_of(&id, begin.unwrap_or(0), number);
    if let Some(trace) = &exchange.trace {
        event.trace_id = trace.trace_id;
        event.parent_span_id = trace.parent_span_id;
        event.trace_origin = TraceOrigin::Propagated;
    }
    event.request_id = exchange.request_id.clone();
    event.started_at = begin.map(|begin| maker.wall.at(begin));
    event.elapsed_ms = between_ms(begin, end(times));
    about(&mut event);
    // Who asked is known from the bytes even where it is not known who connected.
    event.role = Some(if is_client {
        FlowRole::Client
    } else {
        FlowRole::Server
    });
    let (to_server, to_client) = (exchange.bytes_to_server, exchange.bytes_to_client);
    let (sent, received) = if is_client {
        (to_server, to_client)
    } else {
        (to_client, to_server)
    };
    event.bytes_sent = Some(sent);
    event.bytes_received = Some(received);
    event.flags.insert(mark);
    if exchange.marks.partial {
        event.flags.insert(Flags::PARTIAL);
    }
    if exchange.marks.upper_bound {
        event.flags.insert(Flags::UPPER_BOUND);
    }
    event
}

fn body(exchange: &Exchange, tls: bool) -> Request {
    let times = &exchange.times;
    Request {
        protocol: Some(exchange.protocol.into()),
        method: exchange.method.clone(),
        route: exchange.route.clone(),
        status_code: exchange.status_code,
        ttfb_ms: between_ms(times.request_first, times.response_first),
        send_ms: between_ms(times.request_first, times.request_last),
        wait_ms: between_ms(times.request_last, times.response_first),
        receive_ms: between_ms(times.response_first, times.response_last),
        error: exchange.error.map(Into::into),
        tls: Some(tls),
    }
}

/// A request that failed, or was answered by a failure of the server, is an error; one that was refused a warning.
fn severity(exchange: &Exchange) -> Severity {
    match exchange.status_code {
        _ if exchange.error.is_some() => Severity::Error,
        Some(status) if status >= 500 => Severity::Error,
        Some(status) if status >= 400 => Severity::Warning,
        // The name does not exist.
        Some(3) if exchange.protocol == DNS => Severity::Warning,
        _ => Severity::Info,
    }
}

/// The last that is known to have passed, or when it was given up: a server may be done before it was sent everything.
fn end(times: &Times) -> Option<u64> {
    times
        .response_last
        .or(times.response_first)
        .max(times.request_last.or(times.request_first))
        .max(times.given_up)
}

/// `None` when one was not seen, or the second came first: a server may answer before it was sent everything.
fn between_ms(from: Option<u64>, to: Option<u64>) -> Option<f64> {
    let ns = to?.checked_sub(from?)?;
    Some(ns as f64 / 1e6)
}
