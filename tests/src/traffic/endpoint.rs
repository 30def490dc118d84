//! The process side of the generator: reads commands, makes system calls, answers.

use std::collections::HashMap;
use std::io::{BufRead, Error, Read, Result, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, SockFlag, SockType, SockaddrStorage, sockopt};

use super::calls::{self, Moved, UringIo};
use super::proto::{Cmd, ConnectMode, ConnectOptions, ENDPOINT_ARG, Info, Reply, Socket};
use super::sockets;
use crate::monotonic_ns;

/// Runs as an endpoint if the first argument says so; `None`: it does not, go on.
pub fn main_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args();
    args.next();
    if args.next()? != ENDPOINT_ARG {
        return None;
    }
    let comm = args.next().unwrap_or_default();
    let netns = args.next();
    Some(match run(&comm, netns.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("endpoint {comm}: {error}");
            ExitCode::FAILURE
        }
    })
}

fn run(comm: &str, netns: Option<&str>) -> Result<()> {
    if let Some(path) = netns {
        let file = std::fs::File::open(path)?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    set_comm(comm)?;
    let mut endpoint = Endpoint::default();
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let reply = endpoint.execute(&serde_json::from_str(&line?)?);
        serde_json::to_writer(&mut output, &reply)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

fn set_comm(comm: &str) -> Result<()> {
    // Another task's command name cannot be set through a library call on every kernel; one's own can.
    std::fs::write("/proc/thread-self/comm", comm)
}

#[derive(Default)]
struct Endpoint {
    sockets: HashMap<Socket, OwnedFd>,
    next: Socket,
}

impl Endpoint {
    fn execute(&mut self, cmd: &Cmd) -> Reply {
        let mut reply = Reply {
            pid: std::process::id(),
            started_ns: monotonic_ns(),
            ..Reply::default()
        };
        if let Err(error) = self.act(cmd, &mut reply) {
            reply.errno = error.raw_os_error().unwrap_or(libc::EIO);
        }
        if reply.ended_ns == 0 {
            reply.ended_ns = monotonic_ns();
        }
        reply
    }

    fn act(&mut self, cmd: &Cmd, reply: &mut Reply) -> Result<()> {
        match cmd {
            Cmd::Info => reply.info = Some(info()?),
            Cmd::BecomeUser { uid } => nix::unistd::setuid(nix::unistd::Uid::from_raw(*uid))?,
            Cmd::Listen {
                addr,
                backlog,
                fast_open,
            } => {
                let fd = sockets::new_socket(*addr, SockType::Stream)?;
                let raw = fd.as_raw_fd();
                socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
                sockets::set_patience(&fd)?;
                if *fast_open {
                    calls::set_int(raw, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
                }
                socket::bind(raw, &SockaddrStorage::from(*addr))?;
                socket::listen(&fd, socket::Backlog::new(*backlog)?)?;
                self.keep(fd, reply);
            }
            Cmd::Accept { listener, uring } => {
                let listener = self.raw(*listener)?;
                let raw = if *uring {
                    calls::uring_io(listener, UringIo::Accept)? as RawFd
                } else {
                    socket::accept4(listener, SockFlag::SOCK_CLOEXEC)?
                };
                // SAFETY: accept has just returned this descriptor and nobody else has it.
                let fd = unsafe { OwnedFd::from_raw_fd(raw) };
                sockets::set_patience(&fd)?;
                self.keep(fd, reply);
            }
            Cmd::Connect { addr, options } => return self.connect(*addr, options, reply),
            Cmd::Send {
                socket,
                bytes,
                chunk,
                how,
            } => {
                note(
                    reply,
                    calls::send(self.fd(*socket)?.as_fd(), *bytes, *chunk, *how)?,
                );
            }
            Cmd::Recv { socket, bytes, how } => {
                note(reply, calls::recv(self.fd(*socket)?.as_fd(), *bytes, *how)?);
            }
            Cmd::SendOnce { socket, bytes } => {
                let n = socket::send(self.raw(*socket)?, &vec![5u8; *bytes], MsgFlags::MSG_NOSIGNAL)?;
                note(
                    reply,
                    Moved {
                        bytes: n as u64,
                        calls: 1,
                        copied: 0,
                    },
                );
            }
            Cmd::SendTimeout { socket, ms } => {
                let limit = sockets::time_val(Duration::from_millis(*ms));
                socket::setsockopt(self.fd(*socket)?, sockopt::SendTimeout, &limit)?;
            }
            Cmd::ShutdownWrite { socket } => socket::shutdown(self.raw(*socket)?, socket::Shutdown::Write)?,
            Cmd::KernelTls { socket } => {
                socket::setsockopt(self.fd(*socket)?, sockopt::TcpUlp::default(), b"tls")?;
            }
            Cmd::LingerZero { socket } => {
                let zero = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                socket::setsockopt(self.fd(*socket)?, sockopt::Linger, &zero)?;
            }
            Cmd::Close { socket } => drop(self.sockets.remove(socket).ok_or(Errno::EBADF)?),
            Cmd::TcpInfo { socket } => reply.tcp = Some(calls::tcp_info(self.raw(*socket)?)?),
            Cmd::Settle { socket, unread } => {
                let fd = self.raw(*socket)?;
                let want = (i32::try_from(*unread).unwrap_or(i32::MAX), 0);
                let end = std::time::Instant::now() + sockets::PATIENCE;
                while calls::queues(fd) != want {
                    if std::time::Instant::now() > end {
                        return Err(Errno::ETIMEDOUT.into());
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                reply.tcp = Some(calls::tcp_info(fd)?);
            }
            Cmd::GiveSocket { socket, path } => {
                let fd = self.sockets.remove(socket).ok_or(Errno::EBADF)?;
                sockets::give(&fd, path)?;
            }
            Cmd::TakeSocket { path } => {
                let fd = sockets::take(path)?;
                self.keep(fd, reply);
            }
            Cmd::Fork { comm, cmds } => reply.child = self.fork(comm, cmds)?,
            Cmd::Udp { bind, peer } => {
                let family = bind.or(*peer).ok_or(Errno::EDESTADDRREQ)?;
                let fd = sockets::new_socket(family, SockType::Datagram)?;
                sockets::set_patience(&fd)?;
                if let Some(addr) = bind {
                    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(*addr))?;
                }
                if let Some(addr) = peer {
                    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(*addr))?;
                }
                self.keep(fd, reply);
            }
            Cmd::SendTo {
                socket,
                addr,
                count,
                bytes,
            } => {
                let (fd, data) = (self.raw(*socket)?, vec![7u8; *bytes]);
                for _ in 0..*count {
                    let n = match addr {
                        Some(a) => socket::sendto(fd, &data, &SockaddrStorage::from(*a), MsgFlags::empty())?,
                        None => socket::send(fd, &data, MsgFlags::empty())?,
                    };
                    note(
                        reply,
                        Moved {
                            bytes: n as u64,
                            calls: 1,
                            copied: 0,
                        },
                    );
                }
                reply.local = sockets::address(socket::getsockname::<SockaddrStorage>(fd).ok());
            }
            Cmd::RecvFrom { socket, count } => {
                let (fd, mut data) = (self.raw(*socket)?, vec![0u8; 65536]);
                for _ in 0..*count {
                    let (n, from) = socket::recvfrom::<SockaddrStorage>(fd, &mut data)?;
                    note(
                        reply,
                        Moved {
                            bytes: n as u64,
                            calls: 1,
                            copied: 0,
                        },
                    );
                    reply.remote = sockets::address(from);
                }
            }
            Cmd::Sleep { ms } => std::thread::sleep(Duration::from_millis(*ms)),
        }
        Ok(())
    }

    fn connect(&mut self, addr: SocketAddr, options: &ConnectOptions, reply: &mut Reply) -> Result<()> {
        let fd = sockets::new_socket(addr, SockType::Stream)?;
        let raw = fd.as_raw_fd();
        if let Some(ms) = options.user_timeout_ms {
            calls::set_int(raw, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, ms as i32)?;
        }
        if let Some(n) = options.syn_retries {
            calls::set_int(raw, libc::IPPROTO_TCP, libc::TCP_SYNCNT, n as i32)?;
        }
        if let Some(local) = options.bind {
            socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            socket::bind(raw, &SockaddrStorage::from(local))?;
        }
        let to = SockaddrStorage::from(addr);
        reply.started_ns = monotonic_ns();
        let outcome: Result<()> = match options.mode {
            ConnectMode::Blocking => socket::connect(raw, &to).map_err(Error::from),
            ConnectMode::Uring => calls::uring_io(raw, UringIo::Connect(&to)).map(|_| ()),
            ConnectMode::FastOpen(bytes) => {
                let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
                let data = vec![1u8; bytes];
                socket::sendto(raw, &data, &to, flags)
                    .map(|n| {
                        note(
                            reply,
                            Moved {
                                bytes: n as u64,
                                calls: 1,
                                copied: 0,
                            },
                        )
                    })
                    .map_err(Error::from)
            }
            ConnectMode::NonBlocking | ConnectMode::StartOnly => {
                sockets::connect_nonblocking(&fd, &to, options.mode == ConnectMode::NonBlocking)
            }
        };
        // The moment of the answer, before the book-keeping below.
        reply.ended_ns = monotonic_ns();
        if outcome.is_ok() {
            sockets::set_patience(&fd)?;
        }
        self.keep(fd, reply);
        reply.remote = reply.remote.or(Some(addr));
        outcome
    }

    fn fork(&mut self, comm: &str, cmds: &[Cmd]) -> Result<Vec<Reply>> {
        let (mut ours, mut theirs) = UnixStream::pair()?;
        // SAFETY: an endpoint has one thread, so the child finds every lock free and may do anything.
        match unsafe { nix::unistd::fork() }? {
            nix::unistd::ForkResult::Child => {
                drop(ours);
                let replies: Vec<Reply> = match set_comm(comm) {
                    Ok(()) => cmds.iter().map(|cmd| self.execute(cmd)).collect(),
                    Err(_) => Vec::new(),
                };
                let sent = serde_json::to_vec(&replies).map(|text| theirs.write_all(&text));
                // SAFETY: ends the child at once, without running the parent's exit handlers.
                unsafe { libc::_exit(i32::from(!matches!(sent, Ok(Ok(()))))) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                drop(theirs);
                let mut text = Vec::new();
                ours.read_to_end(&mut text)?;
                nix::sys::wait::waitpid(child, None)?;
                Ok(serde_json::from_slice(&text)?)
            }
        }
    }

    fn keep(&mut self, fd: OwnedFd, reply: &mut Reply) {
        let raw = fd.as_raw_fd();
        reply.local = sockets::address(socket::getsockname::<SockaddrStorage>(raw).ok());
        reply.remote = sockets::address(socket::getpeername::<SockaddrStorage>(raw).ok());
        reply.cookie = calls::cookie(raw);
        self.next += 1;
        reply.socket = Some(self.next);
        self.sockets.insert(self.next, fd);
    }

    fn fd(&self, socket: Socket) -> Result<&OwnedFd> {
        self.sockets.get(&socket).ok_or_else(|| Errno::EBADF.into())
    }

    fn raw(&self, socket: Socket) -> Result<RawFd> {
        Ok(self.fd(socket)?.as_raw_fd())
    }
}

fn note(reply: &mut Reply, moved: Moved) {
    reply.bytes += moved.bytes;
    reply.calls += moved.calls;
    reply.copied += moved.copied;
}

fn info() -> Result<Info> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup")?
        .lines()
        .find_map(|line| line.strip_prefix("0::").map(str::to_owned));
    Ok(Info {
        pid: std::process::id(),
        comm: std::fs::read_to_string("/proc/self/comm")?.trim_end().to_owned(),
        exe: std::fs::read_link("/proc/self/exe")?.display().to_string(),
        uid: nix::unistd::geteuid().as_raw(),
        cgroup,
        netns: std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net")?),
    })
}
