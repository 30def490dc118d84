//! Times of requests: what client and server measured themselves.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netprobe_tests::agent::Agent;
use netprobe_tests::event::Event;
use netprobe_tests::lab;
use netprobe_tests::tools;

use super::web::wait_requests;
use crate::cases::{Case, Need};

pub(crate) const CASES: &[Case] = &[Case::new("requests_take_what_both_ends_say", measured)
    .needs(&[Need::Speed])
    .alone()];

const REQUESTS: usize = 400;
const REQUEST: &[u8] = b"GET /timed HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// How long the server takes over each, in an order without rule: 2 to 18 ms.
fn think(number: usize) -> Duration {
    Duration::from_micros(2_000 + (number as u64 * 7_919 % REQUESTS as u64) * 40)
}

fn measured() -> Result<()> {
    let (lab, agent) = (lab::gateway()?, Agent::shared()?);
    let (port, server, client) = tools::within(&lab.path("cli"), || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let serving = std::thread::spawn(move || serve(&listener));
        let client = ask(TcpStream::connect(at)?)?;
        let server = serving
            .join()
            .map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok((at.port(), server, client))
    })?;
    let netns = lab.inode("cli")?;
    for (role, log) in [("client", client), ("server", server)] {
        let of_port = |event: &Event| [event.peer_port, event.internal_port].contains(&Some(port));
        let events = wait_requests(&agent, role, netns, REQUESTS, of_port)?;
        ensure!(events.len() == REQUESTS, "{role}: {} events", events.len());
        let told: Vec<f64> = events.iter().filter_map(|event| event.elapsed_ms).collect();
        for share in [0.5, 0.99] {
            let (log, told) = (quantile(&log, share), quantile(&told, share));
            let most = (log * 0.02).max(0.1);
            // A client measures until it is woken, a server from then on: packets pass within the first, around the second. How long
            // that takes is the machine's affair, and of the slowest it says little.
            let (below, above) = match (role, share < 0.9) {
                ("client", false) => (f64::INFINITY, most),
                ("server", false) => (most, f64::INFINITY),
                _ => (most, most),
            };
            ensure!(
                (log - below..=log + above).contains(&told),
                "{role}, quantile {share}: {told:.3} ms of events, {log:.3} ms of its log, {most:.3} ms apart at most"
            );
        }
    }
    Ok(())
}

/// Milliseconds from having read a request to having sent its answer.
fn serve(listener: &TcpListener) -> Result<Vec<f64>> {
    let mut stream = listener.accept()?.0;
    (0..REQUESTS)
        .map(|number| {
            stream.read_exact(&mut [0; REQUEST.len()])?;
            let begun = Instant::now();
            std::thread::sleep(think(number));
            stream.write_all(ANSWER)?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

/// Milliseconds from sending a request to having read its answer.
fn ask(mut stream: TcpStream) -> Result<Vec<f64>> {
    (0..REQUESTS)
        .map(|_| {
            let begun = Instant::now();
            stream.write_all(REQUEST)?;
            stream.read_exact(&mut [0; ANSWER.len()])?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

fn quantile(of: &[f64], share: f64) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
