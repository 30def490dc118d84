//! What records and lists of conntrack entries do to the forwarded connections.

use netprobe_common::ForwardRecord;

use super::{
    super::{
        forward::{self, Change},
        timers::Due,
        translations::Translations,
    },
    State,
};
use crate::event::{CloseReason, FlowState};

impl State {
    pub(super) fn forwarded(&mut self, record: &ForwardRecord) {
        let id = (record.netns, record.zone, record.original);
        if let Some(takeover) = &mut self.takeover {
            if !self.forwards.knows(id) && takeover.park_forward(id, record) {
                return;
            }
            if let Some(end) = takeover.unpark_forward(id) {
                self.apply_forward(&end);
            }
        }
        self.apply_forward(record);
    }

    pub(super) fn apply_forward(&mut self, record: &ForwardRecord) {
        match self.forwards.add(record) {
            Change::Begun(id) => {
                let at = record.header.ts_ns + self.config.open_after.0.as_nanos() as u64;
                self.timers
                    .set(at, Due::Forward(Box::new((id, record.header.ts_ns))));
            }
            Change::Ended(id) => {
                if let Some(flow) = self.forwards.remove(id, record.header.ts_ns) {
                    let (state, reason) = forward::reason(&flow);
                    let event = forward::event(&self.maker, &flow, state, Some(reason), record.header.ts_ns);
                    self.fanout.emit(event);
                }
                // The entry's memory went to a new connection: begin that one.
                if record.state == 1 {
                    self.apply_forward(record);
                }
            }
            Change::Full => self.counters.forwards_full += 1,
            Change::Nothing => {}
        }
    }

    /// Adds a forwarded connection older than the agent, unless it may have ended since it was listed.
    pub fn older_forward(&mut self, record: &ForwardRecord) {
        // Not all is known that ended: the next reconciliation would end it a second time.
        if self.takeover.is_some() && self.counters.forward_ends_forgotten > 0 {
            return;
        }
        match self.forwards.add_older(record) {
            Change::Begun(id) => {
                let at = record.header.ts_ns + self.config.open_after.0.as_nanos() as u64;
                self.timers
                    .set(at, Due::Forward(Box::new((id, record.header.ts_ns))));
            }
            Change::Full => self.counters.forwards_full += 1,
            Change::Ended(_) | Change::Nothing => {}
        }
    }

    /// Ends forwarded connections whose entry is gone, and takes over the counters of the others.
    pub fn reconcile_forwards(&mut self, translations: &Translations, since_ns: u64) {
        let mut gone = Vec::new();
        for (id, flow) in self.forwards.iter_mut() {
            let entry = translations.connection(id);
            // One list may miss a live entry whose hash chain changes meanwhile: it takes two in a row.
            let absent =
                entry.is_none() && translations.listed.contains(&id.0) && flow.last.header.ts_ns < since_ns;
            if absent && flow.absent {
                gone.push(*id);
            }
            flow.absent = absent;
            if let Some(entry) = entry {
                flow.count(entry);
            }
        }
        for id in gone {
            if let Some(flow) = self.forwards.remove(id, since_ns) {
                let reason = Some(CloseReason::Vanished);
                let event = forward::event(&self.maker, &flow, FlowState::Closed, reason, since_ns);
                self.fanout.emit(event);
            }
        }
    }
}
