//! `netprobe`: the one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    netprobe_agent::cli::main()
}
