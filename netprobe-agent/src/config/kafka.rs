//! `[kafka]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::value::Period;

/// Events into Kafka. They are read from the spool of the archive: what the archive has, Kafka gets, at least once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, each `host:port`. Empty: nothing is sent.
    pub brokers: Vec<String>,
    /// Topic of the events. `{kind}` in it stands for the kind of the event: a topic for each.
    #[serde(deserialize_with = "topic")]
    pub topic: String,
    /// Topic that gets the head of the archive's chain with every sealed segment, as a witness. Empty: none.
    #[serde(deserialize_with = "witness")]
    pub witness_topic: String,
    /// Whether brokers are spoken to by TLS.
    pub tls: bool,
    /// File with certificates (PEM) of the authority behind the brokers. Empty: those of the system.
    #[schema(value_type = String)]
    pub ca: PathBuf,
    /// File with the agent's own certificate (PEM), where brokers ask for one.
    #[schema(value_type = String)]
    pub cert: PathBuf,
    /// File with its key (PEM).
    #[schema(value_type = String)]
    pub key: PathBuf,
    /// How the agent says who it is: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. Empty: not at all.
    #[serde(deserialize_with = "sasl")]
    pub sasl: String,
    /// File with username = "…" and password = "…". Empty: KAFKA_USERNAME and KAFKA_PASSWORD of the environment.
    #[schema(value_type = String)]
    pub credentials: PathBuf,
    /// Compression of what is sent: none, lz4 or snappy.
    #[serde(deserialize_with = "compression")]
    pub compression: String,
    /// Longest time an event waits for others before they are sent together: 0s to 10s.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "linger")]
    pub linger: Period,
    /// Events under way at most, 1 to 100000: what a crash can deliver twice, beside those of the last second.
    #[serde(deserialize_with = "in_flight")]
    pub in_flight: usize,
    /// Bytes of one message or batch at most, 10000 to 100000000: not more than the brokers take. Longer events are lost.
    #[serde(deserialize_with = "message_bytes")]
    pub message_bytes: usize,
    /// Longest time brokers may take for an event before the connection is begun anew: 1s to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "timeout")]
    pub timeout: Period,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig {
            brokers: Vec::new(),
            topic: "netprobe.events".to_owned(),
            witness_topic: "netprobe.witness".to_owned(),
            tls: false,
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            sasl: String::new(),
            credentials: PathBuf::new(),
            compression: "lz4".to_owned(),
            linger: Period::millis(20),
            in_flight: 10_000,
            message_bytes: 1_000_000,
            timeout: Period::seconds(60),
        }
    }
}

impl KafkaConfig {
    /// Whether events are sent.
    pub fn is_on(&self) -> bool {
        !self.brokers.is_empty()
    }

    /// A key that cannot be as it is, and what to do. `archived`: whether there is a spool.
    pub(super) fn contradiction(&self, archived: bool) -> Option<(&'static str, String)> {
        if !self.is_on() {
            return None;
        }
        if !cfg!(feature = "kafka") {
            return Some((
                "brokers",
                "this netprobe was built without Kafka; leave it empty, or build with `--features kafka`"
                    .to_owned(),
            ));
        }
        if !archived {
            return Some((
                "brokers",
                "Kafka is sent what is in the spool of the archive; set archive.enabled = true, or leave it empty"
                    .to_owned(),
            ));
        }
        if !self.tls {
            let needless = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
            let set = needless.iter().find(|(_, path)| !path.as_os_str().is_empty());
            if let Some((key, _)) = set {
                return Some((key, "needs kafka.tls = true".to_owned()));
            }
        }
        if self.cert.as_os_str().is_empty() != self.key.as_os_str().is_empty() {
            return Some(("cert", "kafka.cert and kafka.key go together".to_owned()));
        }
        None
    }
}

fn refused<T, E: serde::de::Error>(text: &str, allowed: &str) -> Result<T, E> {
    Err(E::custom(format_args!("`{text}` is not allowed; {allowed}")))
}

/// A name that Kafka takes, with `{kind}` filled in.
fn topic<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    // As long as the longest kind.
    let name = text.replace("{kind}", "request");
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.len() <= 249 && name.chars().all(plain) && !matches!(&*name, "." | "..") {
        return Ok(text);
    }
    refused(
        &text,
        "a topic is 1 to 249 letters, digits, dots, dashes and underscores, and may have `{kind}`",
    )
}

fn witness<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(text);
    }
    if text.contains('{') {
        return refused(&text, "the witness has one topic");
    }
    topic(serde::de::value::StringDeserializer::<D::Error>::new(text))
}

fn one_of<'de, D: serde::Deserializer<'de>>(deserializer: D, allowed: &[&str]) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if allowed.contains(&&*text) {
        return Ok(text);
    }
    let names: Vec<_> = allowed.iter().filter(|name| !name.is_empty()).copied().collect();
    refused(&text, &format!("one of: {}", names.join(", ")))
}

fn sasl<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
}

fn compression<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &["none", "lz4", "snappy"])
}

fn linger<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::seconds(0), Period::seconds(10))
}

fn timeout<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::seconds(1), Period::seconds(3600))
}

fn in_flight<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    super::archive::between(deserializer, 1, 100_000)
}

fn message_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    super::archive::between(deserializer, 10_000, 100_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<KafkaConfig, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn values_are_held_against_what_kafka_takes() {
        for (text, word) in [
            ("topic = ''", "249"),
            ("topic = 'a b'", "249"),
            ("topic = 'a{king}'", "249"),
            ("witness_topic = 'w.{kind}'", "one topic"),
            ("sasl = 'GSSAPI'", "SCRAM-SHA-256"),
            ("compression = 'zip'", "lz4"),
            ("in_flight = 0", "1 to 100000"),
            ("timeout = '0s'", "1s"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        for text in [
            "topic = 'netprobe.{kind}'",
            "witness_topic = ''",
            "sasl = 'PLAIN'",
        ] {
            read(text).unwrap();
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let on = KafkaConfig {
            brokers: vec!["b:9092".to_owned()],
            ..KafkaConfig::default()
        };
        assert_eq!(KafkaConfig::default().contradiction(false), None);
        if !cfg!(feature = "kafka") {
            let (key, text) = on.contradiction(true).unwrap();
            assert!(key == "brokers" && text.contains("built without Kafka"), "{text}");
            return;
        }
        assert_eq!(on.contradiction(true), None);
        assert!(on.contradiction(false).unwrap().1.contains("archive.enabled"));
        let without_tls = KafkaConfig {
            ca: "ca.pem".into(),
            ..on.clone()
        };
        assert_eq!(without_tls.contradiction(true).unwrap().0, "ca");
        let half = KafkaConfig {
            tls: true,
            cert: "c.pem".into(),
            ..on
        };
        assert_eq!(half.contradiction(true).unwrap().0, "cert");
    }
}
