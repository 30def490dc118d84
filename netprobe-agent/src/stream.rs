//! Sink: events to WebSocket clients, as they come.
//!
//! Clients have no queues. The last events are held once, in [`Recent`]; every client is a position in it, and reads
//! on when it has sent what it read. A stalled client costs its socket buffer and nothing else, and cannot hold up
//! another one. When its position has left the ring, or it has been behind for too long, it gets one `gap` that says
//! how many numbers it missed, and goes on with fresh events.
//!
//! Nothing here is called by the pipeline: one ticker looks for new events and wakes the clients that wait. That adds
//! [`TICK`] to the way of an event at most, and spares the pipeline a wake-up for each.

mod lines;
mod session;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    config::StreamConfig,
    event::{Event, Origin},
    filter::Filter,
    probe_report::StreamReport,
    recent::Recent,
};
use lines::{Line, Lines};

pub use session::Leave;

/// Time between two looks for new events.
const TICK: Duration = Duration::from_millis(20);

/// What one client asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Which events.
    pub filter: Filter,
    /// Where to go on: a run, and the first number wanted of it. `None`: with the next event.
    pub resume: Option<(String, u64)>,
}

/// The gateway: what all clients share.
#[derive(Debug)]
pub struct Gateway {
    recent: Recent,
    origin: Origin,
    config: StreamConfig,
    newest: watch::Sender<u64>,
    lines: Mutex<Lines>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    clients: AtomicU64,
    refused: AtomicU64,
    stalled: AtomicU64,
    sent: AtomicU64,
    filtered: AtomicU64,
    missed: AtomicU64,
}

impl Gateway {
    /// A gateway that reads from `recent`.
    pub fn new(recent: Recent, origin: Origin, config: StreamConfig) -> Arc<Gateway> {
        Arc::new(Gateway {
            recent,
            origin,
            config,
            newest: watch::Sender::new(0),
            lines: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// Wakes clients when there are new events, for as long as it is polled.
    pub async fn tick(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            self.look();
        }
    }

    /// Takes note of the newest event and wakes clients if it is a new one.
    fn look(&self) {
        let newest = self.recent.newest();
        self.newest.send_if_modified(|known| {
            let is_new = newest > *known;
            *known = newest;
            is_new
        });
    }

    /// A place for one more client; `None` when there is none left.
    pub fn seat(self: &Arc<Gateway>) -> Option<Seat> {
        let most = self.config.max_clients as u64;
        let taken = self
            .counts
            .clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |clients| {
                (clients < most).then_some(clients + 1)
            });
        if taken.is_err() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Seat(self.clone()))
    }

    /// Most clients at a time.
    pub fn max_clients(&self) -> usize {
        self.config.max_clients
    }

    /// What the gateway did so far.
    pub fn report(&self) -> StreamReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamReport {
            clients: count(&self.counts.clients),
            clients_refused: count(&self.counts.refused),
            clients_stalled: count(&self.counts.stalled),
            sent: count(&self.counts.sent),
            filtered: count(&self.counts.filtered),
            missed: count(&self.counts.missed),
        }
    }

    /// The event as a frame: serialised for the first client that asks, shared with the others.
    fn line(&self, event: &Event) -> Result<Line, serde_json::Error> {
        // The lock is held while one event is serialised, so that no two clients do the same work.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.of(event)
    }
}

/// A client's place, given back when it is dropped.
#[derive(Debug)]
pub struct Seat(Arc<Gateway>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.counts.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
