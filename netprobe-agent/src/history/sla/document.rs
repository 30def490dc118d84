//! The report for people.

use super::{Destination, Period, Report};
use crate::history::document::{Document, length, milli, second};

const PERIODS: [&str; 17] = [
    "destination",
    "from",
    "to",
    "uptime",
    "up",
    "down",
    "unknown",
    "of it: silence / loss / few",
    "connects",
    "refused",
    "unanswered",
    "failed",
    "timeouts",
    "connect P95",
    "requests",
    "requests failed",
    "request P95",
];

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = Document::default();
        out.head(
            1,
            format!("Availability {} to {}", second(self.since), second(self.until)),
        );
        out.text(format!(
            "Uptime is up ÷ (up + down); what is unknown is in neither. Resolution: {} s. P95 is of connects, and of \
             requests where there are any.",
            self.slot_seconds
        ));
        if self.destinations.is_empty() {
            out.text("Nothing was dialed.");
        } else {
            let rows = |of: &Destination| {
                of.periods
                    .iter()
                    .map(|period| row(of, period))
                    .collect::<Vec<_>>()
            };
            out.table(&PERIODS, self.destinations.iter().flat_map(rows).collect());
            self.outages(&mut out);
        }
        if self.left_out > 0 {
            out.text(format!(
                "{} outcomes and requests of further destinations are left out: narrow the report by filters.",
                self.left_out
            ));
        }
        out.sources(&self.sources);
        out.markdown()
    }

    fn outages(&self, out: &mut Document) {
        if self.destinations.iter().all(|of| of.outages.is_empty()) {
            return out.text("No destination was seen to be down.");
        }
        let rows = self.destinations.iter().flat_map(|of| {
            of.outages.iter().map(|outage| {
                vec![
                    of.name(),
                    second(outage.from),
                    second(outage.to),
                    length(outage.seconds),
                    milli(outage.first_failure),
                    milli(outage.last_failure),
                    outage.recovered_at.map_or_else(|| "not known".to_owned(), milli),
                ]
            })
        });
        out.head(2, "Down");
        let columns = [
            "destination",
            "from",
            "to",
            "length",
            "first failure",
            "last failure",
            "recovered",
        ];
        out.table(&columns, rows.collect());
    }
}

impl Destination {
    fn name(&self) -> String {
        match &self.host {
            Some(host) => format!("{} of {host}", self.destination),
            None => self.destination.clone(),
        }
    }
}

fn row(of: &Destination, period: &Period) -> Vec<String> {
    let (unknown, failures) = (&period.unknown, &period.failures);
    let millis = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.3} ms"));
    // Cut, not rounded: 100 % is said of nothing that was down.
    let uptime = period.uptime.map_or_else(
        || "unknown".to_owned(),
        |uptime| format!("{:.3} %", (uptime * 1e5).floor() / 1e3),
    );
    vec![
        of.name(),
        second(period.from),
        second(period.to),
        uptime,
        length(period.up_seconds),
        length(period.down_seconds),
        length(period.unknown_seconds),
        [unknown.silence_seconds, unknown.loss_seconds, unknown.few_seconds]
            .map(length)
            .join(" / "),
        period.connects.to_string(),
        failures.refused.to_string(),
        failures.unanswered.to_string(),
        failures.failed.to_string(),
        failures.timeouts.to_string(),
        millis(period.connect_p95_ms),
        period.requests.to_string(),
        period.requests_failed.to_string(),
        millis(period.request_p95_ms),
    ]
}
