//! What one event tells of a destination.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use crate::event::{CloseReason, Event, FlowRole, FlowState, Nanos, Protocol};

/// What an event tells of a destination.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) host: Arc<str>,
    pub(super) service: Option<Arc<str>>,
    pub(super) peer: (IpAddr, u16),
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// A connection that was established.
    Connected {
        begin: Nanos,
        at: Nanos,
        ms: f64,
        syn_retransmits: u64,
        /// The connection, to count it once.
        id: u64,
        /// Whether it lives on.
        lives: bool,
        /// When it timed out, if it did.
        broken: Option<Nanos>,
    },
    /// One of which only the end was seen: it timed out.
    Broken { at: Nanos },
    /// A connect that failed.
    Failed { begin: Nanos, at: Nanos, how: How },
    /// A request.
    Request {
        at: Nanos,
        ms: Option<f64>,
        answered: bool,
        failed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    Refused,
    Unanswered,
    Otherwise,
}

/// What an event tells, if anything.
pub(super) fn fact(event: Event) -> Option<Fact> {
    if event.role != Some(FlowRole::Client) {
        return None;
    }
    let peer = event.peer_ip.zip(event.peer_port)?;
    let what = match (&event.flow, &event.request) {
        (Some(_), _) if event.protocol == Some(Protocol::Tcp) => flow(&event)?,
        (_, Some(request)) => What::Request {
            at: end(&event),
            ms: event.elapsed_ms,
            answered: request.status_code.is_some(),
            failed: request.error.is_some() || request.status_code.is_some_and(|status| status >= 500),
        },
        _ => return None,
    };
    Some(Fact {
        host: event.host,
        service: event.service,
        peer,
        what,
    })
}

fn flow(event: &Event) -> Option<What> {
    let flow = event.flow.as_ref()?;
    let broken = (flow.state == FlowState::Closed && flow.close_reason == Some(CloseReason::Timeout))
        .then(|| end(event));
    match (flow.state, event.started_at, flow.connect_ms) {
        // Not archived as a rule, and told by `open` or at the end in any case.
        (FlowState::Update, ..) => None,
        (FlowState::Failed, ..) => Some(What::Failed {
            begin: event.started_at.unwrap_or(event.ts),
            at: end(event),
            how: match flow.close_reason {
                Some(CloseReason::Refused) => How::Refused,
                Some(CloseReason::Timeout | CloseReason::Abandoned) => How::Unanswered,
                _ => How::Otherwise,
            },
        }),
        (state, Some(begin), Some(ms)) => {
            let mut hasher = DefaultHasher::new();
            (&event.connection_id, begin).hash(&mut hasher);
            Some(What::Connected {
                begin,
                at: after(begin, ms),
                ms,
                syn_retransmits: flow.syn_retransmits.unwrap_or(0),
                id: hasher.finish(),
                lives: state == FlowState::Open,
                broken,
            })
        }
        _ => broken.map(|at| What::Broken { at }),
    }
}

/// When what an event tells of ended.
pub(in crate::history) fn end(event: &Event) -> Nanos {
    match (event.started_at, event.elapsed_ms) {
        (Some(begin), Some(ms)) => after(begin, ms),
        _ => event.ts,
    }
}

/// So many milliseconds after.
pub(in crate::history) fn after(begin: Nanos, ms: f64) -> Nanos {
    Nanos(begin.0.saturating_add((ms * 1e6) as i64))
}
