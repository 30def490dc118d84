//! The netprobe agent.
