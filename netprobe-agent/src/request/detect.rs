//! Which protocol a TCP connection speaks, told by its first bytes.

use std::sync::Arc;

use super::{
    dns::Dns,
    hello::HelloReader,
    http1::{Http1, begins_response},
    protocol::{Found, Piece, Protocol, Side},
    settings::{METHODS, Settings},
};

/// Pieces of a connection older than the agent that are looked at for a beginning.
const MOST_TRIES: u32 = 100;

/// A connection of which nothing is known yet, and then what it turned out to be.
pub struct Reader {
    settings: Arc<Settings>,
    /// It is older than the agent, or its beginning was lost.
    resumed: bool,
    tries: u32,
    inner: Inner,
}

enum Inner {
    /// The first bytes of the client, too few to tell, and when they came.
    Undecided(Vec<u8>, u64),
    Known(Box<dyn Protocol>),
    Opaque,
}

/// What first bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Hello,
    Unknown,
}

impl Reader {
    /// A TCP connection to this port of the server. `resumed`: its first bytes were not seen.
    pub fn new(settings: Arc<Settings>, port: u16, resumed: bool) -> Reader {
        let inner = if port == 53 && !resumed {
            Inner::Known(Box::new(Dns::stream(settings.dns_timeout_ns)))
        } else {
            Inner::Undecided(Vec::new(), 0)
        };
        Reader {
            settings,
            resumed,
            tries: 0,
            inner,
        }
    }

    fn http(&self) -> Inner {
        Inner::Known(Box::new(Http1::new(self.settings.clone(), self.resumed)))
    }

    /// Looks at a piece while nothing is decided; what came before it, if that is to be fed first.
    fn decide(&mut self, side: Side, piece: Piece<'_>) -> Option<(Vec<u8>, u64)> {
        let Inner::Undecided(held, at) = &mut self.inner else {
            return None;
        };
        self.tries += 1;
        if self.tries > MOST_TRIES {
            self.inner = Inner::Opaque;
            return None;
        }
        let (mut held, at) = (std::mem::take(held), *at);
        let first_at = if held.is_empty() { piece.at } else { at };
        if side == Side::ToClient {
            let response = begins_response(piece.bytes) == Some(true);
            match (response, self.resumed) {
                (true, _) => self.inner = self.http(),
                // Servers that speak first speak nothing that is known here.
                (false, false) => self.inner = Inner::Opaque,
                (false, true) => {}
            }
            return Some((held, first_at)).filter(|(held, _)| !held.is_empty());
        }
        let before = held.len();
        held.extend_from_slice(&piece.bytes[..piece.bytes.len().min(16)]);
        match kind(&held) {
            Some(Kind::Http) => self.inner = self.http(),
            Some(Kind::Hello) => self.inner = Inner::Known(Box::new(HelloReader::default())),
            Some(Kind::Unknown) if !self.resumed => self.inner = Inner::Opaque,
            Some(Kind::Unknown) => {}
            None if piece.skipped > 0 => self.resumed = true,
            None if self.resumed => {}
            None => {
                self.inner = Inner::Undecided(held, first_at);
                return None;
            }
        }
        held.truncate(before);
        Some((held, first_at)).filter(|(held, _)| !held.is_empty())
    }
}

/// `None`: too few to tell.
fn kind(bytes: &[u8]) -> Option<Kind> {
    match bytes {
        [] | [0x16] => return None,
        [0x16, 0x03, ..] => return Some(Kind::Hello),
        _ => {}
    }
    let mut begun = false;
    for method in METHODS {
        let word = method.as_bytes();
        if bytes.starts_with(word) && bytes.get(word.len()) == Some(&b' ') {
            return Some(Kind::Http);
        }
        begun |= word.starts_with(bytes) || bytes == word;
    }
    (!begun).then_some(Kind::Unknown)
}

impl Protocol for Reader {
    fn feed(&mut self, side: Side, piece: Piece<'_>, found: &mut Found) {
        let held = self.decide(side, piece);
        if let Inner::Known(protocol) = &mut self.inner {
            if let Some((bytes, at)) = held {
                let first = Piece {
                    at,
                    bytes: &bytes,
                    skipped: 0,
                };
                protocol.feed(Side::ToServer, first, found);
            }
            protocol.feed(side, piece, found);
            if protocol.is_opaque() {
                self.inner = Inner::Opaque;
            }
        }
    }

    fn close(&mut self, at: u64, found: &mut Found) {
        if let Inner::Known(protocol) = &mut self.inner {
            protocol.close(at, found);
        }
        self.inner = Inner::Opaque;
    }

    fn memory(&self) -> usize {
        match &self.inner {
            Inner::Undecided(held, _) => held.capacity(),
            Inner::Known(protocol) => protocol.memory(),
            Inner::Opaque => 0,
        }
    }

    fn is_opaque(&self) -> bool {
        matches!(self.inner, Inner::Opaque)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::RequestsConfig, request::protocol::Side::*};

    fn play(port: u16, resumed: bool, pieces: &[(Side, &[u8])]) -> (Found, bool) {
        let settings = Arc::new(Settings::new(&RequestsConfig::default()));
        let mut reader = Reader::new(settings, port, resumed);
        let mut found = Found::default();
        for (at, (side, bytes)) in pieces.iter().enumerate() {
            let piece = Piece {
                at: at as u64,
                bytes,
                skipped: 0,
            };
            reader.feed(*side, piece, &mut found);
        }
        (found, reader.is_opaque())
    }

    const ANSWER: &[u8] = b"HTTP/1.1 204 No\r\n\r\n";

    #[test]
    fn http_in_pieces_of_any_size() {
        let (found, opaque) = play(
            80,
            false,
            &[
                (ToServer, b"G"),
                (ToServer, b"ET / HTTP/1.1\r\n\r\n"),
                (ToClient, ANSWER),
            ],
        );
        assert_eq!(found.exchanges.len(), 1);
        assert_eq!(found.exchanges[0].times.request_first, Some(0));
        assert_eq!(found.exchanges[0].bytes_to_server, 18);
        assert!(!opaque);
    }

    #[test]
    fn what_is_not_known_is_opaque() {
        for pieces in [
            &[(ToServer, &b"SSH-2.0-x\r\n"[..])][..],
            &[(ToClient, b"220 mail\r\n")],
            &[(ToServer, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")],
            &[(ToServer, b"GETTING / HTTP/1.1\r\n")],
            &[(ToServer, b"\x16\x02")],
        ] {
            assert!(play(80, false, pieces).1, "{pieces:?}");
        }
    }

    #[test]
    fn an_older_connection_is_picked_up() {
        let (found, opaque) = play(
            80,
            true,
            &[
                (ToClient, b"some body"),
                (ToServer, b"some form"),
                (ToServer, b"GET / HTTP/1.1\r\n\r\n"),
                (ToClient, ANSWER),
            ],
        );
        assert_eq!(found.exchanges.len(), 1);
        assert!(!opaque);
        let nothing = [(ToServer, &b"some form"[..]); MOST_TRIES as usize + 1];
        assert!(play(80, true, &nothing).1);
    }
}
