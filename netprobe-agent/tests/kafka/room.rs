//! The spool's room, and damage in it.

use netprobe_agent::config::Period;

use super::lab::{Lab, TOPIC};

/// Kafka is away for longer than the spool has room: the archive loses nothing by it, Kafka's books say what it lost.
#[test]
fn what_is_only_kept_for_kafka_gives_way() {
    let lab = Lab::new();
    lab.cluster.broker_down(1).unwrap();
    let mut agent = lab.start(1, |archive, _| {
        archive.spool_bytes = 1 << 20;
        archive.segment_bytes = 64 << 10;
        archive.seal_after = Period::millis(100);
    });
    let mut emitted = 0;
    while agent.ledger("kafka").lost["spool_full"] == 0 {
        // Text that cannot be compressed, or megabytes would be nothing.
        for _ in 0..20 {
            let event = agent.noise(8_000);
            agent.fanout.emit(event);
            emitted += 1;
        }
        agent.settled("archive", emitted);
        assert!(emitted < 2000, "the spool never fills");
    }
    assert_eq!(agent.ledger("archive").lost["spool_full"], 0);
    lab.cluster.broker_up(1).unwrap();
    agent.until("the rest", |agent| agent.ledger("kafka").queued == 0);
    agent.fanout.tick();
    let ledger = agent.stop();
    let lost = ledger.lost["spool_full"];
    assert_eq!(
        lab.archived().len() as u64,
        emitted + 1,
        "with the gap that tells"
    );
    let messages = lab.consume(&[TOPIC], (emitted + 1 - lost) as usize);
    assert_eq!(messages.len() as u64, emitted + 1 - lost);
    let told: Vec<_> = messages
        .iter()
        .filter_map(|message| {
            let event: netprobe_agent::event::Event = serde_json::from_str(&message.value).expect("an event");
            event.gap.and_then(|gap| gap.count)
        })
        .collect();
    assert_eq!(told, [lost]);
}

/// A segment that is damaged after the archive has it: what is gone is counted, what comes after it arrives.
#[test]
fn damage_in_what_is_kept_is_counted() {
    let lab = Lab::new();
    lab.cluster.broker_down(1).unwrap();
    let mut agent = lab.start(1, |archive, _| {
        archive.seal_after = Period::millis(100);
    });
    agent.emit(50);
    agent.settled("archive", 50);
    let first = lab.folder.path().join("spool/000000000000.jsonl.zst");
    let mut bytes = std::fs::read(&first).expect("kept");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&first, bytes).expect("writable");
    agent.emit(50);
    // What was read before that is under way; another producer reads it anew.
    agent.until("another try", |agent| agent.kafka.report().messages["failed"] > 0);
    lab.cluster.broker_up(1).unwrap();
    agent.until("the rest", |agent| agent.ledger("kafka").queued == 0);
    let ledger = agent.ledger("kafka");
    assert_eq!((ledger.delivered, ledger.lost["spool_corrupt"]), (50, 50));
    agent.stop();
}
