//! Consumers.

use std::{
    collections::HashSet,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) value: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// Everything in some topics, at least `wanted` different messages, and what else comes within a second.
pub(crate) fn all(brokers: &str, topics: &[&str], wanted: usize) -> Vec<Message> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "reader")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer
            .fetch_metadata(Some(topic), Duration::from_secs(10))
            .expect("metadata");
        for partition in metadata.topics()[0].partitions() {
            partitions
                .add_partition_offset(topic, partition.id(), Offset::Beginning)
                .expect("a partition");
        }
    }
    consumer.assign(&partitions).expect("assigned");
    let (mut messages, mut different) = (Vec::new(), HashSet::new());
    let mut quiet = Instant::now();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if different.len() >= wanted && quiet.elapsed() > Duration::from_secs(1) {
            return messages;
        }
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let message = message.expect("a message");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default()))
                .collect()
        });
        let value = text(message.payload().expect("a value"));
        different.insert(value.clone());
        messages.push(Message {
            topic: message.topic().to_owned(),
            key: message.key().map(text),
            value,
            headers,
        });
        quiet = Instant::now();
    }
    panic!("{} different messages of {wanted} in {topics:?}", different.len());
}

const SCRIPT: &str = r"
import json, sys, time
from confluent_kafka import Consumer, TopicPartition
brokers, wanted, topics = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
consumer = Consumer({'bootstrap.servers': brokers, 'group.id': 'stranger', 'enable.auto.commit': False})
consumer.assign([TopicPartition(topic, number, 0) for topic in topics
                 for number in consumer.list_topics(topic, 10).topics[topic].partitions])
end = time.time() + 60
while wanted > 0 and time.time() < end:
    message = consumer.poll(1.0)
    if message is None:
        continue
    assert message.error() is None, message.error()
    key = message.key()
    print(json.dumps({'topic': message.topic(), 'key': key and key.decode(), 'value': message.value().decode(),
                      'headers': [[key, value.decode()] for key, value in message.headers() or []]}))
    wanted -= 1
";

/// The same by Python's client, which `cargo xtask setup --test` installs.
pub(crate) fn by_python(brokers: &str, topics: &[&str], wanted: usize) -> Option<Vec<Message>> {
    // A copy of the tree below its target folder finds it there, too.
    let python = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("target/kafka/bin/python"))
        .find(|python| python.exists());
    let Some(python) = python else {
        assert!(
            std::env::var_os("NETPROBE_TEST_ALL").is_none(),
            "target/kafka/bin/python is missing: run `cargo xtask setup --test`"
        );
        return None;
    };
    let said = Command::new(python)
        .args(["-c", SCRIPT, brokers, &wanted.to_string()])
        .args(topics)
        .output()
        .expect("python starts");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let lines = String::from_utf8(said.stdout).expect("text");
    let messages = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a message"));
    Some(messages.collect())
}
