//! Names of errnos as they come from sockets.

use std::borrow::Cow;

/// Numbers and names, Linux on x86-64 and arm64 alike.
const NAMES: &[(u32, &str)] = &[
    (1, "EPERM"),
    (4, "EINTR"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (22, "EINVAL"),
    (32, "EPIPE"),
    (71, "EPROTO"),
    (88, "ENOTSOCK"),
    (89, "EDESTADDRREQ"),
    (90, "EMSGSIZE"),
    (91, "EPROTOTYPE"),
    (92, "ENOPROTOOPT"),
    (95, "EOPNOTSUPP"),
    (97, "EAFNOSUPPORT"),
    (98, "EADDRINUSE"),
    (99, "EADDRNOTAVAIL"),
    (100, "ENETDOWN"),
    (101, "ENETUNREACH"),
    (102, "ENETRESET"),
    (103, "ECONNABORTED"),
    (104, "ECONNRESET"),
    (105, "ENOBUFS"),
    (106, "EISCONN"),
    (107, "ENOTCONN"),
    (110, "ETIMEDOUT"),
    (111, "ECONNREFUSED"),
    (112, "EHOSTDOWN"),
    (113, "EHOSTUNREACH"),
    (114, "EALREADY"),
    (115, "EINPROGRESS"),
    (512, "ERESTARTSYS"),
];

/// `ETIMEDOUT`.
pub const ETIMEDOUT: u32 = 110;
/// `ECONNREFUSED`.
pub const ECONNREFUSED: u32 = 111;
/// `ECONNABORTED`.
pub const ECONNABORTED: u32 = 103;
/// Errnos that say there is no way to the destination: no route, prohibited, no neighbour, network or host down.
pub const UNREACHABLE: &[u32] = &[13, 100, 101, 112, 113];

/// The name; `errno N` for one not listed.
pub fn name(errno: u32) -> Cow<'static, str> {
    match NAMES.iter().find(|(number, _)| *number == errno) {
        Some((_, name)) => Cow::Borrowed(name),
        None => Cow::Owned(format!("errno {errno}")),
    }
}
