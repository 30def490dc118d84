//! Stage 0: what the running kernel offers and how the agent reaches it.

pub mod netlink;
pub mod netns;
