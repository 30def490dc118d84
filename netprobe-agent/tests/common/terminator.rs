//! TLS in front of a server that has none, with a certificate that can be exchanged while it runs.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

use netprobe_tests::proxy;
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

/// It takes connections as long as the process lives.
pub(crate) struct Terminator {
    address: SocketAddr,
    key: rcgen::KeyPair,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Terminator {
    /// In front of `server`, with a certificate that ends with this year's begin.
    pub(crate) fn start(server: SocketAddr, until: i32) -> Terminator {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let key = rcgen::KeyPair::generate().expect("a key");
        let config = Arc::new(Mutex::new(served(&key, until)));
        let terminator = Terminator {
            address: listener.local_addr().expect("bound"),
            key,
            config: config.clone(),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let config = config.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A client that does not trust us goes away.
                std::thread::spawn(move || drop(serve(client, config, server)));
            }
        });
        terminator
    }

    /// Shows another certificate of the same key from now on.
    pub(crate) fn renew(&self, until: i32) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = served(&self.key, until);
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What a client has to trust, as PEM.
    pub(crate) fn certificate(&self) -> String {
        certificate(&self.key, 4000).pem()
    }
}

fn certificate(key: &rcgen::KeyPair, until: i32) -> rcgen::Certificate {
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params.self_signed(key).expect("signed")
}

fn served(key: &rcgen::KeyPair, until: i32) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate(key, until).der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        );
    Arc::new(config.expect("they fit"))
}

/// Serves one request; a connection has no second one.
fn serve(client: TcpStream, config: Arc<ServerConfig>, server: SocketAddr) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut client = StreamOwned::new(connection, client);
    let request = proxy::request(&mut client)?;
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&request.head)?;
    upstream.write_all(&request.body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()
}
