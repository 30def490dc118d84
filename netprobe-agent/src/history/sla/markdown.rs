//! The report for people.

use std::{fmt::Write as _, time::Duration};

use super::{Destination, Period, Report};
use crate::{config, event::Nanos, history::read::Sources};

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Availability {} to {}\n",
            second(self.since),
            second(self.until)
        )?;
        writeln!(
            out,
            "Uptime is up ÷ (up + down); what is unknown is in neither. Resolution: {} s. P95 is of connects, and of \
             requests where there are any.\n",
            self.slot_seconds
        )?;
        if self.destinations.is_empty() {
            writeln!(out, "Nothing was dialed.\n")?;
        } else {
            self.periods(out)?;
            self.outages(out)?;
        }
        if self.left_out > 0 {
            writeln!(
                out,
                "{} outcomes and requests of further destinations are left out: narrow the report by filters.\n",
                self.left_out
            )?;
        }
        sources(&self.sources, out)
    }

    fn periods(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "| destination | from | to | uptime | up | down | unknown | of it: silence / loss / few | connects | refused | \
             unanswered | failed | timeouts | connect P95 | requests | failed | request P95 |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for destination in &self.destinations {
            for period in &destination.periods {
                row(destination, period, out)?;
            }
        }
        writeln!(out)
    }

    fn outages(&self, out: &mut String) -> std::fmt::Result {
        if self.destinations.iter().all(|of| of.outages.is_empty()) {
            return writeln!(out, "No destination was seen to be down.\n");
        }
        writeln!(
            out,
            "## Down\n\n| destination | from | to | length | first failure | last failure | recovered |\n\
             |---|---|---|---|---|---|---|"
        )?;
        for destination in &self.destinations {
            for outage in &destination.outages {
                let recovered = outage.recovered_at;
                writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    destination.name(),
                    second(outage.from),
                    second(outage.to),
                    length(outage.seconds),
                    milli(outage.first_failure),
                    milli(outage.last_failure),
                    recovered.map_or_else(|| "not known".to_owned(), milli)
                )?;
            }
        }
        writeln!(out)
    }
}

impl Destination {
    fn name(&self) -> String {
        match &self.host {
            Some(host) => cell(&format!("{} of {host}", self.destination)),
            None => self.destination.clone(),
        }
    }
}

fn row(destination: &Destination, period: &Period, out: &mut String) -> std::fmt::Result {
    let (unknown, failures) = (&period.unknown, &period.failures);
    writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} | {} | {} / {} / {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        destination.name(),
        second(period.from),
        second(period.to),
        // Cut, not rounded: 100 % is said of nothing that was down.
        period.uptime.map_or_else(
            || "unknown".to_owned(),
            |uptime| format!("{:.3} %", (uptime * 1e5).floor() / 1e3)
        ),
        length(period.up_seconds),
        length(period.down_seconds),
        length(period.unknown_seconds),
        length(unknown.silence_seconds),
        length(unknown.loss_seconds),
        length(unknown.few_seconds),
        period.connects,
        failures.refused,
        failures.unanswered,
        failures.failed,
        failures.timeouts,
        millis(period.connect_p95_ms),
        period.requests,
        period.requests_failed,
        millis(period.request_p95_ms),
    )
}

/// Where a report comes from, and what is not there.
pub(in crate::history) fn sources(sources: &Sources, out: &mut String) -> std::fmt::Result {
    writeln!(out, "## Sources\n")?;
    if sources.hosts.is_empty() {
        writeln!(out, "The archive has nothing of this time.")?;
        return damaged(sources, out);
    }
    writeln!(
        out,
        "| host | segments | runs | first event | last event | signed by |\n|---|---|---|---|---|---|"
    )?;
    for host in &sources.hosts {
        let keys: Vec<_> = host.keys.iter().map(|key| key.get(..16).unwrap_or(key)).collect();
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            cell(&host.host),
            host.segments,
            host.runs,
            milli(host.first),
            milli(host.last),
            keys.join(" ")
        )?;
    }
    writeln!(
        out,
        "\nEach segment was held against its manifest and its signature; that none is missing at the end, only \
         `netprobe archive verify --expect-head` can tell.\n"
    )?;
    if sources.hosts.iter().all(|host| host.losses.is_empty()) {
        writeln!(out, "No loss of the probe's own is known.")?;
    } else {
        writeln!(
            out,
            "Losses of the probe's own:\n\n| host | from | to | stage | reason | count |\n|---|---|---|---|---|---|"
        )?;
    }
    for host in &sources.hosts {
        for loss in &host.losses {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                cell(&host.host),
                milli(loss.from),
                milli(loss.to),
                cell(&loss.stage),
                cell(&loss.reason),
                loss.count
                    .map_or_else(|| "unknown".to_owned(), |count| count.to_string())
            )?;
        }
    }
    damaged(sources, out)
}

fn damaged(sources: &Sources, out: &mut String) -> std::fmt::Result {
    if !sources.damaged.is_empty() {
        writeln!(out, "\nSegments that could not be used:\n")?;
    }
    for segment in &sources.damaged {
        writeln!(out, "- {}", cell(segment))?;
    }
    Ok(())
}

/// A name in a table: whoever chose it does not end the cell, the line, or begin a tag.
pub(in crate::history) fn cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '\\' => cell.extend(['\\', c]),
            c if c.is_control() => cell.push(' '),
            c => cell.push(c),
        }
    }
    cell
}

/// Whole seconds.
pub(in crate::history) fn second(ts: Nanos) -> String {
    format!("{}Z", ts.to_string().get(..19).unwrap_or_default())
}

pub(in crate::history) fn milli(ts: Nanos) -> String {
    format!("{}Z", ts.to_string().get(..23).unwrap_or_default())
}

pub(in crate::history) fn length(seconds: u64) -> String {
    config::Period(Duration::from_secs(seconds)).to_string()
}

fn millis(ms: Option<f64>) -> String {
    ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.3} ms"))
}
