//! Events over WebSocket: the same as on every other way, as they come.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::Event;
use tungstenite::{Message, WebSocket, client};

use super::{Case, Pair, check};

pub(crate) const CASES: &[Case] = &[
    Case::new("stream_has_the_events_of_stdout", same_events),
    Case::new("stream_filters_at_the_server", filters),
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
    let query = format!("port={}&filter=role==server", pair.addr.port());
    let (mut stream, _) = Stream::open(&pair.agent, &query)?;
    let (client, server) = pair.open()?;
    let (_, wanted) = pair.finish(client, server)?;
    let first: Event = serde_json::from_str(&stream.text()?)?;
    check(&first, "the first frame", first.seq, wanted.seq)
}
