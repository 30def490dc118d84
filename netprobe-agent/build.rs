//! Finds the BPF object that `cargo xtask ebpf` built and hands its path to the crate.

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let object = root.join("target/bpf/netprobe.bpf.o");
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => {
            println!("cargo:rustc-env=NETPROBE_BPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("cargo:warning=target/bpf/netprobe.bpf.o is missing: run `cargo xtask ebpf` first");
            ExitCode::FAILURE
        }
    }
}
