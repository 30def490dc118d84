//! Brokers, an agent's sinks on a spool, and what they leave.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netprobe_agent::{
    archive::{Archive, Started},
    config::{ArchiveConfig, KafkaConfig, Period},
    event::{Event, Flow, FlowState, Origin, Severity},
    fanout::Fanout,
    kafka::{self, Kafka},
    probe_report::SinkLedger,
};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

use super::consume::{self, Message};

pub(crate) const TOPIC: &str = "netprobe.events";
pub(crate) const WITNESS: &str = "netprobe.witness";
/// The longest anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) folder: tempfile::TempDir,
}

/// Both configurations of an agent on a folder.
pub(crate) fn configs(folder: &Path, brokers: &str) -> (ArchiveConfig, KafkaConfig) {
    let archive = ArchiveConfig {
        url: format!("file://{}/archive", folder.display()),
        spool: folder.join("spool"),
        sync_interval: Period::millis(5),
        ..ArchiveConfig::default()
    };
    let kafka = KafkaConfig {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        timeout: Period::seconds(5),
        ..KafkaConfig::default()
    };
    (archive, kafka)
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab {
            cluster: MockCluster::new(1).expect("a cluster"),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub(crate) fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    pub(crate) fn start(&self, run: u64, change: impl FnOnce(&mut ArchiveConfig, &mut KafkaConfig)) -> Agent {
        let (mut archive, mut kafka) = configs(self.folder.path(), &self.brokers());
        change(&mut archive, &mut kafka);
        Agent::start(&archive, &kafka, run)
    }

    pub(crate) fn consume(&self, topics: &[&str], wanted: usize) -> Vec<Message> {
        consume::all(&self.brokers(), topics, wanted)
    }

    /// The lines of the archive.
    pub(crate) fn archived(&self) -> Vec<String> {
        files(&self.folder.path().join("archive"))
            .iter()
            .filter(|file| file.to_string_lossy().ends_with(".jsonl.zst"))
            .flat_map(|file| {
                let bytes = std::fs::read(file).expect("readable");
                let text = zstd::decode_all(&bytes[..]).expect("zstd");
                let text = String::from_utf8(text).expect("text");
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Sealed segments in the spool.
    pub(crate) fn objects_in_spool(&self) -> usize {
        files(&self.folder.path().join("spool"))
            .iter()
            .filter(|file| file.to_string_lossy().ends_with(".jsonl.zst"))
            .count()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Archive and Kafka behind a fan-out, as the agent has them.
pub(crate) struct Agent {
    pub(crate) fanout: Fanout,
    pub(crate) archive: Archive,
    pub(crate) kafka: Kafka,
    pub(crate) origin: Origin,
}

impl Agent {
    pub(crate) fn start(archive: &ArchiveConfig, kafka: &KafkaConfig, run: u64) -> Agent {
        let origin = Origin::new("host", "boot", &format!("{run:016x}"));
        let Started {
            archive,
            sink,
            followed,
            ..
        } = Archive::start(archive, &origin, Some(kafka::NAME));
        let followed = followed.expect("a spool");
        let mut fanout = Fanout::new(origin.clone());
        fanout.add(sink);
        let (kafka, sink) =
            kafka::start(kafka, &origin, followed.journal, followed.books).expect("it always starts");
        fanout.add(Box::new(sink));
        Agent {
            fanout,
            archive,
            kafka,
            origin,
        }
    }

    /// Final events of connections.
    pub(crate) fn emit(&mut self, count: u64) {
        for number in 0..count {
            let id = format!("boot-{}", number % 50);
            let flow = Flow::new(FlowState::Closed);
            self.fanout
                .emit(Event::flow(&self.origin, id.into(), Severity::Info, flow));
        }
    }

    /// An event with so long a service.
    pub(crate) fn long(&self, bytes: usize) -> Event {
        let flow = Flow::new(FlowState::Closed);
        let mut event = Event::flow(&self.origin, "boot-1".into(), Severity::Info, flow);
        event.service = Some("x".repeat(bytes).into());
        event
    }

    /// The same, and nothing in it repeats.
    pub(crate) fn noise(&self, bytes: usize) -> Event {
        let mut event = self.long(0);
        let text: String = (0..bytes).map(|_| fastrand::alphanumeric()).collect();
        event.service = Some(text.into());
        event
    }

    pub(crate) fn until(&self, what: &str, done: impl Fn(&Agent) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}: {:?} {:?}",
                self.kafka.report(),
                self.fanout.ledger()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn ledger(&self, sink: &str) -> SinkLedger {
        let ledgers = self.fanout.ledger();
        ledgers
            .into_iter()
            .find(|ledger| ledger.sink == sink)
            .expect("a sink")
    }

    /// Waits until so many events were delivered; the books close all the time.
    pub(crate) fn settled(&self, sink: &str, delivered: u64) {
        self.until(sink, |agent| {
            assert_eq!(agent.fanout.check(), Ok(()));
            agent.ledger(sink).delivered == delivered
        });
    }

    /// Ends in order; what Kafka's books say then.
    pub(crate) fn stop(mut self) -> SinkLedger {
        self.fanout.shutdown(Duration::from_secs(10));
        assert_eq!(self.fanout.check(), Ok(()));
        self.ledger("kafka")
    }
}
