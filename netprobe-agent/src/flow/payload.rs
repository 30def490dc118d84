//! What the flow stage hands to whoever reads requests. It knows no protocol itself: the composition root hands a
//! [`Reader`] in.

use std::collections::{BTreeMap, HashMap};

use netprobe_common::{DatagramRecord, PayloadRecord, UdpKey};

use super::{delta::Observer, events::Maker, live::Live, udp::UdpLive};
use crate::{event::Event, fanout::Fanout, kernel::libssl::Library};

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
    /// Takes them.
    pub fanout: &'a mut Fanout,
}

impl Flows<'_> {
    /// The connection of a socket, if it is known.
    pub fn of(&self, cookie: u64) -> Option<&Live> {
        self.ending
            .filter(|live| live.cookie == cookie)
            .or_else(|| self.table.get(&cookie).map(|live| &**live))
    }

    /// Emits an event.
    pub fn emit(&mut self, event: Event) {
        self.fanout.emit(event);
    }
}
