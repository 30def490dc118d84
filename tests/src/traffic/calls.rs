//! Every way to move payload, each with the system call named by its test.

use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, MultiHeaders, SockaddrStorage};

use super::proto::{RecvHow, SendHow, TcpInfo};

/// Bytes a pipe between two splices holds by default.
const PIPE: usize = 64 * 1024;

/// Bytes and calls that moved them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) bytes: u64,
    pub(super) calls: u64,
    pub(super) copied: u64,
}

/// Sets an integer option the library has no name for.
pub(super) fn set_int(fd: RawFd, level: i32, option: i32, value: i32) -> Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`, which outlives the call; the kernel only reads it.
    let rc = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) };
    if rc == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}

/// Reads an option of plain-data type; what the kernel does not fill stays zero.
fn get_option<T: Copy>(fd: RawFd, level: i32, option: i32) -> Result<T> {
    // SAFETY: callers in this file ask for u64 and libc::tcp_info only; both are valid as zeroes.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`; the kernel writes at most `size` bytes.
    let rc = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut size) };
    if rc == 0 {
        Ok(value)
    } else {
        Err(Error::last_os_error())
    }
}

/// The socket's cookie.
pub(super) fn cookie(fd: RawFd) -> Option<u64> {
    get_option(fd, libc::SOL_SOCKET, libc::SO_COOKIE).ok()
}

/// Layout of `struct tcp_info` up to the fields used here (`linux/tcp.h`); the kernel may know more.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelTcpInfo {
    bytes: [u8; 8],
    words: [u32; 24],
    pacing: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
}

/// Reads `TCP_INFO`.
pub(super) fn tcp_info(fd: RawFd) -> Result<TcpInfo> {
    let raw: KernelTcpInfo = get_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(TcpInfo {
        state: raw.bytes[0],
        options: raw.bytes[5],
        rtt_us: raw.words[15],
        total_retrans: raw.words[23],
        bytes_acked: raw.bytes_acked,
        bytes_received: raw.bytes_received,
        segs_out: raw.segs_out,
        segs_in: raw.segs_in,
    })
}

/// Bytes that wait to be read, and bytes that wait to be acknowledged.
pub(super) fn queues(fd: RawFd) -> (i32, i32) {
    let (mut input, mut output) = (0, 0);
    // SAFETY: both requests write one int to the pointer given.
    unsafe {
        libc::ioctl(fd, libc::FIONREAD, &raw mut input);
        libc::ioctl(fd, libc::TIOCOUTQ, &raw mut output);
    }
    (input, output)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// Sends exactly `bytes`, at most `chunk` a call.
pub(super) fn send(fd: BorrowedFd<'_>, bytes: u64, chunk: usize, how: SendHow) -> Result<Moved> {
    let raw = fd.as_raw_fd();
    let chunk = chunk.clamp(1, 1 << 20);
    let buffer: Vec<u8> = (0..chunk).map(|i| i as u8).collect();
    let mut moved = Moved::default();
    let spare = match how {
        SendHow::Splice => Some(pipe()?),
        _ => None,
    };
    let file = tempfile_for(how, &buffer)?;
    if how == SendHow::ZeroCopy {
        set_int(raw, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
    }
    while moved.bytes < bytes {
        let want = usize::try_from(bytes - moved.bytes)
            .unwrap_or(usize::MAX)
            .min(chunk);
        let part = &buffer[..want];
        let n = match how {
            SendHow::Send => socket::send(raw, part, MsgFlags::MSG_NOSIGNAL)?,
            SendHow::Writev => {
                let third = want / 3;
                let slices = [&part[..third], &part[third..2 * third], &part[2 * third..]].map(IoSlice::new);
                nix::sys::uio::writev(fd, &slices)?
            }
            SendHow::Sendmmsg => sendmmsg(raw, part)?,
            SendHow::ZeroCopy => {
                let flags = MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY) | MsgFlags::MSG_NOSIGNAL;
                socket::send(raw, part, flags)?
            }
            SendHow::Sendfile => {
                let file = file.as_ref().ok_or(Errno::EBADF)?;
                nix::sys::sendfile::sendfile64(fd, file, Some(&mut 0), want)?
            }
            SendHow::Splice => {
                let (reader, writer) = spare.as_ref().ok_or(Errno::EBADF)?;
                let filled = nix::unistd::write(writer, &part[..want.min(PIPE)])?;
                splice_all(reader, fd, filled)?
            }
            SendHow::Uring => uring_io(raw, UringIo::Send(part))?,
        };
        moved.bytes += n as u64;
        moved.calls += 1;
        if how == SendHow::ZeroCopy {
            moved.copied += reap_zero_copy(fd)?;
        }
    }
    Ok(moved)
}

fn tempfile_for(how: SendHow, buffer: &[u8]) -> Result<Option<std::fs::File>> {
    if how != SendHow::Sendfile {
        return Ok(None);
    }
    let file = tempfile::tempfile()?;
    std::os::unix::fs::FileExt::write_all_at(&file, buffer, 0)?;
    Ok(Some(file))
}

fn splice_all(from: &OwnedFd, to: BorrowedFd<'_>, bytes: usize) -> Result<usize> {
    let mut left = bytes;
    while left > 0 {
        left -= nix::fcntl::splice(from, None, to, None, left, nix::fcntl::SpliceFFlags::empty())?;
    }
    Ok(bytes)
}

/// One `sendmmsg` of up to eight messages.
fn sendmmsg(fd: RawFd, part: &[u8]) -> Result<usize> {
    let pieces: Vec<[IoSlice<'_>; 1]> = part
        .chunks(part.len().div_ceil(8))
        .map(|piece| [IoSlice::new(piece)])
        .collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(pieces.len(), None);
    let nowhere: Vec<Option<SockaddrStorage>> = vec![None; pieces.len()];
    let results = socket::sendmmsg(fd, &mut headers, &pieces, &nowhere, [], MsgFlags::MSG_NOSIGNAL)?;
    Ok(results.map(|r| r.bytes).sum())
}

/// Waits for the completion of one zero copy send; 1 if the kernel copied after all.
fn reap_zero_copy(fd: BorrowedFd<'_>) -> Result<u64> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // The error queue raises POLLERR, which is always reported.
    poll(
        &mut [PollFd::new(fd, PollFlags::empty())],
        PollTimeout::from(20_000u16),
    )?;
    let mut space = [0u8; 128];
    // SAFETY: an all-zero msghdr is valid: no name, no parts, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_control = space.as_mut_ptr().cast();
    header.msg_controllen = space.len() as _;
    // SAFETY: the header points to `space`, which outlives the call, with its true length.
    let rc = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE) };
    if rc < 0 {
        return Err(Error::last_os_error());
    }
    // sock_extended_err after the cmsghdr: errno u32, origin u8, type u8, code u8 (1: copied).
    let data = size_of::<libc::cmsghdr>();
    Ok(u64::from(space[data + 6] & 1))
}

/// Receives `bytes` (exactly) or, with `None`, until the end.
pub(super) fn recv(fd: BorrowedFd<'_>, bytes: Option<u64>, how: RecvHow) -> Result<Moved> {
    let raw = fd.as_raw_fd();
    let mut buffer = vec![0u8; 1 << 20];
    let mut moved = Moved::default();
    let spare = match how {
        RecvHow::Splice => Some((pipe()?, std::fs::File::options().write(true).open("/dev/null")?)),
        _ => None,
    };
    while bytes.is_none_or(|all| moved.bytes < all) {
        let left = bytes.map_or(u64::MAX, |all| all - moved.bytes);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..want];
        let n = match how {
            RecvHow::Recv => socket::recv(raw, part, MsgFlags::empty())?,
            RecvHow::PeekFirst => {
                socket::recv(raw, part, MsgFlags::MSG_PEEK)?;
                socket::recv(raw, part, MsgFlags::empty())?
            }
            RecvHow::Recvmmsg => recvmmsg(raw, part)?,
            RecvHow::Discard => socket::recv(raw, part, MsgFlags::MSG_TRUNC)?,
            RecvHow::Splice => {
                let ((reader, writer), null) = spare.as_ref().ok_or(Errno::EBADF)?;
                let flags = nix::fcntl::SpliceFFlags::empty();
                let n = nix::fcntl::splice(fd, None, writer, None, want.min(PIPE), flags)?;
                splice_all(reader, std::os::fd::AsFd::as_fd(null), n)?
            }
            RecvHow::Uring => uring_io(raw, UringIo::Recv(part))?,
        };
        if n == 0 {
            if bytes.is_some() {
                return Err(Errno::ENODATA.into());
            }
            break;
        }
        moved.bytes += n as u64;
        moved.calls += 1;
    }
    Ok(moved)
}

fn recvmmsg(fd: RawFd, part: &mut [u8]) -> Result<usize> {
    let size = part.len().div_ceil(4);
    let mut pieces: Vec<[IoSliceMut<'_>; 1]> = part.chunks_mut(size).map(|p| [IoSliceMut::new(p)]).collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(pieces.len(), None);
    let results = socket::recvmmsg(
        fd,
        &mut headers,
        pieces.iter_mut(),
        MsgFlags::MSG_WAITFORONE,
        None,
    )?;
    Ok(results.map(|r| r.bytes).sum())
}

/// What to do through an io_uring.
pub(super) enum UringIo<'a> {
    /// Send.
    Send(&'a [u8]),
    /// Receive.
    Recv(&'a mut [u8]),
    /// Connect: address and its length.
    Connect(&'a SockaddrStorage),
    /// Accept; the result is the descriptor.
    Accept,
}

/// One operation through a ring of its own; the result as the system call would give it.
pub(super) fn uring_io(fd: RawFd, what: UringIo<'_>) -> Result<usize> {
    use io_uring::{IoUring, opcode, types};
    use nix::sys::socket::SockaddrLike;
    let mut ring = IoUring::new(2)?;
    let fd = types::Fd(fd);
    let entry = match what {
        UringIo::Send(data) => opcode::Send::new(fd, data.as_ptr(), data.len() as u32).build(),
        UringIo::Recv(data) => opcode::Recv::new(fd, data.as_mut_ptr(), data.len() as u32).build(),
        UringIo::Connect(addr) => opcode::Connect::new(fd, addr.as_ptr(), addr.len()).build(),
        UringIo::Accept => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).build(),
    };
    // SAFETY: whatever the entry points to is borrowed for this whole function, which waits for completion.
    unsafe { ring.submission().push(&entry) }.map_err(|_| Errno::EBUSY)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or(Errno::EIO)?.result();
    usize::try_from(result).map_err(|_| Error::from_raw_os_error(-result))
}
