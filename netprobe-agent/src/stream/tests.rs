//! The gateway over real sockets.

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};

use axum::{Router, extract::WebSocketUpgrade, routing::get};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use super::*;
use crate::{
    config::Period,
    event::{Agent, AgentAction, Gap, GapScope, Severity},
    fanout::{Fanout, Sink},
};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Lab {
    gateway: Arc<Gateway>,
    fanout: Fanout,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// Whether clients may go on reading.
    allowed: Arc<AtomicBool>,
}

/// A gateway over `held` events that serves every client with the same wish.
async fn lab(held: usize, config: StreamConfig, wish: Wish) -> Lab {
    let origin = Origin::new("host", "boot", "00000000000000aa");
    let recent = Recent::new(held, usize::MAX);
    let mut fanout = Fanout::new(origin.clone());
    fanout.add(Box::new(recent.clone()) as Box<dyn Sink>);
    let gateway = Gateway::new(recent, origin, config);
    let (stop, stopped) = watch::channel(false);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = gateway.clone();
    let allowed = Arc::new(AtomicBool::new(true));
    let asked = allowed.clone();
    let router = Router::new().route(
        "/",
        get(move |upgrade: WebSocketUpgrade| async move {
            let seat = serving.seat().unwrap();
            upgrade
                .max_message_size(4096)
                .write_buffer_size(8 << 10)
                .on_upgrade(|socket| async move {
                    seat.serve(socket, wish, stopped, move || asked.load(Ordering::Relaxed))
                        .await;
                })
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    let ticking = gateway.clone();
    tokio::spawn(async move { ticking.tick().await });
    Lab {
        gateway,
        fanout,
        address,
        stop,
        allowed,
    }
}

impl Lab {
    async fn client(&self) -> Client {
        connect_async(format!("ws://{}/", self.address)).await.unwrap().0
    }

    fn emit(&mut self, severity: Severity) -> Arc<Event> {
        let body = Agent {
            action: AgentAction::Notice,
            version: "0".into(),
            message: Some("x".repeat(500).into()),
        };
        let event = Event::agent(&self.gateway.origin, severity, body);
        self.fanout.emit(event)
    }
}

async fn message(client: &mut Client) -> Message {
    loop {
        let next = timeout(Duration::from_secs(20), client.next()).await;
        match next
            .expect("a message in time")
            .expect("a message")
            .expect("no error")
        {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}

async fn frame(client: &mut Client) -> Value {
    let message = message(client).await;
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

async fn closed(client: &mut Client) -> CloseCode {
    loop {
        if let Message::Close(close) = message(client).await {
            return close.expect("a reason").code;
        }
    }
}

fn resume(run: &str, from: u64) -> Wish {
    Wish {
        resume: Some((run.to_owned(), from)),
        ..Wish::default()
    }
}

#[tokio::test]
async fn greets_and_sends_the_bytes_of_every_other_reader() {
    let mut lab = lab(100, StreamConfig::default(), Wish::default()).await;
    lab.emit(Severity::Info);
    let mut client = lab.client().await;
    let hello = frame(&mut client).await;
    assert_eq!(hello["schema"], "netprobe.event/1");
    assert_eq!(hello["kind"], "hello");
    assert_eq!(hello["run"], "00000000000000aa");
    assert_eq!(hello["seq"], 1);
    for _ in 0..3 {
        let event = lab.emit(Severity::Info);
        let mut line = Vec::new();
        event.write_line(&mut line).unwrap();
        let told = message(&mut client).await;
        assert_eq!(
            told.to_text().unwrap().as_bytes(),
            line.strip_suffix(b"\n").unwrap()
        );
    }
    let report = lab.gateway.report();
    assert_eq!((report.clients, report.sent, report.missed), (1, 3, 0));
}

#[tokio::test]
async fn filters_at_the_server_but_never_what_was_lost() {
    let wish = Wish {
        filter: Filter::parse("severity>=warning").unwrap(),
        resume: None,
    };
    let mut lab = lab(100, StreamConfig::default(), wish).await;
    let mut client = lab.client().await;
    frame(&mut client).await;
    lab.emit(Severity::Info);
    let mut gap = Event::gap(
        &lab.gateway.origin,
        Gap {
            stage: "kernel".into(),
            reason: "ring_full".into(),
            count: Some(3),
            from_seq: None,
            to_seq: None,
            scope: GapScope::Agent,
        },
    );
    gap.severity = Severity::Info;
    lab.fanout.emit(gap);
    lab.emit(Severity::Warning);
    assert_eq!(frame(&mut client).await["gap"]["reason"], "ring_full");
    assert_eq!(frame(&mut client).await["severity"], "warning");
    assert_eq!(lab.gateway.report().filtered, 1);
}

#[tokio::test]
async fn resumes_where_the_client_left() {
    let mut lab = lab(5, StreamConfig::default(), resume("00000000000000aa", 4)).await;
    for _ in 0..6 {
        lab.emit(Severity::Info);
    }
    let mut client = lab.client().await;
    assert_eq!(frame(&mut client).await["seq"], 6);
    for seq in 4..=6 {
        assert_eq!(frame(&mut client).await["seq"], seq);
    }
    assert_eq!(lab.gateway.report().missed, 0);
    // Held are 4 to 8 now, then 6 to 10: what is gone is told, then comes the rest.
    for _ in 0..4 {
        lab.emit(Severity::Info);
    }
    let mut late = lab.client().await;
    frame(&mut late).await;
    let gap = frame(&mut late).await;
    assert_eq!(gap["gap"]["reason"], "no_longer_held");
    assert_eq!(
        (&gap["gap"]["count"], &gap["gap"]["scope"]),
        (&2.into(), &"client".into())
    );
    assert_eq!(
        (&gap["gap"]["from_seq"], &gap["gap"]["to_seq"]),
        (&4.into(), &5.into())
    );
    assert!(gap["seq"].is_null());
    assert_eq!(frame(&mut late).await["seq"], 6);
}

#[tokio::test]
async fn another_run_is_told() {
    let mut lab = lab(10, StreamConfig::default(), resume("00000000000000bb", 77)).await;
    lab.emit(Severity::Info);
    lab.emit(Severity::Info);
    let mut client = lab.client().await;
    frame(&mut client).await;
    let gap = frame(&mut client).await;
    assert_eq!(gap["gap"]["reason"], "run_changed");
    assert!(gap["gap"]["count"].is_null());
    assert_eq!(frame(&mut client).await["seq"], 1);
}

/// Silence is not lag.
#[tokio::test]
async fn an_idle_client_misses_nothing() {
    let config = StreamConfig {
        max_lag: Period::millis(100),
        ..StreamConfig::default()
    };
    let mut lab = lab(10, config, Wish::default()).await;
    let mut client = lab.client().await;
    frame(&mut client).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    lab.emit(Severity::Info);
    assert_eq!(frame(&mut client).await["seq"], 1);
}

/// A client that does not read costs the others nothing, is told what it missed, and goes on with fresh events.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_told_and_the_others_lose_nothing() {
    const EVENTS: u64 = 20_000;
    let mut lab = lab(2000, StreamConfig::default(), Wish::default()).await;
    let (mut slow, mut healthy) = (lab.client().await, lab.client().await);
    frame(&mut slow).await;
    frame(&mut healthy).await;
    for seq in 1..=EVENTS {
        lab.emit(Severity::Info);
        // The healthy one reads along; the slow one's socket fills up.
        if seq % 500 == 0 {
            for expected in seq - 499..=seq {
                assert_eq!(frame(&mut healthy).await["seq"], expected);
            }
        }
    }
    let (mut expected, mut missed) = (1, 0);
    while expected <= EVENTS {
        let next = frame(&mut slow).await;
        if next["gap"].is_null() {
            assert_eq!(next["seq"], expected);
            expected += 1;
        } else {
            assert_eq!(next["gap"]["reason"], "slow_client");
            assert_eq!(next["gap"]["from_seq"], expected);
            let count = next["gap"]["count"].as_u64().unwrap();
            (expected, missed) = (expected + count, missed + count);
        }
    }
    assert!(missed > 0, "the socket holds fewer than {EVENTS} events");
    let report = lab.gateway.report();
    assert_eq!(report.missed, missed);
    assert_eq!(report.sent, 2 * EVENTS - missed);
}

#[tokio::test]
async fn a_client_that_stays_behind_gets_fresh_events() {
    let config = StreamConfig {
        max_lag: Period::millis(100),
        ..StreamConfig::default()
    };
    let mut lab = lab(usize::MAX, config, Wish::default()).await;
    let mut client = lab.client().await;
    frame(&mut client).await;
    // Everything is held, so only the time it takes to read this can leave it behind.
    for _ in 0..20_000 {
        lab.emit(Severity::Info);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut expected = 1;
    while expected <= 20_000 {
        let next = frame(&mut client).await;
        expected += next["gap"]["count"].as_u64().unwrap_or(1);
    }
    assert!(lab.gateway.report().missed > 0);
    let event = lab.emit(Severity::Info);
    assert_eq!(frame(&mut client).await["seq"], event.seq.unwrap());
}

/// It kept up until it stood still: what it was being sent then was all there was.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_kept_up_and_then_stood_still_gets_fresh_events() {
    let config = StreamConfig {
        max_lag: Period::seconds(1),
        ..StreamConfig::default()
    };
    let mut lab = lab(usize::MAX, config, Wish::default()).await;
    let mut client = lab.client().await;
    frame(&mut client).await;
    let (mut sent, mut still) = (0, 0);
    // A little at a time, until its socket takes nothing any more.
    while still < 3 {
        for _ in 0..200 {
            lab.emit(Severity::Info);
        }
        tokio::time::sleep(2 * TICK).await;
        let now = lab.gateway.report().sent;
        still = if now == sent { still + 1 } else { 0 };
        sent = now;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let last = lab.gateway.recent.newest();
    let mut expected = 1;
    while expected <= last {
        expected += frame(&mut client).await["gap"]["count"].as_u64().unwrap_or(1);
    }
    assert!(lab.gateway.report().missed > 0, "it got what was long past");
    let event = lab.emit(Severity::Info);
    assert_eq!(frame(&mut client).await["seq"], event.seq.unwrap());
}

#[tokio::test]
async fn a_client_that_talks_is_closed() {
    let lab = lab(10, StreamConfig::default(), Wish::default()).await;
    for garbage in [Message::text("subscribe"), Message::binary(vec![0xff; 100])] {
        let mut client = lab.client().await;
        client.send(garbage).await.unwrap();
        assert_eq!(closed(&mut client).await, CloseCode::Policy);
    }
    let mut client = lab.client().await;
    frame(&mut client).await;
    // Too long a message: the connection ends without ceremony.
    drop(client.send(Message::binary(vec![0; 1 << 20])).await);
    let end = timeout(Duration::from_secs(20), async {
        while let Some(Ok(message)) = client.next().await {
            if message.is_close() {
                break;
            }
        }
    });
    end.await.expect("the end of the connection");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_given_up() {
    let config = StreamConfig {
        ping_every: Period::millis(100),
        ..StreamConfig::default()
    };
    let lab = lab(10, config, Wish::default()).await;
    // It never reads, so it never answers a ping.
    let _silent = lab.client().await;
    let mut alive = lab.client().await;
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = alive.next().await {} });
    let given_up = timeout(Duration::from_secs(20), async {
        while lab.gateway.report().clients_stalled == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    given_up.await.expect("the silent client to be given up");
    assert_eq!(lab.gateway.report().clients, 1);
    assert!(!reading.is_finished(), "the one that answers stays");
}

#[tokio::test]
async fn a_client_whose_token_is_not_valid_any_more_is_closed() {
    let config = StreamConfig {
        ping_every: Period::millis(100),
        ..StreamConfig::default()
    };
    let mut lab = lab(10, config, Wish::default()).await;
    let mut client = lab.client().await;
    frame(&mut client).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    lab.emit(Severity::Info);
    assert_eq!(frame(&mut client).await["seq"], 1);
    lab.allowed.store(false, Ordering::Relaxed);
    assert_eq!(closed(&mut client).await, CloseCode::Policy);
}

#[tokio::test]
async fn the_last_events_come_before_the_close() {
    let mut lab = lab(10, StreamConfig::default(), Wish::default()).await;
    let mut client = lab.client().await;
    frame(&mut client).await;
    lab.emit(Severity::Info);
    lab.stop.send(true).unwrap();
    assert_eq!(frame(&mut client).await["seq"], 1);
    assert_eq!(closed(&mut client).await, CloseCode::Away);
}

#[tokio::test]
async fn seats_are_bounded_and_given_back() {
    let config = StreamConfig {
        max_clients: 1,
        ..StreamConfig::default()
    };
    let lab = lab(10, config, Wish::default()).await;
    let seat = lab.gateway.seat();
    assert!(seat.is_some());
    assert!(lab.gateway.seat().is_none());
    drop(seat);
    assert!(lab.gateway.seat().is_some());
    assert_eq!(lab.gateway.report().clients_refused, 1);
}
