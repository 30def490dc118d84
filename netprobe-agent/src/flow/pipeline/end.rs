//! The end of a run, in order: nothing that was seen goes untold.

use std::time::{Duration, Instant};

use super::{
    super::{
        clock::monotonic_ns,
        survey::{Purpose, Survey},
        surveyor::Surveyor,
    },
    Pipeline,
};
use crate::event::AgentAction;

/// How long the last list of live connections may take at the end.
const LAST_LOOK: Duration = Duration::from_secs(3);
/// How long programs that are at work may take to end, once detached.
const DETACHED: Duration = Duration::from_millis(200);
/// How long each sink may take to deliver what it holds.
const SHUTDOWN: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Detach, drain what is left, mark live flows, end the sinks, say whether the ledger closes.
    pub(super) fn shutdown(mut self) {
        self.last_look();
        self.reporter.freeze(self.probe.take());
        self.drain_to_the_end();
        // What still waits for a list of older connections waits no longer.
        self.state.finish_takeover();
        let now = monotonic_ns();
        self.state.tick(now);
        self.poll_udp(now);
        self.tell_losses();
        self.state.stop(now);
        self.announce(AgentAction::Stop);
        self.state.fanout.shutdown(SHUTDOWN);
        self.answer();
        let report = self.report();
        match serde_json::to_string(&report.ledger) {
            Ok(ledger) => tracing::info!(ledger = %ledger, "ledger at the end"),
            Err(error) => tracing::error!("the ledger cannot be written: {error}"),
        }
    }

    /// Samples may be a second old: the last word about a live connection is exact, if that does not take too long.
    fn last_look(&mut self) {
        let mut surveyor = Surveyor::default();
        let scope = self.scope.clone();
        let survey = surveyor
            .start(move || Survey::take(Purpose::Counters, &scope))
            .and_then(|()| {
                surveyor.wait(Instant::now() + LAST_LOOK, || {
                    loop {
                        self.drain();
                        if self.ring.is_emptied() {
                            break;
                        }
                    }
                })
            });
        match survey {
            Ok(survey) => {
                self.drain();
                self.state.refresh(&survey.counters, survey.since_ns);
            }
            Err(_) => tracing::warn!(
                "live connections could not be listed in {} s: their last update is as old as their last sample",
                LAST_LOOK.as_secs()
            ),
        }
    }

    /// Nothing new comes but from programs that were at work when they were detached: drains until every record
    /// seen is accounted for. What is in the ring is drained however long that takes.
    fn drain_to_the_end(&mut self) {
        while self.drain() > 0 {}
        let empty = Instant::now();
        loop {
            let closes = self.report().ledger.is_some_and(|ledger| ledger.kernel.closes);
            if closes || empty.elapsed() >= DETACHED {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            while self.drain() > 0 {}
        }
    }
}
