//! Who emitted an event, and the ids that tie events together.

use std::{
    borrow::Cow,
    fmt, fs, io,
    io::{Read as _, Write as _},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where events come from: the same for every event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Host name.
    pub host: Arc<str>,
    /// Boot id of the kernel.
    pub boot_id: Arc<str>,
    /// Run of the agent: 16 lowercase hex digits.
    pub run: Arc<str>,
    /// Trace that gap and agent events of this run share.
    pub trace_id: TraceId,
    /// Their span.
    pub span_id: SpanId,
}

impl Origin {
    /// The origin of given names.
    pub fn new(host: &str, boot_id: &str, run: &str) -> Origin {
        let (trace_id, span_id) = of_connection(&format!("{boot_id}-run-{run}"));
        Origin {
            host: host.into(),
            boot_id: boot_id.into(),
            run: run.into(),
            trace_id,
            span_id,
        }
    }

    /// This host, this boot, and a new random run.
    pub fn detect() -> io::Result<Origin> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let mut run = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut run)?;
        Ok(Origin::new(host.trim(), boot_id.trim(), &SpanId(run).to_string()))
    }
}

/// `{boot_id}-{socket cookie}`.
pub fn connection_id(boot_id: &str, cookie: u64) -> Arc<str> {
    // Every event has one. A boot id is a UUID, with which it fits here and costs one allocation, not three.
    let mut room = [0; 64];
    let mut rest = room.as_mut_slice();
    let fits = write!(rest, "{boot_id}-{cookie}").is_ok();
    let len = 64 - rest.len();
    match std::str::from_utf8(&room[..len]) {
        Ok(id) if fits => id.into(),
        _ => format!("{boot_id}-{cookie}").into(),
    }
}

/// Trace and span of a connection: bytes 0 to 15 and 16 to 23 of SHA-256 of its id, so every run of the agent
/// that sees the connection gives it the same.
pub fn of_connection(connection_id: &str) -> (TraceId, SpanId) {
    let hash = Sha256::digest(connection_id.as_bytes());
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&hash[..16]);
    span.copy_from_slice(&hash[16..24]);
    (TraceId(trace), SpanId(span))
}

/// Span of one request of a connection: it began at `began_ns` of the monotonic clock and is the `number`th told of it.
pub fn span_of(connection_id: &str, began_ns: u64, number: u64) -> SpanId {
    let hash = Sha256::new()
        .chain_update(connection_id.as_bytes())
        .chain_update(began_ns.to_be_bytes())
        .chain_update(number.to_be_bytes())
        .finalize();
    let mut span = [0; 8];
    span.copy_from_slice(&hash[..8]);
    SpanId(span)
}

macro_rules! hex_id {
    ($(#[$meta:meta])* $name:ident, $bytes:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, utoipa::ToSchema)]
        #[schema(value_type = String)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Reads lowercase or uppercase hex digits of exactly this length.
            pub fn parse(text: &str) -> Option<$name> {
                let digits = text.as_bytes();
                if digits.len() != 2 * $bytes {
                    return None;
                }
                let mut bytes = [0; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let high = char::from(pair[0]).to_digit(16)?;
                    let low = char::from(pair[1]).to_digit(16)?;
                    *byte = (high << 4 | low) as u8;
                }
                Some($name(bytes))
            }

            fn digits(self) -> [u8; 2 * $bytes] {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let mut text = [0; 2 * $bytes];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = DIGITS[usize::from(byte >> 4)];
                    pair[1] = DIGITS[usize::from(byte & 15)];
                }
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let digits = self.digits();
                serializer.serialize_str(std::str::from_utf8(&digits).map_err(serde::ser::Error::custom)?)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                $name::parse(&text).ok_or_else(|| {
                    serde::de::Error::custom(format_args!("`{text}` is not {} hex digits", 2 * $bytes))
                })
            }
        }
    };
}

hex_id! {
    /// Trace id: 32 hex digits.
    TraceId, 16
}
hex_id! {
    /// Span id: 16 hex digits.
    SpanId, 8
}
