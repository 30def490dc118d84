//! The archive: a local folder or a bucket, and the few things done with it.

use std::{fs, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    Certificate, ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    WriteMultipart,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path,
    prefix::PrefixStore,
};

use super::signing;
use crate::{
    config::{ArchiveConfig, Place},
    error::AgentError,
};

/// Objects above this go up in parts of this size: S3 wants at least 5 MiB.
const PART: usize = 8 << 20;

/// Why something could not be done with the archive: one sentence.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store said no, or nothing.
    #[error("{}", whole(.0))]
    Store(#[from] object_store::Error),
    /// What was written does not read back.
    #[error("{key} reads back with SHA-256 {found} instead of {expected}")]
    ReadsBackWrong {
        /// Name of the object.
        key: String,
        /// What was written.
        expected: String,
        /// What was read.
        found: String,
    },
}

impl StoreError {
    fn is_absence(&self) -> bool {
        matches!(self, StoreError::Store(object_store::Error::NotFound { .. }))
    }
}

/// An error with all that is behind it. By itself it leaves out the end, which is what matters: that the certificate has
/// expired, that nobody listens.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// The archive.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// Whether everything written is read back.
    pub read_back: bool,
}

/// What a put came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was written.
    Written,
    /// The same bytes were there already: an earlier try was applied after all.
    WasThere,
}

impl Store {
    /// A store of any kind, for tests.
    pub fn over(inner: Arc<dyn ObjectStore>, read_back: bool) -> Store {
        Store { inner, read_back }
    }

    /// Opens what the configuration names. A local folder is made if need be; a bucket is not asked yet.
    pub fn open(config: &ArchiveConfig) -> Result<Store, AgentError> {
        Store::open_url(config, &config.url)
    }

    /// Opens an archive to read it. A local folder has to be there.
    pub fn open_existing(config: &ArchiveConfig, url: &str) -> Result<Store, AgentError> {
        if let Ok(Place::Folder(path)) = Place::parse(url)
            && let Err(error) = fs::read_dir(&path)
        {
            return Err(AgentError::other(
                format!("the archive folder {} cannot be read: {error}", path.display()),
                "name the archive with --url or in `archive.url`",
            ));
        }
        Store::open_url(config, url)
    }

    /// The same for another place, with the other settings of the configuration.
    pub fn open_url(config: &ArchiveConfig, url: &str) -> Result<Store, AgentError> {
        let inner: Arc<dyn ObjectStore> = match Place::parse(url).map_err(AgentError::Usage)? {
            Place::Folder(path) => {
                let unusable = |error: String| {
                    AgentError::other(
                        format!("the archive folder {} cannot be used: {error}", path.display()),
                        "make it, or name another in `archive.url`",
                    )
                };
                fs::create_dir_all(&path).map_err(|error| unusable(error.to_string()))?;
                let folder =
                    LocalFileSystem::new_with_prefix(&path).map_err(|error| unusable(error.to_string()))?;
                // A put that returned has to be there after a power failure: the spool forgets it then.
                Arc::new(folder.with_fsync(true))
            }
            Place::Bucket { bucket, prefix } => {
                let store = bucket_store(config, &bucket)?;
                Arc::new(PrefixStore::new(store, prefix))
            }
        };
        Ok(Store {
            inner,
            read_back: config.read_back,
        })
    }

    /// Writes an object, so that afterwards it is there with these bytes.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let path = path(key)?;
        // An earlier try that timed out may have been applied, and a second version of the same is of no use.
        match self.inner.head(&path).await {
            Ok(meta) if meta.size == bytes.len() as u64 => {
                let there = self.inner.get(&path).await?.bytes().await?;
                if there == bytes {
                    return Ok(Put::WasThere);
                }
                tracing::warn!(key, "an object of this name has other bytes and is replaced");
            }
            Ok(_) => tracing::warn!(key, "an object of this name has another length and is replaced"),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if bytes.len() > PART {
            let upload = self.inner.put_multipart(&path).await?;
            let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
            writer.put(bytes.clone());
            writer.finish().await?;
        } else {
            self.inner
                .put(&path, PutPayload::from_bytes(bytes.clone()))
                .await?;
        }
        if self.read_back {
            let there = self.inner.get(&path).await?.bytes().await?;
            if there != bytes {
                return Err(StoreError::ReadsBackWrong {
                    key: key.to_owned(),
                    expected: signing::sha256(&bytes),
                    found: signing::sha256(&there),
                });
            }
        }
        Ok(Put::Written)
    }

    /// The bytes of an object; `None` when there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        match self.inner.get(&path(key)?).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(error) => {
                let error = StoreError::from(error);
                if error.is_absence() { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Objects below a prefix, in the order the store gives.
    pub fn list(
        &self,
        below: &str,
    ) -> Result<BoxStream<'static, Result<ObjectMeta, StoreError>>, StoreError> {
        let below = path(below)?;
        Ok(self.inner.list(Some(&below)).map_err(StoreError::from).boxed())
    }

    /// Names of the folders right below a prefix.
    pub async fn folders(&self, below: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.inner.list_with_delimiter(Some(&path(below)?)).await?;
        let names = listed.common_prefixes.iter();
        Ok(names
            .filter_map(|prefix| prefix.parts().next_back().map(|part| part.as_ref().to_owned()))
            .collect())
    }
}

fn path(key: &str) -> Result<Path, StoreError> {
    Path::parse(key).map_err(|error| StoreError::Store(error.into()))
}

fn bucket_store(config: &ArchiveConfig, bucket: &str) -> Result<impl ObjectStore + use<>, AgentError> {
    let unusable = |error: object_store::Error| {
        AgentError::other(
            format!("the archive {} cannot be used: {error}", config.url),
            "look at `archive.endpoint`, `archive.region`, `archive.encryption` and `archive.credentials`",
        )
    };
    // Twice is once: whoever came first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = ClientOptions::new()
        .with_allow_http(config.endpoint.starts_with("http://"))
        .with_connect_timeout(config.timeout.0.min(Duration::from_secs(10)))
        .with_timeout(config.timeout.0);
    if !config.ca.as_os_str().is_empty() {
        let certificates = fs::read(&config.ca)
            .map_err(|error| error.to_string())
            .and_then(|pem| Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string()));
        let certificates = certificates.map_err(|error| {
            AgentError::other(
                format!("the certificates {} cannot be used: {error}", config.ca.display()),
                "put the authority's certificate into it, in PEM form",
            )
        })?;
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&config.region)
        .with_client_options(options)
        // Trying again is the uploader's business: it counts, waits and tells.
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        });
    if !config.endpoint.is_empty() {
        builder = builder.with_endpoint(&config.endpoint);
    }
    if let Some(key) = config.encryption.strip_prefix("aws:kms:") {
        builder = builder.with_sse_kms_encryption(key);
    } else if !config.encryption.is_empty() {
        let name = AmazonS3ConfigKey::from_str("aws_server_side_encryption").map_err(unusable)?;
        builder = builder.with_config(name, &config.encryption);
    }
    let credentials = Credentials::of(config)?;
    builder = builder
        .with_access_key_id(credentials.access_key_id)
        .with_secret_access_key(credentials.secret_access_key);
    builder.build().map_err(unusable)
}

/// Who asks.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
}

impl Credentials {
    /// Of the file the configuration names, else of the environment.
    fn of(config: &ArchiveConfig) -> Result<Credentials, AgentError> {
        let file = &config.credentials;
        if file.as_os_str().is_empty() {
            let variable = |name: &str| {
                std::env::var(name).map_err(|_| {
                    AgentError::other(
                        format!(
                            "the archive {} needs credentials, and {name} is not set",
                            config.url
                        ),
                        "name a file with them in `archive.credentials`, or set the variable",
                    )
                })
            };
            return Ok(Credentials {
                access_key_id: variable("AWS_ACCESS_KEY_ID")?,
                secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
            });
        }
        let text = fs::read_to_string(file).map_err(|error| error.to_string());
        // Not what the parser says: it would repeat the line, and with it the secret.
        let read = text.and_then(|text| {
            toml::from_str(&text).map_err(|_| "it is not two lines of TOML with the two keys".to_owned())
        });
        read.map_err(|error| {
            AgentError::other(
                format!("the credentials {} cannot be used: {error}", file.display()),
                "write access_key_id = \"…\" and secret_access_key = \"…\" into it",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn putting_twice_is_putting_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let memory = Arc::new(object_store::memory::InMemory::new());
            let store = Store::over(memory, true);
            let big = Bytes::from(vec![7; PART * 2 + 1]);
            for bytes in [Bytes::from_static(b"one"), big] {
                let key = format!("v1/{}", bytes.len());
                assert_eq!(store.put(&key, bytes.clone()).await.unwrap(), Put::Written);
                assert_eq!(store.put(&key, bytes.clone()).await.unwrap(), Put::WasThere);
                assert_eq!(store.get(&key).await.unwrap(), Some(bytes));
            }
            assert_eq!(store.get("v1/none").await.unwrap(), None);
        });
    }
}
