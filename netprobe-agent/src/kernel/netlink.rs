//! Netlink request and dump, shared by `sock_diag` and `ctnetlink`.
//!
//! A dump is all or nothing: interrupted ones are asked for again, and one that stays incomplete is an error,
//! because a missing socket or entry would read as a closed one.

use std::{io, time::Duration};

use netlink_packet_core::{DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

/// The kernel fills at most 32 KiB a read of a dump when the reader has room for it.
const BUFFER: usize = 64 * 1024;
/// Times an interrupted dump is started again.
const RETRIES: usize = 8;
/// A kernel that says nothing for so long will not answer.
const PATIENCE: Duration = Duration::from_secs(5);

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// First message type of a family; lower ones are control messages.
const NLMSG_MIN_TYPE: u16 = 0x10;

/// Why a request gave no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A system call failed.
    #[error("netlink: cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the request, or broke off the dump.
    #[error("netlink: the kernel refused the request: {0}")]
    Refused(io::Error),
    /// The table changed during the dump, each time it was tried.
    #[error("netlink: the dump was interrupted {0} times in a row; try again when the table changes less")]
    Interrupted(usize),
    /// A message did not fit, so part of the answer is lost.
    #[error("netlink: a message of {0} bytes did not fit the buffer")]
    Truncated(usize),
    /// A message is not what the protocol says.
    #[error("netlink: cannot decode the answer: {0}")]
    Decode(#[from] DecodeError),
}

impl NetlinkError {
    /// The errno behind the failure, if it came from the kernel.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Io { source, .. } | NetlinkError::Refused(source) => source.raw_os_error(),
            _ => None,
        }
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> NetlinkError {
    move |source| NetlinkError::Io { action, source }
}

/// A netlink socket in the namespace of the thread that opened it, usable from any thread.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of one protocol (`netlink_sys::protocols`).
    pub fn open(protocol: isize) -> Result<Netlink, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(failed("open a socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Connected: only the kernel's messages are let in.
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(|e| failed("set a timeout")(e.into()))?;
        Ok(Netlink {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Asks for a whole table: `decode` gets message type and payload of each answer, and may leave it out.
    pub fn dump<T>(
        &mut self,
        message_type: u16,
        payload: &[u8],
        mut decode: impl FnMut(u16, &[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..RETRIES {
            let mut out = Vec::new();
            self.send(message_type, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
            let interrupted = self.answers(|kind, body| {
                if let Some(item) = decode(kind, body)? {
                    out.push(item);
                }
                Ok(false)
            })?;
            if !interrupted {
                return Ok(out);
            }
        }
        Err(NetlinkError::Interrupted(RETRIES))
    }

    /// Asks for one thing: the first answer, decoded.
    pub fn get<T>(
        &mut self,
        message_type: u16,
        payload: &[u8],
        mut decode: impl FnMut(u16, &[u8]) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut out = None;
        self.send(message_type, NLM_F_REQUEST, payload)?;
        self.answers(|kind, body| {
            out = Some(decode(kind, body)?);
            Ok(true)
        })?;
        Ok(out)
    }

    fn send(&mut self, message_type: u16, flags: u16, payload: &[u8]) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = 16 + payload.len();
        let mut bytes = vec![0; length];
        let mut message = NetlinkBuffer::new(&mut bytes[..]);
        message.set_length(length as u32);
        message.set_message_type(message_type);
        message.set_flags(flags);
        message.set_sequence_number(self.sequence);
        message.payload_mut().copy_from_slice(payload);
        self.socket.send(&bytes, 0).map_err(failed("send the request"))?;
        Ok(())
    }

    /// Reads until the answer ends or `each` says it has enough; true when the dump was interrupted.
    fn answers(
        &mut self,
        mut each: impl FnMut(u16, &[u8]) -> Result<bool, DecodeError>,
    ) -> Result<bool, NetlinkError> {
        let mut interrupted = false;
        loop {
            let length = self.receive()?;
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest)?;
                let size = message.length() as usize;
                let (kind, flags, body) = (message.message_type(), message.flags(), message.payload());
                // Answers to an earlier request that was given up are not ours.
                let ours = message.sequence_number() == self.sequence;
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
                if !ours {
                    continue;
                }
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        if code < 0 {
                            return Err(NetlinkError::Refused(io::Error::from_raw_os_error(
                                code.saturating_neg(),
                            )));
                        }
                        return Ok(interrupted);
                    }
                    NLMSG_OVERRUN => {
                        return Err(NetlinkError::Refused(io::Error::from_raw_os_error(libc::ENOBUFS)));
                    }
                    _ if kind < NLMSG_MIN_TYPE => {}
                    _ => {
                        if each(kind, body)? {
                            return Ok(interrupted);
                        }
                    }
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize, NetlinkError> {
        loop {
            // With MSG_TRUNC the call returns the true length, also of what did not fit.
            match self.socket.recv(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => return Err(NetlinkError::Truncated(length)),
                Ok(length) => return Ok(length),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(NetlinkError::Io {
                        action: "read the answer",
                        source,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};

    #[test]
    fn refusal_carries_the_errno() {
        let mut netlink = Netlink::open(NETLINK_SOCK_DIAG).unwrap();
        // SOCK_DIAG_BY_FAMILY with a payload that is too short.
        let error = netlink.dump(20, &[0], |_, _| Ok(Some(()))).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    }

    #[test]
    fn dump_gives_every_answer_and_the_socket_can_be_used_again() {
        let mut netlink = Netlink::open(NETLINK_ROUTE).unwrap();
        for _ in 0..2 {
            // RTM_GETLINK: each namespace has at least its loopback device.
            let links = netlink.dump(18, &[0; 16], |kind, _| Ok(Some(kind))).unwrap();
            assert!(!links.is_empty());
            assert!(links.iter().all(|kind| *kind == 16), "{links:?}");
        }
    }

    #[test]
    fn an_unread_answer_is_not_taken_for_the_next_one() {
        let mut netlink = Netlink::open(NETLINK_ROUTE).unwrap();
        // RTM_GETLINK of the first device, loopback, by `ifi_index`; its answer is left in the queue.
        let mut first = [0; 16];
        first[4] = 1;
        netlink.send(18, NLM_F_REQUEST, &first).unwrap();
        // RTM_GETADDR: answers are RTM_NEWADDR.
        let kinds = netlink.dump(22, &[0; 8], |kind, _| Ok(Some(kind))).unwrap();
        assert!(kinds.iter().all(|kind| *kind == 20), "{kinds:?}");
    }
}
