//! The protobuf form, `io.prometheus.client.MetricFamily`: the one with native histograms.
//!
//! The messages are the part of `metrics.proto` that is written here, with its field numbers.

use prost::Message;

use super::{
    PREFIX,
    histogram::{self, SCHEMA},
    page::{Kind, LabelSet, Page, Value},
};
use crate::event::Nanos;

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Gauge {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(message, optional, tag = "2")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(message, optional, tag = "15")]
    created: Option<Timestamp>,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(enumeration = "MetricType", tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

/// A page of length-delimited families.
#[derive(Debug)]
pub(super) struct ProtoPage {
    out: Vec<u8>,
    family: MetricFamily,
    kind: Kind,
}

impl ProtoPage {
    pub(super) fn new() -> ProtoPage {
        ProtoPage {
            out: Vec::with_capacity(1 << 16),
            family: MetricFamily::default(),
            kind: Kind::Gauge,
        }
    }

    /// The page.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }

    fn flush(&mut self) {
        if self.family.metric.is_empty() {
            return;
        }
        let family = self.family.encode_length_delimited_to_vec();
        self.out.extend(family);
        self.family.metric.clear();
    }
}

impl Page for ProtoPage {
    fn family(&mut self, name: &str, help: &str, kind: Kind) {
        self.flush();
        let (suffix, of_kind) = match kind {
            Kind::Counter => ("_total", MetricType::Counter),
            Kind::Info => ("_info", MetricType::Gauge),
            Kind::Gauge => ("", MetricType::Gauge),
            Kind::Histogram => ("", MetricType::Histogram),
        };
        self.family.name = [PREFIX, name, suffix].concat();
        self.family.help = format!("{help}.");
        self.family.kind = of_kind.into();
        self.kind = kind;
    }

    fn sample(&mut self, labels: &LabelSet<'_>, value: Value, exemplar: Option<&histogram::Exemplar>) {
        let value = match value {
            Value::Whole(value) => value as f64,
            Value::Signed(value) => value as f64,
            Value::Real(value) => value,
        };
        let mut metric = Metric {
            label: pairs(labels),
            ..Metric::default()
        };
        match self.kind {
            Kind::Counter => {
                let exemplar = exemplar.map(example);
                metric.counter = Some(Counter { value, exemplar });
            }
            _ => metric.gauge = Some(Gauge { value }),
        }
        self.family.metric.push(metric);
    }

    fn histogram(&mut self, labels: &LabelSet<'_>, histogram: &histogram::Histogram) {
        let (positive_span, positive_delta) = spans(histogram.native());
        self.family.metric.push(Metric {
            label: pairs(labels),
            histogram: Some(Histogram {
                sample_count: histogram.count(),
                sample_sum: histogram.sum(),
                bucket: histogram
                    .cumulative()
                    .map(|(upper_bound, _, cumulative_count, exemplar)| Bucket {
                        cumulative_count,
                        upper_bound,
                        exemplar: exemplar.map(example),
                    })
                    .collect(),
                created: Some(timestamp(histogram.created)),
                schema: SCHEMA,
                // Only what took no time at all is in the zero bucket; the least else is a nanosecond.
                zero_threshold: 1e-10,
                zero_count: histogram.zero(),
                positive_span,
                positive_delta,
                exemplars: histogram
                    .cumulative()
                    .filter_map(|(.., exemplar)| exemplar.map(example))
                    .collect(),
            }),
            ..Metric::default()
        });
    }
}

/// Runs of neighbouring buckets, and each count as the difference from the one before.
fn spans(native: &[(i16, u64)]) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::with_capacity(native.len()));
    let (mut next, mut before) = (0, 0);
    for (index, count) in native {
        let index = i32::from(*index);
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(BucketSpan {
                offset: index - next,
                length: 1,
            }),
        }
        deltas.push(*count as i64 - before);
        (next, before) = (index + 1, *count as i64);
    }
    (spans, deltas)
}

fn pairs(labels: &LabelSet<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| LabelPair {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    labels.iter().map(pair).collect()
}

fn example(exemplar: &histogram::Exemplar) -> Exemplar {
    Exemplar {
        label: pairs(&[("trace_id", &exemplar.trace.to_string())]),
        value: exemplar.value,
        timestamp: Some(timestamp(exemplar.at)),
    }
}

const fn timestamp(at: Nanos) -> Timestamp {
    Timestamp {
        seconds: at.0.div_euclid(1_000_000_000),
        nanos: at.0.rem_euclid(1_000_000_000) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_span_and_counts_are_differences() {
        let (spans, deltas) = spans(&[(-3, 5), (-2, 2), (0, 2), (1, 9)]);
        let spans: Vec<_> = spans.iter().map(|span| (span.offset, span.length)).collect();
        assert_eq!(spans, [(-3, 2), (1, 2)]);
        assert_eq!(deltas, [5, -3, 0, 7]);
    }

    #[test]
    fn a_page_reads_back() {
        let mut page = ProtoPage::new();
        page.family("empty", "Nothing", Kind::Counter);
        page.family("some", "Some", Kind::Counter);
        page.sample(&[("a", "b")], 7_u64.into(), None);
        page.family("took_seconds", "Time", Kind::Histogram);
        let mut histogram = histogram::Histogram::default();
        for ns in [0, 1_000_000_000, 2_000_000_000] {
            histogram.observe(ns, 0, || None);
        }
        page.histogram(&[], &histogram);
        let bytes = page.finish();
        let mut rest = bytes.as_slice();
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
        }
        let names: Vec<_> = families.iter().map(|family| family.name.as_str()).collect();
        assert_eq!(names, ["netprobe_some_total", "netprobe_took_seconds"]);
        assert_eq!(families[0].metric[0].counter.as_ref().unwrap().value, 7.0);
        let read = families[1].metric[0].histogram.as_ref().unwrap();
        assert_eq!((read.sample_count, read.zero_count, read.sample_sum), (3, 1, 3.0));
        assert_eq!(read.positive_delta, [1, 0]);
        assert_eq!(read.bucket.last().unwrap().upper_bound, f64::INFINITY);
    }
}
