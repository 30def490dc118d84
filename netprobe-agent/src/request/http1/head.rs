//! Heads of HTTP/1 messages: where they end, and what they say about their bodies.

use std::{borrow::Cow, sync::Arc};

use httparse::{EMPTY_HEADER, Header, ParserConfig};
use memchr::memchr_iter;

use super::body::Body;
use crate::request::{
    protocol::{Reject, Trace},
    settings::Settings,
    trace::Collector,
};

/// A longer head is refused, as most servers do far earlier.
pub(super) const LONGEST: usize = 64 << 10;
/// A head of more lines is refused.
const MOST_HEADERS: usize = 128;
/// A longer method is none.
const LONGEST_METHOD: usize = 32;

/// Bytes of a head that came in several pieces.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    bytes: Vec<u8>,
}

/// What a further piece gave.
pub(super) enum Gathered<'a> {
    /// The head, and how many bytes of the piece it took.
    Whole(Cow<'a, [u8]>, usize),
    /// It goes on; the whole piece was taken.
    More,
    /// It is beyond the bound.
    TooLong,
}

impl Gathering {
    pub(super) fn push<'a>(&mut self, bytes: &'a [u8]) -> Gathered<'a> {
        if self.bytes.is_empty()
            && let Some(end) = end(bytes, 0)
        {
            return if end > LONGEST {
                Gathered::TooLong
            } else {
                Gathered::Whole(Cow::Borrowed(&bytes[..end]), end)
            };
        }
        let before = self.bytes.len();
        let room = LONGEST - before;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        // The end may have begun in what was there.
        match end(&self.bytes, before.saturating_sub(2)) {
            Some(end) => {
                self.bytes.truncate(end);
                Gathered::Whole(Cow::Owned(std::mem::take(&mut self.bytes)), end - before)
            }
            None if bytes.len() >= room => {
                self.clear();
                Gathered::TooLong
            }
            None => Gathered::More,
        }
    }

    /// What is there of a head that does not go on, up to its last whole line, and closed: its beginning reads like
    /// any other. `None` when not even the first line is whole.
    pub(super) fn cut(&mut self) -> Option<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let line = memchr::memrchr(b'\n', &bytes)?;
        bytes.truncate(line + 1);
        bytes.extend_from_slice(b"\r\n");
        Some(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Where the empty line ends, of those that begin behind `from`.
fn end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr_iter(b'\n', &bytes[from..]).find_map(|at| {
        let next = from + at + 1;
        match &bytes[next..] {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// Whether bytes can be the beginning of a request: `None` as long as that is not decided.
pub(in crate::request) fn begins_request(bytes: &[u8]) -> Option<bool> {
    let method = bytes.iter().take(LONGEST_METHOD + 1);
    for (index, byte) in method.enumerate() {
        match byte {
            b' ' => return Some(index > 0),
            byte if byte.is_ascii_alphabetic() || b"-_".contains(byte) => {}
            _ => return Some(false),
        }
    }
    (bytes.len() > LONGEST_METHOD).then_some(false)
}

/// The same for a response.
pub(in crate::request) fn begins_response(bytes: &[u8]) -> Option<bool> {
    const START: &[u8] = b"HTTP/1.";
    let same = bytes.iter().zip(START).all(|(a, b)| a == b);
    (!same || bytes.len() >= START.len()).then_some(same)
}

/// What a request's head says.
pub(super) struct RequestHead {
    pub(super) protocol: &'static str,
    pub(super) method: Arc<str>,
    pub(super) route: Option<Arc<str>>,
    /// `None`: nobody can tell where it ends.
    pub(super) body: Option<Body>,
    pub(super) ambiguous: bool,
    pub(super) trace: Option<Trace>,
    pub(super) request_id: Option<Arc<str>>,
}

pub(super) fn request(bytes: &[u8], settings: &Settings) -> Result<RequestHead, Reject> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let refused = |error| match error {
        httparse::Error::TooManyHeaders => Reject::HttpHeadTooLong,
        // A folded line: some servers take it, and then differ in what it says.
        _ if folded(bytes) => Reject::HttpAmbiguous,
        _ => Reject::HttpHead,
    };
    if request.parse(bytes).map_err(refused)?.is_partial() {
        return Err(Reject::HttpHead);
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Reject::HttpHead);
    };
    if method.len() > LONGEST_METHOD {
        return Err(Reject::HttpHead);
    }
    let lengths = Lengths::of(request.headers);
    let mut collector = Collector::new(&settings.request_ids);
    for header in &*request.headers {
        collector.header(header.name, header.value);
    }
    let (trace, request_id) = collector.finish();
    let body = match &lengths {
        Lengths {
            encoded: true,
            chunked: true,
            ..
        } => Some(Body::chunked()),
        Lengths { encoded: true, .. } | Lengths { wrong: true, .. } => None,
        Lengths { length, .. } => Some(Body::Length(length.unwrap_or(0))),
    };
    Ok(RequestHead {
        protocol: name(minor),
        method: settings.method(method),
        route: settings.routes.of(target),
        ambiguous: lengths.ambiguous(minor) || (lengths.encoded && !lengths.chunked),
        body,
        trace,
        request_id,
    })
}

/// What a response's head says.
pub(super) struct ResponseHead {
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) body: Option<Body>,
    pub(super) ambiguous: bool,
}

/// `bodiless`: it answers HEAD, so that its lengths speak of a body that does not come.
pub(super) fn response(bytes: &[u8], bodiless: bool) -> Result<ResponseHead, Reject> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let mut parser = ParserConfig::default();
    // What clients take.
    parser.allow_obsolete_multiline_headers_in_responses(true);
    parser.allow_spaces_after_header_name_in_responses(true);
    let parsed = parser
        .parse_response(&mut response, bytes)
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => Reject::HttpHeadTooLong,
            _ => Reject::HttpHead,
        })?;
    let (false, Some(minor), Some(status)) = (parsed.is_partial(), response.version, response.code) else {
        return Err(Reject::HttpHead);
    };
    let lengths = Lengths::of(response.headers);
    let body = if bodiless || status < 200 || status == 204 || status == 304 {
        Some(Body::Length(0))
    } else {
        match &lengths {
            Lengths {
                encoded: true,
                chunked: true,
                ..
            } => Some(Body::chunked()),
            Lengths { encoded: true, .. } => Some(Body::UntilClose),
            Lengths { wrong: true, .. } => None,
            Lengths { length, .. } => Some(length.map_or(Body::UntilClose, Body::Length)),
        }
    };
    Ok(ResponseHead {
        protocol: name(minor),
        status,
        body,
        ambiguous: lengths.ambiguous(minor),
    })
}

const fn name(minor: u8) -> &'static str {
    if minor == 0 { "http/1.0" } else { "http/1.1" }
}

fn folded(bytes: &[u8]) -> bool {
    memchr_iter(b'\n', bytes).any(|at| matches!(bytes.get(at + 1), Some(b' ' | b'\t')))
}

/// What headers say about a body.
#[derive(Debug, Default)]
struct Lengths {
    length: Option<u64>,
    /// A length that is none, or another one than an earlier.
    wrong: bool,
    /// It is there more than once.
    repeated: bool,
    /// There is a transfer encoding.
    encoded: bool,
    /// Its last one is `chunked`.
    chunked: bool,
}

impl Lengths {
    fn of(headers: &[Header<'_>]) -> Lengths {
        let mut lengths = Lengths::default();
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                for part in header.value.split(|byte| *byte == b',') {
                    lengths.see_length(part.trim_ascii());
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                lengths.encoded = true;
                let last = header.value.rsplit(|byte| *byte == b',').next();
                lengths.chunked = last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            }
        }
        lengths
    }

    fn see_length(&mut self, text: &[u8]) {
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let value = std::str::from_utf8(text)
            .ok()
            .filter(|_| digits)
            .and_then(|text| text.parse().ok());
        self.repeated |= self.length.is_some();
        self.wrong |= value.is_none() || self.length.is_some_and(|earlier| Some(earlier) != value);
        self.length = value;
    }

    fn ambiguous(&self, minor: u8) -> bool {
        let both = self.encoded && (self.length.is_some() || minor == 0);
        self.wrong || self.repeated || both
    }
}
