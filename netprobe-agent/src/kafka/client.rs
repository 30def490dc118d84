//! The client: librdkafka, set up from the configuration.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, ProducerContext},
};
use serde::Deserialize;

use crate::config::KafkaConfig;

/// The producer.
pub(super) type Producer = BaseProducer<Reports>;

/// Where the secrets are when no file is named.
const VARIABLES: [&str; 2] = ["KAFKA_USERNAME", "KAFKA_PASSWORD"];

/// What librdkafka reports of one producer.
#[derive(Clone, Default)]
pub(super) struct Reports(Arc<Mutex<News>>);

/// What is new.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Number of the message, and why it was not delivered.
    pub(super) delivered: Vec<(usize, Result<(), RDKafkaErrorCode>)>,
    /// What goes wrong with the connections.
    pub(super) trouble: Option<String>,
    /// No broker can be reached, or none lets the agent in.
    pub(super) down: bool,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, News> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came since the last time.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error, too, and is told once by the worker.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(facility, message, "librdkafka");
            }
            _ => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut news = self.lock();
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            // Says only how many; why came before.
            news.down = true;
            return;
        }
        news.down |= matches!(
            code,
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::Fatal)
        );
        news.trouble = Some(reason.to_owned());
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        self.lock().delivered.push((number, result));
    }
}

/// A producer. `alone`: every message in a batch of its own.
pub(super) fn producer(
    config: &KafkaConfig,
    host: &str,
    reports: Reports,
    alone: bool,
) -> Result<Producer, String> {
    let mut client = ClientConfig::new();
    for (key, value) in settings(config, host)? {
        client.set(key, value);
    }
    if alone {
        client.set("batch.num.messages", "1");
    }
    client.set_log_level(RDKafkaLogLevel::Info);
    client
        .create_with_context(reports)
        .map_err(|error| error.to_string())
}

/// The configuration in librdkafka's words.
fn settings(config: &KafkaConfig, host: &str) -> Result<Vec<(&'static str, String)>, String> {
    let mut settings = vec![
        ("bootstrap.servers", config.brokers.join(",")),
        ("client.id", format!("netprobe-{host}")),
        // A message that is sent again after a lost answer is written once.
        ("enable.idempotence", "true".to_owned()),
        // Where the clients of other languages put a key.
        ("partitioner", "murmur2_random".to_owned()),
        ("compression.type", config.compression.clone()),
        ("linger.ms", config.linger.0.as_millis().to_string()),
        ("message.max.bytes", config.message_bytes.to_string()),
        ("batch.size", config.message_bytes.to_string()),
        ("message.timeout.ms", config.timeout.0.as_millis().to_string()),
        // The window bounds what waits; these only must not be less.
        (
            "queue.buffering.max.messages",
            (config.in_flight + 100).to_string(),
        ),
        ("queue.buffering.max.kbytes", "65536".to_owned()),
        // Trouble is told within seconds, not half a minute.
        ("socket.connection.setup.timeout.ms", "10000".to_owned()),
        ("topic.metadata.propagation.max.ms", "5000".to_owned()),
        ("reconnect.backoff.max.ms", "10000".to_owned()),
    ];
    let protocol = match (config.tls, config.sasl.is_empty()) {
        (false, true) => "plaintext",
        (true, true) => "ssl",
        (false, false) => "sasl_plaintext",
        (true, false) => "sasl_ssl",
    };
    settings.push(("security.protocol", protocol.to_owned()));
    let files = [
        ("ssl.ca.location", &config.ca),
        ("ssl.certificate.location", &config.cert),
        ("ssl.key.location", &config.key),
    ];
    for (key, path) in files {
        if !path.as_os_str().is_empty() {
            settings.push((key, path.display().to_string()));
        }
    }
    if !config.sasl.is_empty() {
        let Credentials { username, password } = credentials(config)?;
        settings.push(("sasl.mechanism", config.sasl.clone()));
        settings.push(("sasl.username", username));
        settings.push(("sasl.password", password));
    }
    Ok(settings)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    username: String,
    password: String,
}

/// Who the agent is to the brokers; the text of an error has no secret in it.
fn credentials(config: &KafkaConfig) -> Result<Credentials, String> {
    let path = &config.credentials;
    if path.as_os_str().is_empty() {
        let [username, password] = VARIABLES.map(|name| std::env::var(name).ok());
        return match (username, password) {
            (Some(username), Some(password)) => Ok(Credentials { username, password }),
            _ => Err(format!(
                "`kafka.sasl` needs a name and a password: name a file in `kafka.credentials`, or set {} and {}",
                VARIABLES[0], VARIABLES[1]
            )),
        };
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|_| {
        format!(
            "{}: write username = \"…\" and password = \"…\", and nothing else",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_there_is_as_configured() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kafka.toml");
        let config = KafkaConfig {
            brokers: vec!["a:9092".to_owned(), "b:9092".to_owned()],
            tls: true,
            ca: "/ca.pem".into(),
            sasl: "SCRAM-SHA-512".to_owned(),
            credentials: file.clone(),
            ..KafkaConfig::default()
        };
        let missing = settings(&config, "web-1").unwrap_err();
        assert!(missing.contains("kafka.toml: No such file"), "{missing}");
        fs::write(&file, "username = 'np'\npassword = 's3cret'\nother = 1\n").unwrap();
        let wrong = settings(&config, "web-1").unwrap_err();
        assert!(
            wrong.contains("nothing else") && !wrong.contains("s3cret"),
            "{wrong}"
        );
        fs::write(&file, "username = 'np'\npassword = 's3cret'\n").unwrap();
        let settings = settings(&config, "web-1").unwrap();
        for (key, value) in [
            ("bootstrap.servers", "a:9092,b:9092"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "/ca.pem"),
            ("sasl.username", "np"),
            ("sasl.password", "s3cret"),
            ("enable.idempotence", "true"),
        ] {
            assert!(settings.contains(&(key, value.to_owned())), "{key}");
        }
        // librdkafka itself has the last word on names and ranges of the rest.
        let plain = KafkaConfig {
            brokers: vec!["127.0.0.1:1".to_owned()],
            ..KafkaConfig::default()
        };
        for alone in [false, true] {
            producer(&plain, "web-1", Reports::default(), alone)
                .map(drop)
                .unwrap();
        }
    }
}
