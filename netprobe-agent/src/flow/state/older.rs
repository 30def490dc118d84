//! Taking over the connections older than the agent.

use super::{
    super::{
        live::Live,
        takeover::{Parked, Takeover},
    },
    State,
    observe::{metric_role, service},
};

impl State {
    /// Begins to take over connections older than the agent. Until [`State::finish_takeover`] what records say of
    /// them waits.
    pub fn begin_takeover(&mut self) {
        self.takeover = Some(Takeover::new(self.config.max_flows));
    }

    /// Whether older connections are still being taken over.
    pub const fn is_taking_over(&self) -> bool {
        self.takeover.is_some()
    }

    /// Adds a connection older than the agent, unless records said more of it since it was listed.
    pub fn baseline(&mut self, mut live: Live) {
        let ended = self.takeover.as_ref().is_some_and(|t| !t.lives(live.cookie));
        if ended || self.table.contains_key(&live.cookie) {
            return;
        }
        if self.is_full(live.cookie) {
            self.counters.table_full += 1;
            return;
        }
        if let Some(accept) = self.accepts.remove(&live.cookie) {
            self.accept(&mut live, &accept);
        }
        self.observer
            .move_active(None, Some((service(&live), metric_role(live.role))));
        self.watch(live);
    }

    /// All older connections are taken over that will be: takes what waited for them.
    pub fn finish_takeover(&mut self) {
        let Some(takeover) = self.takeover.take() else {
            return;
        };
        let (flows, forwards) = takeover.finish();
        flows.for_each(|parked| self.unparked(parked));
        forwards.for_each(|record| self.apply_forward(&record));
    }

    pub(super) fn unparked(&mut self, parked: Parked) {
        match parked {
            Parked::Sample(record) => self.apply_sample(&record),
            Parked::Closed(record) => self.end(&record),
        }
    }
}
