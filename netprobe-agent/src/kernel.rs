//! Stage 0, the kernel: type information, capabilities, loading and attaching.

pub mod btf;
pub mod debug;
pub mod facts;
pub mod filter;
pub mod libssl;
pub mod load;
pub mod netlink;
pub mod netns;
pub mod offsets;
pub mod privilege;
pub mod refusal;
pub mod stats;
pub mod storage;
