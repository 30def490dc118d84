//! Records in an order, at a time or in a number that nobody likes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use netprobe_common::{
    AcceptRecord, FlowKey, FlowRecord, ForwardRecord, Header, HopRecord, Kind, Process, Role, Tuple, UdpKey,
    UdpRecord, WIRE_VERSION, flow_flags,
};

use super::*;
use crate::{
    decode::wire::{self, Wire},
    event::{CloseReason, FlowRole, NatStatus, Origin},
    flow::{clock::WallClock, delta::FlowDelta, translations::Translations},
    recent::Recent,
};

const SECOND: u64 = 1_000_000_000;
/// Connections of these tests begin then.
const BEGIN: u64 = 1000 * SECOND;

/// Counts connections told as established.
#[derive(Default)]
struct Counting(Mutex<u64>);

impl Observer for Counting {
    fn observe_flow(&self, delta: &FlowDelta<'_>) {
        *self.0.lock().expect("the lock") += u64::from(delta.established);
    }
    fn move_active(
        &self,
        _: Option<(Option<&str>, crate::event::FlowRole)>,
        _: Option<(Option<&str>, crate::event::FlowRole)>,
    ) {
    }
}

struct Bench {
    state: State,
    recent: Recent,
    observer: Arc<Counting>,
}

impl Bench {
    fn new(max_flows: usize) -> Bench {
        let origin = Origin::new("host", "boot", "0123456789abcdef");
        let recent = Recent::new(1000, usize::MAX);
        let mut fanout = Fanout::new(origin.clone());
        fanout.add(Box::new(recent.clone()));
        let maker = Maker {
            origin,
            wall: WallClock::new(),
            nat_method: Some("net_dev_queue"),
            accepts_seen: true,
        };
        let config = FlowConfig {
            max_flows,
            update_share: 1.0,
            ..FlowConfig::default()
        };
        let observer = Arc::new(Counting::default());
        let mut state = State::new(&config, maker, fanout, observer.clone());
        state.lost(0, 0, 0, BEGIN - SECOND);
        Bench {
            state,
            recent,
            observer,
        }
    }

    fn take(&mut self, record: impl Wire) {
        self.state.take(wire::bytes(&record));
    }

    /// Events of these states, in order.
    fn told(&self, states: &[FlowState]) -> Vec<Arc<Event>> {
        let mut events = self.recent.all().events;
        events.retain(|event| event.flow.as_ref().is_some_and(|f| states.contains(&f.state)));
        events.sort_by_key(|event| event.seq);
        events
    }

    fn finals(&self) -> Vec<Arc<Event>> {
        self.told(&[FlowState::Closed, FlowState::Failed])
    }

    /// NAT status of the one final event.
    fn status(&self) -> NatStatus {
        let finals = self.finals();
        assert_eq!(finals.len(), 1);
        finals[0].nat.as_ref().expect("a status").status
    }

    fn open_and_close(&mut self, cookie: u64) {
        self.take(flow(Kind::Established, Role::Client, cookie, BEGIN + 10));
        self.take(flow(Kind::Closed, Role::Client, cookie, BEGIN + 20));
    }
}

fn header<T>(kind: Kind, ts_ns: u64) -> Header {
    Header {
        version: WIRE_VERSION,
        kind: kind as u8,
        len: size_of::<T>() as u16,
        reserved: 0,
        ts_ns,
    }
}

fn address(last: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

fn key(role: Role) -> FlowKey {
    let (local_port, remote_port) = if role == Role::Server {
        (80, 1000)
    } else {
        (1000, 80)
    };
    FlowKey {
        local_addr: address(1),
        remote_addr: address(9),
        local_port,
        remote_port,
        netns: 1,
    }
}

/// A connection that began at [`BEGIN`] and was established 5 ns later.
fn flow(kind: Kind, role: Role, cookie: u64, ts_ns: u64) -> FlowRecord {
    FlowRecord {
        header: header::<FlowRecord>(kind, ts_ns),
        cookie,
        key: key(role),
        started_ns: BEGIN,
        established_ns: BEGIN + 5,
        closed_ns: if kind == Kind::Closed { ts_ns } else { 0 },
        last_state: 5,
        role: role as u8,
        ..FlowRecord::default()
    }
}

/// The end of what `record` says.
fn end(record: FlowRecord, closed_ns: u64) -> FlowRecord {
    FlowRecord {
        header: header::<FlowRecord>(Kind::Closed, closed_ns),
        closed_ns,
        ..record
    }
}

fn accept(cookie: u64, ts_ns: u64) -> AcceptRecord {
    AcceptRecord {
        header: header::<AcceptRecord>(Kind::Accept, ts_ns),
        cookie,
        process: Process {
            tgid: 4_000_000,
            tid: 4_000_000,
            comm: *b"acceptor\0\0\0\0\0\0\0\0",
            ..Process::default()
        },
    }
}

fn tuple(src: (u8, u16), dst: (u8, u16)) -> Tuple {
    Tuple {
        src: address(src.0),
        dst: address(dst.0),
        src_port: src.1,
        dst_port: dst.1,
    }
}

/// 1:1000 dials 9:80 and is sent to 2:8080.
fn hop(cookie: u64, ts_ns: u64) -> HopRecord {
    HopRecord {
        header: header::<HopRecord>(Kind::Hop, ts_ns),
        cookie,
        key: key(Role::Client),
        conntrack: 77,
        netns: 2,
        role: Role::Client as u8,
        original: tuple((1, 1000), (9, 80)),
        reply: tuple((2, 8080), (1, 1000)),
        ..HopRecord::default()
    }
}

fn forward(state: u8, ts_ns: u64) -> ForwardRecord {
    ForwardRecord {
        header: header::<ForwardRecord>(Kind::Forward, ts_ns),
        conntrack: 5,
        netns: 3,
        state,
        original: tuple((1, 1000), (9, 80)),
        reply: tuple((9, 80), (1, 1000)),
        ..ForwardRecord::default()
    }
}

#[test]
fn an_accept_before_established_is_kept_and_has_no_wait() {
    let mut bench = Bench::new(10);
    bench.take(accept(7, BEGIN + 3));
    bench.take(flow(Kind::Established, Role::Server, 7, BEGIN + 5));
    bench.take(flow(Kind::Closed, Role::Server, 7, BEGIN + 20));
    let finals = bench.finals();
    let process = finals[0].process.as_ref().expect("a process");
    assert_eq!(process.comm.as_deref(), Some("acceptor"));
    let body = finals[0].flow.as_ref().expect("a flow");
    assert_eq!(body.accept_wait_ms, Some(0.0));
    assert_eq!(body.close_reason, Some(CloseReason::Fin));
}

#[test]
fn who_is_accepted_serves_whether_or_not_its_begin_was_seen() {
    for accepted_first in [true, false] {
        let mut bench = Bench::new(10);
        let adopted = |kind, at| FlowRecord {
            flags: flow_flags::PARTIAL,
            ..flow(kind, Role::Unknown, 7, at)
        };
        if accepted_first {
            bench.take(accept(7, BEGIN + 3));
            bench.take(adopted(Kind::Sample, BEGIN + 5));
        } else {
            bench.take(adopted(Kind::Sample, BEGIN + 5));
            bench.take(accept(7, BEGIN + 6));
        }
        bench.take(adopted(Kind::Closed, BEGIN + 20));
        let finals = bench.finals();
        assert_eq!(finals[0].role, Some(FlowRole::Server));
        assert_eq!(finals[0].started_at, None);
    }
}

#[test]
fn a_record_that_cannot_be_read_is_among_the_losses() {
    let mut bench = Bench::new(10);
    let mut record = flow(Kind::Closed, Role::Client, 7, BEGIN + 5);
    record.established_ns = record.header.ts_ns + 1;
    bench.take(record);
    assert!(bench.finals().is_empty());
    let losses = bench.state.refused();
    let lost = losses.iter().find(|loss| loss.stage == "decode");
    assert_eq!(
        lost.map(|loss| (loss.reason.as_str(), loss.count)),
        Some(("impossible", 1))
    );
}

#[test]
fn waiting_accepts_are_bounded_and_counted() {
    let mut bench = Bench::new(10);
    for cookie in 0..MAX_PENDING_ACCEPTS as u64 + 3 {
        bench.take(accept(cookie + 1, BEGIN));
    }
    assert_eq!(bench.state.accepts.len(), MAX_PENDING_ACCEPTS);
    assert_eq!(bench.state.counters.accepts_expired, 3);
}

#[test]
fn a_full_table_loses_neither_acceptor_nor_translation() {
    let mut bench = Bench::new(1);
    bench.take(flow(Kind::Established, Role::Client, 1, BEGIN + 5));
    bench.take(hop(7, BEGIN + 2));
    bench.take(flow(Kind::Established, Role::Client, 7, BEGIN + 5));
    bench.take(flow(Kind::Sample, Role::Client, 7, BEGIN + 9));
    bench.take(flow(Kind::Closed, Role::Client, 7, BEGIN + 20));
    assert_eq!(bench.status(), NatStatus::Dnat);
    bench.take(flow(Kind::Established, Role::Server, 8, BEGIN + 5));
    bench.take(accept(8, BEGIN + 6));
    bench.take(flow(Kind::Closed, Role::Server, 8, BEGIN + 20));
    assert!(bench.finals()[1].process.is_some());
    assert_eq!(bench.state.counters.table_full, 2);
    let established = *bench.observer.0.lock().expect("the lock");
    assert_eq!(established, 3, "each is counted once");
}

#[test]
fn what_a_full_table_outlives_is_unresolved() {
    let mut bench = Bench::new(1);
    bench.take(flow(Kind::Established, Role::Client, 1, BEGIN + 5));
    bench.take(hop(7, BEGIN + 2));
    bench.take(flow(Kind::Established, Role::Client, 7, BEGIN + 5));
    bench.state.expire(BEGIN + 300 * SECOND);
    bench.take(flow(Kind::Closed, Role::Client, 7, BEGIN + 301 * SECOND));
    assert_eq!(bench.status(), NatStatus::Unresolved);
}

#[test]
fn an_accept_given_up_is_not_called_unaccepted() {
    let mut bench = Bench::new(1);
    bench.take(flow(Kind::Established, Role::Client, 1, BEGIN + 5));
    bench.take(flow(Kind::Established, Role::Server, 7, BEGIN + 5));
    bench.take(accept(7, BEGIN + 6));
    bench.state.expire(BEGIN + 100 * SECOND);
    bench.take(flow(Kind::Closed, Role::Server, 7, BEGIN + 101 * SECOND));
    let finals = bench.finals();
    let reason = finals[0].flow.as_ref().expect("a flow").close_reason;
    assert_eq!(reason, Some(CloseReason::Fin));
}

#[test]
fn without_loss_none_and_unaccepted_are_said() {
    let mut bench = Bench::new(10);
    bench.state.lost(0, 0, 0, BEGIN + SECOND);
    bench.open_and_close(7);
    assert_eq!(bench.status(), NatStatus::None);
    bench.take(flow(Kind::Established, Role::Server, 8, BEGIN + 5));
    bench.take(flow(Kind::Closed, Role::Server, 8, BEGIN + 20));
    let finals = bench.finals();
    let reason = finals[1].flow.as_ref().expect("a flow").close_reason;
    assert_eq!(reason, Some(CloseReason::Unaccepted));
}

#[test]
fn while_hops_or_accepts_are_lost_their_absence_says_nothing() {
    let mut bench = Bench::new(10);
    bench.state.lost(4, 1, 0, BEGIN + 8);
    bench.open_and_close(7);
    assert_eq!(bench.status(), NatStatus::Unresolved);
    // A hop that came is told.
    bench.take(hop(8, BEGIN + 2));
    bench.open_and_close(8);
    assert_eq!(
        bench.finals()[1].nat.as_ref().expect("a status").status,
        NatStatus::Dnat
    );
    bench.take(flow(Kind::Established, Role::Server, 9, BEGIN + 5));
    bench.take(flow(Kind::Closed, Role::Server, 9, BEGIN + 20));
    let finals = bench.finals();
    assert_eq!(
        finals[2].flow.as_ref().expect("a flow").close_reason,
        Some(CloseReason::Fin)
    );
    // Later connections are not in doubt.
    bench.state.lost(4, 1, 0, BEGIN + SECOND);
    let mut later = flow(Kind::Established, Role::Client, 10, BEGIN + 3 * SECOND);
    (later.started_ns, later.established_ns) = (BEGIN + 2 * SECOND, BEGIN + 3 * SECOND);
    bench.take(later);
    bench.take(end(later, BEGIN + 4 * SECOND));
    assert_eq!(
        bench.finals()[3].nat.as_ref().expect("a status").status,
        NatStatus::None
    );
}

#[test]
fn nobody_saw_the_handshake_of_an_older_connection() {
    let mut bench = Bench::new(10);
    let mut record = flow(Kind::Closed, Role::Unknown, 7, BEGIN + 20);
    (record.flags, record.established_ns) = (flow_flags::PARTIAL, 0);
    bench.take(record);
    assert_eq!(bench.status(), NatStatus::Unresolved);
}

#[test]
fn late_records_begin_nothing_anew() {
    let mut bench = Bench::new(10);
    bench.open_and_close(7);
    bench.take(flow(Kind::Sample, Role::Client, 7, BEGIN + 19));
    bench.take(flow(Kind::Established, Role::Client, 7, BEGIN + 10));
    bench.take(flow(Kind::Closed, Role::Client, 7, BEGIN + 20));
    assert_eq!(bench.finals().len(), 1);
    assert!(bench.state.table.is_empty());
    assert_eq!(bench.state.counters.late_records, 3);
}

#[test]
fn what_vanished_does_not_end_again() {
    let mut bench = Bench::new(10);
    bench.take(flow(Kind::Established, Role::Client, 7, BEGIN + 10));
    let listed = HashSet::from([1]);
    bench.state.reconcile(&HashMap::new(), &listed, BEGIN + SECOND);
    bench
        .state
        .reconcile(&HashMap::new(), &listed, BEGIN + 2 * SECOND);
    assert_eq!(bench.finals().len(), 1);
    bench.take(flow(Kind::Closed, Role::Client, 7, BEGIN + 3 * SECOND));
    assert_eq!(bench.finals().len(), 1);
}

#[test]
fn a_socket_that_connects_again_is_told_apart_by_its_begin() {
    let mut bench = Bench::new(10);
    let mut refused = flow(Kind::Closed, Role::Client, 7, BEGIN + 20);
    (refused.established_ns, refused.last_state, refused.error) = (0, 2, 111);
    bench.take(refused);
    let mut again = flow(Kind::Established, Role::Client, 7, BEGIN + 40);
    (again.started_ns, again.established_ns) = (BEGIN + 30, BEGIN + 40);
    bench.take(again);
    bench.take(end(again, BEGIN + 50));
    let finals = bench.finals();
    assert_eq!(finals.len(), 2);
    assert_eq!(finals[0].connection_id, finals[1].connection_id);
    assert_ne!(finals[0].started_at, finals[1].started_at);
}

#[test]
fn a_timer_belongs_to_one_life() {
    let mut bench = Bench::new(10);
    bench.open_and_close(7);
    let mut again = flow(Kind::Established, Role::Client, 7, BEGIN + 40);
    (again.started_ns, again.established_ns) = (BEGIN + 30, BEGIN + 40);
    bench.take(again);
    for (state, at) in [(1, 1), (8, 8), (1, 9)] {
        bench.take(forward(state, BEGIN + at));
    }
    for tenth in 0..115 {
        bench.state.tick(BEGIN + SECOND + tenth * SECOND / 10);
    }
    let told = bench.told(&[FlowState::Open, FlowState::Update]);
    assert_eq!(told.len(), 4, "open and one update of each: {told:?}");
}

#[test]
fn a_forwarded_connection_vanishes_after_two_lists_without_it() {
    let mut bench = Bench::new(10);
    bench.take(forward(1, BEGIN));
    let mut list = Translations::default();
    list.listed.insert(3);
    bench.state.reconcile_forwards(&list, BEGIN + SECOND);
    assert!(bench.finals().is_empty());
    bench.state.reconcile_forwards(&list, BEGIN + 2 * SECOND);
    let finals = bench.finals();
    let reason = finals[0].flow.as_ref().expect("a flow").close_reason;
    assert_eq!(reason, Some(CloseReason::Vanished));
}

#[test]
fn udp_flows_are_bounded_and_counted() {
    let mut bench = Bench::new(10);
    for cookie in 1..=udp::MAX_FLOWS as u64 + 2 {
        bench.take(UdpRecord {
            header: header::<UdpRecord>(Kind::Udp, BEGIN),
            udp: UdpKey {
                cookie,
                ..UdpKey::default()
            },
            ..UdpRecord::default()
        });
    }
    assert_eq!(bench.state.udp.live.len(), udp::MAX_FLOWS);
    assert_eq!(bench.state.udp.refused, 2);
}

#[test]
fn losses_are_known_by_their_time() {
    const AT: [u64; 6] = [10, 20, 30, 40, 50, 60];
    let mut losses = Losses::default();
    for (at, count) in AT.into_iter().zip([0, 3, 5, 5, 5, 6]) {
        losses.read(count, at * SECOND);
    }
    let between = |from: u64, to: u64| losses.between(from * SECOND, to * SECOND);
    assert!(!between(0, 9) && !between(31, 49) && !between(61, 99));
    assert!(between(0, 10) && between(25, 26) && between(45, 55) && between(5, 90));
    losses.forget(35 * SECOND);
    assert!(!losses.between(0, 30 * SECOND) && losses.between(0, 50 * SECOND));
}
