//! What an endpoint does to sockets beside moving payload: making them, bounding them, handing them on.

use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage,
    sockopt,
};

/// No call blocks longer than this, so that a broken case ends with an error and not with a hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn connect_nonblocking(fd: &OwnedFd, to: &SockaddrStorage, wait: bool) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    match socket::connect(fd.as_raw_fd(), to) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) if !wait => return Ok(()),
        Err(Errno::EINPROGRESS) => {
            poll(
                &mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)],
                PollTimeout::from(60_000u16),
            )?;
            let error = socket::getsockopt(fd, sockopt::SocketError)?;
            if error != 0 {
                return Err(Error::from_raw_os_error(error));
            }
        }
        Err(error) => return Err(error.into()),
    }
    // Only the connect was to be non-blocking: payload calls wait.
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

pub(super) fn new_socket(addr: SocketAddr, kind: SockType) -> Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    Ok(socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Bounds blocking calls. Not set before connect, whose duration `SO_SNDTIMEO` would cut short.
pub(super) fn set_patience(fd: &OwnedFd) -> Result<()> {
    let limit = time_val(PATIENCE);
    socket::setsockopt(fd, sockopt::ReceiveTimeout, &limit)?;
    socket::setsockopt(fd, sockopt::SendTimeout, &limit)?;
    Ok(())
}

pub(super) fn time_val(duration: Duration) -> nix::sys::time::TimeVal {
    nix::sys::time::TimeVal::from(libc::timeval {
        tv_sec: duration.as_secs() as _,
        tv_usec: duration.subsec_micros() as _,
    })
}

pub(super) fn address(storage: Option<SockaddrStorage>) -> Option<SocketAddr> {
    let storage = storage?;
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    storage
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}

pub(super) fn give(fd: &OwnedFd, path: &str) -> Result<()> {
    let stream = UnixStream::connect(path)?;
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let payload = [IoSlice::new(b"s")];
    socket::sendmsg::<()>(stream.as_raw_fd(), &payload, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

pub(super) fn take(path: &str) -> Result<OwnedFd> {
    let (stream, _) = UnixListener::bind(path)?.accept()?;
    let mut byte = [0u8; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = socket::recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(raw) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for us; it was asked for one only.
            return Ok(unsafe { OwnedFd::from_raw_fd(*raw) });
        }
    }
    Err(Errno::ENODATA.into())
}
