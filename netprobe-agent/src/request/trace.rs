//! Trace context and request ids from headers. Nothing else of a header's value is ever kept.
//!
//! W3C `traceparent` comes first, then B3 in one header, then B3 in several. What is not exactly in its form is not
//! there: a trace that is guessed joins what does not belong together. `tracestate` and baggage have no field in an
//! event and are not read.

use std::sync::Arc;

use super::protocol::Trace;
use crate::event::{SpanId, TraceId};

/// Longest request id that is kept; a longer one is none.
const LONGEST_ID: usize = 128;

/// Collects what the headers of one request say.
#[derive(Debug)]
pub struct Collector<'n> {
    names: &'n [Box<str>],
    w3c: Once<Trace>,
    single: Once<Trace>,
    trace_id: Once<TraceId>,
    span_id: Once<SpanId>,
    /// Place of its name among the configured ones, and the value.
    id: Option<(usize, Arc<str>)>,
}

/// A header that may be there once.
#[derive(Debug)]
enum Once<T> {
    Absent,
    Seen(Option<T>),
}

impl<T> Once<T> {
    /// A second one, even the same, makes it worthless.
    fn see(&mut self, value: Option<T>) {
        *self = match self {
            Once::Absent => Once::Seen(value),
            Once::Seen(_) => Once::Seen(None),
        };
    }

    fn take(self) -> Option<T> {
        match self {
            Once::Absent => None,
            Once::Seen(value) => value,
        }
    }
}

impl<'n> Collector<'n> {
    /// For request ids in headers of these names, lower case, the first wins.
    pub fn new(names: &'n [Box<str>]) -> Collector<'n> {
        Collector {
            names,
            w3c: Once::Absent,
            single: Once::Absent,
            trace_id: Once::Absent,
            span_id: Once::Absent,
            id: None,
        }
    }

    /// Looks at a header.
    pub fn header(&mut self, name: &str, value: &[u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // Most headers are none of these: the length tells.
        match name.len() {
            11 if is("traceparent") => self.w3c.see(w3c(value)),
            2 if is("b3") => self.single.see(b3(value)),
            12 if is("x-b3-traceid") => self.trace_id.see(b3_trace_id(value)),
            11 if is("x-b3-spanid") => self.span_id.see(b3_span_id(value)),
            _ => {}
        }
        if let Some(place) = self.names.iter().position(|known| is(known))
            && self.id.as_ref().is_none_or(|(there, _)| place < *there)
            && let Some(id) = request_id(value)
        {
            self.id = Some((place, id));
        }
    }

    /// The trace and the request id.
    pub fn finish(self) -> (Option<Trace>, Option<Arc<str>>) {
        let several = match (self.trace_id.take(), self.span_id) {
            (Some(trace_id), Once::Seen(Some(span))) => Some(Trace {
                trace_id,
                parent_span_id: Some(span),
            }),
            (Some(trace_id), Once::Absent) => Some(Trace {
                trace_id,
                parent_span_id: None,
            }),
            _ => None,
        };
        let trace = self.w3c.take().or(self.single.take()).or(several);
        (trace, self.id.map(|(_, id)| id))
    }
}

/// `00-` trace `-` span `-` flags, in lower case; later versions may have more behind.
fn w3c(value: &[u8]) -> Option<Trace> {
    let text = lower(value)?;
    let bytes = text.as_bytes();
    if bytes.len() < 55 || [2, 35, 52].iter().any(|at| bytes[*at] != b'-') {
        return None;
    }
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let version = &text[..2];
    let rest_fits = match version {
        "00" => bytes.len() == 55,
        _ => bytes.len() == 55 || bytes[55] == b'-',
    };
    if !hex(version) || version == "ff" || !hex(&text[53..55]) || !rest_fits {
        return None;
    }
    Some(Trace {
        trace_id: trace_id(&text[3..35])?,
        parent_span_id: Some(span_id(&text[36..52])?),
    })
}

/// Trace `-` span, then what else there is: `-` sampled `-` parent. A decision alone (`0`) is no trace.
fn b3(value: &[u8]) -> Option<Trace> {
    let text = lower(value)?;
    let mut parts = text.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let sampled = parts.next().is_none_or(|part| matches!(part, "0" | "1" | "d"));
    let parent = parts.next().is_none_or(|part| SpanId::parse(part).is_some());
    if !sampled || !parent || parts.next().is_some() {
        return None;
    }
    Some(Trace {
        trace_id: b3_trace_id(trace.as_bytes())?,
        parent_span_id: Some(span_id(span)?),
    })
}

/// 32 digits, or 16 that are its lower half.
fn b3_trace_id(value: &[u8]) -> Option<TraceId> {
    let text = lower(value)?;
    if text.len() == 16 {
        return trace_id(&format!("{:0>32}", text));
    }
    trace_id(text)
}

fn b3_span_id(value: &[u8]) -> Option<SpanId> {
    span_id(lower(value)?)
}

fn trace_id(text: &str) -> Option<TraceId> {
    TraceId::parse(text).filter(|id| id.0 != [0; 16])
}

fn span_id(text: &str) -> Option<SpanId> {
    SpanId::parse(text).filter(|id| id.0 != [0; 8])
}

/// ASCII without upper case.
fn lower(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    (text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_uppercase())).then_some(text)
}

/// Visible ASCII within the bound. Anything else is none, and not cut to fit: half an id is another id.
fn request_id(value: &[u8]) -> Option<Arc<str>> {
    let fits = (1..=LONGEST_ID).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    fits.then(|| std::str::from_utf8(value).ok().map(Arc::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(headers: &[(&str, &str)]) -> (Option<String>, Option<String>, Option<String>) {
        let names = [Box::from("x-request-id"), Box::from("x-correlation-id")];
        let mut collector = Collector::new(&names);
        for (name, value) in headers {
            collector.header(name, value.as_bytes());
        }
        let (trace, id) = collector.finish();
        (
            trace.as_ref().map(|trace| trace.trace_id.to_string()),
            trace
                .and_then(|trace| trace.parent_span_id)
                .map(|id| id.to_string()),
            id.map(|id| id.to_string()),
        )
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn traceparent_is_strict() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(
            collect(&[("TraceParent", &good)]),
            (Some(TRACE.to_owned()), Some(SPAN.to_owned()), None)
        );
        let later = format!("01-{TRACE}-{SPAN}-01-what-the-future-adds");
        assert_eq!(collect(&[("traceparent", &later)]).0.as_deref(), Some(TRACE));
        for bad in [
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01x"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-\u{e9}"),
            String::new(),
        ] {
            assert_eq!(collect(&[("traceparent", &bad)]).0, None, "{bad}");
        }
        assert_eq!(
            collect(&[("traceparent", &good), ("traceparent", &good)]).0,
            None,
            "twice"
        );
    }

    #[test]
    fn b3_in_one_header_and_in_several() {
        let one = format!("{TRACE}-{SPAN}-1-{SPAN}");
        assert_eq!(collect(&[("b3", &one)]).1.as_deref(), Some(SPAN));
        let short = format!("{SPAN}-{SPAN}");
        assert_eq!(collect(&[("b3", &short)]).0, Some(format!("{:0>32}", SPAN)));
        for bad in [
            "0",
            "",
            "-",
            "x-y",
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-{SPAN}-x"),
        ] {
            assert_eq!(collect(&[("b3", bad)]).0, None, "{bad}");
        }
        let several = [
            ("X-B3-TraceId", TRACE),
            ("X-B3-SpanId", SPAN),
            ("X-B3-Sampled", "1"),
        ];
        assert_eq!(
            collect(&several),
            (Some(TRACE.to_owned()), Some(SPAN.to_owned()), None)
        );
        assert_eq!(collect(&[("x-b3-spanid", SPAN)]).0, None, "no trace");
    }

    #[test]
    fn w3c_comes_first() {
        let w3c = format!("00-{TRACE}-{SPAN}-00");
        let other = format!("{}-{SPAN}", "1".repeat(32));
        assert_eq!(
            collect(&[("b3", &other), ("traceparent", &w3c)]).0.as_deref(),
            Some(TRACE)
        );
    }

    #[test]
    fn request_ids_are_bounded_and_clean() {
        assert_eq!(collect(&[("X-Request-ID", "abc-1")]).2.as_deref(), Some("abc-1"));
        let both = [("x-correlation-id", "second"), ("x-request-id", "first")];
        assert_eq!(collect(&both).2.as_deref(), Some("first"));
        for bad in ["", "a b", "a\tb", "a\x1b[31m", "\u{e9}", &"x".repeat(129)] {
            assert_eq!(collect(&[("x-request-id", bad)]).2, None, "{bad}");
        }
        assert_eq!(collect(&[("cookie", "session=1")]), (None, None, None));
    }
}
