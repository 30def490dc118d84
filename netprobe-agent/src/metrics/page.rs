//! What a scrape writes, in whatever form: families, and the samples of each.

use super::histogram::{Exemplar, Histogram};

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its name has no `_total`: the form adds it where it belongs.
    Counter,
    Gauge,
    Histogram,
    /// A gauge of 1 whose labels are the message. Its name has no `_info`.
    Info,
}

/// A number as it was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Signed(i64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Whole(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Real(value)
    }
}

/// Labels of a sample, in order.
pub(super) type LabelSet<'a> = [(&'static str, &'a str)];

/// A page in the making. A family without a sample leaves no trace on it.
pub(super) trait Page {
    /// Begins a family. The name has neither prefix nor suffix; `help` no full stop.
    fn family(&mut self, name: &str, help: &str, kind: Kind);

    /// A sample of a counter, gauge or info.
    fn sample(&mut self, labels: &LabelSet<'_>, value: Value, exemplar: Option<&Exemplar>);

    /// A sample of a histogram.
    fn histogram(&mut self, labels: &LabelSet<'_>, histogram: &Histogram);
}

/// Unit of a family, by the end of its name.
pub(super) fn unit(name: &str) -> Option<&'static str> {
    ["seconds", "bytes", "ratio"]
        .into_iter()
        .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}
