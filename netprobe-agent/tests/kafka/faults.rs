//! Brokers that fail, and what the agent says of it.

use std::{collections::HashSet, time::Duration};

use netprobe_agent::{config::Period, event::Event, probe_report::Circuit};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::lab::{Lab, TOPIC};

/// How many events there are of how many messages.
fn events(lab: &Lab, wanted: usize) -> (usize, usize) {
    let messages = lab.consume(&[TOPIC], wanted);
    let different: HashSet<_> = messages
        .iter()
        .map(|message| {
            let event: Event = serde_json::from_str(&message.value).expect("an event");
            (event.host, event.run, event.seq)
        })
        .collect();
    (different.len(), messages.len())
}

/// What passes is librdkafka's business: nothing is lost, nothing comes twice, the state goes back to closed.
#[test]
fn brokers_that_stumble_cost_nothing() {
    let lab = Lab::new();
    lab.cluster.create_topic(TOPIC, 4, 1).unwrap();
    let mut agent = lab.start(1, |_, _| {});
    agent.emit(200);
    agent.settled("kafka", 200);
    lab.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    agent.emit(200);
    agent.settled("kafka", 400);
    lab.cluster
        .broker_round_trip_time(1, Duration::from_millis(700))
        .unwrap();
    agent.emit(200);
    agent.settled("kafka", 600);
    let report = agent.kafka.report();
    assert_eq!((report.circuit, report.last_error), (Circuit::Closed, None));
    assert_eq!(agent.stop().delivered, 600);
    lab.cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    assert_eq!(events(&lab, 600).0, 600);
}

/// A broker that goes away and comes back: the state says so both times, and all arrives.
#[test]
fn a_broker_that_is_down_is_told_and_waited_for() {
    let lab = Lab::new();
    let mut agent = lab.start(1, |archive, _| archive.seal_after = Period::millis(300));
    agent.emit(100);
    agent.settled("kafka", 100);
    lab.cluster.broker_down(1).unwrap();
    agent.emit(1000);
    agent.until("an open circuit", |agent| {
        agent.kafka.report().circuit == Circuit::Open
    });
    let error = agent.kafka.report().last_error.unwrap();
    assert!(
        error.contains("refused") || error.contains("Disconnected"),
        "{error}"
    );
    agent.settled("archive", 1100);
    let ledger = agent.ledger("kafka");
    assert_eq!((ledger.delivered, ledger.queued), (100, 1000));
    assert!(lab.objects_in_spool() > 0);
    agent.until("old age", |agent| agent.kafka.report().oldest_seconds > 0.5);
    lab.cluster.broker_up(1).unwrap();
    agent.settled("kafka", 1100);
    let report = agent.kafka.report();
    assert_eq!((report.circuit, report.last_error), (Circuit::Closed, None));
    agent.until("an empty spool", |_| lab.objects_in_spool() == 0);
    agent.stop();
    assert_eq!(events(&lab, 1100).0, 1100);
}

/// A topic that is not there, or that the agent may not write to: it says which, waits, and goes on.
#[test]
fn a_topic_that_is_refused_is_named_and_waited_for() {
    for (refusal, word) in [
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            "authorization",
        ),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "topic"),
    ] {
        let lab = Lab::new();
        lab.cluster.create_topic(TOPIC, 2, 1).unwrap();
        lab.cluster.topic_error(TOPIC, refusal).unwrap();
        let mut agent = lab.start(1, |_, _| {});
        agent.emit(100);
        agent.until(word, |agent| {
            let error = agent.kafka.report().last_error.unwrap_or_default();
            error.to_lowercase().contains(word)
        });
        assert_ne!(agent.kafka.report().circuit, Circuit::Closed);
        let ledger = agent.ledger("kafka");
        assert_eq!((ledger.delivered, ledger.queued), (0, 100), "nothing is given up");
        lab.cluster
            .topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
            .unwrap();
        agent.settled("kafka", 100);
        assert!(agent.kafka.report().messages["failed"] >= 1);
        assert_eq!(agent.stop().delivered, 100);
        assert_eq!(events(&lab, 100).0, 100);
    }
}

/// Brokers refuse a batch, and then one of its messages alone: that one is lost, told by a gap, and no other.
#[test]
fn a_message_too_large_costs_itself_alone() {
    let lab = Lab::new();
    lab.cluster.create_topic(TOPIC, 1, 1).unwrap();
    let mut agent = lab.start(1, |_, kafka| kafka.in_flight = 100);
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    lab.cluster
        .request_errors(RDKafkaApiKey::Produce, &[refusal, refusal]);
    agent.emit(500);
    agent.settled("kafka", 499);
    let ledger = agent.ledger("kafka");
    assert_eq!((ledger.lost["message_too_large"], ledger.queued), (1, 0));
    // One that is longer than the agent's own limit does not even get there.
    let long = agent.long(1_000_010);
    agent.fanout.emit(long);
    agent.until("the second loss", |agent| {
        agent.ledger("kafka").lost["message_too_large"] == 2
    });
    agent.fanout.tick();
    agent.settled("kafka", 500);
    let ledger = agent.stop();
    assert_eq!(ledger.queued, 0);
    let told: u64 = lab
        .consume(&[TOPIC], 500)
        .iter()
        .filter_map(|message| {
            serde_json::from_str::<Event>(&message.value)
                .expect("an event")
                .gap
        })
        .filter(|gap| (&*gap.stage, &*gap.reason) == ("kafka", "message_too_large"))
        .filter_map(|gap| gap.count)
        .sum();
    assert_eq!(told, 2, "by gap events");
}
