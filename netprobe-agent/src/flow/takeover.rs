//! While the connections older than the agent are being listed: what records say of them waits for the list.
//!
//! The list has what the records lack (who holds the socket, which side it is, what it had moved before), so a record
//! of an older connection is taken after it. Everything else is taken at once, and what ended meanwhile is not
//! brought back by a list that still has it.

use std::collections::{HashMap, HashSet};

use netprobe_common::{FlowRecord, ForwardRecord, flow_flags};

use super::forward::{self, Id};

/// What waits, and what ended, since the list was begun.
#[derive(Debug)]
pub struct Takeover {
    /// The newest record of an older connection: its counters are totals, so it says all the earlier ones said.
    flows: HashMap<u64, Parked>,
    /// Ends of older forwarded connections.
    forwards: HashMap<Id, ForwardRecord>,
    /// Cookies of connections that ended, those that wait left out.
    ended: HashSet<u64>,
    room: usize,
}

/// A record that waits.
#[derive(Clone, Debug)]
pub enum Parked {
    /// The connection lives.
    Sample(Box<FlowRecord>),
    /// It ended.
    Closed(Box<FlowRecord>),
}

impl Takeover {
    /// At most `room` of each kind are held; past it, records of older connections are taken as they come.
    pub fn new(room: usize) -> Takeover {
        Takeover {
            flows: HashMap::new(),
            forwards: HashMap::new(),
            ended: HashSet::new(),
            room,
        }
    }

    /// Keeps a sample of an older connection, if it is one.
    pub fn park_sample(&mut self, record: &FlowRecord) -> bool {
        self.park(record, Parked::Sample)
    }

    /// Keeps the end of an older connection, if it is one; of others, that they ended.
    pub fn park_closed(&mut self, record: &FlowRecord) -> bool {
        if self.park(record, Parked::Closed) {
            return true;
        }
        // One more than there is room for: from there on it is not known what ended.
        if self.ended.len() <= self.room {
            self.ended.insert(record.cookie);
        }
        false
    }

    fn park(&mut self, record: &FlowRecord, as_: impl FnOnce(Box<FlowRecord>) -> Parked) -> bool {
        let older = record.flags & flow_flags::PARTIAL != 0;
        let room = self.flows.len() < self.room || self.flows.contains_key(&record.cookie);
        if older && room {
            self.flows.insert(record.cookie, as_(Box::new(*record)));
        }
        older && room
    }

    /// What waits for this connection: its socket connects anew.
    pub fn unpark(&mut self, cookie: u64) -> Option<Parked> {
        self.flows.remove(&cookie)
    }

    /// Keeps the end of a forwarded connection that is in no table.
    pub fn park_forward(&mut self, id: Id, record: &ForwardRecord) -> bool {
        if record.state == forward::SYN_SENT || self.forwards.len() >= self.room {
            return false;
        }
        self.forwards.entry(id).or_insert(*record);
        true
    }

    /// The end that waits for `id`: a new connection has its addresses.
    pub fn unpark_forward(&mut self, id: Id) -> Option<ForwardRecord> {
        self.forwards.remove(&id)
    }

    /// Whether a listed connection may be taken over: it has not ended since.
    pub fn lives(&self, cookie: u64) -> bool {
        match self.flows.contains_key(&cookie) {
            true => true,
            // What ended is not all known: only what is heard of lives for sure.
            false => self.ended.len() <= self.room && !self.ended.contains(&cookie),
        }
    }

    /// What waited, to be taken now.
    pub fn finish(self) -> (impl Iterator<Item = Parked>, impl Iterator<Item = ForwardRecord>) {
        (self.flows.into_values(), self.forwards.into_values())
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
