//! Wires what keeps events: the archive, and Kafka, which goes by its spool.

use crate::{
    archive::{Archive, Followed, NoSpool, Started},
    config::Config,
    error::AgentError,
    event::{Event, Origin},
    fanout::Fanout,
    kafka::{self, Kafka},
};

/// What others see of it.
#[derive(Default)]
pub(super) struct Keepers {
    /// `None`: nothing is archived.
    pub(super) archive: Option<Archive>,
    /// `None`: nothing is sent to Kafka.
    pub(super) kafka: Option<Kafka>,
    /// What an operator should know.
    pub(super) notices: Vec<String>,
}

/// Adds the sinks and tells what an earlier run lost.
pub(super) fn start(config: &Config, origin: &Origin, fanout: &mut Fanout) -> Result<Keepers, AgentError> {
    let mut keepers = Keepers::default();
    if !config.archive.enabled {
        return Ok(keepers);
    }
    let follower = config.kafka.is_on().then_some(kafka::NAME);
    let Started {
        archive,
        sink,
        gaps,
        notice,
        followed,
    } = Archive::start(&config.archive, origin, follower);
    keepers.archive = Some(archive);
    keepers.notices.extend(notice);
    fanout.add(sink);
    match followed {
        // Behind the archive: it sends what that has taken.
        Some(followed) => keepers.kafka = follow(config, origin, followed, fanout)?,
        None if follower.is_some() => fanout.add(Box::new(NoSpool {
            name: kafka::NAME,
            updates: config.archive.updates,
        })),
        None => {}
    }
    for gap in gaps {
        fanout.emit(Event::gap(origin, gap));
    }
    Ok(keepers)
}

#[cfg(feature = "kafka")]
fn follow(
    config: &Config,
    origin: &Origin,
    followed: Followed,
    fanout: &mut Fanout,
) -> Result<Option<Kafka>, AgentError> {
    let (kafka, sink) = kafka::start(&config.kafka, origin, followed.journal, followed.books)?;
    fanout.add(Box::new(sink));
    Ok(Some(kafka))
}

/// A configuration with brokers is refused before it comes here.
#[cfg(not(feature = "kafka"))]
fn follow(_: &Config, _: &Origin, _: Followed, _: &mut Fanout) -> Result<Option<Kafka>, AgentError> {
    Ok(None)
}
