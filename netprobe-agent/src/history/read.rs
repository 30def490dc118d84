//! Reading a time of the archive for a report, and keeping book of what could not be read.
//!
//! A host is known to have been watched from the first to the last event of a run, as the manifests tell them. What
//! lies between two runs, a segment that is missing, damaged, given up or not signed as it says, and what `gap` events
//! tell, is a [`Loss`]: nothing follows from what is not there then.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use futures_util::{StreamExt, TryStreamExt};

use super::sources::{HostSource, Loss, Sources};
use crate::{
    archive::{
        self,
        manifest::Manifest,
        read::{self, Segment, SegmentError, Span},
        store::{Store, StoreError},
    },
    event::{Event, EventKind, Gap, Nanos},
    filter::Filter,
};

/// Sinks whose losses leave no hole in the archive.
const ELSEWHERE: [&str; 6] = ["output", "recent", "metrics", "stream", "kafka", "export"];
/// Marks of a run, to tell when a number was: at most one in this time.
const MARK_NS: i64 = 1_000_000_000;
/// What the kernel side or the table lost is told within a second; twice that.
const TOLD_WITHIN_NS: i64 = 2_000_000_000;
/// What had waited to be archived, and cannot be told by number, may be this old.
const WAITED_NS: i64 = 60_000_000_000;
const HOUR_NS: i64 = 3_600_000_000_000;

/// What is asked of the archive.
#[derive(Clone, Debug)]
pub struct Question {
    /// The time.
    pub span: Span,
    /// Which flows and requests. Gaps are read whatever it says.
    pub filter: Filter,
    /// Segments decoded at a time.
    pub at_once: usize,
}

/// Reads the events of a time, in the order of hour, host, run and number, and gives what `pick` makes of each that the
/// filter wants, and of what agents said of themselves. `seen` is told of every segment, with how many there are.
pub async fn walk<T: Send + 'static>(
    store: &Store,
    question: &Question,
    pick: impl Fn(Event) -> Option<T> + Clone + Send + 'static,
    mut each: impl FnMut(T),
    mut seen: impl FnMut(u64),
) -> Result<Sources, StoreError> {
    let span = question.span;
    let entries = read::entries(store, &span).await?;
    let segments = read::manifests(store, entries, || {}).await?;
    let mut book = Book::new(span);
    let mut wanted = Vec::new();
    for segment in segments {
        if let Some(manifest) = book.enter(&segment)
            && (read::may_hold(&manifest, &span, &question.filter) || tells_of_itself(&manifest))
        {
            wanted.push((segment, manifest));
        }
    }
    let steps = wanted.len() as u64;
    let decoded = wanted.into_iter().map(|(segment, manifest)| {
        let (filter, pick) = (question.filter.clone(), pick.clone());
        async move {
            let decoded = match read::object(store, &segment, &manifest.sha256).await {
                Ok(object) => {
                    let work = move || decode(&object, span, &filter, pick);
                    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
                        Err(SegmentError::Line {
                            line: 0,
                            error: error.to_string(),
                        })
                    })
                }
                Err(error) => Err(error),
            };
            match decoded {
                Err(SegmentError::Store(error)) => Err(error),
                other => Ok((segment, manifest, other)),
            }
        }
    });
    let mut decoded = futures_util::stream::iter(decoded).buffered(question.at_once.max(1));
    while let Some((segment, manifest, decoded)) = decoded.try_next().await? {
        seen(steps);
        match decoded {
            Ok(decoded) => {
                decoded.picked.into_iter().for_each(&mut each);
                book.marks(&manifest, decoded.marks, decoded.gaps);
            }
            Err(error) => book.unreadable(&segment, &manifest, &error),
        }
    }
    Ok(book.close())
}

/// Whether a segment has losses, or something an agent said.
fn tells_of_itself(manifest: &Manifest) -> bool {
    let content = &manifest.content;
    !content.gaps.is_empty() || content.kinds.contains_key(EventKind::Agent.name())
}

/// What is wanted of a segment.
struct Decoded<T> {
    picked: Vec<T>,
    marks: Vec<(u64, Nanos)>,
    gaps: Vec<(Nanos, Gap)>,
}

fn decode<T>(
    object: &[u8],
    span: Span,
    filter: &Filter,
    pick: impl Fn(Event) -> Option<T>,
) -> Result<Decoded<T>, SegmentError> {
    let mut decoded = Decoded {
        picked: Vec::new(),
        marks: Vec::new(),
        gaps: Vec::new(),
    };
    read::events::<SegmentError>(object, |event| {
        let ts = event.ts;
        if decoded
            .marks
            .last()
            .is_none_or(|(_, last)| ts.0 - last.0 >= MARK_NS)
        {
            decoded.marks.push((event.seq.unwrap_or(0), ts));
        }
        if let Some(gap) = &event.gap {
            decoded.gaps.push((ts, (**gap).clone()));
        }
        if span.holds(ts) && (event.kind == EventKind::Agent || filter.matches(&event)) {
            decoded.picked.extend(pick(event));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(decoded)
}

/// A run of a host's agent.
#[derive(Default)]
struct Run {
    from: Nanos,
    to: Nanos,
    marks: Vec<(u64, Nanos)>,
    gaps: Vec<(Nanos, Gap)>,
}

#[derive(Default)]
struct Host {
    source: HostSource,
    runs: BTreeMap<Arc<str>, Run>,
    /// By chain: place in it, and times.
    chains: BTreeMap<String, Vec<(u64, Nanos, Nanos)>>,
}

/// What is known of each host.
struct Book {
    span: Span,
    hosts: BTreeMap<Arc<str>, Host>,
    damaged: Vec<String>,
}

impl Book {
    const fn new(span: Span) -> Book {
        Book {
            span,
            hosts: BTreeMap::new(),
            damaged: Vec::new(),
        }
    }

    /// Notes a segment. Its manifest, when it can be believed.
    fn enter(&mut self, segment: &Segment) -> Option<Manifest> {
        let why = match &segment.manifest {
            Ok(opened) if opened.authentic => {
                let manifest = &opened.document;
                self.known(manifest, &opened.public_key);
                return Some(manifest.clone());
            }
            Ok(_) => "its signature is wrong".to_owned(),
            Err(error) => error.clone(),
        };
        self.damaged
            .push(format!("{}: {why}", segment.entry.manifest_key()));
        // All that can be believed is where it stands: an hour of a host.
        if let Some((host, hour)) = place(&segment.entry.stem) {
            let of = self.hosts.entry(host.clone()).or_default();
            (of.source.host, of.source.segments) = (host, of.source.segments + 1);
            let to = Nanos(hour.0.saturating_add(HOUR_NS));
            of.source.losses.push(of_segment(hour, to, "manifest", None));
        }
        None
    }

    fn known(&mut self, manifest: &Manifest, key: &str) {
        let content = &manifest.content;
        let of = self.hosts.entry(content.host.clone()).or_default();
        let source = &mut of.source;
        let (from, to) = (content.ts_min, content.ts_max);
        let first = of.runs.is_empty();
        source.host = content.host.clone();
        source.segments += 1;
        source.first = if first { from } else { source.first.min(from) };
        source.last = if first { to } else { source.last.max(to) };
        if !source.keys.contains(key) {
            source.keys.insert(key.to_owned());
        }
        let run = of.runs.entry(content.run.clone()).or_insert(Run {
            from,
            to,
            ..Run::default()
        });
        (run.from, run.to) = (run.from.min(from), run.to.max(to));
        let chain = of.chains.entry(manifest.chain_id.clone()).or_default();
        chain.push((manifest.index, from, to));
    }

    fn marks(&mut self, manifest: &Manifest, marks: Vec<(u64, Nanos)>, gaps: Vec<(Nanos, Gap)>) {
        let of = self.hosts.get_mut(&manifest.content.host);
        if let Some(run) = of.and_then(|of| of.runs.get_mut(&manifest.content.run)) {
            run.marks.extend(marks);
            run.gaps.extend(gaps);
        }
    }

    fn unreadable(&mut self, segment: &Segment, manifest: &Manifest, error: &SegmentError) {
        let content = &manifest.content;
        let given_up = matches!(error, SegmentError::Missing) && segment.entry.tombstone;
        let reason = if given_up { "given_up" } else { "damaged" };
        if !given_up {
            self.damaged
                .push(format!("{}: {error}", segment.entry.object_key()));
        }
        if let Some(of) = self.hosts.get_mut(&content.host) {
            let loss = of_segment(content.ts_min, content.ts_max, reason, Some(content.events));
            of.source.losses.push(loss);
        }
    }

    fn close(self) -> Sources {
        let (span, mut damaged) = (self.span, self.damaged);
        damaged.sort();
        let hosts = self.hosts.into_values().map(|host| host.close(span));
        Sources {
            hosts: hosts.collect(),
            damaged,
        }
    }
}

impl Host {
    /// Finds what is missing, now that everything there was is known.
    fn close(self, span: Span) -> HostSource {
        let Host {
            mut source,
            runs,
            chains,
        } = self;
        source.runs = runs.len() as u64;
        let mut runs: Vec<Run> = runs.into_values().collect();
        runs.sort_by_key(|run| (run.from, run.to));
        let mut before: Option<Nanos> = None;
        for run in &mut runs {
            if let Some(before) = before
                && before < run.from
            {
                source.losses.push(Loss {
                    from: before,
                    to: run.from,
                    stage: "agent".to_owned(),
                    reason: "not_running".to_owned(),
                    count: None,
                });
            }
            run.marks.sort_unstable();
            for (ts, gap) in &run.gaps {
                let from = match (&*gap.stage, gap.from_seq) {
                    (stage, _) if ELSEWHERE.contains(&stage) => continue,
                    // Of a run before.
                    ("agent" | "spool", _) => before.or(span.since).unwrap_or(run.from),
                    (_, Some(seq)) => run.before(seq),
                    (archive::NAME, None) => Nanos(ts.0.saturating_sub(WAITED_NS)),
                    _ => Nanos(ts.0.saturating_sub(TOLD_WITHIN_NS)),
                };
                source.losses.push(Loss {
                    from: from.min(*ts),
                    to: *ts,
                    stage: gap.stage.clone().into_owned(),
                    reason: gap.reason.clone().into_owned(),
                    count: gap.count,
                });
            }
            before = Some(before.map_or(run.to, |before| before.max(run.to)));
        }
        for mut chain in chains.into_values() {
            chain.sort_unstable();
            for pair in chain.windows(2) {
                let missing = pair[1].0.saturating_sub(pair[0].0 + 1);
                if missing > 0 {
                    let (from, to) = (pair[0].2, pair[1].1.max(pair[0].2));
                    source.losses.push(of_segment(from, to, "missing", None));
                }
            }
        }
        source.losses.retain(|loss| span.meets(loss.from, loss.to));
        merge(&mut source.losses);
        source
    }
}

impl Run {
    /// A time not after that of an event with this number.
    fn before(&self, seq: u64) -> Nanos {
        let index = self.marks.partition_point(|(of, _)| *of < seq);
        let mark = index.checked_sub(1).and_then(|index| self.marks.get(index));
        mark.map_or(self.from, |(_, ts)| *ts)
    }
}

fn of_segment(from: Nanos, to: Nanos, reason: &str, count: Option<u64>) -> Loss {
    Loss {
        from,
        to,
        stage: archive::NAME.to_owned(),
        reason: format!("segment_{reason}"),
        count,
    }
}

/// Makes one of losses of a kind that touch: one that goes on is told every second.
fn merge(losses: &mut Vec<Loss>) {
    losses.sort_by(|a, b| (&a.stage, &a.reason, a.from, a.to).cmp(&(&b.stage, &b.reason, b.from, b.to)));
    losses.dedup_by(|next, kept| {
        let touch = kept.stage == next.stage && kept.reason == next.reason && next.from <= kept.to;
        if touch {
            kept.to = kept.to.max(next.to);
            kept.count = kept.count.zip(next.count).map(|(one, other)| one + other);
        }
        touch
    });
    losses.sort_by(|a, b| (a.from, a.to, &a.stage, &a.reason).cmp(&(b.from, b.to, &b.stage, &b.reason)));
}

/// Host and hour of `v1/date=2026-11-21/hour=10/host=web-1/…`.
fn place(stem: &str) -> Option<(Arc<str>, Nanos)> {
    let mut parts = stem.split('/').skip(1);
    let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
    let (date, hour, host) = (part("date")?, part("hour")?, part("host")?);
    let host = percent_encoding::percent_decode_str(host).decode_utf8().ok()?;
    let hour = Nanos::parse(&format!("{date}T{hour}:00:00Z")).ok()?;
    Some((host.as_ref().into(), hour))
}
