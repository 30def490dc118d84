//! Sink: events into Kafka, for whoever works on them as they come.
//!
//! ```text
//! archive's spool ─► journal ─► window ─► librdkafka ─► brokers
//!                    DURABLE    bounded   idempotent     │
//!                       ▲ cursor                         │
//!                       └──────── delivery reports ◄─────┘
//! ```
//!
//! There is no queue beside the spool: what is durable there is read, sent, and done once a broker has confirmed it.
//! After a failure or a restart it is read again from the last place that is known to be done, so an event comes at
//! least once, and `(host, run, seq)` tells what comes twice. Nobody else waits for Kafka: while it is away segments
//! stay in the spool, and give way when that has no room for what is new.

#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod message;
#[cfg(feature = "kafka")]
mod sink;
#[cfg(feature = "kafka")]
mod state;
#[cfg(feature = "kafka")]
mod window;
#[cfg(feature = "kafka")]
mod worker;

#[cfg(feature = "kafka")]
pub use sink::{Kafka, KafkaSink, start};

/// Name of the sink in the ledger, of the target, and of the file with its place.
pub const NAME: &str = "kafka";

/// What others see of it where there is none.
#[cfg(not(feature = "kafka"))]
#[derive(Clone, Debug)]
pub enum Kafka {}

#[cfg(not(feature = "kafka"))]
impl Kafka {
    /// What it would say about itself.
    pub fn report(&self) -> crate::probe_report::KafkaReport {
        match *self {}
    }
}
