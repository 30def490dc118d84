//! Reports on archives whose truth is known.

use std::time::Duration;

use super::{
    sla::{self, Destination, Question, Report},
    testing::{Host, at, store},
};
use crate::{
    archive::store::Store,
    event::{AgentAction, CloseReason, Flow, FlowState},
    filter::Filter,
};

const DB: &str = "10.0.0.5:5432";

async fn ask(store: &Store, question: Question) -> Report {
    sla::report(store, &question, |_| {}).await.unwrap()
}

fn question(since: f64, until: f64) -> Question {
    Question::new(at(since), at(until), None, Filter::default(), false).unwrap()
}

fn of<'a>(report: &'a Report, name: &str) -> &'a Destination {
    let found = report.destinations.iter().find(|of| of.destination == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:?}"))
}

/// Up, down, silence, loss, few.
fn seconds(of: &Destination, period: usize) -> [u64; 5] {
    let period = &of.periods[period];
    let unknown = period.unknown;
    [
        period.up_seconds,
        period.down_seconds,
        unknown.silence_seconds,
        unknown.loss_seconds,
        unknown.few_seconds,
    ]
}

/// A host that dials every second but between two moments, when it is refused.
fn dials(host: &mut Host, (from, to): (u32, u32), refused: std::ops::Range<u32>) {
    for second in from..to {
        let second = f64::from(second) + 0.5;
        if refused.contains(&(second as u32)) {
            host.failed(second, 0.1, DB, CloseReason::Refused);
        } else {
            host.served(second, DB);
        }
    }
}

#[tokio::test]
async fn an_outage_is_told_to_the_slot_and_to_the_moment() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    dials(&mut host, (0, 600), 200..300);
    host.seal().await;
    let report = ask(&store, question(0.0, 600.0)).await;
    let db = of(&report, DB);
    assert_eq!(seconds(db, 0), [500, 100, 0, 0, 0]);
    let period = &db.periods[0];
    assert_eq!(period.uptime, Some(500.0 / 600.0));
    assert_eq!((period.connects, period.failures.refused), (500, 100));
    let p95 = period.connect_p95_ms.unwrap();
    assert!((2.0..2.02).contains(&p95), "{p95}");
    let outage = &db.outages[0];
    assert_eq!((outage.from, outage.to), (at(200.0), at(300.0)));
    assert_eq!(
        (outage.first_failure, outage.last_failure, outage.recovered_at),
        (at(200.5001), at(299.5001), Some(at(300.502)))
    );
    assert_eq!(db.services.iter().collect::<Vec<_>>(), ["shop.service"]);
    // The half of it, in periods.
    let halves = Question::new(
        at(0.0),
        at(600.0),
        Some(Duration::from_secs(300)),
        Filter::default(),
        false,
    );
    let report = ask(&store, halves.unwrap()).await;
    let db = of(&report, DB);
    assert_eq!(
        (seconds(db, 0), seconds(db, 1)),
        ([200, 100, 0, 0, 0], [300, 0, 0, 0, 0])
    );
}

#[tokio::test]
async fn moments_of_an_outage_reach_into_the_slots_beside_it() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    // Each edge leaves a slot that was good for the larger part.
    dials(&mut host, (0, 100), 28..62);
    host.seal().await;
    let report = ask(&store, question(0.0, 100.0)).await;
    let outage = &of(&report, DB).outages[0];
    assert_eq!((outage.from, outage.to), (at(30.0), at(60.0)));
    assert_eq!(
        (outage.first_failure, outage.last_failure, outage.recovered_at),
        (at(28.5001), at(61.5001), Some(at(62.502)))
    );
    // A SYN lost in the slot before, and successes after it: it was up in between.
    let store = store_of_a_lost_syn().await;
    let report = ask(&store, question(0.0, 100.0)).await;
    let outage = &of(&report, DB).outages[0];
    assert_eq!((outage.from, outage.first_failure), (at(30.0), at(34.5001)));
}

async fn store_of_a_lost_syn() -> Store {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    dials(&mut host, (0, 29), 0..0);
    let mut flow = Flow::new(FlowState::Closed);
    (flow.connect_ms, flow.syn_retransmits) = (Some(1000.0), Some(1));
    let event = host.flow(29.8, 1005.0, DB, flow);
    host.tell(30.81, event);
    dials(&mut host, (33, 100), 34..60);
    host.seal().await;
    store
}

#[tokio::test]
async fn silence_is_not_up_and_a_loss_is_neither() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    dials(&mut host, (0, 100), 0..0);
    host.gap(45.0, "kernel", "ring_full", None);
    // What other sinks lost, and payload, hide no connection.
    host.gap(65.0, "output", "queue_full", Some(3));
    host.gap(75.0, "kernel", "payload_ring_full", None);
    dials(&mut host, (300, 400), 0..0);
    host.seal().await;
    let report = ask(&store, question(0.0, 400.0)).await;
    // Told at 45, lost since 43: slot 4.
    assert_eq!(seconds(of(&report, DB), 0), [190, 0, 200, 10, 0]);
    let reasons: Vec<_> = report.sources.hosts[0]
        .losses
        .iter()
        .map(|loss| &*loss.reason)
        .collect();
    assert_eq!(reasons, ["ring_full", "payload_ring_full"]);
}

#[tokio::test]
async fn a_gap_with_numbers_reaches_back_to_them() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    dials(&mut host, (0, 100), 0..0);
    // Of the event told at 30.505 on, and told a minute later.
    let lost = host.next() - 70;
    host.gap(99.9, "archive", "queue_full", Some(lost));
    host.seal().await;
    let report = ask(&store, question(0.0, 100.0)).await;
    assert_eq!(seconds(of(&report, DB), 0), [20, 0, 0, 80, 0]);
}

#[tokio::test]
async fn a_host_that_was_not_watched_says_nothing() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 2);
    dials(&mut host, (0, 100), 0..0);
    host.agent(101.0, AgentAction::Stop);
    host.seal().await;
    // Names of runs do not sort by time.
    host.restart(1);
    host.agent(115.0, AgentAction::Start);
    host.gap(115.1, "agent", "unclean_stop", None);
    dials(&mut host, (116, 200), 0..0);
    host.seal().await;
    let report = ask(&store, question(0.0, 200.0)).await;
    assert_eq!(seconds(of(&report, DB), 0), [180, 0, 0, 20, 0]);
    assert_eq!(report.sources.hosts[0].runs, 2);
}

#[tokio::test]
async fn a_segment_that_is_missing_or_damaged_is_a_loss() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    let mut stems = Vec::new();
    for begin in [0, 100, 200, 300] {
        dials(&mut host, (begin, begin + 100), 0..0);
        if begin == 100 {
            host.lose_segment();
        } else {
            stems.push(host.seal().await);
        }
    }
    // Another host saw it all the same.
    let mut other = Host::new(&store, "web-2", 9);
    dials(&mut other, (300, 400), 0..0);
    other.seal().await;
    let inner = object_store::memory::InMemory::new();
    let broken = Store::over(std::sync::Arc::new(inner), false);
    copy(&store, &broken, &format!("{}.jsonl.zst", stems[2])).await;
    let report = ask(&broken, question(0.0, 400.0)).await;
    let [up, down, silence, loss, few] = seconds(of(&report, DB), 0);
    assert_eq!((up, down, silence, loss, few), (280, 0, 0, 120, 0), "{report:#?}");
    assert_eq!(report.sources.damaged.len(), 1);
    let by_host = Question::new(at(0.0), at(400.0), None, Filter::default(), true).unwrap();
    let report = ask(&broken, by_host).await;
    let told: Vec<_> = report
        .destinations
        .iter()
        .map(|of| (of.host.as_deref(), seconds(of, 0)))
        .collect();
    assert_eq!(
        told,
        [
            (Some("web-1"), [180, 0, 0, 220, 0]),
            (Some("web-2"), [100, 0, 300, 0, 0])
        ]
    );
}

/// Copies an archive, with a bit of one object flipped.
async fn copy(from: &Store, to: &Store, damaged: &str) {
    let entries = crate::archive::read::entries(from, &Default::default())
        .await
        .unwrap();
    for entry in entries {
        for key in [entry.object_key(), entry.manifest_key()] {
            let mut bytes = from.get(&key).await.unwrap().unwrap().to_vec();
            if key == damaged {
                bytes[40] ^= 1;
            }
            to.put(&key, bytes.into()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_connect_that_hangs_is_down_for_as_long() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    host.served(5.0, DB);
    host.failed(20.0, 127_000.0, DB, CloseReason::Timeout);
    // One that hung, too, and was answered in the end.
    let mut flow = Flow::new(FlowState::Closed);
    (flow.connect_ms, flow.syn_retransmits) = (Some(31_000.0), Some(5));
    flow.close_reason = Some(CloseReason::Fin);
    let event = host.flow(150.0, 31_005.0, DB, flow);
    host.tell(181.1, event);
    host.seal().await;
    let report = ask(&store, question(0.0, 200.0)).await;
    let db = of(&report, DB);
    // 20 to 180 in vain; what is between the success at 5 and the first try at 20 is not known.
    assert_eq!(seconds(db, 0), [20, 160, 20, 0, 0]);
    assert_eq!(db.outages[0].recovered_at, Some(at(181.0)));
    assert_eq!(db.periods[0].failures.unanswered, 1);
    // A report that ends before the failure was told has it.
    let report = ask(&store, question(0.0, 100.0)).await;
    assert_eq!(seconds(of(&report, DB), 0), [10, 80, 10, 0, 0]);
}

#[tokio::test]
async fn a_connection_is_counted_once_and_when_it_was_established() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    let mut flow = Flow::new(FlowState::Open);
    flow.connect_ms = Some(4.0);
    let open = host.flow(12.0, 1000.0, DB, flow.clone());
    let mut closed = open.clone();
    host.tell(13.0, open);
    flow.state = FlowState::Closed;
    flow.close_reason = Some(CloseReason::Timeout);
    (closed.flow, closed.elapsed_ms) = (Some(flow), Some(3_000_000.0));
    host.tell(3012.0, closed);
    host.seal().await;
    let report = ask(&store, question(0.0, 3100.0)).await;
    let period = &of(&report, DB).periods[0];
    assert_eq!((period.connects, period.failures.timeouts), (1, 1));
    assert_eq!(seconds(of(&report, DB), 0), [10, 0, 3080, 0, 10]);
    // Long before: it is no connect of this hour, though its end is.
    let late = ask(&store, question(3000.0, 3100.0)).await;
    assert_eq!(of(&late, DB).periods[0].connects, 0);
}

#[tokio::test]
async fn requests_are_proof_and_have_times_of_their_own() {
    let store = store();
    let mut host = Host::new(&store, "web-1", 1);
    for second in 0..100 {
        let (ms, status) = match second {
            90.. => (1.0, None),
            _ if second % 10 == 0 => (80.0, Some(503)),
            _ => (10.0, Some(200)),
        };
        host.request(f64::from(second), ms, DB, status);
    }
    host.seal().await;
    let report = ask(&store, question(0.0, 100.0)).await;
    let period = &of(&report, DB).periods[0];
    assert_eq!(
        (period.requests, period.requests_failed, period.connects),
        (100, 19, 0)
    );
    let p95 = period.request_p95_ms.unwrap();
    assert!((80.0..80.7).contains(&p95), "{p95}");
    // No answer is no proof.
    assert_eq!(seconds(of(&report, DB), 0), [90, 0, 10, 0, 0]);
}

#[tokio::test]
async fn a_loopback_address_is_another_machine_on_each_host() {
    let store = store();
    for name in ["web-1", "web-2"] {
        let mut host = Host::new(&store, name, 1);
        for peer in ["127.0.0.1:80", DB] {
            host.served(1.0, peer);
        }
        host.seal().await;
    }
    let report = ask(&store, question(0.0, 10.0)).await;
    let told: Vec<_> = report
        .destinations
        .iter()
        .map(|of| (&*of.destination, of.host.as_deref(), of.hosts.len()))
        .collect();
    assert_eq!(
        told,
        [
            (DB, None, 2),
            ("127.0.0.1:80", Some("web-1"), 1),
            ("127.0.0.1:80", Some("web-2"), 1)
        ]
    );
}

#[tokio::test]
async fn the_same_archive_gives_the_same_bytes_and_a_filter_keeps_the_losses() {
    let store = store();
    let mut host = Host::new(&store, "web|1", 1);
    dials(&mut host, (0, 100), 30..60);
    host.seal().await;
    host.service = "other.service";
    host.gap(100.0, "kernel", "ring_full", None);
    host.served(101.0, "10.0.0.6:80");
    host.seal().await;
    let (one, other) = (
        ask(&store, question(0.0, 200.0)).await,
        ask(&store, question(0.0, 200.0).at_once(4)).await,
    );
    assert_eq!(
        serde_json::to_string(&one).unwrap(),
        serde_json::to_string(&other).unwrap()
    );
    assert_eq!(one.markdown(), other.markdown());
    assert!(one.markdown().contains(r"| web\|1 |"), "{}", one.markdown());
    let only = Filter::from_pairs([("service", "shop.service")]).unwrap();
    let narrow = ask(
        &store,
        Question::new(at(0.0), at(200.0), None, only, false).unwrap(),
    )
    .await;
    assert_eq!(narrow.destinations.len(), 1);
    assert_eq!(narrow.sources, one.sources);
    assert_eq!(narrow.sources.hosts[0].losses.len(), 1);
}

#[test]
fn questions_without_sense_are_refused() {
    let ask = |since, until, period: Option<f64>| {
        let period = period.map(Duration::from_secs_f64);
        Question::new(at(since), at(until), period, Filter::default(), false).map(drop)
    };
    assert!(ask(0.0, 10.0, None).is_ok());
    for (wrong, said) in [
        (ask(20.0, 10.0, None), "is not before"),
        (ask(0.0, 100.0, Some(15.0)), "multiple of 10 s"),
        (ask(0.0, 100.0, Some(0.0)), "multiple of 10 s"),
        (ask(0.0, 1e6, Some(10.0)), "1000 periods"),
        (ask(0.0, 1e9, None), "400 days"),
    ] {
        assert!(wrong.unwrap_err().contains(said), "{said}");
    }
}
