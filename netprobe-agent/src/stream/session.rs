//! One client: greeting, resumption, events, heartbeat, end.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Gateway, Seat, Wish};
use crate::event::{Event, EventKind, Gap, GapScope, Nanos, SCHEMA};

/// Events read at a time: between two such pages other clients have their turn.
const PAGE: usize = 256;
/// Pings without a sign of life after which a client is gone.
const PINGS: u32 = 3;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The client closed or went away.
    Client,
    /// It took nothing, or said nothing, for three pings.
    Stalled,
    /// It sent what this stream has no use for.
    Unasked,
    /// It may not read any more: its token was taken away, or its session is over.
    Forbidden,
    /// The agent ends.
    Stopped,
}

/// The first frame.
#[derive(Debug, Serialize)]
struct Hello<'a> {
    schema: &'static str,
    kind: &'static str,
    host: &'a str,
    run: &'a str,
    /// Number of the newest event: live ones come after it.
    seq: u64,
}

impl Seat {
    /// Serves one client until it leaves, `stopped` becomes true, or `may_read`, asked before every ping, says no.
    pub async fn serve(
        self,
        socket: WebSocket,
        wish: Wish,
        mut stopped: watch::Receiver<bool>,
        may_read: impl Fn() -> bool,
    ) -> Leave {
        let (sink, mut incoming) = socket.split();
        let gateway = &*self.0;
        let patience = gateway.config.ping_every.0 * PINGS;
        let mut session = Session {
            gateway,
            wish: &wish,
            sink,
            next: 0,
            fresh_at: Instant::now(),
            patience,
        };
        let leave = match session.run(&mut incoming, &mut stopped, may_read).await {
            Ok(never) => match never {},
            Err(leave) => leave,
        };
        session.say_goodbye(leave).await;
        if leave == Leave::Stalled {
            gateway.counts.stalled.fetch_add(1, Ordering::Relaxed);
        }
        leave
    }
}

struct Session<'a> {
    gateway: &'a Gateway,
    wish: &'a Wish,
    sink: SplitSink<WebSocket, Message>,
    /// The next number to look at.
    next: u64,
    /// When this client last had everything there was.
    fresh_at: Instant,
    patience: Duration,
}

impl Session<'_> {
    async fn run(
        &mut self,
        incoming: &mut SplitStream<WebSocket>,
        stopped: &mut watch::Receiver<bool>,
        may_read: impl Fn() -> bool,
    ) -> Result<std::convert::Infallible, Leave> {
        self.greet().await?;
        let mut newest = self.gateway.newest.subscribe();
        let mut heard_at = Instant::now();
        let mut ping = interval(self.gateway.config.ping_every.0);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.tick().await;
        loop {
            let caught_up = self.page().await?;
            if caught_up && *stopped.borrow() {
                return Err(Leave::Stopped);
            }
            let next = self.next;
            tokio::select! {
                biased;
                message = incoming.next() => {
                    heard_at = Instant::now();
                    match message {
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Text(_) | Message::Binary(_))) => return Err(Leave::Unasked),
                        // A frame that is too long or against the protocol ends the connection as well.
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Leave::Client),
                    }
                }
                _ = ping.tick() => {
                    if !may_read() {
                        return Err(Leave::Forbidden);
                    }
                    if heard_at.elapsed() > self.patience {
                        return Err(Leave::Stalled);
                    }
                    self.send(Message::Ping(Vec::new().into())).await?;
                }
                // An error of these two means that the other side was dropped: the agent ends.
                () = async { drop(stopped.wait_for(|stopped| *stopped).await) }, if caught_up => {
                    // What the pipeline told last is not noted by the ticker any more.
                    self.gateway.look();
                }
                () = async { drop(newest.wait_for(|newest| *newest >= next).await) } => {}
            }
            if caught_up {
                // Waiting for the next event is not being behind.
                self.fresh_at = Instant::now();
            }
        }
    }

    /// The greeting, and where to begin.
    async fn greet(&mut self) -> Result<(), Leave> {
        let newest = self.gateway.recent.newest();
        self.next = newest + 1;
        let hello = Hello {
            schema: SCHEMA,
            kind: "hello",
            host: &self.gateway.origin.host,
            run: &self.gateway.origin.run,
            seq: newest,
        };
        let hello = serde_json::to_string(&hello).map_err(|_| Leave::Client)?;
        self.send(Message::text(hello)).await?;
        let Some((run, from)) = &self.wish.resume else {
            return Ok(());
        };
        let oldest = self.gateway.recent.after(0, 0).oldest.unwrap_or(self.next);
        if **run != *self.gateway.origin.run {
            // Everything of this run is new to it; what came of the other one after its number, nobody here knows.
            self.tell_gap("run_changed", None, None).await?;
            self.next = oldest;
            return Ok(());
        }
        self.next = (*from).clamp(oldest, newest + 1);
        if *from < oldest {
            self.skipped("no_longer_held", *from, oldest).await?;
        }
        Ok(())
    }

    /// Sends what there is, a page at most; whether there is no more now.
    async fn page(&mut self) -> Result<bool, Leave> {
        let looked_at = Instant::now();
        let page = self.gateway.recent.after(self.next - 1, PAGE);
        let (Some(oldest), Some(newest)) = (page.oldest, page.newest) else {
            return Ok(true);
        };
        if newest < self.next {
            return Ok(true);
        }
        if oldest > self.next || self.fresh_at.elapsed() > self.gateway.config.max_lag.0 {
            let from = std::mem::replace(&mut self.next, newest + 1);
            self.skipped("slow_client", from, newest + 1).await?;
            return Ok(self.is_caught_up(looked_at));
        }
        let (mut sent, mut filtered, mut unwritten) = (0, 0, 0);
        let mut told = Ok(());
        for event in &page.events {
            // What was lost concerns every reader, whatever it filters by.
            if event.kind != EventKind::Gap && !self.wish.filter.matches(event) {
                filtered += 1;
                continue;
            }
            let line = match self.gateway.line(event) {
                Ok(line) => line,
                Err(error) => {
                    tracing::error!(%error, seq = event.seq, "an event could not be written as JSON");
                    unwritten += 1;
                    continue;
                }
            };
            told = within(self.patience, self.sink.feed(Message::Text(line))).await;
            if told.is_err() {
                break;
            }
            sent += 1;
        }
        let counts = &self.gateway.counts;
        counts.sent.fetch_add(sent, Ordering::Relaxed);
        counts.filtered.fetch_add(filtered, Ordering::Relaxed);
        counts.missed.fetch_add(unwritten, Ordering::Relaxed);
        told?;
        within(self.patience, self.sink.flush()).await?;
        self.next += page.events.len() as u64;
        tokio::task::yield_now().await;
        if self.next <= newest {
            return Ok(false);
        }
        Ok(self.is_caught_up(looked_at))
    }

    /// After everything was sent that there was at `looked_at`: sending may have taken long, and more may be there now.
    fn is_caught_up(&mut self, looked_at: Instant) -> bool {
        self.fresh_at = looked_at;
        self.next > self.gateway.recent.newest()
    }

    /// Tells that numbers from `from` up to `to`, not included, do not come.
    async fn skipped(&mut self, reason: &'static str, from: u64, to: u64) -> Result<(), Leave> {
        self.gateway.counts.missed.fetch_add(to - from, Ordering::Relaxed);
        self.tell_gap(reason, Some(to - from), Some((from, to - 1))).await
    }

    async fn tell_gap(
        &mut self,
        reason: &'static str,
        count: Option<u64>,
        numbers: Option<(u64, u64)>,
    ) -> Result<(), Leave> {
        let gap = Gap {
            stage: "stream".into(),
            reason: reason.into(),
            count,
            from_seq: numbers.map(|(from, _)| from),
            to_seq: numbers.map(|(_, to)| to),
            scope: GapScope::Client,
        };
        let mut event = Event::gap(&self.gateway.origin, gap);
        event.ts = Nanos::now();
        let line = self.gateway.line(&event).map_err(|_| Leave::Client)?;
        self.send(Message::Text(line)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Leave> {
        within(self.patience, self.sink.send(message)).await
    }

    /// A close frame with the reason, for clients that still listen.
    async fn say_goodbye(&mut self, leave: Leave) {
        const MOMENT: Duration = Duration::from_millis(200);
        let (code, reason) = match leave {
            Leave::Client => return,
            Leave::Stalled => (close_code::POLICY, "nothing was heard of you"),
            Leave::Unasked => (close_code::POLICY, "this stream takes no messages"),
            Leave::Forbidden => (close_code::POLICY, "this token is not valid any more"),
            Leave::Stopped => (close_code::AWAY, "the agent ends"),
        };
        let close = CloseFrame {
            code,
            reason: reason.into(),
        };
        // Whoever does not take it within a moment learns it from the closed connection.
        let _ = timeout(MOMENT, self.sink.send(Message::Close(Some(close)))).await;
    }
}

/// Sending with an end: a client that takes nothing for this long is gone.
async fn within<E>(patience: Duration, sending: impl Future<Output = Result<(), E>>) -> Result<(), Leave> {
    match timeout(patience, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Leave::Client),
        Err(_) => Err(Leave::Stalled),
    }
}
