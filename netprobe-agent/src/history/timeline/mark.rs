//! What an event tells about how something went.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use super::cause::{Cause, Class};
use crate::{
    event::{
        AgentAction, CloseReason, Event, Flow, FlowRole, FlowState, Nanos, Protocol, Request, Severity,
        retransmit_burst,
    },
    history::sla::{after, end},
};

/// Wait in the accept queue from which on it is one.
const LONG_WAIT_MS: f64 = 1000.0;

/// Who did what with whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who {
    pub(super) host: Arc<str>,
    pub(super) service: Option<Arc<str>>,
    pub(super) role: FlowRole,
    /// Client: what it dialed; server: where it listens.
    pub(super) place: (IpAddr, u16),
}

#[derive(Clone, Debug)]
pub(super) enum Mark {
    /// Of a connection or a request.
    Of {
        who: Who,
        /// The connection; told of twice when it lived for long.
        id: u64,
        lives: bool,
        tells: Vec<(Nanos, Tell)>,
    },
    /// Of the agent.
    Agent {
        host: Arc<str>,
        at: Nanos,
        action: AgentAction,
        message: Option<String>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Tell {
    Good(Class),
    Bad(Cause),
    /// A request that went well, with the time to its first byte.
    Answered(f64),
}

/// What an event tells, if anything.
pub(super) fn mark(event: Event) -> Option<Mark> {
    if let Some(agent) = &event.agent {
        // What it says of itself in order is no news.
        let is_news = agent.action != AgentAction::Notice || event.severity >= Severity::Warning;
        return is_news.then(|| Mark::Agent {
            host: event.host.clone(),
            at: event.ts,
            action: agent.action,
            message: agent.message.as_deref().map(str::to_owned),
        });
    }
    let (role, place) = match event.role? {
        role @ FlowRole::Client => (role, event.peer_ip.zip(event.peer_port)?),
        role @ FlowRole::Server => (role, event.internal_ip.zip(event.internal_port)?),
        FlowRole::Forwarded => return None,
    };
    let (lives, tells) = match (&event.flow, &event.request) {
        (Some(flow), _) if event.protocol == Some(Protocol::Tcp) => {
            (flow.state == FlowState::Open, of_flow(&event, flow))
        }
        (_, Some(request)) => (false, vec![(end(&event), of_request(request))]),
        _ => return None,
    };
    if tells.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (&event.connection_id, event.started_at).hash(&mut hasher);
    Some(Mark::Of {
        who: Who {
            host: event.host,
            service: event.service,
            role,
            place,
        },
        id: hasher.finish(),
        lives,
        tells,
    })
}

fn of_flow(event: &Event, flow: &Flow) -> Vec<(Nanos, Tell)> {
    let mut tells = Vec::new();
    if flow.state == FlowState::Update {
        return tells;
    }
    let over = end(event);
    if flow.state == FlowState::Failed {
        let cause = match flow.close_reason {
            Some(CloseReason::Refused) => Cause::Refused,
            Some(CloseReason::Unreachable) => Cause::Unreachable,
            Some(CloseReason::Timeout | CloseReason::Abandoned) => Cause::Unanswered,
            _ => Cause::ConnectFailed,
        };
        // A connect that hung was in trouble from its begin on.
        let at = event.started_at.filter(|_| cause == Cause::Unanswered);
        tells.push((at.unwrap_or(over), Tell::Bad(cause)));
        return tells;
    }
    if let Some(begin) = event.started_at {
        let waited = flow.accept_wait_ms.is_some_and(|ms| ms >= LONG_WAIT_MS);
        let tell = match flow.syn_retransmits {
            _ if waited || flow.close_reason == Some(CloseReason::Unaccepted) => {
                Tell::Bad(Cause::AcceptQueue)
            }
            Some(1..) => Tell::Bad(Cause::SynLoss),
            _ => Tell::Good(Class::Connect),
        };
        let at = match tell {
            Tell::Bad(_) => begin,
            _ => after(begin, flow.connect_ms.unwrap_or(0.0)),
        };
        tells.push((at, tell));
    }
    if flow.state == FlowState::Closed {
        let tell = match flow.close_reason {
            Some(CloseReason::Timeout) => Tell::Bad(Cause::TimedOut),
            Some(CloseReason::ResetRemote) => Tell::Bad(Cause::ResetByPeer),
            Some(CloseReason::ResetLocal) if event.severity >= Severity::Error => Tell::Bad(Cause::ResetHere),
            _ if retransmit_burst(flow) => Tell::Bad(Cause::Retransmits),
            _ => Tell::Good(Class::End),
        };
        tells.push((over, tell));
    }
    tells
}

fn of_request(request: &Request) -> Tell {
    match (&request.error, request.status_code) {
        // Of DNS an answer that says no is an answer.
        (Some(_), Some(status)) if status < 500 => Tell::Bad(Cause::ServerError),
        (_, Some(500..)) => Tell::Bad(Cause::ServerError),
        (Some(_), _) | (None, None) => Tell::Bad(Cause::NotAnswered),
        _ => request.ttfb_ms.map_or(Tell::Good(Class::Request), Tell::Answered),
    }
}
