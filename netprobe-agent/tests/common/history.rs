//! An archive under test: filled with events, and held against what was acknowledged.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use netprobe_agent::{
    archive::{
        Archive,
        read::{self, SegmentError, Span},
        store::Store,
        verify::{self, Trust},
    },
    config::ArchiveConfig,
    event::{Event, Flow, FlowState, Nanos, Origin, Severity},
    fanout::Fanout,
    probe_report::ArchiveReport,
};

/// What has to be missing.
pub(crate) const NONE: [u64; 0] = [];

/// An archive that runs.
pub(crate) struct Running {
    pub(crate) fanout: Fanout,
    pub(crate) archive: Archive,
    origin: Origin,
}

impl Running {
    pub(crate) fn start(config: &ArchiveConfig, run: u64) -> Running {
        Running::start_at(config, run, Nanos::now)
    }

    /// The same on another clock.
    pub(crate) fn start_at(
        config: &ArchiveConfig,
        run: u64,
        clock: impl FnMut() -> Nanos + Send + 'static,
    ) -> Running {
        let origin = Origin::new("host", "boot", &format!("{run:016x}"));
        let started = Archive::start(config, &origin, None);
        assert_eq!(started.notice, None);
        let mut fanout = Fanout::with_clock(origin.clone(), Box::new(clock));
        fanout.add(started.sink);
        Running {
            fanout,
            archive: started.archive,
            origin,
        }
    }

    /// An event that has to be kept.
    pub(crate) fn event(&self) -> Event {
        Event::flow(
            &self.origin,
            "boot-1".into(),
            Severity::Info,
            Flow::new(FlowState::Closed),
        )
    }

    pub(crate) fn emit(&mut self, count: u64) {
        for _ in 0..count {
            let event = self.event();
            self.fanout.emit(event);
        }
    }

    /// Waits until it says something of itself.
    pub(crate) fn until(&self, what: &str, done: impl Fn(&ArchiveReport) -> bool) {
        let begin = Instant::now();
        while !done(&self.archive.report()) {
            let report = self.archive.report();
            assert!(begin.elapsed() < Duration::from_secs(90), "{what}: {report:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends in order; the books close. How many events of this run are in the archive.
    pub(crate) fn stop(mut self) -> u64 {
        self.fanout.shutdown(Duration::from_secs(20));
        assert_eq!(self.fanout.check(), Ok(()));
        self.fanout.ledger()[0].delivered
    }
}

/// Numbers by run in an archive of one chain, which verifies and holds nothing twice.
pub(crate) fn history(config: &ArchiveConfig) -> BTreeMap<String, BTreeSet<u64>> {
    let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for event in archived(config) {
        let numbers = found.entry(event.run.to_string()).or_default();
        assert!(numbers.insert(event.seq.expect("a number")), "archived twice");
    }
    found
}

/// The events of an archive of one chain, which verifies. Those that a tombstone declares to be lost are not there.
pub(crate) fn archived(config: &ArchiveConfig) -> Vec<Event> {
    let store = Store::open(config).expect("the archive is there");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let span = Span::default();
    runtime.block_on(async {
        let verdict = verify::verify(&store, &span, &Trust::default(), |_| {})
            .await
            .expect("readable");
        assert_eq!(verdict.findings, [], "the chain verifies");
        assert_eq!(verdict.chains.len(), 1, "one chain over all lives");
        let entries = read::entries(&store, &span).await.expect("readable");
        let mut found = Vec::new();
        for segment in read::manifests(&store, entries, || {}).await.expect("readable") {
            if segment.entry.tombstone {
                continue;
            }
            let manifest = &segment.manifest.as_ref().expect("a manifest").document;
            let object = read::object(&store, &segment, &manifest.sha256)
                .await
                .expect("an object");
            read::events::<SegmentError>(&object, |event| {
                found.push(event);
                Ok(ControlFlow::Continue(()))
            })
            .expect("events");
        }
        found
    })
}

/// Numbers up to `last` that are not in a history.
pub(crate) fn missing(history: &BTreeMap<String, BTreeSet<u64>>, run: &str, last: u64) -> Vec<u64> {
    let have = history.get(run);
    (1..=last)
        .filter(|seq| !have.is_some_and(|have| have.contains(seq)))
        .collect()
}
