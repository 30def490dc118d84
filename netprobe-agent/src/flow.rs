//! Stage 3: connections, their processes and their translations.

pub mod address;
pub mod baseline;
pub mod cgroup;
pub mod clock;
pub mod conntrack;
pub mod conntrack_events;
pub mod delta;
pub mod ending;
pub mod errno;
pub mod events;
pub mod forward;
pub mod live;
pub mod nat;
pub mod owners;
pub mod pipeline;
pub mod process;
pub mod report;
pub mod sockets;
pub mod state;
pub mod survey;
pub mod surveyor;
pub mod takeover;
pub mod timers;
pub mod translations;
pub mod udp;
