//! What lists of sockets and of conntrack entries say about the connections of the table.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        address::outgoing,
        ending::Ending,
        live::{Live, Totals},
        translations::{self, Translations},
    },
    CTNETLINK, State,
    observe::{metric_role, service},
};
use crate::event::{CloseReason, FlowState};

impl State {
    /// Ends connections that no longer have a socket. `sockets`: those of the namespaces in `listed` by cookie, all
    /// taken after `since_ns`.
    pub fn reconcile(&mut self, sockets: &HashMap<u64, Totals>, listed: &HashSet<u64>, since_ns: u64) {
        // One list may miss a live socket whose hash chain changes meanwhile: it takes two in a row.
        let mut gone = Vec::new();
        for live in self.table.values_mut() {
            let absent = live.started_ns < since_ns
                && live.touched_ns < since_ns
                && listed.contains(&u64::from(live.key.netns))
                && !sockets.contains_key(&live.cookie);
            if absent && live.absent {
                gone.push(live.cookie);
            }
            live.absent = absent;
        }
        for cookie in gone {
            let Some(mut live) = self.table.remove(&cookie) else {
                continue;
            };
            self.counters.vanished += 1;
            self.ended.add(cookie, since_ns);
            self.announce(&mut live);
            self.with_reader(Some(&live), |reader, flows| reader.ended(cookie, since_ns, flows));
            self.observer
                .move_active(Some((service(&live), metric_role(live.role))), None);
            let ending = Ending {
                state: FlowState::Closed,
                reason: CloseReason::Vanished,
                errno: 0,
                data_lost: false,
            };
            let event = self.maker.ended(&live, ending, since_ns);
            self.fanout.emit(event);
        }
    }

    /// Whether flows wait for a list of conntrack's tables: UDP always does, TCP where nothing better serves.
    pub fn wants_translations(&self) -> bool {
        self.udp.untranslated() > 0 || (self.maker.nat_method == Some(CTNETLINK) && !self.table.is_empty())
    }

    /// Translates what waits from conntrack's tables.
    /// `since_ns`: when the lists were begun; a flow younger than that may be in none of them.
    pub fn translate_from(&mut self, translations: &Translations, since_ns: u64) {
        self.udp.translate(translations, since_ns);
        if self.maker.nat_method == Some(CTNETLINK) {
            for live in self.table.values_mut().filter(|live| live.path.is_none()) {
                let path = translations.resolve(translations::TCP, &outgoing(&live.key), live.role);
                if path.ambiguous || !path.hops.is_empty() {
                    live.path = Some(Box::new(path));
                }
            }
        }
    }

    /// Brings counters of live connections up to date from a list of sockets.
    pub fn refresh(&mut self, sockets: &HashMap<u64, Totals>, at_ns: u64) {
        for (cookie, &listed) in sockets {
            // A newer sample may have come while the list was made: never back.
            let stands_still = |live: &Live| listed.max(live.totals) == live.totals;
            if self.table.get(cookie).is_none_or(|live| stands_still(live)) {
                continue;
            }
            let Some(mut live) = self.table.remove(cookie) else {
                continue;
            };
            let since = listed.since(live.totals);
            live.totals = listed.max(live.totals);
            live.touched_ns = live.touched_ns.max(at_ns);
            self.observe(&live, since);
            self.table.insert(*cookie, live);
        }
    }
}
