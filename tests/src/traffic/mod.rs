//! The traffic generator: endpoints in their own process and namespace, told call by call what to do.
//!
//! An endpoint is this very program started again with [`proto::ENDPOINT_ARG`]. It reads one [`proto::Cmd`] a
//! line, does it with plain system calls and answers with what the kernel returned: bytes are sums of return
//! values, never of what was asked for. The answers are the generator's log.

mod calls;
mod driver;
mod endpoint;
pub mod load;
pub mod proto;
mod sockets;

pub use driver::{Connection, Endpoint};
pub use endpoint::main_if_asked;

/// Why the kernel refuses io_uring, if it does.
pub fn uring_refused() -> Option<std::io::Error> {
    io_uring::IoUring::new(2).err()
}
