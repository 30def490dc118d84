//! What lists of sockets and of conntrack entries say about the connections of the table.

use std::collections::HashSet;

use super::{
    super::{
        address::outgoing,
        baseline::totals,
        ending::Ending,
        sockets::SocketInfo,
        translations::{self, Translations},
    },
    CTNETLINK, State,
    observe::{metric_role, service},
};
use crate::event::{CloseReason, FlowState};

impl State {
    /// Ends connections that no longer have a socket. `sockets`: cookies of the namespaces in `listed`, all
    /// taken after `since_ns`.
    pub fn reconcile(&mut self, sockets: &HashSet<u64>, listed: &HashSet<u64>, since_ns: u64) {
        // One list may miss a live socket whose hash chain changes meanwhile: it takes two in a row.
        let mut gone = Vec::new();
        for live in self.table.values_mut() {
            let absent = live.started_ns < since_ns
                && live.touched_ns < since_ns
                && listed.contains(&u64::from(live.key.netns))
                && !sockets.contains(&live.cookie);
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
    pub fn refresh(&mut self, sockets: &[SocketInfo], at_ns: u64) {
        for socket in sockets {
            let Some(mut live) = self.table.remove(&socket.cookie) else {
                continue;
            };
            // A newer sample may have come while the list was made: never back.
            let totals = totals(socket).max(live.totals);
            let since = totals.since(live.totals);
            live.totals = totals;
            live.touched_ns = at_ns;
            self.observe(&live, since);
            self.table.insert(socket.cookie, live);
        }
    }
}
