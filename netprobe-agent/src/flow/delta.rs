//! What flows do while they live, for whoever counts it: events tell totals, these tell differences.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::event::{FlowRole, Nanos, Protocol};

/// Takes differences as they happen. The flow stage knows no sink; the composition root hands one of these in.
pub trait Observer: Send + Sync {
    /// Counts what a flow did since it was last observed.
    fn observe_flow(&self, delta: &FlowDelta<'_>);

    /// Moves a live flow: `(None, Some)` when it begins, `(Some, None)` when it ends, both when its service
    /// becomes known. The service given as `from` must be the one given as `to` before.
    fn move_active(&self, from: Option<(Option<&str>, FlowRole)>, to: Option<(Option<&str>, FlowRole)>);

    /// An address was called so, and will be for so long.
    fn named(&self, _address: IpAddr, _name: &Arc<str>, _ttl: Duration) {}

    /// Called every second, for what depends on time alone.
    fn tick(&self) {}

    /// Whether what clients of a service dial here is failing, so that detail about it is wanted in full.
    fn is_incident(&self, _service: Option<&str>, _peer: Option<(IpAddr, u16)>) -> bool {
        false
    }

    /// Whether detail that costs is to be kept: windows of services and peers, exemplars.
    fn keep_detail(&self, _keep: bool) {}
}

/// What a flow did since it was last observed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowDelta<'a> {
    /// Service, if known.
    pub service: Option<&'a str>,
    /// What the application dialed, or the remote as a server's socket sees it.
    pub peer: Option<(IpAddr, u16)>,
    /// Cookie of its socket, from which its trace is known.
    pub cookie: Option<u64>,
    /// When it began, with `established`.
    pub started_at: Option<Nanos>,
    /// Transport.
    pub protocol: Protocol,
    /// Side.
    pub role: FlowRole,
    /// The connection reached ESTABLISHED since. To be said once.
    pub established: bool,
    /// How long it took, with `established`; `None` when its begin was not seen.
    pub connect_seconds: Option<f64>,
    /// Time in the accept queue. To be said once.
    pub accept_wait_seconds: Option<f64>,
    /// A fresh sample of the smoothed round-trip time.
    pub rtt_seconds: Option<f64>,
    /// Payload bytes sent since.
    pub bytes_sent: u64,
    /// Payload bytes received since.
    pub bytes_received: u64,
    /// UDP: datagrams sent since.
    pub datagrams_sent: u64,
    /// UDP: datagrams received since.
    pub datagrams_received: u64,
    /// Segments sent again since.
    pub retransmits: u64,
    /// SYN segments sent again since.
    pub syn_retransmits: u64,
}

impl FlowDelta<'_> {
    /// Nothing happened yet.
    pub const fn new(protocol: Protocol, role: FlowRole) -> Self {
        FlowDelta {
            service: None,
            peer: None,
            cookie: None,
            started_at: None,
            protocol,
            role,
            established: false,
            connect_seconds: None,
            accept_wait_seconds: None,
            rtt_seconds: None,
            bytes_sent: 0,
            bytes_received: 0,
            datagrams_sent: 0,
            datagrams_received: 0,
            retransmits: 0,
            syn_retransmits: 0,
        }
    }
}
