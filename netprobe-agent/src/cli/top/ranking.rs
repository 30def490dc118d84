//! Flows with their rates, in order.

use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Instant};

use clap::ValueEnum;

use super::{
    super::output::{bytes, dash, end, nat, text},
    Look,
};
use crate::event::Event;

/// What flows are ranked by; the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Sort {
    /// Payload a second, both directions
    #[default]
    Rate,
    /// Payload sent
    Sent,
    /// Payload received
    Received,
    /// Round-trip time
    Rtt,
    /// Segments sent again
    Retransmits,
    /// Age
    Age,
}

impl Sort {
    /// The one beside it.
    pub(super) fn step(self, forward: bool) -> Sort {
        let all = Sort::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(at + if forward { 1 } else { all.len() - 1 }) % all.len()]
    }

    /// Heading of its column.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Sort::Rate => "RATE",
            Sort::Sent => "SENT",
            Sort::Received => "RECEIVED",
            Sort::Rtt => "RTT",
            Sort::Retransmits => "RETRANS",
            Sort::Age => "AGE",
        }
    }

    /// What it compares; what is not known ranks last.
    fn of(self, row: &Row) -> Option<f64> {
        let flow = row.event.flow.as_ref();
        match self {
            Sort::Rate => row.rate,
            Sort::Sent => row.event.bytes_sent.map(|count| count as f64),
            Sort::Received => row.event.bytes_received.map(|count| count as f64),
            Sort::Rtt => flow?.rtt_ms,
            Sort::Retransmits => flow?.retransmits.map(|count| count as f64),
            Sort::Age => row.event.elapsed_ms,
        }
    }
}

/// Headings and least widths. The last one is not padded.
pub(super) const COLUMNS: &[(&str, usize)] = &[
    ("SERVICE", 16),
    ("ROLE", 9),
    ("LOCAL", 22),
    ("PEER", 22),
    ("NAT", 11),
    ("RATE", 11),
    ("SENT", 9),
    ("RECEIVED", 9),
    ("RTT", 9),
    ("RETRANS", 7),
    ("AGE", 0),
];

/// One flow.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) event: Event,
    /// Payload a second since the look before; `None`: it was not there.
    pub(super) rate: Option<f64>,
}

impl Row {
    /// What names it from look to look. UDP sockets have a flow for each peer.
    pub(super) fn id(&self) -> Id {
        id(&self.event)
    }

    pub(super) fn cells(&self) -> [String; COLUMNS.len()] {
        let (event, flow) = (&self.event, self.event.flow.as_ref());
        [
            text(event.service.as_deref()),
            event.role.map_or("-", |role| role.name()).to_owned(),
            end(event.internal_ip, event.internal_port),
            end(event.peer_ip, event.peer_port),
            nat(event),
            self.rate
                .map_or_else(dash, |rate| format!("{}/s", bytes(Some(rate as u64)))),
            bytes(event.bytes_sent),
            bytes(event.bytes_received),
            flow.and_then(|flow| flow.rtt_ms)
                .map_or_else(dash, |ms| format!("{ms:.3}ms")),
            flow.and_then(|flow| flow.retransmits)
                .map_or_else(dash, |count| count.to_string()),
            event
                .elapsed_ms
                .map_or_else(dash, |ms| format!("{:.1}s", ms / 1e3)),
        ]
    }
}

/// Names a flow.
pub(super) type Id = (
    Option<Arc<str>>,
    Option<std::net::IpAddr>,
    Option<u16>,
    Option<u16>,
);

fn id(event: &Event) -> Id {
    (
        event.connection_id.clone(),
        event.peer_ip,
        event.peer_port,
        event.internal_port,
    )
}

/// The last look, ranked.
#[derive(Debug)]
pub(super) struct Ranking {
    pub(super) rows: Vec<Row>,
    pub(super) sort: Sort,
    /// Whether the smallest is first.
    pub(super) reversed: bool,
    /// Whether there are more flows than were read.
    pub(super) more: bool,
    /// When the last look was taken.
    at: Option<Instant>,
}

impl Ranking {
    pub(super) fn new(sort: Sort) -> Ranking {
        Ranking {
            rows: Vec::new(),
            sort,
            reversed: false,
            more: false,
            at: None,
        }
    }

    /// Takes a look: rates are against the one before.
    pub(super) fn take(&mut self, look: Look) {
        let before: HashMap<Id, u64> = self
            .rows
            .iter()
            .filter_map(|row| Some((row.id(), moved(&row.event)?)))
            .collect();
        let seconds = self
            .at
            .map(|at| look.at.duration_since(at).as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        let rate = |event: &Event| {
            let grown = moved(event)?.saturating_sub(*before.get(&id(event))?);
            Some(grown as f64 / seconds?)
        };
        self.rows = look
            .flows
            .into_iter()
            .map(|event| Row {
                rate: rate(&event),
                event,
            })
            .collect();
        self.more = look.more;
        self.at = Some(look.at);
        self.order();
    }

    /// Puts the rows in order again.
    pub(super) fn order(&mut self) {
        let (sort, reversed) = (self.sort, self.reversed);
        self.rows.sort_by(|a, b| {
            let order = match (sort.of(a), sort.of(b)) {
                (Some(a), Some(b)) if reversed => a.total_cmp(&b),
                (Some(a), Some(b)) => b.total_cmp(&a),
                (known, other) => other.is_some().cmp(&known.is_some()),
            };
            // Equal ones stay where they were on the screen.
            order.then_with(|| match (a.event.started_at, b.event.started_at) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => Ordering::Equal,
            })
        });
    }

    /// Heading and the first rows, as text.
    pub(super) fn lines(&self, rows: usize) -> impl Iterator<Item = String> {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            let padded = cells
                .zip(COLUMNS)
                .map(|(cell, (_, width))| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join(" ").trim_end().to_owned()
        };
        let heading = line(&mut COLUMNS.iter().map(|(heading, _)| (*heading).to_owned()));
        let rows = self.rows.iter().take(rows);
        std::iter::once(heading).chain(rows.map(move |row| line(&mut row.cells().into_iter())))
    }
}

fn moved(event: &Event) -> Option<u64> {
    Some(event.bytes_sent? + event.bytes_received?)
}
