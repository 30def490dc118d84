//! An archive in memory, made of what a test says happened.

use std::sync::Arc;

use object_store::memory::InMemory;

use crate::{
    archive::{
        layout,
        manifest::{self, Content, Manifest},
        signing::{self, Key},
        store::Store,
    },
    event::{
        Agent, AgentAction, CloseReason, Event, Flow, FlowRole, FlowState, Gap, GapScope, Nanos, Origin,
        Protocol, Request, Severity, connection_id, flow_severity,
    },
};

/// 10:00:00 of a day, and so many seconds.
pub(super) fn at(seconds: f64) -> Nanos {
    let ten = Nanos::parse("2026-11-21T10:00:00Z").unwrap();
    Nanos(ten.0 + (seconds * 1e9) as i64)
}

/// A host with a run of its agent; what it tells goes to the archive in segments.
pub(super) struct Host {
    store: Store,
    origin: Origin,
    seq: u64,
    index: u64,
    cookie: u64,
    pub(super) service: &'static str,
    events: Vec<Event>,
}

pub(super) fn store() -> Store {
    Store::over(Arc::new(InMemory::new()), false)
}

impl Host {
    pub(super) fn new(store: &Store, name: &str, run: u64) -> Host {
        Host {
            store: store.clone(),
            origin: Origin::new(name, "boot", &format!("{run:016x}")),
            seq: 0,
            index: 0,
            cookie: run * 1_000_000,
            service: "shop.service",
            events: Vec::new(),
        }
    }

    /// Takes an event that was told at this moment.
    pub(super) fn tell(&mut self, seconds: f64, mut event: Event) {
        self.seq += 1;
        (event.seq, event.ts) = (Some(self.seq), at(seconds));
        self.events.push(event);
    }

    fn client(&self, mut event: Event, begin: f64, elapsed_ms: f64, peer: &str) -> Event {
        let peer: std::net::SocketAddr = peer.parse().unwrap();
        event.role = Some(FlowRole::Client);
        event.protocol = Some(Protocol::Tcp);
        event.service = Some(self.service.into());
        (event.peer_ip, event.peer_port) = (Some(peer.ip()), Some(peer.port()));
        (event.started_at, event.elapsed_ms) = (Some(at(begin)), Some(elapsed_ms));
        event
    }

    /// A connection's event.
    pub(super) fn flow(&mut self, begin: f64, elapsed_ms: f64, peer: &str, flow: Flow) -> Event {
        self.cookie += 1;
        let id = connection_id(&self.origin.boot_id, self.cookie);
        let event = Event::flow(&self.origin, id, flow_severity(&flow, false), flow);
        self.client(event, begin, elapsed_ms, peer)
    }

    /// A connection that took 2 ms to connect and 5 ms in all.
    pub(super) fn served(&mut self, begin: f64, peer: &str) {
        let mut flow = Flow::new(FlowState::Closed);
        flow.connect_ms = Some(2.0);
        flow.close_reason = Some(CloseReason::Fin);
        let event = self.flow(begin, 5.0, peer, flow);
        self.tell(begin + 0.005, event);
    }

    /// A connect that failed.
    pub(super) fn failed(&mut self, begin: f64, elapsed_ms: f64, peer: &str, reason: CloseReason) {
        let mut flow = Flow::new(FlowState::Failed);
        flow.close_reason = Some(reason);
        if reason == CloseReason::Refused {
            flow.error = Some("ECONNREFUSED".into());
        }
        let event = self.flow(begin, elapsed_ms, peer, flow);
        self.tell(begin + elapsed_ms / 1e3, event);
    }

    /// A request that took this long, with its first byte at the end.
    pub(super) fn request(&mut self, begin: f64, elapsed_ms: f64, peer: &str, status: Option<u16>) {
        let request = Request {
            status_code: status,
            ttfb_ms: status.map(|_| elapsed_ms),
            error: status.is_none().then(|| "no_response".into()),
            ..Request::default()
        };
        let failed = status.is_none_or(|status| status >= 500);
        let severity = if failed { Severity::Error } else { Severity::Info };
        let id = connection_id(&self.origin.boot_id, 7);
        let event = Event::request(&self.origin, id, severity, request);
        let event = self.client(event, begin, elapsed_ms, peer);
        self.tell(begin + elapsed_ms / 1e3, event);
    }

    pub(super) fn gap(
        &mut self,
        seconds: f64,
        stage: &'static str,
        reason: &'static str,
        from_seq: Option<u64>,
    ) {
        let gap = Gap {
            stage: stage.into(),
            reason: reason.into(),
            count: Some(3),
            from_seq,
            to_seq: from_seq,
            scope: GapScope::Agent,
        };
        let event = Event::gap(&self.origin, gap);
        self.tell(seconds, event);
    }

    pub(super) fn agent(&mut self, seconds: f64, action: AgentAction) {
        let agent = Agent {
            action,
            version: "0.1.0".into(),
            message: None,
        };
        let event = Event::agent(&self.origin, Severity::Info, agent);
        self.tell(seconds, event);
    }

    /// Number the next event will have.
    pub(super) const fn next(&self) -> u64 {
        self.seq + 1
    }

    /// Seals what was told into a segment; its name without ending.
    pub(super) async fn seal(&mut self) -> String {
        let (mut lines, mut content) = (Vec::new(), Content::default());
        for event in self.events.drain(..) {
            let begin = lines.len();
            event.write_line(&mut lines).unwrap();
            content.add(&event, event.seq.unwrap(), lines.len() - begin);
        }
        let object = zstd::encode_all(&lines[..], 1).unwrap();
        let manifest = Manifest {
            schema: manifest::SCHEMA.to_owned(),
            chain_id: self.origin.host.to_string(),
            index: self.index,
            previous: None,
            chain_start: None,
            key: content.key(),
            sha256: signing::sha256(&object),
            bytes: object.len() as u64,
            sealed_at: content.ts_max,
            content,
        };
        self.index += 1;
        let key = Key::from_hex(&"2a".repeat(32)).unwrap();
        let stem = layout::stem(&manifest.key).to_owned();
        self.store.put(&manifest.key, object.into()).await.unwrap();
        let signed = key.sign(&manifest).unwrap();
        let name = format!("{stem}{}", layout::MANIFEST);
        self.store.put(&name, signed.into()).await.unwrap();
        stem
    }

    /// The next run of the agent on this host.
    pub(super) fn restart(&mut self, run: u64) {
        self.origin = Origin::new(&self.origin.host, "boot", &format!("{run:016x}"));
        self.seq = 0;
    }

    /// A segment that never came.
    pub(super) fn lose_segment(&mut self) {
        self.events.clear();
        self.index += 1;
    }
}
