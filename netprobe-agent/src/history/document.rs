//! A report as blocks, written as Markdown or as one HTML file.
//!
//! Names in it were chosen by whoever runs a service: they are text in both forms, and end no cell, line or tag. The
//! HTML loads nothing and runs nothing, and says so to the browser.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use super::sources::Sources;
use crate::{config::Period, event::Nanos};

/// A part of a report.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Block {
    /// A heading; 1 is the title.
    Head(usize, String),
    /// A paragraph.
    Text(String),
    /// Names of columns, and rows.
    Table(Vec<&'static str>, Vec<Vec<String>>),
    /// A list.
    List(Vec<String>),
    /// A drawing for HTML: SVG, with every name in it escaped.
    Plot(String),
}

/// Blocks in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Document(Vec<Block>);

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1500px;margin:2em auto;padding:0 1em;color:#16232b;\
    background:#f5f7f8}h1{font-size:1.5em}h2{font-size:1.25em;margin-top:2em}h3{font-size:1em}table{border-collapse:collapse;\
    background:#fff;font-size:14px}th,td{border:1px solid #dbe2e6;padding:4px 9px;text-align:left;vertical-align:top}th{\
    color:#51626d}div{overflow-x:auto}svg{background:#fff;border:1px solid #dbe2e6;max-width:100%}";

impl Document {
    pub(super) fn head(&mut self, level: usize, text: impl Into<String>) {
        self.0.push(Block::Head(level, text.into()));
    }

    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.0.push(Block::Text(text.into()));
    }

    pub(super) fn table(&mut self, columns: &[&'static str], rows: Vec<Vec<String>>) {
        self.0.push(Block::Table(columns.to_vec(), rows));
    }

    pub(super) fn list(&mut self, items: Vec<String>) {
        self.0.push(Block::List(items));
    }

    pub(super) fn plot(&mut self, svg: String) {
        self.0.push(Block::Plot(svg));
    }

    /// Where a report comes from, and what is not there.
    pub(super) fn sources(&mut self, sources: &Sources) {
        self.head(2, "Sources");
        if sources.hosts.is_empty() {
            self.text("The archive has nothing of this time.");
        } else {
            let rows = sources.hosts.iter().map(|host| {
                let keys: Vec<_> = host.keys.iter().map(|key| key.get(..16).unwrap_or(key)).collect();
                vec![
                    host.host.to_string(),
                    host.segments.to_string(),
                    host.runs.to_string(),
                    milli(host.first),
                    milli(host.last),
                    keys.join(" "),
                ]
            });
            let columns = [
                "host",
                "segments",
                "runs",
                "first event",
                "last event",
                "signed by",
            ];
            self.table(&columns, rows.collect());
            self.text(
                "Each segment was held against its manifest and its signature; that none is missing at the end, only \
                 `netprobe archive verify --expect-head` can tell.",
            );
        }
        let losses: Vec<_> = sources
            .hosts
            .iter()
            .flat_map(|host| host.losses.iter().map(move |loss| (host, loss)))
            .map(|(host, loss)| {
                vec![
                    host.host.to_string(),
                    milli(loss.from),
                    milli(loss.to),
                    loss.stage.clone(),
                    loss.reason.clone(),
                    loss.count
                        .map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
                ]
            })
            .collect();
        if losses.is_empty() {
            self.text("No loss of the probe's own is known.");
        } else {
            self.text("Losses of the probe's own:");
            self.table(&["host", "from", "to", "stage", "reason", "count"], losses);
        }
        if !sources.damaged.is_empty() {
            self.text("Segments that could not be used:");
            self.list(sources.damaged.clone());
        }
    }

    /// As Markdown, without drawings.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_markdown(&mut out);
        out
    }

    fn write_markdown(&self, out: &mut String) -> fmt::Result {
        let mut first = true;
        for block in &self.0 {
            if matches!(block, Block::Plot(_)) {
                continue;
            }
            if !std::mem::take(&mut first) {
                writeln!(out)?;
            }
            match block {
                Block::Head(level, text) => writeln!(out, "{} {}", "#".repeat(*level), plain(text))?,
                Block::Text(text) => writeln!(out, "{}", plain(text))?,
                Block::Table(columns, rows) => {
                    writeln!(
                        out,
                        "| {} |\n|{}",
                        columns.join(" | "),
                        "---|".repeat(columns.len())
                    )?;
                    for row in rows {
                        let cells: Vec<_> = row.iter().map(|cell| plain(cell)).collect();
                        writeln!(out, "| {} |", cells.join(" | "))?;
                    }
                }
                Block::List(items) => {
                    for item in items {
                        writeln!(out, "- {}", plain(item))?;
                    }
                }
                Block::Plot(_) => {}
            }
        }
        Ok(())
    }

    /// As one HTML file.
    pub(super) fn html(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_html(&mut out);
        out
    }

    fn write_html(&self, out: &mut String) -> fmt::Result {
        let title = self.0.iter().find_map(|block| match block {
            Block::Head(1, text) => Some(escaped(text)),
            _ => None,
        });
        writeln!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
             base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n<style>{STYLE}</style>",
            title.unwrap_or_default()
        )?;
        for block in &self.0 {
            match block {
                Block::Head(level, text) => writeln!(out, "<h{level}>{}</h{level}>", escaped(text))?,
                Block::Text(text) => writeln!(out, "<p>{}</p>", escaped(text))?,
                Block::Table(columns, rows) => {
                    writeln!(
                        out,
                        "<div><table>\n<tr><th>{}</th></tr>",
                        columns.join("</th><th>")
                    )?;
                    for row in rows {
                        let cells: Vec<_> = row.iter().map(|cell| escaped(cell)).collect();
                        writeln!(out, "<tr><td>{}</td></tr>", cells.join("</td><td>"))?;
                    }
                    writeln!(out, "</table></div>")?;
                }
                Block::List(items) => {
                    for item in items {
                        writeln!(out, "<li>{}</li>", escaped(item))?;
                    }
                }
                Block::Plot(svg) => writeln!(out, "<div>{svg}</div>")?,
            }
        }
        writeln!(out, "</html>")
    }
}

/// Text that is nothing else in Markdown.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '*' | '_' | '[' | ']' | '\\' => plain.extend(['\\', c]),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

/// Text that is nothing else in HTML and SVG.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whole seconds.
pub(super) fn second(ts: Nanos) -> String {
    format!("{}Z", ts.to_string().get(..19).unwrap_or_default())
}

/// Milliseconds.
pub(super) fn milli(ts: Nanos) -> String {
    format!("{}Z", ts.to_string().get(..23).unwrap_or_default())
}

/// A length of time.
pub(super) fn length(seconds: u64) -> String {
    Period(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_in_both_forms() {
        let mut document = Document::default();
        document.head(1, "a\n<b>");
        document.table(&["x"], vec![vec!["<script>|\"&".to_owned()]]);
        assert_eq!(
            document.markdown(),
            "# a \\<b\\>\n\n| x |\n|---|\n| \\<script\\>\\|\"& |\n"
        );
        let html = document.html();
        assert!(html.contains("<td>&lt;script&gt;|&quot;&amp;</td>"), "{html}");
        assert!(!html.contains("<script"), "{html}");
    }
}
