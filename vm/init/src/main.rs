//! PID 1 of the test virtual machines.
fn main() {}
