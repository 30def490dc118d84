//! Events over WebSocket: the same as on every other way, as they come.

mod crowd;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use tungstenite::{Message, WebSocket, client};

use super::metrics::{Page, comes_to};
use super::{Case, Need, Pair, check};

pub(crate) const CASES: &[Case] = &[
    Case::new("stream_has_the_events_of_stdout", same_events),
    Case::new("stream_filters_at_the_server", filters),
    Case::new("stream_clients_and_frames_are_counted", counted),
    Case::new("stream_stalled_clients_hold_up_nobody", crowd::stalled).needs(&[Need::Speed]),
    Case::new("stream_bad_clients_hurt_nobody", crowd::bad_clients),
    Case::new("stream_serves_a_thousand_clients", crowd::thousand)
        .needs(&[Need::Speed])
        .alone(),
];

const PATIENCE: Duration = Duration::from_secs(20);

struct Stream(WebSocket<TcpStream>);

impl Stream {
    /// Connects and reads the greeting.
    fn open(agent: &Agent, query: &str) -> Result<(Stream, serde_json::Value)> {
        let listen = agent.listen();
        let socket = TcpStream::connect(listen)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (socket, _) = client(format!("ws://{listen}/api/v1/stream?{query}"), socket)
            .map_err(|error| anyhow::anyhow!("no stream: {error}"))?;
        let mut stream = Stream(socket);
        let hello = serde_json::from_str(&stream.text()?)?;
        Ok((stream, hello))
    }

    fn text(&mut self) -> Result<String> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match self.0.read()? {
                Message::Text(text) => return Ok(text.to_string()),
                Message::Close(close) => bail!("the agent closed the stream: {close:?}"),
                _ => {}
            }
        }
        bail!("no frame within {PATIENCE:?}")
    }

    /// The frame with this number.
    fn numbered(&mut self, seq: u64) -> Result<Event> {
        loop {
            let text = self.text()?;
            let event: Event = serde_json::from_str(&text).with_context(|| text.clone())?;
            ensure!(event.gap.is_none(), "a gap on a client that keeps up: {text}");
            let got = event.seq.context("an event without number")?;
            ensure!(got <= seq, "number {got} came, {seq} did not");
            if got == seq {
                return Ok(event);
            }
        }
    }
}

fn same_events() -> Result<()> {
    let mut pair = Pair::across("stream", 7_480)?;
    let (mut stream, hello) = Stream::open(&pair.agent, "")?;
    ensure!(
        hello["kind"] == "hello" && hello["seq"].is_u64(),
        "not a greeting: {hello}"
    );
    let (client, server) = pair.open()?;
    let (on_stdout, _) = pair.finish(client, server)?;
    let on_stream = stream.numbered(on_stdout.seq.context("no seq")?)?;
    check(
        &on_stream,
        "the event on the stream",
        serde_json::to_string(&on_stream)?,
        serde_json::to_string(&*on_stdout)?,
    )?;
    ensure!(hello["run"] == on_stdout.run.as_str(), "another run: {hello}");
    // Going on after the last frame seen brings the next one, not that one again.
    let last = on_stdout.seq.context("no seq")?;
    let (mut again, _) = Stream::open(&pair.agent, &format!("run={}&from_seq={last}", on_stdout.run))?;
    check(
        &on_stream,
        "the event after resumption",
        again.numbered(last)?.trace_id,
        on_stdout.trace_id.clone(),
    )
}

fn filters() -> Result<()> {
    let mut pair = Pair::local("streamfilter")?;
    // Final events: on a slow machine `open` ones come before.
    let query = format!("port={}&filter=role==server,flow.state==closed", pair.addr.port());
    let (mut stream, _) = Stream::open(&pair.agent, &query)?;
    let (client, server) = pair.open()?;
    let (_, wanted) = pair.finish(client, server)?;
    let first: Event = serde_json::from_str(&stream.text()?)?;
    check(&first, "the first frame", first.seq, wanted.seq)
}

fn counted() -> Result<()> {
    const CLIENTS: &str = "netprobe_stream_clients";
    const EVENTS: &str = "netprobe_stream_events_total";
    const ENDED: &str = "netprobe_stream_clients_ended_total";
    let (sent, filtered) = ([("result", "sent")], [("result", "filtered")]);
    let agent = Arc::new(Agent::start(&Settings {
        sections: "[stream]\nmax_clients = 1".to_owned(),
        ..Settings::default()
    })?);
    let before = Page::scrape(&agent)?;
    for (family, labels) in [
        (CLIENTS, &[][..]),
        (EVENTS, &sent),
        (EVENTS, &filtered),
        (ENDED, &[("reason", "refused")]),
    ] {
        ensure!(
            before.sum(family, labels) == Some(0.0),
            "{family} {labels:?} before"
        );
    }
    let (lab, at) = (lab::gateway()?, addr("127.0.0.1", 30_431));
    let mut pair = Pair::over(lab, agent.clone(), "streamcount", "cli", "cli", at)?;
    let (mut stream, _) = Stream::open(&agent, "port=30431&filter=role==server,flow.state==closed")?;
    comes_to(&agent, CLIENTS, &[], 1.0)?;
    ensure!(Stream::open(&agent, "").is_err(), "there was room for one only");
    comes_to(&agent, ENDED, &[("reason", "refused")], 1.0)?;
    for _ in 0..3 {
        let (client, server) = pair.open()?;
        let (_, wanted) = pair.finish(client, server)?;
        stream.numbered(wanted.seq.context("no seq")?)?;
    }
    // The greeting is no event.
    comes_to(&agent, EVENTS, &sent, 3.0)?;
    let left_out = Page::scrape(&agent)?.sum(EVENTS, &filtered);
    ensure!(left_out >= Some(3.0), "{left_out:?}: the client's ends at least");
    ensure!(
        Page::scrape(&agent)?.sum(EVENTS, &[("result", "missed")]) == Some(0.0),
        "missed by a client that keeps up"
    );
    drop(stream);
    comes_to(&agent, CLIENTS, &[], 0.0)
}
