//! What records of TCP connections do to the table: begin, accept, sample, end.

use netprobe_common::{AcceptRecord, ConnectFailedRecord, FlowRecord, HopRecord, Process, Role, flow_flags};

use super::{
    super::{
        live::{Live, Totals},
        process::Identity,
        timers::Due,
    },
    CTNETLINK, MAX_PENDING_ACCEPTS, State,
    observe::{delta_of, metric_role, service},
};

impl State {
    pub(super) fn established(&mut self, record: &FlowRecord) {
        if let Some(parked) = self.takeover.as_mut().and_then(|t| t.unpark(record.cookie)) {
            self.unparked(parked);
        }
        if self.is_late(record) {
            return;
        }
        if self.is_full(record.cookie) {
            // Hops and accept wait where they are, for the final record to find.
            self.counters.table_full += 1;
            return;
        }
        let mut live = Live::new(record);
        live.process = self.identity(&record.process, record.started_ns);
        self.translate(&mut live);
        let delta = live.update(record);
        if let Some(accept) = self.accepts.remove(&record.cookie) {
            self.accept(&mut live, &accept);
        }
        // A server's service is known from its accept on: say nothing before.
        if live.role == Role::Client || live.accepted_ns != 0 {
            self.announce(&mut live);
        }
        self.observe(&live, delta);
        if let Some(old) = self.table.remove(&record.cookie) {
            // Known from the dump at start and yet new: it was opened between attach and dump.
            self.observer
                .move_active(Some((service(&old), metric_role(old.role))), None);
        }
        self.observer
            .move_active(None, Some((service(&live), metric_role(live.role))));
        self.watch(live);
    }

    /// Whether there is no room for this connection.
    pub(super) fn is_full(&self, cookie: u64) -> bool {
        self.table.len() >= self.config.max_flows && !self.table.contains_key(&cookie)
    }

    /// Whether the connection of this record had ended; counted.
    fn is_late(&mut self, record: &FlowRecord) -> bool {
        let late = self.ended.knows(record.cookie, record.started_ns);
        self.counters.late_records += u64::from(late);
        late
    }

    /// Puts a connection into the table and wants `open` for it.
    pub(super) fn watch(&mut self, live: Live) {
        self.timers.set(
            live.started_ns + self.config.open_after.0.as_nanos() as u64,
            Due::Flow(live.cookie, live.started_ns),
        );
        self.table.insert(live.cookie, Box::new(live));
    }

    pub(super) fn sampled(&mut self, record: &FlowRecord) {
        if !self.takeover.as_mut().is_some_and(|t| t.park_sample(record)) {
            self.apply_sample(record);
        }
    }

    pub(super) fn apply_sample(&mut self, record: &FlowRecord) {
        if self.is_late(record) || self.is_full(record.cookie) {
            return;
        }
        if self.skips(record) {
            self.counters.samples_shed += 1;
            return;
        }
        if !self.table.contains_key(&record.cookie) {
            let live = self.first_seen(record);
            self.observer
                .move_active(None, Some((service(&live), metric_role(live.role))));
            self.watch(live);
        }
        let Some(mut live) = self.table.remove(&record.cookie) else {
            return;
        };
        let before = service(&live).map(str::to_owned);
        let delta = live.update(record);
        self.io_identity(&mut live, record);
        if service(&live) != before.as_deref() {
            let role = metric_role(live.role);
            self.observer
                .move_active(Some((before.as_deref(), role)), Some((service(&live), role)));
        }
        self.observe(&live, delta);
        self.table.insert(record.cookie, live);
    }

    /// Whether a sample is left out to stay within the budget: its totals are in the next one, too.
    fn skips(&self, record: &FlowRecord) -> bool {
        const EVERY_NS: u64 = 10_000_000_000;
        self.sheds("samples")
            && self
                .table
                .get(&record.cookie)
                .is_some_and(|live| record.header.ts_ns.saturating_sub(live.touched_ns) < EVERY_NS)
    }

    /// A connection whose ESTABLISHED was lost, or that is older than the agent and was not in its dump.
    pub(super) fn first_seen(&mut self, record: &FlowRecord) -> Live {
        let mut live = Live::new(record);
        live.process = self.identity(&record.process, record.started_ns);
        self.translate(&mut live);
        if record.flags & flow_flags::PARTIAL != 0 {
            // What it moved before is not known: charge nothing of it.
            live.base = Some(Box::new(Totals::of(record)));
            live.totals = Totals::of(record);
        }
        live
    }

    pub(super) fn closed(&mut self, record: &FlowRecord) {
        if !self.takeover.as_mut().is_some_and(|t| t.park_closed(record)) {
            self.end(record);
        }
    }

    pub(super) fn end(&mut self, record: &FlowRecord) {
        if self.is_late(record) {
            return;
        }
        self.ended.add(record.cookie, record.closed_ns);
        let known = self.table.remove(&record.cookie);
        let active = known.is_some();
        let mut live = match known {
            Some(live) => live,
            None => Box::new(self.first_seen(record)),
        };
        let before = (service(&live).map(str::to_owned), metric_role(live.role));
        let delta = live.update(record);
        if live.key.local_port == 0 || !active {
            live.key = record.key;
        }
        if let Some(accept) = self.accepts.remove(&record.cookie) {
            self.accept(&mut live, &accept);
        }
        self.io_identity(&mut live, record);
        if live.established_ns != 0 {
            self.announce(&mut live);
        } else if live.syn_retransmits > 0 {
            let mut failed = delta_of(&live);
            failed.syn_retransmits = u64::from(live.syn_retransmits);
            self.observer.observe_flow(&failed);
        }
        self.observe(&live, delta);
        if active {
            self.observer
                .move_active(Some((before.0.as_deref(), before.1)), None);
        }
        self.with_reader(Some(&live), |reader, flows| {
            reader.ended(record.cookie, record.closed_ns, flows);
        });
        let accept_known = !self.accept_losses.between(live.established_ns, record.closed_ns)
            && (active || live.established_ns > self.accepts_given_up_ns);
        let event = self.maker.closed(&live, record, accept_known);
        self.fanout.emit(event);
    }

    pub(super) fn accepted(&mut self, record: &AcceptRecord) {
        let Some(mut live) = self.table.remove(&record.cookie) else {
            if self.accepts.len() < MAX_PENDING_ACCEPTS {
                self.accepts.insert(record.cookie, *record);
            } else {
                self.accepts_given_up_ns = self.accepts_given_up_ns.max(record.header.ts_ns);
                self.counters.accepts_expired += 1;
            }
            return;
        };
        let before = (service(&live).map(str::to_owned), metric_role(live.role));
        self.accept(&mut live, record);
        let after = (service(&live), metric_role(live.role));
        self.observer
            .move_active(Some((before.0.as_deref(), before.1)), Some(after));
        self.announce(&mut live);
        self.table.insert(record.cookie, live);
    }

    pub(super) fn accept(&mut self, live: &mut Live, record: &AcceptRecord) {
        live.accepted_ns = record.header.ts_ns;
        // Its begin was not seen, but who is accepted serves.
        if live.role == Role::Unknown {
            live.role = Role::Server;
        }
        live.process = self.identity(&record.process, record.header.ts_ns);
    }

    pub(super) fn connect_failed(&mut self, record: &ConnectFailedRecord) {
        let process = self.identity(&record.process, record.header.ts_ns);
        let event = self.maker.connect_failed(record, process);
        self.fanout.emit(event);
    }

    pub(super) fn hop(&mut self, record: &HopRecord) {
        self.nat.add(record);
    }

    pub(super) fn identity(&mut self, process: &Process, ts_ns: u64) -> Option<Identity> {
        self.processes.lookup(process, ts_ns)
    }

    pub(super) fn io_identity(&mut self, live: &mut Live, record: &FlowRecord) {
        if live.io_process.is_none() && record.io_process.tgid != 0 {
            let owner = live.process.as_ref().map(|identity| identity.process.pid);
            // The owner itself is by far the usual case, and known already.
            live.io_process = if owner == Some(record.io_process.tgid) {
                live.process.clone()
            } else {
                self.identity(&record.io_process, record.header.ts_ns)
            };
        }
    }

    /// Takes the hops of a connection. That there are none is told only when none can be missing.
    pub(super) fn translate(&mut self, live: &mut Live) {
        /// From the last SYN-ACK to ESTABLISHED: a round trip, rarely a second.
        const SYN_ACK_NS: u64 = 3_000_000_000;
        if self.maker.nat_method == Some(CTNETLINK) {
            return;
        }
        let (begin, from) = match live.role {
            Role::Server => (
                live.established_ns,
                live.established_ns.saturating_sub(SYN_ACK_NS),
            ),
            // Established before anybody looked.
            Role::Unknown => (live.started_ns, 0),
            Role::Client => (live.started_ns, live.started_ns),
        };
        let to = match live.established_ns {
            0 => live.touched_ns,
            established => established,
        };
        let mut path = self.nat.resolve(live.cookie, &live.key, live.role, begin);
        let unseen = live.role == Role::Unknown || self.nat.may_lack(from, to);
        path.ambiguous |= path.hops.is_empty() && unseen;
        if path.ambiguous || !path.hops.is_empty() {
            live.path = Some(Box::new(path));
        }
    }
}
