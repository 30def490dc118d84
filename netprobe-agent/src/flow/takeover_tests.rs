//! A list of older connections that comes late, and what records said meanwhile.

use std::sync::Arc;

use netprobe_common::{FlowRecord, Header, Kind, TcpCounters, Tuple, WIRE_VERSION};

use super::*;
use crate::{
    config::FlowConfig,
    decode::wire,
    event::{Event, FlowState, Origin},
    fanout::Fanout,
    flow::{
        clock::WallClock,
        delta::{FlowDelta, Observer},
        events::Maker,
        live::{Live, Totals},
        state::State,
    },
    recent::Recent,
};

/// Nobody counts.
struct Nobody;

impl Observer for Nobody {
    fn observe_flow(&self, _: &FlowDelta<'_>) {}
    fn move_active(
        &self,
        _: Option<(Option<&str>, crate::event::FlowRole)>,
        _: Option<(Option<&str>, crate::event::FlowRole)>,
    ) {
    }
}

fn state(max_flows: usize) -> (State, Recent) {
    let origin = Origin::new("host", "boot", "0123456789abcdef");
    let recent = Recent::new(100, usize::MAX);
    let mut fanout = Fanout::new(origin.clone());
    fanout.add(Box::new(recent.clone()));
    let maker = Maker {
        origin,
        wall: WallClock::new(),
        nat_method: None,
        accepts_seen: true,
    };
    let config = FlowConfig {
        max_flows,
        ..FlowConfig::default()
    };
    let mut state = State::new(&config, maker, fanout, Arc::new(Nobody));
    state.begin_takeover();
    (state, recent)
}

fn record(kind: Kind, cookie: u64, flags: u32, sent: u64) -> FlowRecord {
    FlowRecord {
        header: Header {
            version: WIRE_VERSION,
            kind: kind as u8,
            len: size_of::<FlowRecord>() as u16,
            reserved: 0,
            ts_ns: 1000 + sent,
        },
        cookie,
        started_ns: 500,
        tcp: TcpCounters {
            bytes_sent: sent,
            ..TcpCounters::default()
        },
        flags,
        last_state: 1,
        ..FlowRecord::default()
    }
}

fn take(state: &mut State, kind: Kind, cookie: u64, flags: u32, sent: u64) {
    state.take(wire::bytes(&record(kind, cookie, flags, sent)));
}

/// As the list has it: a client that had sent so much.
fn listed(cookie: u64, sent: u64) -> Live {
    let mut live = Live::new(&FlowRecord {
        cookie,
        started_ns: 900,
        ..FlowRecord::default()
    });
    live.role = netprobe_common::Role::Client;
    live.totals = Totals {
        sent,
        ..Totals::default()
    };
    live.base = Some(Box::new(live.totals));
    live
}

fn finals(recent: &Recent) -> Vec<Arc<Event>> {
    let mut events = recent.all().events;
    events.retain(|event| event.flow.as_ref().is_some_and(|f| f.state == FlowState::Closed));
    events
}

/// conntrack's states, with the one of `forward`.
const ESTABLISHED: u8 = 3;
const TIME_WAIT: u8 = 7;

/// A record of the forwarded connection from `port`.
fn forward(state: u8, port: u16, bytes: u64) -> ForwardRecord {
    ForwardRecord {
        header: Header {
            version: WIRE_VERSION,
            kind: Kind::Forward as u8,
            len: size_of::<ForwardRecord>() as u16,
            reserved: 0,
            ts_ns: 1000,
        },
        conntrack: 5,
        netns: 1,
        state,
        original: Tuple {
            src_port: port,
            dst_port: 2,
            ..Tuple::default()
        },
        accounted: 1,
        bytes: [bytes; 2],
        ..ForwardRecord::default()
    }
}

#[test]
fn an_older_connection_that_ends_meanwhile_is_charged_by_the_list() {
    let (mut state, recent) = state(10);
    take(&mut state, Kind::Sample, 7, flow_flags::PARTIAL, 150);
    take(&mut state, Kind::Closed, 7, flow_flags::PARTIAL, 180);
    assert!(finals(&recent).is_empty(), "it waits for the list");
    state.baseline(listed(7, 100));
    state.finish_takeover();
    let finals = finals(&recent);
    assert_eq!(finals.len(), 1);
    assert_eq!(finals[0].bytes_sent, Some(80));
    assert_eq!(finals[0].role, Some(crate::event::FlowRole::Client));
    assert!(state.table.is_empty());
}

#[test]
fn a_list_brings_nothing_back_that_ended_and_changes_nothing_seen_since() {
    let (mut state, recent) = state(10);
    take(&mut state, Kind::Established, 7, 0, 0);
    take(&mut state, Kind::Closed, 7, 0, 50);
    take(&mut state, Kind::Established, 8, 0, 0);
    take(&mut state, Kind::Sample, 8, 0, 60);
    assert_eq!(finals(&recent).len(), 1, "a new connection does not wait");
    for cookie in [7, 8, 9] {
        state.baseline(listed(cookie, 40));
    }
    state.finish_takeover();
    assert!(!state.table.contains_key(&7));
    assert_eq!(state.table[&8].charged().sent, 60);
    assert_eq!(state.table[&9].charged().sent, 0);
}

#[test]
fn a_socket_that_connects_again_meanwhile_ends_its_older_connection_first() {
    let (mut state, recent) = state(10);
    take(&mut state, Kind::Closed, 7, flow_flags::PARTIAL, 180);
    take(&mut state, Kind::Established, 7, 0, 0);
    assert_eq!(finals(&recent).len(), 1);
    state.baseline(listed(7, 100));
    state.finish_takeover();
    assert_eq!(finals(&recent).len(), 1);
    assert!(state.table[&7].base.is_none(), "the new one, not the listed one");
}

#[test]
fn without_room_to_remember_what_ended_the_list_is_not_believed() {
    let (mut state, _) = state(2);
    take(&mut state, Kind::Sample, 1, flow_flags::PARTIAL, 10);
    for cookie in 10..20 {
        take(&mut state, Kind::Established, cookie, 0, 0);
        take(&mut state, Kind::Closed, cookie, 0, 0);
    }
    for cookie in [1, 10, 19, 30] {
        state.baseline(listed(cookie, 5));
    }
    state.finish_takeover();
    assert_eq!(
        state.table.keys().collect::<Vec<_>>(),
        [&1],
        "only what was heard of lives for sure"
    );
}

#[test]
fn without_a_list_what_waited_is_told_all_the_same() {
    let (mut state, recent) = state(1);
    take(&mut state, Kind::Closed, 1, flow_flags::PARTIAL, 10);
    take(&mut state, Kind::Closed, 2, flow_flags::PARTIAL, 10);
    assert_eq!(
        finals(&recent).len(),
        1,
        "one waits, there is no room for the other"
    );
    state.finish_takeover();
    assert_eq!(finals(&recent).len(), 2);
}

#[test]
fn an_older_forwarded_connection_that_ends_meanwhile_is_charged_by_the_list() {
    let (mut state, recent) = state(10);
    state.take(wire::bytes(&forward(TIME_WAIT, 1, 150)));
    assert!(finals(&recent).is_empty(), "it waits for the list");
    state.older_forward(&forward(ESTABLISHED, 1, 100));
    state.finish_takeover();
    // Its addresses again, in a connection the list does not know.
    state.take(wire::bytes(&forward(forward::SYN_SENT, 1, 0)));
    let finals = finals(&recent);
    assert_eq!(finals.len(), 1);
    assert_eq!(finals[0].bytes_sent, Some(50));
    assert_eq!(state.forwards.len(), 1);
}

#[test]
fn without_room_to_remember_which_forwarded_ones_ended_the_list_is_not_believed() {
    const MINUTE_NS: u64 = 60_000_000_000;
    let (mut state, recent) = state(2);
    let through = |state: &mut State, port| {
        state.take(wire::bytes(&forward(forward::SYN_SENT, port, 0)));
        state.take(wire::bytes(&forward(TIME_WAIT, port, 10)));
    };
    for port in [1, 2] {
        through(&mut state, port);
    }
    // However long ago: the list to come may have them.
    state.expire(MINUTE_NS);
    assert_eq!(state.counters.forward_ends_forgotten, 0);
    state.older_forward(&forward(ESTABLISHED, 1, 5));
    assert!(state.forwards.is_empty(), "it is known to have ended");
    for port in 3..=5 {
        through(&mut state, port);
    }
    state.expire(2000);
    assert_eq!(state.counters.forward_ends_forgotten, 0, "packets may meet them");
    state.expire(MINUTE_NS);
    assert_eq!(state.counters.forward_ends_forgotten, 3);
    for port in [1, 5, 9] {
        state.older_forward(&forward(ESTABLISHED, port, 5));
    }
    state.finish_takeover();
    assert!(state.forwards.is_empty(), "which of them live is not known");
    assert_eq!(finals(&recent).len(), 5);
    // Lists that come later are begun with everything known.
    state.older_forward(&forward(ESTABLISHED, 9, 5));
    assert_eq!(state.forwards.len(), 1);
    state.expire(MINUTE_NS);
    assert_eq!(
        state.counters.forward_ends_forgotten, 3,
        "nothing is kept for a list any more"
    );
}

#[test]
fn a_record_older_than_the_last_list_takes_nothing_back() {
    let (mut state, _) = state(10);
    state.finish_takeover();
    take(&mut state, Kind::Established, 7, 0, 0);
    let live = state.table.get_mut(&7).expect("it lives");
    // What the list at the end does.
    live.totals.sent = 100;
    let delta = live.update(&record(Kind::Sample, 7, 0, 60));
    assert_eq!((delta.sent, live.totals.sent), (0, 100));
}
