//! What records and counters of UDP flows do to the table.

use aya::maps::MapError;
use netprobe_common::{UdpCounters, UdpRecord};

use super::{
    super::{
        address::ip,
        delta::FlowDelta,
        udp::{self, Look, UdpLive, UdpMap},
    },
    State,
};
use crate::event::{FlowState, Protocol};

impl State {
    pub(super) fn udp_begun(&mut self, record: &UdpRecord) {
        let process = self.identity(&record.process, record.header.ts_ns);
        let live = UdpLive {
            record: *record,
            process,
            counters: UdpCounters {
                last_ns: record.header.ts_ns,
                ..UdpCounters::default()
            },
            opened: false,
            due_ns: record.header.ts_ns + self.config.open_after.0.as_nanos() as u64,
            path: None,
        };
        // The kernel side's map bounds how many there are.
        self.udp.begin(live);
    }

    /// Looks at all UDP flows: counts what moved, tells what is due, ends what is idle.
    pub fn poll_udp(&mut self, map: &mut UdpMap, now_ns: u64, idle_ns: u64) -> Result<(), MapError> {
        let tells = self.tells();
        let State {
            udp,
            observer,
            maker,
            fanout,
            config,
            counters,
            ..
        } = self;
        let every = config.update_every.0.as_nanos() as u64;
        let result = udp.poll(map, now_ns, idle_ns, |live, look| {
            let (since, ended) = match look {
                Look::Moved(since) => (since, false),
                Look::Idle(since) => (since, true),
            };
            let mut delta = FlowDelta::new(Protocol::Udp, live.role());
            delta.service = live.service();
            let key = &live.record.key;
            delta.peer = (key.remote_port != 0).then(|| (ip(key.remote_addr), key.remote_port));
            delta.bytes_sent = since.sent_bytes;
            delta.bytes_received = since.received_bytes;
            delta.datagrams_sent = since.sent;
            delta.datagrams_received = since.received;
            observer.observe_flow(&delta);
            if ended {
                fanout.emit(udp::event(maker, live, FlowState::Closed, now_ns));
            }
        });
        for live in udp.live.values_mut().filter(|live| live.due_ns <= now_ns) {
            live.due_ns = now_ns + every;
            match tells.next(live.opened, live.record.header.ts_ns, || false) {
                Ok(state) => {
                    live.opened = true;
                    fanout.emit(udp::event(maker, live, state, now_ns));
                }
                Err(left_out) => counters.leave_out(left_out),
            }
        }
        result
    }
}
