//! A proxy between an HTTP client and its server that breaks chosen requests in chosen ways.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

/// How a request is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server gets so many bytes of the body, then both sides get a reset.
    Reset(usize),
    /// The server gets nothing; the client gets this status and a code of S3.
    Refuse(u16, &'static str),
    /// The server does what it is asked; instead of its answer the client gets a reset.
    Swallow,
    /// The server does what it is asked; the client waits.
    Stall,
    /// The server does what it is asked; the answer takes so many milliseconds.
    Late(u64),
    /// The server does what it is asked; the answer ends in the middle.
    Cut,
    /// The server does what it is asked; a byte in the middle of the answer is another one.
    Flip,
}

/// The proxy. It takes connections as long as the process lives.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    rule: Option<Rule>,
    hits: u32,
}

#[derive(Clone, Debug)]
struct Rule {
    fault: Fault,
    method: &'static str,
    path: &'static str,
    left: u32,
}

/// What a client asks, as it goes on to the server.
#[derive(Debug)]
pub struct Request {
    /// Up to the empty line; it says that no other request will follow.
    pub head: Vec<u8>,
    /// What comes after it.
    pub body: Vec<u8>,
}

impl Proxy {
    /// A proxy in front of `server` that breaks nothing yet.
    pub fn start(server: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Proxy {
            address: listener.local_addr()?,
            script: Arc::default(),
        };
        let script = proxy.script.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let script = script.clone();
                std::thread::spawn(move || {
                    // An end that comes early is what this is about.
                    let _ = serve(&client, server, &script);
                });
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks the next `times` requests of a method whose path and query contain `path`.
    pub fn inject(&self, fault: Fault, method: &'static str, path: &'static str, times: u32) {
        *lock(&self.script) = Script {
            rule: Some(Rule {
                fault,
                method,
                path,
                left: times,
            }),
            hits: 0,
        };
    }

    /// Requests broken since the last injection.
    pub fn hits(&self) -> u32 {
        lock(&self.script).hits
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one request; a connection has no second one.
fn serve(client: &TcpStream, server: SocketAddr, script: &Mutex<Script>) -> io::Result<()> {
    let request = request(client)?;
    let fault = chosen(&request, script);
    if let Some(Fault::Refuse(status, code)) = fault {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let head = format!(
            "HTTP/1.1 {status} Broken\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let mut client = client;
        client.write_all(head.as_bytes())?;
        return client.write_all(body.as_bytes());
    }
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&request.head)?;
    if let Some(Fault::Reset(after)) = fault {
        upstream.write_all(&request.body[..after.min(request.body.len())])?;
        // Until it has read what there is: a reset would overtake it.
        std::thread::sleep(Duration::from_millis(50));
        reset(&upstream)?;
        return reset(client);
    }
    upstream.write_all(&request.body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let middle = answer.len() - body_of(&answer) / 2;
    let mut client = client;
    match fault {
        Some(Fault::Swallow) => return reset(client),
        Some(Fault::Stall) => {
            // Until the client gives up.
            return client.read(&mut [0]).map(drop);
        }
        Some(Fault::Late(ms)) => std::thread::sleep(Duration::from_millis(ms)),
        Some(Fault::Cut) => answer.truncate(middle),
        Some(Fault::Flip) => {
            if let Some(byte) = answer.get_mut(middle) {
                *byte ^= 1;
            }
        }
        _ => {}
    }
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Write)
}

/// Reads a whole request.
pub fn request(client: impl Read) -> io::Result<Request> {
    let mut reader = BufReader::new(client);
    let (mut head, mut line, mut length) = (Vec::new(), String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if !lower.starts_with("connection:") {
            head.extend_from_slice(line.as_bytes());
        }
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { head, body })
}

/// The fault for a request, if it is one of those to be broken.
fn chosen(request: &Request, script: &Mutex<Script>) -> Option<Fault> {
    let first = request.head.split(|byte| *byte == b'\r').next()?;
    let first = std::str::from_utf8(first).ok()?;
    let mut script = lock(script);
    let rule = script.rule.as_mut()?;
    let (method, path) = first.split_once(' ')?;
    if rule.left == 0 || method != rule.method || !path.contains(rule.path) {
        return None;
    }
    rule.left -= 1;
    let fault = rule.fault;
    script.hits += 1;
    Some(fault)
}

/// Bytes of the body of an answer.
fn body_of(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or(0, |end| answer.len() - end - 4)
}

/// Closes a connection with a reset, not in order.
fn reset(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, sockopt::Linger, &linger)?;
    Ok(())
}
