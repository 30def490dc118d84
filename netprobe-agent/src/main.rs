//! `netprobe`: the one binary.
fn main() {}
