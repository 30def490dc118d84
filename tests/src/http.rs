//! A GET to the agent, over TCP or its Unix socket.
//!
//! HTTP/1.0, so that the answer ends with the connection and needs no client library.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

const LIMIT: Duration = Duration::from_secs(20);

/// Status and body.
pub type Answer = (u16, String);

/// GET over TCP.
pub fn get(addr: SocketAddr, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&addr, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    exchange(&mut stream, path, &format!("{addr}"))
}

/// GET over a Unix socket.
pub fn get_unix(socket: &Path, path: &str) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    exchange(&mut stream, path, "localhost")
}

fn exchange(stream: &mut (impl Read + Write), path: &str, host: &str) -> Result<Answer> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8(text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no header")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("the answer has no status")?;
    Ok((status, body.to_owned()))
}
