//! netprobe's BPF programs.
//!
//! Read `kernel/` for what is taken from kernel structs, `conn.rs` for the life of a connection and `calls.rs` for what moves on it, `emit.rs`
//! for the one way out, and `hooks/` for where it all is attached: one attach point a file.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod accept;
mod byte_check;
mod calls;
mod conn;
mod count;
mod debug;
mod emit;
mod filter;
mod hooks;
mod kernel;
mod maps;
mod nat;
mod payload;
mod store;
mod tls;
mod udp;
mod values;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Lets the kernel give the GPL-only helpers; the object is offered under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
