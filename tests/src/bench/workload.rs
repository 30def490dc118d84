//! The shapes of traffic, on the loopback, and system calls without any, with threads pinned so that the scheduler is not measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::traffic::load::{self, Plan};

/// A shape of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// 64 bytes there and back on one connection, both ends on one processor.
    RequestResponse,
    /// Connect, a request and an answer of random size, close; both ends in one thread.
    ConnectRequestClose,
    /// One way, 64 KiB a call, ends on different processors where there are two.
    Stream,
    /// The cheapest system call there is, in a loop: what a hook on all of them costs programs that send nothing.
    SystemCall,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 4] = [
        Workload::RequestResponse,
        Workload::ConnectRequestClose,
        Workload::Stream,
        Workload::SystemCall,
    ];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Workload::RequestResponse => "TCP request/response",
            Workload::ConnectRequestClose => "TCP connect/request/close",
            Workload::Stream => "TCP stream",
            Workload::SystemCall => "system call without traffic",
        }
    }

    /// Unit of the rate.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::RequestResponse => "requests/s",
            Workload::ConnectRequestClose => "connections/s",
            Workload::Stream => "MB/s",
            Workload::SystemCall => "calls/s",
        }
    }

    /// Rate over one slice.
    pub fn measure(self, slice: Duration) -> Result<f64> {
        match self {
            Workload::RequestResponse => request_response(slice),
            Workload::ConnectRequestClose => connect_request_close(slice),
            Workload::Stream => stream(slice),
            Workload::SystemCall => system_call(slice),
        }
    }
}

/// Pins the calling thread to the n-th processor it may use.
fn pin(index: usize) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let usable: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    let mut set = CpuSet::new();
    set.set(usable[index % usable.len().max(1)])?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Runs `client` and `server` on pinned threads over one connection; what the client gives.
fn connected<T: Send>(
    pins: (usize, usize),
    client: impl FnOnce(TcpStream) -> Result<T> + Send,
    server: impl FnOnce(TcpStream) -> Result<()> + Send,
) -> Result<T> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = listener.local_addr()?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || {
            pin(pins.1)?;
            server(listener.accept()?.0)
        });
        let asking = scope.spawn(move || {
            pin(pins.0)?;
            client(TcpStream::connect(to)?)
        });
        let result = asking.join().map_err(|_| anyhow!("the client panicked"))?;
        serving.join().map_err(|_| anyhow!("the server panicked"))??;
        result
    })
}

fn request_response(slice: Duration) -> Result<f64> {
    connected(
        (0, 0),
        move |mut stream| {
            stream.set_nodelay(true)?;
            let (mut buffer, mut count, begun) = ([0u8; 64], 0u64, Instant::now());
            while begun.elapsed() < slice {
                for _ in 0..16 {
                    stream.write_all(&buffer)?;
                    stream.read_exact(&mut buffer)?;
                }
                count += 16;
            }
            Ok(count as f64 / begun.elapsed().as_secs_f64())
        },
        |mut stream| {
            stream.set_nodelay(true)?;
            let mut buffer = [0u8; 64];
            while stream.read_exact(&mut buffer).is_ok() {
                stream.write_all(&buffer)?;
            }
            Ok(())
        },
    )
}

fn system_call(slice: Duration) -> Result<f64> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            pin(0)?;
            let (mut count, begun) = (0u64, Instant::now());
            while begun.elapsed() < slice {
                for _ in 0..1_000 {
                    std::hint::black_box(nix::unistd::getppid());
                }
                count += 1_000;
            }
            Ok(count as f64 / begun.elapsed().as_secs_f64())
        });
        worker.join().map_err(|_| anyhow!("the worker panicked"))?
    })
}

fn stream(slice: Duration) -> Result<f64> {
    let over = AtomicBool::new(false);
    connected(
        (0, 1),
        |mut stream| {
            let (buffer, mut bytes, begun) = (vec![0u8; 65_536], 0u64, Instant::now());
            while begun.elapsed() < slice {
                bytes += stream.write(&buffer)? as u64;
            }
            let rate = bytes as f64 / begun.elapsed().as_secs_f64() / 1e6;
            over.store(true, Ordering::Relaxed);
            Ok(rate)
        },
        |mut stream| {
            let mut buffer = vec![0u8; 65_536];
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        },
    )
}

/// The plan of [`crate::traffic::load`] on the loopback: addresses wide enough for TIME_WAIT.
pub(super) fn plan(connections: u64, seed: u64) -> Plan {
    let ways = (0..64u16).map(|i| SocketAddr::from(([127, 79, 0, 1 + (i % 16) as u8], 17_000 + i)));
    Plan {
        client_netns: None,
        server_netns: None,
        client_ip: None,
        ways: ways.map(|at| (at, at)).collect(),
        refusing: None,
        connections,
        seed,
    }
}

fn connect_request_close(slice: Duration) -> Result<f64> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            pin(0)?;
            let (mut count, begun) = (0u64, Instant::now());
            while begun.elapsed() < slice {
                count += load::run(&plan(500, count), 1)?.len() as u64;
            }
            Ok(count as f64 / begun.elapsed().as_secs_f64())
        });
        worker.join().map_err(|_| anyhow!("the worker panicked"))?
    })
}
