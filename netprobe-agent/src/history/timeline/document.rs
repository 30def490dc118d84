//! The story for people.

use std::fmt::Write as _;

use super::{AgentNote, Episode, HostLoss, Incident, Report, Series};
use crate::{
    event::{FlowRole, Nanos},
    history::{
        document::{Document, escaped, milli, second},
        slots::{REACH_NS, SLOT_SECONDS},
    },
};

/// Size of a plot, and what is left of it for its text.
const WIDTH: i64 = 1000;
const HEIGHT: u64 = 90;
const HEAD: u64 = 22;
/// Plots of an incident; services and destinations beyond are in the tables.
const MOST_PLOTS: usize = 20;

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        self.document().markdown()
    }

    /// The report as one HTML file with plots, which loads and runs nothing.
    pub fn html(&self) -> String {
        self.document().html()
    }

    fn document(&self) -> Document {
        let mut out = Document::default();
        out.head(
            1,
            format!("Timeline {} to {}", second(self.since), second(self.until)),
        );
        if self.incidents.is_empty() {
            out.text("No incident: no service had three symptoms that were one in twenty of what it tried.");
        }
        for (index, incident) in self.incidents.iter().enumerate() {
            self.incident(index + 1, incident, &mut out);
        }
        if !self.background.is_empty() {
            out.head(2, "Background");
            out.text("Symptoms that are too few, or too small a part of what was tried, to be an incident.");
            let rows = self.background.iter().map(Episode::row).collect();
            out.table(&EPISODES, rows);
        }
        if !self.agents.is_empty() {
            out.head(2, "What the agents said");
            let rows = self.agents.iter().map(AgentNote::row).collect();
            out.table(&["time", "host", "what", "message"], rows);
        }
        if self.left_out > 0 {
            out.text(format!(
                "{} events of further services and destinations are left out: narrow the report by filters.",
                self.left_out
            ));
        }
        out.sources(&self.sources);
        out
    }

    fn incident(&self, number: usize, incident: &Incident, out: &mut Document) {
        out.head(
            2,
            format!(
                "Incident {number}: {} to {}",
                milli(incident.from),
                milli(incident.to)
            ),
        );
        if let Some(first) = incident.episodes.first() {
            out.text(format!(
                "First symptom, at {}: {}, {}. {}.",
                milli(first.from),
                first.cause.name(),
                first.whose(),
                capital(first.cause.meaning())
            ));
        }
        let names = |names: &std::collections::BTreeSet<String>| match names.len() {
            0 => "unknown".to_owned(),
            _ => names.iter().cloned().collect::<Vec<_>>().join(", "),
        };
        out.list(vec![
            format!("Services affected: {}", names(&incident.services)),
            format!("Destinations affected: {}", names(&incident.destinations)),
            match incident.recovered_at {
                Some(at) => format!("Recovered: {}", milli(at)),
                None => {
                    "Recovered: not known; nothing went well after the last symptom of one of them".to_owned()
                }
            },
            match incident.losses.len() {
                0 => "Losses of the probe's own meanwhile: none known".to_owned(),
                many => format!(
                    "Losses of the probe's own meanwhile: {many}; what is missing here may be in them"
                ),
            },
        ]);
        out.head(3, "Causes, in the order in which they were seen");
        let rows = incident.causes.iter().map(|total| {
            vec![
                total.cause.name(),
                milli(total.from),
                total.count.to_string(),
                total.meaning.clone(),
            ]
        });
        out.table(&["cause", "first", "symptoms", "what it says"], rows.collect());
        let plots = self
            .series
            .iter()
            .filter(|series| incident.episodes.iter().any(|episode| series.is_of(episode)));
        for series in plots.take(MOST_PLOTS) {
            out.plot(series.plot(incident, (self.since, self.until)));
        }
        out.head(3, "What happened");
        out.table(
            &["time", "host", "what", "of whom", "detail"],
            story(incident, &self.agents),
        );
    }
}

/// Begins, recoveries, losses and what agents said, in order of time.
fn story(incident: &Incident, agents: &[AgentNote]) -> Vec<Vec<String>> {
    let mut rows: Vec<(Nanos, Vec<String>)> = Vec::new();
    let (from, to) = incident.reach();
    for note in agents.iter().filter(|note| from <= note.at && note.at <= to) {
        let said = note.message.clone().unwrap_or_default();
        let what = format!("agent: {}", note.action.name());
        rows.push((
            note.at,
            vec![milli(note.at), note.host.clone(), what, String::new(), said],
        ));
    }
    for episode in &incident.episodes {
        let (host, what) = (&episode.host, episode.cause.name());
        let told = format!(
            "{} of {} until {}",
            episode.count,
            episode.tried,
            milli(episode.to)
        );
        rows.push((
            episode.from,
            vec![
                milli(episode.from),
                host.clone(),
                what.clone(),
                episode.whose(),
                told,
            ],
        ));
        if let Some(at) = episode.recovered_at {
            let what = format!("recovered from {what}");
            rows.push((
                at,
                vec![milli(at), host.clone(), what, episode.whose(), String::new()],
            ));
        }
    }
    for HostLoss { host, loss } in &incident.losses {
        let count = loss
            .count
            .map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        let told = format!(
            "{}, {}: {count} lost until {}",
            loss.stage,
            loss.reason,
            milli(loss.to)
        );
        let what = "loss of the probe's own".to_owned();
        rows.push((
            loss.from,
            vec![milli(loss.from), host.clone(), what, String::new(), told],
        ));
    }
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

const EPISODES: [&str; 8] = [
    "from",
    "to",
    "host",
    "whose",
    "what",
    "symptoms",
    "of",
    "recovered",
];

impl Incident {
    /// From a minute before to when it was over, or a minute after the last symptom: what agents say comes late.
    fn reach(&self) -> (Nanos, Nanos) {
        let over = self
            .recovered_at
            .unwrap_or(self.to)
            .max(Nanos(self.to.0.saturating_add(REACH_NS)));
        (Nanos(self.from.0.saturating_sub(REACH_NS)), over)
    }
}

impl Episode {
    fn whose(&self) -> String {
        whose(self.service.as_deref(), self.role, &self.destination)
    }

    fn row(&self) -> Vec<String> {
        vec![
            milli(self.from),
            milli(self.to),
            self.host.clone(),
            self.whose(),
            self.cause.name(),
            self.count.to_string(),
            self.tried.to_string(),
            self.recovered_at.map_or_else(|| "not known".to_owned(), milli),
        ]
    }
}

impl AgentNote {
    fn row(&self) -> Vec<String> {
        vec![
            milli(self.at),
            self.host.clone(),
            self.action.name().to_owned(),
            self.message.clone().unwrap_or_default(),
        ]
    }
}

fn whose(service: Option<&str>, role: FlowRole, destination: &str) -> String {
    let service = service.unwrap_or("unknown service");
    match role {
        FlowRole::Client => format!("{service} → {destination}"),
        _ => format!("{service} at {destination}"),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

impl Series {
    fn is_of(&self, episode: &Episode) -> bool {
        self.host == episode.host
            && self.service == episode.service
            && self.role == episode.role
            && self.destination == episode.destination
    }

    /// Bars of what went well and what did not, slot by slot, on the time of the report.
    fn plot(&self, incident: &Incident, (since, until): (Nanos, Nanos)) -> String {
        let length = (until.0 - since.0).max(1);
        let x = |at: Nanos| {
            let inside = at.0.clamp(since.0, until.0) - since.0;
            (i128::from(inside) * i128::from(WIDTH) * 10 / i128::from(length)) as f64 / 10.0
        };
        let most = self
            .points
            .iter()
            .map(|point| point.good + point.bad)
            .max()
            .unwrap_or(1)
            .max(1);
        let tall = |count: u64| (count * (HEIGHT - HEAD) * 10 / most) as f64 / 10.0;
        let whose = whose(self.service.as_deref(), self.role, &self.destination);
        let title = escaped(&format!("{}: {whose}", self.host));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\
             <rect x=\"{}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#fff6e6\"/>\
             <text x=\"6\" y=\"15\" font-size=\"13\" fill=\"#16232b\">{title}: well (green) and not (red), {most} at most in {SLOT_SECONDS} s</text>",
            x(incident.from),
            (x(incident.to) - x(incident.from)).max(1.0),
        );
        for point in &self.points {
            let from = x(point.at);
            let wide = (x(Nanos(point.at.0 + SLOT_SECONDS * 1_000_000_000)) - from).max(0.5);
            let (good, bad) = (tall(point.good), tall(point.bad));
            let bottom = HEIGHT as f64;
            for (y, tall, colour) in [
                (bottom - good, good, "#14713c"),
                (bottom - good - bad, bad, "#b3202c"),
            ] {
                if tall > 0.0 {
                    // Writing to a string does not fail.
                    let _ = write!(
                        svg,
                        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{tall:.1}\" fill=\"{colour}\"/>"
                    );
                }
            }
        }
        svg.push_str("</svg>");
        svg
    }
}
