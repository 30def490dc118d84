use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::event::{Severity, fixture};

/// What a scripted sink saw and holds.
#[derive(Default)]
struct State {
    seen: Vec<Arc<Event>>,
    script: VecDeque<Outcome>,
    room: bool,
    settled: Settled,
    /// A count the sink forgets: what the equation is there to find.
    forgets: bool,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<State>>);

impl Sink for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn consume(&mut self, event: &Arc<Event>) -> Outcome {
        let mut state = self.0.lock().unwrap();
        state.seen.push(event.clone());
        let outcome = state.script.pop_front().unwrap_or(Outcome::Delivered);
        if outcome == Outcome::Queued && !state.forgets {
            state.settled.queued += 1;
        }
        outcome
    }

    fn has_room(&self) -> bool {
        self.0.lock().unwrap().room
    }

    fn settled(&self) -> Settled {
        self.0.lock().unwrap().settled.clone()
    }
}

impl Scripted {
    fn with(script: impl IntoIterator<Item = Outcome>) -> Scripted {
        let sink = Scripted::default();
        sink.0.lock().unwrap().script = script.into_iter().collect();
        sink
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn gaps(&self) -> Vec<Gap> {
        let state = self.0.lock().unwrap();
        state
            .seen
            .iter()
            .filter_map(|event| event.gap.as_deref().cloned())
            .collect()
    }
}

fn fanout(sinks: &[&Scripted]) -> Fanout {
    let mut time = 0;
    let clock = move || {
        time += 1;
        Nanos(time)
    };
    let mut fanout = Fanout::with_clock(fixture::origin(), Box::new(clock));
    for sink in sinks {
        fanout.add(Box::new((*sink).clone()));
    }
    fanout
}

fn event() -> Event {
    Event::new(&fixture::origin(), EventKind::Agent, Severity::Info)
}

fn gap(reason: &'static str, count: u64, from: Option<u64>, to: u64) -> Gap {
    Gap {
        stage: "scripted".into(),
        reason: reason.into(),
        count: Some(count),
        from_seq: from,
        to_seq: Some(to),
        scope: GapScope::Agent,
    }
}

#[test]
fn no_event_begins_after_it_is_told() {
    let mut fanout = fanout(&[]);
    let mut made_before_the_clock_was_set_back = event();
    made_before_the_clock_was_set_back.started_at = Some(Nanos(5_000_000_000));
    made_before_the_clock_was_set_back.elapsed_ms = Some(2.0);
    let told = fanout.emit(made_before_the_clock_was_set_back);
    assert_eq!((told.ts, told.started_at), (Nanos(1), Some(Nanos(1 - 2_000_000))));
    let mut right = event();
    right.started_at = Some(Nanos(2));
    assert_eq!(fanout.emit(right).started_at, Some(Nanos(2)));
}

#[test]
fn numbers_and_stamps_without_holes() {
    let (one, two) = (
        Scripted::default(),
        Scripted::with([Outcome::Suppressed("filter")]),
    );
    let mut fanout = fanout(&[&one, &two]);
    for _ in 0..3 {
        fanout.emit(event());
    }
    for sink in [&one, &two] {
        let state = sink.0.lock().unwrap();
        let stamps: Vec<_> = state.seen.iter().map(|event| (event.seq, event.ts)).collect();
        assert_eq!(
            stamps,
            [(Some(1), Nanos(1)), (Some(2), Nanos(2)), (Some(3), Nanos(3))]
        );
    }
    assert_eq!((fanout.next_seq(), fanout.emitted(EventKind::Agent)), (4, 3));
    let ledger = fanout.ledger();
    assert_eq!((ledger[0].delivered, ledger[1].delivered), (3, 2));
    assert_eq!(ledger[1].suppressed["filter"], 1);
    assert_eq!(fanout.check(), Ok(()));
}

#[test]
fn losses_merge_into_one_gap_when_there_is_room() {
    let (sink, other) = (
        Scripted::with([
            Outcome::Delivered,
            Outcome::Lost("full"),
            Outcome::Lost("full"),
            Outcome::Lost("bad"),
        ]),
        Scripted::default(),
    );
    let mut fanout = fanout(&[&sink, &other]);
    for _ in 0..4 {
        fanout.emit(event());
    }
    fanout.tick();
    assert_eq!(sink.gaps(), []);
    sink.set(|state| state.room = true);
    fanout.emit(event());
    // Gaps go before the event that found room, and to every sink.
    for sink in [&sink, &other] {
        assert_eq!(
            sink.gaps(),
            [gap("bad", 1, Some(4), 4), gap("full", 2, Some(2), 3)]
        );
        assert_eq!(sink.0.lock().unwrap().seen.last().unwrap().kind, EventKind::Agent);
    }
    fanout.tick();
    assert_eq!(fanout.emitted(EventKind::Gap), 2);
    assert_eq!(fanout.check(), Ok(()));
}

#[test]
fn a_lost_gap_is_a_loss_of_its_own() {
    let sink = Scripted::with([Outcome::Lost("full"), Outcome::Lost("full")]);
    sink.set(|state| state.room = true);
    let mut fanout = fanout(&[&sink]);
    fanout.emit(event());
    fanout.tick();
    fanout.tick();
    assert_eq!(
        sink.gaps(),
        [gap("full", 1, Some(1), 1), gap("full", 1, Some(2), 2)]
    );
    assert_eq!(fanout.check(), Ok(()));
}

#[test]
fn late_losses_become_gaps_once() {
    let sink = Scripted::with([Outcome::Queued, Outcome::Queued]);
    sink.set(|state| state.room = true);
    let mut fanout = fanout(&[&sink]);
    fanout.emit(event());
    fanout.emit(event());
    sink.set(|state| {
        state.settled.queued = 0;
        state.settled.delivered = 1;
        state.settled.lost.insert("write_failed", 1);
    });
    fanout.tick();
    fanout.tick();
    assert_eq!(sink.gaps(), [gap("write_failed", 1, None, 2)]);
    assert_eq!(fanout.check(), Ok(()));
}

#[test]
fn losses_without_room_are_told_at_shutdown() {
    let (sink, other) = (Scripted::with([Outcome::Lost("full")]), Scripted::default());
    let mut fanout = fanout(&[&sink, &other]);
    fanout.emit(event());
    fanout.shutdown(Duration::from_secs(1));
    assert_eq!(other.gaps(), [gap("full", 1, Some(1), 1)]);
}

/// Takes all the time there is to end, and keeps how much of it was left at first.
struct Slow(Arc<Mutex<Vec<Duration>>>);

impl Sink for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn consume(&mut self, _: &Arc<Event>) -> Outcome {
        Outcome::Delivered
    }

    fn shutdown(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        self.0.lock().unwrap().push(left);
        std::thread::sleep(left);
    }
}

#[test]
fn a_sink_that_is_stuck_takes_no_time_from_the_others() {
    let had = Arc::new(Mutex::new(Vec::new()));
    let mut fanout = fanout(&[]);
    fanout.add(Box::new(Slow(had.clone())));
    fanout.add(Box::new(Slow(had.clone())));
    fanout.shutdown(Duration::from_millis(200));
    let had = had.lock().unwrap();
    assert_eq!(had.len(), 2);
    assert!(had.iter().all(|left| !left.is_zero()), "{had:?}");
}

#[test]
fn a_sink_that_forgets_is_found() {
    let sink = Scripted::with([Outcome::Delivered, Outcome::Queued]);
    sink.set(|state| state.forgets = true);
    let mut fanout = fanout(&[&sink]);
    fanout.emit(event());
    assert_eq!(fanout.check(), Ok(()));
    fanout.emit(event());
    let open = fanout.check().unwrap_err();
    assert_eq!(
        (open[0].sink.as_str(), open[0].difference, open[0].closes),
        ("scripted", 1, false)
    );
}

proptest! {
    #[test]
    fn the_equation_closes_whatever_a_sink_answers(
        script in prop::collection::vec(
            prop_oneof![
                Just(Outcome::Delivered),
                Just(Outcome::Queued),
                Just(Outcome::Lost("full")),
                Just(Outcome::Suppressed("filter")),
            ],
            0..200,
        ),
        rooms in prop::collection::vec(any::<bool>(), 100),
    ) {
        let sink = Scripted::with(script);
        let mut fanout = fanout(&[&sink]);
        for room in rooms {
            sink.set(|state| state.room = room);
            fanout.emit(event());
            fanout.tick();
            prop_assert_eq!(fanout.check(), Ok(()));
        }
        let state = sink.0.lock().unwrap();
        // Every number once, in order, and every loss told of or still pending.
        for (index, event) in state.seen.iter().enumerate() {
            prop_assert_eq!(event.seq, Some(index as u64 + 1));
        }
        prop_assert_eq!(fanout.next_seq(), state.seen.len() as u64 + 1);
    }
}
