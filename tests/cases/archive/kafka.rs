//! A real agent that sends to brokers, and a stranger that reads them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, binary};
use netprobe_tests::wait_for;
use serde::Deserialize;

use super::{archive, python, settings, to_be_archived, traffic};

/// Brokers (librdkafka's mock cluster) and a consumer in one: says the address, is told topic and number of messages (0: as
/// many as come), says them.
const SCRIPT: &str = r"
import json, sys
from confluent_kafka import Consumer, Producer, TopicPartition
cluster = Producer({'test.mock.num.brokers': 1})
broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
address = f'{broker.host}:{broker.port}'
print(address, flush=True)
for line in sys.stdin:
    topic, wanted = line.split()
    consumer = Consumer({'bootstrap.servers': address, 'group.id': 'stranger'})
    consumer.assign([TopicPartition(topic, number, 0)
                     for number in consumer.list_topics(topic, 10).topics[topic].partitions])
    count = 0
    while count < int(wanted) or wanted == '0':
        message = consumer.poll(20 if count == 0 or wanted != '0' else 2)
        if wanted == '0' and message is None:
            break
        count += 1
        assert message is not None and message.error() is None, message and message.error()
        headers = {key: value.decode() for key, value in message.headers() or []}
        print(json.dumps({'key': message.key() and message.key().decode(), 'value': message.value().decode(),
                          'headers': headers}), flush=True)
    # Nothing beside them.
    assert consumer.poll(1) is None
    print('{}', flush=True)
";

/// Why the case cannot run.
pub(crate) fn lacking() -> Option<String> {
    if python("kafka").is_none() {
        return Some(
            "Kafka's client for Python is not there: `cargo xtask setup --test` installs it".to_owned(),
        );
    }
    let checked = Command::new(binary().ok()?)
        .args(["config", "check"])
        .env("NETPROBE_KAFKA_BROKERS", "[\"127.0.0.1:9092\"]")
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&checked.stderr);
    said.contains("built without Kafka")
        .then(|| "this agent was built without Kafka (`--features kafka`)".to_owned())
}

pub(crate) struct Brokers {
    process: Child,
    says: BufReader<ChildStdout>,
    pub(crate) address: String,
}

#[derive(Deserialize)]
pub(crate) struct Message {
    key: Option<String>,
    pub(crate) value: String,
    headers: BTreeMap<String, String>,
}

impl Brokers {
    pub(crate) fn start(python: PathBuf) -> Result<Brokers> {
        let mut process = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut says = BufReader::new(process.stdout.take().context("piped")?);
        let mut address = String::new();
        says.read_line(&mut address)?;
        Ok(Brokers {
            process,
            says,
            address: address.trim().to_owned(),
        })
    }

    /// So many messages of a topic, more of them are an error; or, with 0, all there are.
    pub(crate) fn read(&mut self, topic: &str, wanted: usize) -> Result<Vec<Message>> {
        writeln!(self.process.stdin.as_mut().context("piped")?, "{topic} {wanted}")?;
        let mut messages = Vec::new();
        let mut line = String::new();
        while self.says.read_line(&mut line)? > 0 {
            if line == "{}\n" {
                return Ok(messages);
            }
            messages.push(serde_json::from_str(&line)?);
            line.clear();
        }
        anyhow::bail!(
            "the reader of {topic} ended after {} of {wanted} messages",
            messages.len()
        )
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It has nothing to lose.
        let _gone = self.process.wait();
    }
}

pub(super) fn has() -> Result<()> {
    let mut brokers = Brokers::start(python("kafka").context("no client")?)?;
    let folder = tempfile::tempdir()?;
    let mut settings = settings(folder.path());
    settings.sections = format!("[kafka]\nbrokers = [\"{}\"]\n", brokers.address);
    let agent = Agent::start(&settings)?;
    traffic("kafka", 50)?;
    agent.ledger_at_rest(Duration::from_secs(60))?;
    wait_for("the state of the target", Duration::from_secs(20), || {
        let state: serde_json::Value = serde_json::from_str(&agent.get("/resilience/state").ok()?.1).ok()?;
        let target = state["targets"]
            .as_array()?
            .iter()
            .find(|target| target["target"] == "kafka")?;
        let well = target["circuit"] == "closed" && target["last_error"].is_null();
        (well && target["last_success"].is_string() && state["kafka"]["witness"]["hash"].is_string())
            .then_some(())
    })?;
    let stopped = agent.stop_well()?;
    let archived = archive(folder.path(), &["query", "-o", "json"])?;
    let mut wanted: Vec<_> = archived.lines().map(str::to_owned).collect();
    ensure!(
        wanted.len() == to_be_archived(&stopped).len(),
        "the archive has {} events of {}",
        wanted.len(),
        to_be_archived(&stopped).len()
    );
    ensure!(wanted.len() >= 100, "only {} events", wanted.len());
    let messages = brokers.read("netprobe.events", wanted.len())?;
    for message in &messages {
        let event: serde_json::Value = serde_json::from_str(&message.value)?;
        ensure!(
            event["connection_id"].as_str() == message.key.as_deref(),
            "{event}"
        );
        for name in ["schema", "kind", "host", "severity"] {
            ensure!(
                event[name].as_str() == message.headers.get(name).map(|s| &**s),
                "{name} of {event}"
            );
        }
    }
    let mut found: Vec<_> = messages.into_iter().map(|message| message.value).collect();
    found.sort();
    wanted.sort();
    ensure!(found == wanted, "Kafka has other bytes than the archive");
    Ok(())
}
