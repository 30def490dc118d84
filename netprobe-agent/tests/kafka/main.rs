//! Events into Kafka: librdkafka's mock cluster as brokers, whose faults can be ordered, and consumers that know nothing
//! of the agent. What they have is held against the archive and against the books.
#![cfg(feature = "kafka")]

mod consume;
mod faults;
mod kill;
mod lab;
mod room;
#[path = "../common/terminator.rs"]
#[allow(dead_code, reason = "another test binary uses the rest")]
mod terminator;
mod tls;

use std::{collections::BTreeSet, time::Duration};

use lab::{Lab, TOPIC, WITNESS};
use netprobe_agent::event::{Event, Flow, FlowState, Gap, GapScope, Request, Severity};

/// What the archive has, Kafka has: the same bytes, each with its key and headers, read by a client of another make.
#[test]
fn kafka_has_what_the_archive_has() {
    let lab = Lab::new();
    let mut agent = lab.start(1, |_, kafka| kafka.topic = "np.{kind}".to_owned());
    agent.emit(1500);
    for _ in 0..50 {
        let request = Event::request(
            &agent.origin,
            "boot-7".into(),
            Severity::Error,
            Request::default(),
        );
        agent.fanout.emit(request);
        let gap = Gap {
            stage: "ring".into(),
            reason: "full".into(),
            count: Some(1),
            from_seq: None,
            to_seq: None,
            scope: GapScope::Agent,
        };
        agent.fanout.emit(Event::gap(&agent.origin, gap));
        let update = Flow::new(FlowState::Update);
        let update = Event::flow(&agent.origin, "boot-8".into(), Severity::Debug, update);
        agent.fanout.emit(update);
    }
    agent.settled("kafka", 1600);
    let report = agent.kafka.report();
    assert_eq!(report.messages["delivered"], 1600, "{report:?}");
    assert_eq!((report.in_flight, report.oldest_seconds), (0, 0.0));
    let ledger = agent.stop();
    assert_eq!((ledger.delivered, ledger.queued), (1600, 0));
    assert_eq!(ledger.suppressed["update"], 50);
    assert!(ledger.lost.values().all(|count| *count == 0), "{ledger:?}");

    let topics = ["np.flow", "np.request", "np.gap"];
    let messages = lab.consume(&topics, 1600);
    let mut sent: Vec<_> = messages.iter().map(|message| message.value.clone()).collect();
    let mut archived = lab.archived();
    sent.sort();
    archived.sort();
    assert_eq!(sent.len(), 1600);
    assert!(sent == archived, "other bytes than in the archive");
    for message in &messages {
        let event: Event = serde_json::from_str(&message.value).unwrap();
        assert_eq!(message.topic, format!("np.{}", event.kind.name()));
        assert_eq!(message.key.as_deref(), event.connection_id.as_deref());
        let wanted = [
            ("schema", "netprobe.event/1"),
            ("kind", event.kind.name()),
            ("host", &event.host),
            ("severity", event.severity.name()),
        ];
        let wanted = wanted.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(message.headers, wanted);
    }
    if let Some(independent) = consume::by_python(&lab.brokers(), &topics, 1600) {
        let mut values: Vec<_> = independent.iter().map(|message| message.value.clone()).collect();
        values.sort();
        assert!(values == archived, "another client reads other bytes");
        let keys: BTreeSet<_> = independent.iter().map(|message| &message.key).collect();
        assert_eq!(keys, messages.iter().map(|message| &message.key).collect());
    }
    assert_eq!(lab.objects_in_spool(), 0, "nothing stays behind");
}

/// The head of the chain is told to another topic whenever a segment was sealed.
#[test]
fn the_head_of_the_chain_has_a_witness() {
    let lab = Lab::new();
    let mut agent = lab.start(1, |archive, _| {
        archive.seal_after = netprobe_agent::config::Period::millis(200);
    });
    agent.emit(100);
    agent.settled("archive", 100);
    let head = agent.archive.report().head.unwrap();
    agent.until("the witness", |agent| {
        agent.kafka.report().witness.as_ref() == Some(&head)
    });
    agent.stop();
    let messages = lab.consume(&[WITNESS], 1);
    let last: serde_json::Value = serde_json::from_str(&messages.last().unwrap().value).unwrap();
    assert_eq!(last["schema"], "netprobe.witness/1");
    assert_eq!(
        (last["host"].as_str(), last["hash"].as_str()),
        (Some("host"), Some(&*head.hash))
    );
    assert_eq!(last["index"], head.index);
    assert_eq!(lab.archived().len(), 100);
}

/// A run that ends before Kafka has all leaves the rest in the spool, and the next one goes on.
#[test]
fn the_next_run_goes_on_where_the_last_one_ended() {
    let lab = Lab::new();
    lab.cluster.broker_down(1).unwrap();
    let mut agent = lab.start(1, |_, _| {});
    agent.emit(300);
    agent.until("an open circuit", |agent| {
        agent.kafka.report().last_error.is_some()
    });
    let ledger = agent.stop();
    assert_eq!((ledger.delivered, ledger.queued), (0, 300));
    assert_eq!(lab.archived().len(), 300, "the archive has not waited");
    assert!(lab.objects_in_spool() > 0, "kept for Kafka");

    lab.cluster.broker_up(1).unwrap();
    let mut agent = lab.start(2, |_, _| {});
    agent.emit(10);
    agent.settled("kafka", 10);
    agent.until("what was left", |agent| {
        agent.kafka.report().messages["delivered"] == 310
    });
    agent.until("an empty spool", |_| lab.objects_in_spool() == 0);
    let ledger = agent.stop();
    assert_eq!((ledger.delivered, ledger.queued), (10, 0), "its own events alone");
    let messages = lab.consume(&[TOPIC], 310);
    assert_eq!(messages.len(), 310);
    // Started once more there is nothing to send.
    let agent = lab.start(3, |_, _| {});
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.kafka.report().messages["delivered"], 0);
    agent.stop();
}

/// An archive that cannot be reached is no reason for Kafka to wait, and what Kafka has is not sent again for it.
#[test]
fn kafka_does_not_wait_for_the_archive() {
    let lab = Lab::new();
    let blocked = lab.folder.path().join("blocked");
    std::fs::write(&blocked, "a file where a folder should be").unwrap();
    let mut agent = lab.start(1, |archive, _| {
        archive.url = format!("file://{}/archive", blocked.display());
        archive.seal_after = netprobe_agent::config::Period::millis(100);
    });
    for segments in 1..=3 {
        agent.emit(100);
        agent.until("a segment that waits", |agent| {
            agent.archive.report().segments_waiting >= segments
        });
    }
    agent.settled("kafka", 300);
    let ledger = agent.ledger("archive");
    assert_eq!((ledger.delivered, ledger.queued), (0, 300));
    assert!(
        agent.archive.report().segments_waiting >= 2,
        "sealed, and not archived"
    );
    agent.stop();
    let mut agent = lab.start(2, |_, _| {});
    agent.emit(1);
    agent.settled("kafka", 1);
    agent.stop();
    assert_eq!(lab.archived().len(), 301);
    assert_eq!(lab.consume(&[TOPIC], 301).len(), 301, "none twice");
}
