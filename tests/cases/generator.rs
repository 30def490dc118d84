//! The generator and the lab themselves, held against `ss`, `conntrack` and a capture: a lying ruler measures
//! nothing.

use anyhow::{Result, ensure};
use netprobe_tests::capture::{self, Capture, Segment};
use netprobe_tests::event::Tuple;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::traffic::proto::Cmd;
use netprobe_tests::truth;

use super::Case;

pub(crate) const CASES: &[Case] = &[
    Case::new("generator_agrees_with_ss", agrees_with_ss),
    Case::new(
        "generator_agrees_with_conntrack_and_capture",
        agrees_with_conntrack_and_capture,
    ),
];

fn agrees_with_ss() -> Result<()> {
    let lab = lab::gateway()?;
    let mut srv = lab.endpoint("srv", "s-gen-ss")?;
    let mut cli = lab.endpoint("cli", "c-gen-ss")?;
    let (listener, at) = srv.listen(addr(lab::SERVER, 30100))?;
    let client = cli.connect(at)?;
    let server = srv.accept(listener)?;
    ensure!(cli.send(client.socket, 123_456)? == 123_456, "all of it is sent");
    ensure!(
        srv.recv(server.socket, 123_456)? == 123_456,
        "all of it is received"
    );
    ensure!(srv.send(server.socket, 77)? == 77, "all of the answer is sent");
    ensure!(
        cli.recv(client.socket, 77)? == 77,
        "all of the answer is received"
    );
    let settled = cli
        .call(Cmd::Settle {
            socket: client.socket,
            unread: 0,
        })?
        .tcp;
    let seen = truth::ss(&lab, "cli", client.local, client.remote)?;
    // +1: a client's SYN counts as acknowledged.
    ensure!(
        seen.get("bytes_acked").map(String::as_str) == Some("123457"),
        "ss: {seen:?}"
    );
    ensure!(
        seen.get("bytes_received").map(String::as_str) == Some("77"),
        "ss: {seen:?}"
    );
    ensure!(
        settled.is_some_and(|t| t.bytes_acked == 123_457 && t.bytes_received == 77),
        "{settled:?}"
    );
    ensure!(
        client.local == server.remote && client.remote == server.local,
        "{client:?} {server:?}"
    );
    ensure!(
        client.cookie != server.cookie && client.cookie != 0,
        "cookies tell sockets apart"
    );
    Ok(())
}

fn agrees_with_conntrack_and_capture() -> Result<()> {
    let lab = lab::gateway()?;
    let mut srv = lab.endpoint("srv", "s-gen-ct")?;
    let mut cli = lab.endpoint("cli", "c-gen-ct")?;
    let (listener, _) = srv.listen(addr(lab::SERVER, 20100))?;
    let capture = Capture::start(&lab, "cli", "c0")?;
    let dialed = addr(lab::VIRTUAL, 20100);
    let client = cli.connect(dialed)?;
    let server = srv.accept(listener)?;
    cli.send(client.socket, 5000)?;
    srv.recv(server.socket, 5000)?;
    cli.call(Cmd::Settle {
        socket: client.socket,
        unread: 0,
    })?;
    let payload = |segments: &[Segment]| -> usize {
        segments
            .iter()
            .filter(|s| s.src == client.local)
            .map(|s| s.payload)
            .sum()
    };
    let segments = capture.stop_when("5000 bytes in the capture", |segments| payload(segments) >= 5000)?;
    let entry = truth::conntrack_of(&lab, "gw", client.local, dialed)?;
    ensure!(
        entry.reply == Tuple::new(server.local, server.remote),
        "{entry:?} {server:?}"
    );
    ensure!(
        payload(&segments) == 5000,
        "the capture holds {} bytes",
        payload(&segments)
    );
    let handshake = capture::handshake(&segments, client.local, dialed);
    let call = client.call_ns.1 - client.call_ns.0;
    ensure!(
        handshake.is_some_and(|h| h.as_nanos() > 0 && h.as_nanos() <= u128::from(call)),
        "the handshake {handshake:?} lies within the call of {call} ns"
    );
    Ok(())
}
