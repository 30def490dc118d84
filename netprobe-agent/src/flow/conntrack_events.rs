//! Conntrack entries as they come and go, from `ctnetlink` events of one namespace.
//!
//! What the kernel could not deliver is not known by number: each overrun is counted, and the reader should dump
//! the table after one. What the reader did not take in time is counted event by event.
//!
//! With `net.netfilter.nf_conntrack_events = 2` (the default of recent kernels) only entries made while somebody
//! listens give events: the end of those older than the listener is silent.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    net::sockopt,
};

use super::conntrack::{Answer, Conntrack, ConntrackError, Entry, SUBSYSTEM, decode};
use crate::kernel::{
    netlink::NetlinkError,
    netns::{NetNs, in_netns},
};

const NEW: u16 = SUBSYSTEM;
const DELETE: u16 = SUBSYSTEM | 2;
/// `NFNLGRP_CONNTRACK_NEW` and `NFNLGRP_CONNTRACK_DESTROY`.
const GROUP_NEW: u32 = 1;
const GROUP_DESTROY: u32 = 3;
/// What to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Ends only.
    Destroy,
    /// Beginnings and ends.
    NewAndDestroy,
}

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What to be told.
    pub interest: Interest,
    /// Events that wait for the reader; more are dropped and counted.
    pub capacity: usize,
    /// Bytes that wait in the kernel, its overhead included; about 800 an event.
    pub receive_buffer: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            interest: Interest::Destroy,
            capacity: 65_536,
            receive_buffer: 8 << 20,
        }
    }
}

/// An entry came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Confirmed: its first packet was let through.
    New(Entry),
    /// Removed; with final counters where accounting is on.
    Destroy(Entry),
}

/// What the listener saw so far: `received = delivered + dropped + rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerCounters {
    /// Events that came from the kernel.
    pub received: u64,
    /// Events given to the reader.
    pub delivered: u64,
    /// Events the reader had no room for.
    pub dropped: u64,
    /// Events that could not be decoded.
    pub rejected: u64,
    /// Times the kernel had no room for an unknown number of events.
    pub overruns: u64,
}

#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    rejected: AtomicU64,
    overruns: AtomicU64,
}

/// A running listener. Dropping it ends its thread; it keeps the namespace alive until then.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Listener {
    /// Starts listening in `ns`. The receiver's end means that the listener stopped.
    pub fn start(
        ns: &NetNs,
        options: Options,
    ) -> Result<Answer<(Listener, Receiver<Event>)>, ConntrackError> {
        // Membership succeeds without connection tracking too, and nothing would ever come.
        if let Answer::Absent = Conntrack::open(ns)? {
            return Ok(Answer::Absent);
        }
        let socket = in_netns(ns, || subscribe(options))??;
        let stop =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = sync_channel(options.capacity);
        let worker = Worker {
            socket,
            stop: stop.clone(),
            shared: shared.clone(),
            sender,
        };
        let thread = Builder::new()
            .name("conntrack".into())
            .spawn(move || worker.run())?;
        Ok(Answer::Present((
            Listener {
                stop,
                thread: Some(thread),
                shared,
            },
            receiver,
        )))
    }

    /// Counts so far.
    pub fn counters(&self) -> ListenerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListenerCounters {
            received: read(&self.shared.received),
            delivered: read(&self.shared.delivered),
            dropped: read(&self.shared.dropped),
            rejected: read(&self.shared.rejected),
            overruns: read(&self.shared.overruns),
        }
    }

    /// False once the thread has ended, by itself (the socket failed) or because the receiver is gone.
    pub fn running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An eventfd takes the first write always.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn subscribe(options: Options) -> Result<Socket, ConntrackError> {
    let failed = |action| move |source| ConntrackError::from(NetlinkError::Io { action, source });
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open a socket"))?;
    // More than net.core.rmem_max where CAP_NET_ADMIN allows it; else what the system gives.
    if sockopt::set_socket_recv_buffer_size_force(&socket, options.receive_buffer).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, options.receive_buffer);
    }
    socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
    socket
        .set_non_blocking(true)
        .map_err(failed("prepare a socket"))?;
    socket
        .add_membership(GROUP_DESTROY)
        .map_err(failed("subscribe to ended connections"))?;
    if options.interest == Interest::NewAndDestroy {
        socket
            .add_membership(GROUP_NEW)
            .map_err(failed("subscribe to new connections"))?;
    }
    Ok(socket)
}

struct Worker {
    socket: Socket,
    stop: Arc<OwnedFd>,
    shared: Arc<Shared>,
    sender: SyncSender<Event>,
}

impl Worker {
    fn run(self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut waiting = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            match poll(&mut waiting, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            if !waiting[1].revents().is_empty() {
                return;
            }
            loop {
                match self.socket.recv_from(&mut &mut buffer[..], 0) {
                    // Anybody on this host may send to a netlink socket: port 0 is the kernel.
                    Ok((length, from)) if from.port_number() == 0 && length <= buffer.len() => {
                        if !self.each(&buffer[..length]) {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                        self.shared.overruns.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// Passes the events of one datagram on; false when nobody reads them anymore.
    fn each(&self, mut rest: &[u8]) -> bool {
        while !rest.is_empty() {
            self.shared.received.fetch_add(1, Ordering::Relaxed);
            let event = NetlinkBuffer::new_checked(rest).ok().and_then(|message| {
                let entry = decode(message.payload()).ok()?;
                match message.message_type() {
                    NEW => Some(Event::New(entry)),
                    DELETE => Some(Event::Destroy(entry)),
                    _ => None,
                }
            });
            let counter = match event {
                None => &self.shared.rejected,
                Some(event) => match self.sender.try_send(event) {
                    Ok(()) => &self.shared.delivered,
                    Err(TrySendError::Full(_)) => &self.shared.dropped,
                    Err(TrySendError::Disconnected(_)) => {
                        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                        return false;
                    }
                },
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let size =
                NetlinkBuffer::new_checked(rest).map_or(rest.len(), |message| message.length() as usize);
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        true
    }
}
