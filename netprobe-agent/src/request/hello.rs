//! The ClientHello of TLS: which server is wanted (SNI), and which protocols are offered (ALPN). It is the one message
//! that is sent in clear. Read by rustls, as a server reads it.

use std::sync::Arc;

use rustls::server::Acceptor;

use super::{
    dns::clean,
    protocol::{Found, Hello, Named, Piece, Protocol, Reject, Side},
};

/// A hello that is longer is refused. With keys for after quantum computers it takes about 2 KiB.
const LONGEST: usize = 32 << 10;
/// Protocols that are kept; a client may name as many as it likes.
const MOST_PROTOCOLS: usize = 8;
/// How long a name holds: as long as anybody may ask.
const TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// The beginning of a TLS connection.
pub struct HelloReader {
    /// `None`: the hello was read, or refused.
    acceptor: Option<Acceptor>,
    fed: usize,
}

impl Default for HelloReader {
    fn default() -> Self {
        HelloReader {
            acceptor: Some(Acceptor::default()),
            fed: 0,
        }
    }
}

impl HelloReader {
    fn refuse(&mut self, found: &mut Found) {
        found.rejects.push(Reject::Hello);
        self.acceptor = None;
    }
}

impl Protocol for HelloReader {
    fn feed(&mut self, side: Side, piece: Piece<'_>, found: &mut Found) {
        if side == Side::ToClient {
            return;
        }
        let mut bytes = piece.bytes;
        while let Some(acceptor) = self.acceptor.as_mut().filter(|_| !bytes.is_empty()) {
            let Ok(taken @ 1..) = acceptor.read_tls(&mut bytes) else {
                return self.refuse(found);
            };
            self.fed += taken;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = hello(&accepted.client_hello());
                    if let Some(name) = &hello.server_name {
                        found.names.push(Named {
                            address: None,
                            name: name.clone(),
                            ttl: TTL,
                        });
                    }
                    found.hello = Some(hello);
                    self.acceptor = None;
                }
                Ok(None) if self.fed <= LONGEST => {}
                _ => return self.refuse(found),
            }
        }
        if self.acceptor.is_some() && piece.skipped > 0 {
            self.refuse(found);
        }
    }

    fn close(&mut self, _at: u64, found: &mut Found) {
        if self.acceptor.is_some() && self.fed > 0 {
            self.refuse(found);
        }
    }

    fn memory(&self) -> usize {
        match self.acceptor {
            // What it holds of the bytes, and its own state.
            Some(_) => self.fed + 4096,
            None => 0,
        }
    }

    fn is_opaque(&self) -> bool {
        self.acceptor.is_none()
    }
}

fn hello(hello: &rustls::server::ClientHello<'_>) -> Hello {
    let protocols = hello.alpn().into_iter().flatten().take(MOST_PROTOCOLS);
    Hello {
        server_name: hello.server_name().map(clean),
        alpn: protocols
            .map(|name| {
                let shown = String::from_utf8_lossy(&name[..name.len().min(32)]);
                Arc::from(shown.escape_default().to_string())
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

    use super::*;

    /// What a client of rustls says first.
    fn said(server: &str, alpn: &[&str]) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let server = ServerName::try_from(server.to_owned()).expect("a name");
        let mut client = ClientConnection::new(config.into(), server).expect("a client");
        let mut out = Vec::new();
        client.write_tls(&mut out).expect("bytes");
        out.flush().expect("bytes");
        out
    }

    fn read(pieces: &[&[u8]], skipped: u64) -> (Found, bool) {
        let mut reader = HelloReader::default();
        let mut found = Found::default();
        for bytes in pieces {
            reader.feed(
                Side::ToServer,
                Piece {
                    at: 1,
                    bytes,
                    skipped,
                },
                &mut found,
            );
        }
        let opaque = reader.is_opaque();
        reader.close(2, &mut found);
        (found, opaque)
    }

    #[test]
    fn server_and_protocols_are_read() {
        let (found, opaque) = read(&[&said("API.example.org", &["h2", "http/1.1"])], 0);
        let hello = found.hello.expect("a hello");
        assert_eq!(hello.server_name.as_deref(), Some("api.example.org"));
        assert_eq!(hello.alpn, [Arc::from("h2"), Arc::from("http/1.1")]);
        assert_eq!(found.names[0].address, None);
        assert!(opaque);
        let (found, _) = read(&[&said("192.0.2.1", &[])], 0);
        assert_eq!(found.hello, Some(Hello::default()), "an address is no name");
    }

    #[test]
    fn what_is_none_is_refused() {
        let said = said("a.example", &[]);
        for (bytes, skipped) in [
            (&said[..said.len() - 1], 0),
            (&said[..40], 500),
            (b"\x16\x03\x01\0\x04abcd", 0),
        ] {
            let (found, _) = read(&[bytes], skipped);
            assert_eq!(found.rejects, [Reject::Hello]);
            assert_eq!(found.hello, None);
        }
        let endless = [&b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"[..], &[0; 16379]].concat();
        let pieces: Vec<&[u8]> = std::iter::repeat_n(&endless[..], 20).collect();
        assert_eq!(read(&pieces, 0).0.rejects, [Reject::Hello]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(places in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let said = said("a.example", &["h2"]);
            let mut ends: Vec<_> = places.iter().map(|place| place.index(said.len() + 1)).collect();
            ends.extend([0, said.len()]);
            ends.sort_unstable();
            let pieces: Vec<_> = ends.windows(2).map(|ends| &said[ends[0]..ends[1]]).collect();
            prop_assert_eq!(read(&pieces, 0), read(&[&said], 0));
        }
    }
}
