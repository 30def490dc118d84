//! What the flow stage hands to whoever reads requests. It knows no protocol itself: the composition root hands a
//! [`Reader`] in.

use std::collections::{BTreeMap, HashMap};

use netprobe_common::{DatagramRecord, PayloadRecord, UdpKey};

use super::{delta::Observer, events::Maker, live::Live, share::Share, udp::UdpLive};
use crate::{
    event::{Event, FlowRole, Severity, TraceOrigin},
    fanout::Fanout,
    kernel::libssl::Library,
};

/// Reads requests from the payload of connections.
pub trait Reader: Send {
    /// Takes the number of payload records lost so far. To be told before any that was made after one of them was lost.
    fn lost(&mut self, count: u64, now_ns: u64);

    /// Takes a packet.
    fn packet(&mut self, record: &PayloadRecord, bytes: &[u8], flows: &mut Flows<'_>);

    /// Takes a datagram.
    fn datagram(&mut self, record: &DatagramRecord, bytes: &[u8], flows: &mut Flows<'_>);

    /// A connection ended: nothing of it follows.
    fn ended(&mut self, cookie: u64, at_ns: u64, flows: &mut Flows<'_>);

    /// Called every second: forgets what is too old to matter, tells what was waited for in vain.
    fn tick(&mut self, now_ns: u64, flows: &mut Flows<'_>);

    /// The agent stops: tells what is under way.
    fn stop(&mut self, now_ns: u64, flows: &mut Flows<'_>);

    /// TLS libraries that were met and are not read yet; told once.
    fn met_libraries(&mut self) -> Vec<Library>;

    /// Connections whose payload is being read, and how many there may be.
    fn connections(&self) -> (usize, usize);

    /// What was counted, by name.
    fn counters(&self) -> BTreeMap<String, u64>;
}

/// What events are made of, and where they go.
pub struct Flows<'a> {
    /// Live connections by cookie.
    pub table: &'a HashMap<u64, Box<Live>>,
    /// Live UDP flows.
    pub udp: &'a HashMap<UdpKey, UdpLive>,
    /// The one that is about to end, no longer among them.
    pub ending: Option<&'a Live>,
    /// Is told names of addresses.
    pub observer: &'a dyn Observer,
    /// Makes events.
    pub maker: &'a Maker,
    /// Which of them are told.
    pub sampling: Sampling,
    /// Takes events.
    pub fanout: &'a mut Fanout,
}

/// Which events of requests are told.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Of those that went well and were not slow.
    pub share: Share,
    /// What a slow one takes, milliseconds.
    pub slow_ms: f64,
    /// Whether the budget wants fewer.
    pub shed: bool,
}

impl Sampling {
    /// What is told when all are.
    pub fn all() -> Sampling {
        Sampling {
            share: Share::new(1.0),
            slow_ms: 0.0,
            shed: false,
        }
    }

    /// Why this one is not told, unless its destination fails. Of a trace that others know too all or none: each agent on its
    /// way decides alike.
    fn left_out(&self, event: &Event) -> Option<&'static str> {
        const SHED_TO: f64 = 0.1;
        if event.severity != Severity::Info || event.elapsed_ms.is_none_or(|took| took >= self.slow_ms) {
            return None;
        }
        let number = match event.trace_origin {
            TraceOrigin::Propagated => u128::from_be_bytes(event.trace_id.0) as u64,
            TraceOrigin::Generated => u64::from_be_bytes(event.span_id.0),
        };
        if !self.share.has(number) {
            Some("share")
        } else if self.shed && !Share::new(SHED_TO).has(number) {
            Some("budget")
        } else {
            None
        }
    }
}

impl Flows<'_> {
    /// The connection of a socket, if it is known.
    pub fn of(&self, cookie: u64) -> Option<&Live> {
        self.ending
            .filter(|live| live.cookie == cookie)
            .or_else(|| self.table.get(&cookie).map(|live| &**live))
    }

    /// Emits the event of a request, or leaves it out: then it is counted only.
    pub fn emit(&mut self, event: Event) {
        let left_out = self
            .sampling
            .left_out(&event)
            .filter(|_| !self.is_incident(&event));
        match left_out {
            Some(reason) => self.fanout.leave_out(event, reason),
            None => self.fanout.emit(event),
        };
    }

    /// Whether it went to a destination that fails.
    fn is_incident(&self, event: &Event) -> bool {
        let peer = event.peer_ip.zip(event.peer_port);
        event.role == Some(FlowRole::Client) && self.observer.is_incident(event.service.as_deref(), peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixture;

    fn sampling(share: f64, shed: bool) -> Sampling {
        Sampling {
            share: Share::new(share),
            slow_ms: 1_000.0,
            shed,
        }
    }

    fn good() -> Event {
        Event {
            severity: Severity::Info,
            elapsed_ms: Some(12.0),
            ..fixture::request()
        }
    }

    #[test]
    fn what_went_well_is_told_by_its_share() {
        assert_eq!(sampling(1.0, false).left_out(&good()), None);
        assert_eq!(sampling(0.0, true).left_out(&good()), Some("share"));
        let bad = Event {
            severity: Severity::Warning,
            ..good()
        };
        let slow = Event {
            elapsed_ms: Some(1_000.0),
            ..good()
        };
        let unknown = Event {
            elapsed_ms: None,
            ..good()
        };
        for event in [bad, slow, unknown] {
            assert_eq!(sampling(0.0, true).left_out(&event), None);
        }
    }

    #[test]
    fn the_budget_leaves_one_in_ten_and_whole_traces() {
        let sampling = sampling(1.0, true);
        let mut told = 0;
        for n in 0_u64..10_000 {
            let mut event = Event {
                trace_origin: TraceOrigin::Generated,
                ..good()
            };
            event.span_id.0 = n.to_be_bytes();
            told += usize::from(sampling.left_out(&event).is_none());
            // Two spans of one trace.
            event.trace_origin = TraceOrigin::Propagated;
            event.trace_id.0[8..].copy_from_slice(&n.to_be_bytes());
            let one = sampling.left_out(&event);
            event.span_id.0 = [7; 8];
            assert_eq!(one, sampling.left_out(&event));
        }
        assert!((900..1_100).contains(&told), "{told}");
    }
}
