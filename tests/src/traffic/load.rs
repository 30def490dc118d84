//! Many short connections, fast: one thread plays both ends of each, so no time goes into handing over.
//!
//! The log is what the system calls returned, per connection, with both sockets' cookies: a cookie names one
//! socket for the whole boot, so every event can be held against exactly one line of it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sockopt};

use super::calls;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client closed first.
    ClientFirst,
    /// The server closed first.
    ServerFirst,
    /// The client sent a reset, all data read.
    ClientReset,
    /// The client closed with the answer unread.
    ClientUnread,
    /// Nobody listened: there is no server end.
    Refused,
}

/// One line of the log.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Cookie of the client's socket.
    pub client: u64,
    /// Cookie of the server's socket; 0 when refused.
    pub server: u64,
    /// Bytes client to server.
    pub to_server: u32,
    /// Bytes server to client.
    pub to_client: u32,
    /// How it ended.
    pub ending: Ending,
    /// The client's own address.
    pub client_local: SocketAddr,
    /// What the client dialed.
    pub dialed: SocketAddr,
    /// The server's own address.
    pub server_local: SocketAddr,
    /// The client as the server saw it.
    pub server_remote: SocketAddr,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespace of the clients; `None`: here.
    pub client_netns: Option<PathBuf>,
    /// Namespace of the servers; `None`: here.
    pub server_netns: Option<PathBuf>,
    /// Address every client binds to, port left to the kernel; `None`: the kernel's choice.
    pub client_ip: Option<SocketAddr>,
    /// Where servers listen, and what clients dial to get there.
    pub ways: Vec<(SocketAddr, SocketAddr)>,
    /// An address that refuses, if some connects are to fail.
    pub refusing: Option<SocketAddr>,
    /// How many connections.
    pub connections: u64,
    /// Of what everything random is made.
    pub seed: u64,
}

/// Carries out a plan on threads of its own, each with its share of the ways.
pub fn run(plan: &Plan, threads: usize) -> Result<Vec<Line>> {
    let threads = threads.clamp(1, plan.ways.len());
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for index in 0..threads {
            let own: Vec<_> = plan.ways.iter().copied().skip(index).step_by(threads).collect();
            let share = plan.connections / threads as u64
                + u64::from((index as u64) < plan.connections % threads as u64);
            workers.push(scope.spawn(move || work(plan, &own, share, plan.seed + index as u64)));
        }
        let mut lines = Vec::with_capacity(plan.connections as usize);
        for worker in workers {
            lines.extend(
                worker
                    .join()
                    .map_err(|_| anyhow::anyhow!("a worker panicked"))??,
            );
        }
        Ok(lines)
    })
}

fn enter(netns: Option<&PathBuf>) -> Result<()> {
    let Some(path) = netns else { return Ok(()) };
    let file = std::fs::File::open(path).with_context(|| format!("no namespace {path:?}"))?;
    Ok(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

fn work(plan: &Plan, ways: &[(SocketAddr, SocketAddr)], share: u64, seed: u64) -> Result<Vec<Line>> {
    // A socket stays in the namespace it was made in: listeners first, then over to the clients' side.
    enter(plan.server_netns.as_ref())?;
    let mut listeners = Vec::new();
    for (at, _) in ways {
        let fd = tcp_socket(*at)?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(*at)).with_context(|| format!("bind {at}"))?;
        socket::listen(&fd, socket::Backlog::new(128)?)?;
        listeners.push(fd);
    }
    if plan.server_netns != plan.client_netns {
        enter(plan.client_netns.as_ref())?;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lines = Vec::with_capacity(share as usize);
    let mut buffer = vec![0u8; 8192];
    for index in 0..share {
        if let Some(refusing) = plan.refusing
            && random.u8(..) < 3
        {
            lines.push(refused(plan, refusing)?);
            continue;
        }
        let way = index as usize % ways.len();
        lines.push(
            one(plan, &listeners[way], ways[way], &mut random, &mut buffer)
                .with_context(|| format!("connection {index} to {}", ways[way].1))?,
        );
    }
    Ok(lines)
}

fn tcp_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    Ok(socket::socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// A client socket, bound to the plan's address but to no port: the port is chosen when the peer is known.
fn client_socket(plan: &Plan, dialed: SocketAddr) -> io::Result<OwnedFd> {
    let fd = tcp_socket(dialed)?;
    if let Some(local) = plan.client_ip {
        calls::set_int(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
    }
    Ok(fd)
}

fn refused(plan: &Plan, refusing: SocketAddr) -> Result<Line> {
    let fd = client_socket(plan, refusing)?;
    let outcome = socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(refusing));
    ensure!(
        outcome == Err(Errno::ECONNREFUSED),
        "the connect to {refusing} gave {outcome:?}"
    );
    Ok(Line {
        client: calls::cookie(fd.as_raw_fd()).context("no cookie")?,
        server: 0,
        to_server: 0,
        to_client: 0,
        ending: Ending::Refused,
        client_local: refusing,
        dialed: refusing,
        server_local: refusing,
        server_remote: refusing,
    })
}

fn one(
    plan: &Plan,
    listener: &OwnedFd,
    (_, dialed): (SocketAddr, SocketAddr),
    random: &mut fastrand::Rng,
    buffer: &mut [u8],
) -> Result<Line> {
    let client = client_socket(plan, dialed)?;
    socket::connect(client.as_raw_fd(), &SockaddrStorage::from(dialed)).context("connect")?;
    let raw = socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).context("accept")?;
    // SAFETY: accept has just returned this descriptor and nobody else has it.
    let server = unsafe { OwnedFd::from_raw_fd(raw) };
    let (c, s) = (client.as_raw_fd(), server.as_raw_fd());
    let line = Line {
        client: calls::cookie(c).context("no cookie")?,
        server: calls::cookie(s).context("no cookie")?,
        // One in eight moves nothing that way.
        to_server: if random.u8(..) < 32 {
            0
        } else {
            random.u32(1..2000)
        },
        to_client: if random.u8(..) < 32 {
            0
        } else {
            random.u32(1..6000)
        },
        ending: match random.u8(..) {
            0..=150 => Ending::ClientFirst,
            151..=215 => Ending::ServerFirst,
            216..=240 => Ending::ClientReset,
            _ => Ending::ClientUnread,
        },
        client_local: name(socket::getsockname(c)?)?,
        dialed,
        server_local: name(socket::getsockname(s)?)?,
        server_remote: name(socket::getpeername(s)?)?,
    };
    transfer(c, s, line.to_server, buffer)?;
    if line.ending == Ending::ClientUnread {
        push(s, line.to_client, buffer)?;
        // All of it must be there before the close, or the reset would overtake it.
        while calls::queues(c).0 < line.to_client as i32 {
            std::hint::spin_loop();
        }
    } else {
        transfer(s, c, line.to_client, buffer)?;
    }
    if line.ending == Ending::ServerFirst {
        drop(server);
        drop(client);
    } else {
        if line.ending == Ending::ClientReset {
            socket::setsockopt(
                &client,
                sockopt::Linger,
                &libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            )?;
        }
        drop(client);
        drop(server);
    }
    Ok(line)
}

fn push(from: i32, bytes: u32, buffer: &[u8]) -> Result<()> {
    let mut left = bytes as usize;
    while left > 0 {
        left -= socket::send(from, &buffer[..left.min(buffer.len())], MsgFlags::MSG_NOSIGNAL)?;
    }
    Ok(())
}

fn transfer(from: i32, to: i32, bytes: u32, buffer: &mut [u8]) -> Result<()> {
    push(from, bytes, buffer)?;
    let mut left = bytes as usize;
    while left > 0 {
        let n = socket::recv(to, &mut buffer[..left.min(8192)], MsgFlags::empty())?;
        ensure!(n > 0, "the stream ended {left} bytes early");
        left -= n;
    }
    Ok(())
}

fn name(storage: SockaddrStorage) -> Result<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Ok(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = storage
        .as_sockaddr_in6()
        .context("an address of no known family")?;
    Ok(SocketAddr::from((v6.ip(), v6.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_in_the_log_once() {
        let ways = (0..4)
            .map(|i| SocketAddr::from(([127, 78, 0, 1], 47_000 + i)))
            .map(|a| (a, a));
        let plan = Plan {
            client_netns: None,
            server_netns: None,
            client_ip: Some("127.78.1.1:0".parse().unwrap()),
            ways: ways.collect(),
            refusing: Some("127.78.0.1:1".parse().unwrap()),
            connections: 3_000,
            seed: 7,
        };
        let lines = run(&plan, 2).unwrap();
        assert_eq!(lines.len(), 3_000);
        let refused = lines.iter().filter(|line| line.ending == Ending::Refused).count();
        assert!(refused > 0 && refused < 300, "{refused} refused");
        let mut cookies: Vec<u64> = lines
            .iter()
            .flat_map(|l| [l.client, l.server])
            .filter(|cookie| *cookie != 0)
            .collect();
        let all = cookies.len();
        cookies.sort_unstable();
        cookies.dedup();
        assert_eq!(cookies.len(), all, "a cookie names one socket");
        assert_eq!(all, lines.len() * 2 - refused);
        assert!(
            lines
                .iter()
                .all(|l| l.client_local.ip() == plan.client_ip.unwrap().ip() || l.server == 0)
        );
    }
}
