//! Finds the BPF object that `cargo xtask ebpf` built and hands its path to the crate.

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // Of another architecture than this machine's there is an object of its own.
    let object = if env::var("HOST").is_ok_and(|host| host.starts_with(&arch)) {
        root.join("target/bpf/netprobe.bpf.o")
    } else {
        root.join(format!("target/bpf/netprobe.{arch}.bpf.o"))
    };
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => {
            println!("cargo:rustc-env=NETPROBE_BPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!(
                "cargo:warning={} is missing: run `cargo xtask ebpf` first, or `cargo xtask cross` for arm64",
                object.display()
            );
            ExitCode::FAILURE
        }
    }
}
