//! TLS 1.3, with certificates that can change while the agent runs.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::{
    config::{ApiConfig, ConfigError},
    error::AgentError,
};

/// What the address speaks; `None`: plain HTTP.
pub(super) fn server(config: &ApiConfig) -> Result<Option<Arc<ServerConfig>>, AgentError> {
    if !config.has_tls() {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("tls_cert", &config.tls_cert)?;
    let key = PrivateKeyDer::from_pem_file(&config.tls_key).map_err(|error| {
        unusable(
            "tls_key",
            &format!(
                "no private key can be read from {}: {error}",
                config.tls_key.display()
            ),
        )
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable("tls_cert", &format!("TLS 1.3 cannot be set up: {error}")))?;
    let builder = if config.tls_client_ca.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let refused = |error: String| unusable("tls_client_ca", &error);
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_client_ca", &config.tls_client_ca)? {
            roots
                .add(certificate)
                .map_err(|error| refused(format!("a certificate cannot be used: {error}")))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| refused(format!("the certificates cannot be used: {error}")))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| {
        unusable(
            "tls_cert",
            &format!("the certificate and its key cannot be used: {error}"),
        )
    })?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(server)))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, AgentError> {
    let unreadable = |what: String| unusable(key, &format!("{what} in {}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(format!("no certificate can be read ({error})")))?;
    if certificates.is_empty() {
        return Err(unreadable("there is no certificate".to_owned()));
    }
    Ok(certificates)
}

fn unusable(key: &str, message: &str) -> AgentError {
    AgentError::Config(ConfigError::Invalid {
        place: format!("api.{key}"),
        message: message.to_owned(),
    })
}
