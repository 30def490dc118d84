//! `[archive]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::value::Period;

/// The history: a spool on this host, and from there an archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveConfig {
    /// Whether events are archived.
    pub enabled: bool,
    /// Where to: file:///path, file:relative/path or s3://bucket/prefix.
    #[serde(deserialize_with = "url")]
    pub url: String,
    /// Folder where events wait until the archive has them. One agent a folder.
    #[schema(value_type = String)]
    pub spool: PathBuf,
    /// Address of an S3 service, like `https://rgw.example:7480`. Empty: AWS in `region`.
    pub endpoint: String,
    /// Region of the S3 service.
    pub region: String,
    /// File with access_key_id = "…" and secret_access_key = "…". Empty: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    /// of the environment.
    #[schema(value_type = String)]
    pub credentials: PathBuf,
    /// File with certificates (PEM) of the authority behind the service. Empty: those of the system.
    #[schema(value_type = String)]
    pub ca: PathBuf,
    /// Longest time one request to the archive may take: 1s to 1h.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "timeout")]
    pub timeout: Period,
    /// Whether everything written to the archive is read back and compared.
    pub read_back: bool,
    /// Longest time an event waits for others before they are synced together: 1ms to 10s. What a crash can cost.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "sync_interval")]
    pub sync_interval: Period,
    /// Age at which a segment is sealed and brought to the archive: 100ms to 1h. A segment never spans an hour's end.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "seal_after")]
    pub seal_after: Period,
    /// Bytes, before compression, at which a segment is sealed: 65536 to 268435456.
    #[serde(deserialize_with = "segment_bytes")]
    pub segment_bytes: usize,
    /// Bytes the spool may have, at least 1048576. From nine tenths on only events that must be kept are taken, beyond
    /// it none: they count as lost.
    #[serde(deserialize_with = "spool_bytes")]
    pub spool_bytes: usize,
    /// Age at which a segment the archive did not take is dropped, declared by a tombstone. 0s: never.
    #[schema(value_type = String)]
    pub max_age: Period,
    /// Compression level of zstd: 1 to 19.
    #[serde(deserialize_with = "compression")]
    pub compression: i32,
    /// Whether updates of live flows are archived.
    pub updates: bool,
    /// File with the signing key, 64 hex digits. Empty: signing.key in the spool, made at the first start.
    #[schema(value_type = String)]
    pub signing_key: PathBuf,
    /// File with a key, 64 hex digits, that encrypts what waits to be sealed (AES-256-GCM). Empty: it is not encrypted.
    /// Sealed segments are not: they are the objects of the archive.
    #[schema(value_type = String)]
    pub spool_key: PathBuf,
    /// What the S3 service is asked to encrypt objects with: AES256, aws:kms, or aws:kms:KEY. Empty: what the bucket
    /// does by itself.
    #[serde(deserialize_with = "encryption")]
    pub encryption: String,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        ArchiveConfig {
            enabled: true,
            url: "file:///var/lib/netprobe/archive".to_owned(),
            spool: "/var/lib/netprobe/spool".into(),
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            credentials: PathBuf::new(),
            ca: PathBuf::new(),
            timeout: Period::seconds(30),
            read_back: true,
            sync_interval: Period::millis(100),
            seal_after: Period::seconds(300),
            segment_bytes: 32 << 20,
            spool_bytes: 2 << 30,
            max_age: Period::seconds(0),
            compression: 1,
            updates: false,
            signing_key: PathBuf::new(),
            spool_key: PathBuf::new(),
            encryption: String::new(),
        }
    }
}

impl ArchiveConfig {
    /// The file with the signing key.
    pub fn key_path(&self) -> PathBuf {
        if self.signing_key.as_os_str().is_empty() {
            self.spool.join("signing.key")
        } else {
            self.signing_key.clone()
        }
    }
}

/// What an address of an archive names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A local folder.
    Folder(PathBuf),
    /// A part of a bucket.
    Bucket {
        /// Its name.
        bucket: String,
        /// Begin of every name in it, without slashes around; may be empty.
        prefix: String,
    },
}

impl Place {
    /// Reads `file:///path`, `file:relative/path` or `s3://bucket/prefix`.
    pub fn parse(url: &str) -> Result<Place, String> {
        if let Some(rest) = url.strip_prefix("file:") {
            // Between two slashes and the next would stand a host.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.is_empty() && (path.starts_with('/') || !rest.starts_with("//")) {
                return Ok(Place::Folder(path.into()));
            }
        } else if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if !bucket.is_empty() {
                return Ok(Place::Bucket {
                    bucket: bucket.to_owned(),
                    prefix: prefix.trim_matches('/').to_owned(),
                });
            }
        }
        Err(format!(
            "`{url}` is not a place for an archive; write file:///path, file:relative/path or s3://bucket/prefix"
        ))
    }
}

fn url<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    Place::parse(&url).map_err(serde::de::Error::custom)?;
    Ok(url)
}

fn timeout<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::seconds(1), Period::seconds(3600))
}

fn sync_interval<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(1), Period::seconds(10))
}

fn seal_after<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    Period::between(deserializer, Period::millis(100), Period::seconds(3600))
}

fn segment_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    between(deserializer, 64 << 10, 256 << 20)
}

fn spool_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    between(deserializer, 1 << 20, 1 << 50)
}

fn encryption<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = matches!(&*text, "" | "AES256" | "aws:kms");
    let key = text.strip_prefix("aws:kms:").is_some_and(|key| !key.is_empty());
    if known || key {
        return Ok(text);
    }
    Err(serde::de::Error::custom(format_args!(
        "`{text}` is no encryption; allowed are AES256, aws:kms, aws:kms:KEY, and nothing"
    )))
}

pub(super) fn between<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
    least: usize,
    most: usize,
) -> Result<usize, D::Error> {
    let bytes = usize::deserialize(deserializer)?;
    if (least..=most).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "{bytes} is out of range; allowed is {least} to {most}"
        )))
    }
}

fn compression<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let level = i32::deserialize(deserializer)?;
    if (1..=19).contains(&level) {
        Ok(level)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "a level of zstd is 1 to 19, not {level}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let folder = |path: &str| Ok(Place::Folder(path.into()));
        assert_eq!(Place::parse("file:///var/a"), folder("/var/a"));
        assert_eq!(Place::parse("file:data/a"), folder("data/a"));
        let bucket = |bucket: &str, prefix: &str| {
            Ok(Place::Bucket {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
            })
        };
        assert_eq!(Place::parse("s3://b"), bucket("b", ""));
        assert_eq!(Place::parse("s3://b/p/q/"), bucket("b", "p/q"));
        for wrong in [
            "",
            "/var/a",
            "file:",
            "file://",
            "file://host/path",
            "s3://",
            "http://x",
        ] {
            assert!(
                Place::parse(wrong).unwrap_err().contains("is not a place"),
                "{wrong}"
            );
        }
    }
}
