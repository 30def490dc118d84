//! Diagnostics, on stderr: one log of the process, whose levels change while it runs.

use std::{
    collections::{BTreeMap, HashMap},
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Metadata, Subscriber, callsite};
use tracing_subscriber::{
    Layer as _, Registry,
    filter::{FilterExt as _, LevelFilter, Targets},
    fmt,
    layer::{Context, Filter, SubscriberExt as _},
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// What is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Least level.
    pub level: LogLevel,
    /// Levels of single modules.
    pub targets: BTreeMap<String, LogLevel>,
}

impl Levels {
    /// Those of a configuration.
    pub fn of(config: &LogConfig) -> Levels {
        Levels {
            level: config.level,
            targets: config.targets.clone(),
        }
    }

    fn filter(&self) -> Targets {
        let targets = self
            .targets
            .iter()
            .map(|(target, level)| (target.clone(), filter(*level)));
        Targets::new()
            .with_default(filter(self.level))
            .with_targets(targets)
    }
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

struct Log {
    handle: reload::Handle<Targets, Registry>,
    levels: Mutex<Levels>,
}

static LOG: OnceLock<Log> = OnceLock::new();
static REPEATS: Repeats = Repeats::new();

/// Starts writing. The first call wins; there is one process and one log.
pub fn start(config: &LogConfig) {
    let levels = Levels::of(config);
    let (targets, handle) = reload::Layer::new(levels.filter());
    REPEATS.limit(config.max_repeats);
    // A log that cannot be written (a full disk) must not end the agent, which the complaint about it would.
    let lines = fmt::layer()
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(lines.with_filter(targets.and(&REPEATS)))
        .try_init();
    // An error means that something in this process logs already.
    if started.is_ok() {
        let _ = LOG.set(Log {
            handle,
            levels: Mutex::new(levels),
        });
    }
}

/// The levels in force.
pub fn levels() -> Levels {
    LOG.get().map_or_else(Levels::default, |log| {
        log.levels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    })
}

/// Changes the levels, from the next line on.
pub fn set_levels(new: &Levels) {
    let Some(log) = LOG.get() else { return };
    let mut levels = log.levels.lock().unwrap_or_else(PoisonError::into_inner);
    if *levels == *new {
        return;
    }
    *levels = new.clone();
    // It fails when the subscriber is gone, and with it the log.
    if log.handle.reload(new.filter()).is_ok() {
        tracing::info!(level = new.level.name(), targets = ?new.targets, "log levels");
    }
}

/// Changes how many lines a second one place may write.
pub fn set_max_repeats(most: u32) {
    REPEATS.limit(most);
}

/// Tells now and then how many lines were left out; to be called often.
pub fn tell_repeats() {
    if REPEATS.is_due(Instant::now()) {
        tell_all_repeats();
    }
}

/// Tells how many lines were left out that have not been told.
pub fn tell_all_repeats() {
    for (place, lines) in REPEATS.take() {
        tracing::warn!(lines, place, "log lines left out, see log.max_repeats");
    }
}

/// Lets a place of the program write so many lines a second, and counts what it wrote beyond.
#[derive(Debug)]
struct Repeats(Mutex<Places>);

#[derive(Debug)]
struct Places {
    most: u32,
    windows: Option<HashMap<callsite::Identifier, Window>>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
    place: &'static Metadata<'static>,
}

const WINDOW: Duration = Duration::from_secs(1);
/// Time between two tellings of what was left out.
const TELL_EVERY: Duration = Duration::from_secs(10);

impl Repeats {
    const fn new() -> Repeats {
        Repeats(Mutex::new(Places {
            most: 0,
            windows: None,
            told: None,
        }))
    }

    fn limit(&self, most: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).most = most;
    }

    fn allows(&self, place: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = places.most;
        if most == 0 {
            return true;
        }
        let window = places
            .windows
            .get_or_insert_default()
            .entry(place.callsite())
            .or_insert(Window {
                since: now,
                lines: 0,
                left_out: 0,
                place,
            });
        if now.duration_since(window.since) >= WINDOW {
            window.since = now;
            window.lines = 0;
        }
        if window.lines == most {
            window.left_out += 1;
            return false;
        }
        window.lines += 1;
        true
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = places
            .told
            .is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        if due {
            places.told = Some(now);
        }
        due
    }

    /// Places that wrote too much, with the lines left out.
    fn take(&self) -> Vec<(String, u64)> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = places.windows.iter_mut().flatten();
        windows
            .filter(|(_, window)| window.left_out > 0)
            .map(|(_, window)| {
                let place = window.place;
                let file = place.file().unwrap_or_else(|| place.target());
                let line = place.line().unwrap_or_default();
                (format!("{file}:{line}"), std::mem::take(&mut window.left_out))
            })
            .collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for &'static Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.allows(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> &'static Metadata<'static> {
        struct Nowhere;
        impl callsite::Callsite for Nowhere {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                &PLACE
            }
        }
        static NOWHERE: Nowhere = Nowhere;
        static PLACE: Metadata<'static> = Metadata::new(
            "here",
            "target",
            tracing::Level::WARN,
            Some("here.rs"),
            Some(7),
            None,
            tracing::field::FieldSet::new(&[], callsite::Identifier(&NOWHERE)),
            tracing::metadata::Kind::EVENT,
        );
        &PLACE
    }

    #[test]
    fn repeats_beyond_the_limit_are_counted_and_told_once() {
        let repeats = Repeats::new();
        let now = Instant::now();
        assert!((0..100).all(|_| repeats.allows(place(), now)), "no limit");
        repeats.limit(3);
        let allowed = (0..10).filter(|_| repeats.allows(place(), now)).count();
        assert_eq!(allowed, 3);
        assert_eq!(repeats.take(), [("here.rs:7".to_owned(), 7)]);
        assert_eq!(repeats.take(), []);
        assert!(repeats.allows(place(), now + WINDOW), "a new second");
        assert!(repeats.is_due(now) && !repeats.is_due(now + TELL_EVERY / 2));
        assert!(repeats.is_due(now + TELL_EVERY));
    }

    #[test]
    fn the_longest_name_of_a_target_wins() {
        let levels = Levels {
            level: LogLevel::Warn,
            targets: [
                ("netprobe_agent::flow".to_owned(), LogLevel::Debug),
                ("netprobe_agent::flow::nat".to_owned(), LogLevel::Error),
            ]
            .into(),
        };
        let filter = levels.filter();
        let wants = |target, level| filter.would_enable(target, &level);
        assert!(wants("netprobe_agent::flow::state", tracing::Level::DEBUG));
        assert!(!wants("netprobe_agent::flow::nat", tracing::Level::WARN));
        assert!(!wants("netprobe_agent::api", tracing::Level::INFO));
    }
}
