//! Stage 3: connections, their processes and their translations.

pub mod cgroup;
pub mod conntrack;
pub mod conntrack_events;
pub mod owners;
pub mod process;
pub mod sockets;
