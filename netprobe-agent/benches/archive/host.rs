//! Events like those of a busy host.

use std::sync::Arc;

use netprobe_agent::event::{
    CloseReason, Event, Family, Flow, FlowRole, FlowState, Nanos, Nat, NatStatus, Origin, Process, Protocol,
    Severity, connection_id,
};

/// Services of the host.
const SERVICES: u64 = 50;
/// Events that are made; after them they come again, with other times. More of them than compression looks back at.
const EVENTS: usize = 20_000;

/// Name of a service.
pub(crate) fn service(index: u64) -> String {
    format!("service-{index}.service")
}

/// Final events of connections: many services, many peers, times and sizes of their own.
pub(crate) struct Host {
    pub(crate) origin: Origin,
    events: Vec<Event>,
    next: usize,
}

impl Host {
    pub(crate) fn new(run: u64) -> Host {
        let origin = Origin::new(
            "web-1.example.org",
            "6f1f7a5e-8a3c-4b52-9f0e-2f6f5d1c9a77",
            &format!("{run:016x}"),
        );
        let mut random = fastrand::Rng::with_seed(run);
        let processes: Vec<_> = (0..SERVICES).map(process).collect();
        let event = |_| {
            let (service, process) = &processes[random.usize(..processes.len())];
            let mut event = connection(&origin, &mut random);
            event.service = Some(service.clone());
            event.process = Some(process.clone());
            event
        };
        let events = (0..EVENTS).map(event).collect();
        Host {
            origin,
            events,
            next: 0,
        }
    }

    /// The next event, of a connection that ends at this time.
    pub(crate) fn event(&mut self, end: Nanos) -> Event {
        let mut event = self.events[self.next].clone();
        self.next = (self.next + 1) % self.events.len();
        let took = event.elapsed_ms.unwrap_or_default() * 1e6;
        event.started_at = Some(Nanos(end.0 - took as i64));
        event
    }
}

fn process(index: u64) -> (Arc<str>, Arc<Process>) {
    let unit: Arc<str> = service(index).into();
    let process = Process {
        pid: 1000 + index as u32,
        comm: Some(format!("service-{index}").into()),
        exe: Some(format!("/usr/bin/service-{index}").into()),
        uid: Some(1000),
        cgroup: Some(format!("/system.slice/{unit}").into()),
        unit: Some(unit.clone()),
        container_id: None,
    };
    (unit, Arc::new(process))
}

fn connection(origin: &Origin, random: &mut fastrand::Rng) -> Event {
    let mut ms = |from: u32, to: u32| Some(f64::from(random.u32(from..to)) / 1e6);
    let mut flow = Flow::new(FlowState::Closed);
    flow.connect_ms = ms(50_000, 5_000_000);
    flow.rtt_ms = ms(20_000, 2_000_000);
    flow.rtt_var_ms = ms(1_000, 500_000);
    let elapsed = ms(100_000, 900_000_000);
    (flow.syn_retransmits, flow.retransmits) = (Some(0), Some(u64::from(random.u8(..) == 0)));
    (flow.segments_out, flow.segments_in) = (Some(random.u64(4..40)), Some(random.u64(4..40)));
    flow.close_reason = Some(CloseReason::Fin);
    let id = connection_id(&origin.boot_id, random.u64(1 << 20..1 << 30));
    let mut event = Event::flow(origin, id, Severity::Info, flow);
    event.elapsed_ms = elapsed;
    (event.protocol, event.family) = (Some(Protocol::Tcp), Some(Family::Ipv4));
    event.role = Some(FlowRole::Client);
    event.netns = Some(4_026_531_840);
    event.internal_ip = Some([10, 0, 0, 1].into());
    event.internal_port = Some(random.u16(32_768..61_000));
    (event.external_ip, event.external_port) = (event.internal_ip, event.internal_port);
    event.peer_ip = Some([10, 1, random.u8(..4), random.u8(..)].into());
    event.peer_port = Some(5432);
    (event.actual_peer_ip, event.actual_peer_port) = (event.peer_ip, event.peer_port);
    event.nat = Some(Nat {
        status: NatStatus::None,
        method: None,
        hops: Vec::new(),
    });
    event.bytes_sent = Some(random.u64(70..20_000));
    event.bytes_received = Some(random.u64(70..200_000));
    event
}
