//! The two text forms: Prometheus 0.0.4 and OpenMetrics 1.0.
//!
//! They differ in three things: the family of a counter is named with `_total` in 0.0.4 and without in OpenMetrics,
//! an info is a gauge in 0.0.4, and only OpenMetrics has units, exemplars and an end mark.

use std::fmt::Write as _;

use super::{
    PREFIX,
    histogram::{Exemplar, Histogram},
    page::{Kind, LabelSet, Page, Value, unit},
};

/// A page as text.
#[derive(Debug)]
pub(super) struct TextPage {
    open_metrics: bool,
    out: String,
    name: String,
    help: String,
    kind: Kind,
    /// The family has no sample yet.
    fresh: bool,
    /// Labels of the sample being written.
    labels: String,
}

impl TextPage {
    pub(super) fn new(open_metrics: bool) -> TextPage {
        TextPage {
            open_metrics,
            out: String::with_capacity(1 << 16),
            name: String::new(),
            help: String::new(),
            kind: Kind::Gauge,
            fresh: false,
            labels: String::new(),
        }
    }

    /// The page.
    pub(super) fn finish(mut self) -> String {
        if self.open_metrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    const fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    fn head(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info if self.open_metrics => "info",
            Kind::Info => "gauge",
        };
        let suffix = if self.open_metrics { "" } else { self.suffix() };
        let name = [PREFIX, &self.name, suffix].concat();
        self.out.extend(["# HELP ", &name, " ", &self.help, ".\n"]);
        self.out.extend(["# TYPE ", &name, " ", kind, "\n"]);
        if let (true, Some(unit)) = (self.open_metrics, unit(&name)) {
            self.out.extend(["# UNIT ", &name, " ", unit, "\n"]);
        }
    }

    fn set_labels(&mut self, labels: &LabelSet<'_>) {
        self.labels.clear();
        for (name, value) in labels {
            let comma = if self.labels.is_empty() { "" } else { "," };
            self.labels.extend([comma, name, "=\""]);
            escape(&mut self.labels, value);
            self.labels.push('"');
        }
    }

    /// Name and labels of a sample, `le` after the others.
    fn begin(&mut self, suffix: &str, le: Option<&str>) {
        self.out.extend([PREFIX, &self.name, suffix]);
        if self.labels.is_empty() && le.is_none() {
            return;
        }
        self.out.extend(["{", &self.labels]);
        if let Some(le) = le {
            let comma = if self.labels.is_empty() { "" } else { "," };
            self.out.extend([comma, "le=\"", le, "\""]);
        }
        self.out.push('}');
    }

    fn end(&mut self, value: Value, exemplar: Option<&Exemplar>) {
        self.out.push(' ');
        number(&mut self.out, value);
        if let (true, Some(exemplar)) = (self.open_metrics, exemplar) {
            let at = exemplar.at.0 as f64 / 1e9;
            // Writing to a string cannot fail.
            let _ = write!(
                self.out,
                " # {{trace_id=\"{}\"}} {} {at:.3}",
                exemplar.trace, exemplar.value
            );
        }
        self.out.push('\n');
    }
}

impl Page for TextPage {
    fn family(&mut self, name: &str, help: &str, kind: Kind) {
        self.name.clear();
        self.name.push_str(name);
        self.help.clear();
        self.help.push_str(help);
        (self.kind, self.fresh) = (kind, true);
    }

    fn sample(&mut self, labels: &LabelSet<'_>, value: Value, exemplar: Option<&Exemplar>) {
        self.head();
        self.set_labels(labels);
        self.begin(self.suffix(), None);
        self.end(value, exemplar);
    }

    fn histogram(&mut self, labels: &LabelSet<'_>, histogram: &Histogram) {
        self.head();
        self.set_labels(labels);
        for (_, bound, count, exemplar) in histogram.cumulative() {
            self.begin("_bucket", Some(bound));
            self.end(count.into(), exemplar);
        }
        self.begin("_sum", None);
        self.end(histogram.sum().into(), None);
        self.begin("_count", None);
        self.end(histogram.count().into(), None);
    }
}

fn number(out: &mut String, value: Value) {
    // Writing to a string cannot fail.
    let _ = match value {
        Value::Whole(value) => write!(out, "{value}"),
        Value::Signed(value) => write!(out, "{value}"),
        Value::Real(value) => write!(out, "{value}"),
    };
}

fn escape(out: &mut String, value: &str) {
    for piece in value.split_inclusive(['\\', '"', '\n']) {
        let (plain, special) = match piece.char_indices().next_back() {
            Some((at, '\\')) => (&piece[..at], "\\\\"),
            Some((at, '"')) => (&piece[..at], "\\\""),
            Some((at, '\n')) => (&piece[..at], "\\n"),
            _ => (piece, ""),
        };
        out.extend([plain, special]);
    }
}
