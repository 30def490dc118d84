//! `tp_btf/sys_exit` (5.5): who accepted, and which connect failed before its SYN, where only tracepoints are to be had.
//!
//! Runs at the end of every system call of the host, so it is the last choice: all but accept, accept4 and connect
//! leave after one load and three compares. The socket is found through the descriptor the call returned or took.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_probe_read_user, macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::*;

use super::connect_exit::{Address, failed, is_failure};
use crate::{
    accept::accepted,
    kernel::{load, probe_at, sock, task},
    values::{empty, knob},
};

// x86-64 system call numbers.
const CONNECT: u64 = 42;
const ACCEPT: u64 = 43;
const ACCEPT4: u64 = 288;
/// Code segment of 64-bit callers: a 32-bit one numbers its calls otherwise.
const USER_CS: u16 = 0x33;

#[btf_tracepoint(function = "sys_exit")]
fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let regs: *const c_void = ctx.arg(0);
    let ret: i64 = ctx.arg(1);
    // SAFETY: the tracepoint's first argument is the task's saved registers.
    let (number, code_segment): (u64, u16) = unsafe { (load(regs, REGS_ORIG_AX), load(regs, REGS_CS)) };
    match number {
        ACCEPT | ACCEPT4 if knob(KNOB_SYS_EXIT_ACCEPT) != 0 && ret >= 0 && code_segment == USER_CS => {
            accept(ret as u32)
        }
        CONNECT if knob(KNOB_SYS_EXIT_CONNECT) != 0 && code_segment == USER_CS && is_failure(ret as i32) => {
            // SAFETY: as above.
            let (fd, address): (u64, u64) = unsafe { (load(regs, REGS_DI), load(regs, REGS_SI)) };
            let _ = connect_failed(fd as u32, address as *const Address, ret as i32);
        }
        _ => {}
    }
    0
}

#[inline(always)]
fn accept(fd: u32) {
    let Some(sk) = task::sock_of_fd(fd) else { return };
    if probe_at::<u16>(sk, SK_PROTOCOL) == Some(sock::TCP) {
        accepted(sk);
    }
}

#[inline(always)]
fn connect_failed(fd: u32, address: *const Address, ret: i32) -> Option<()> {
    let sk = task::sock_of_fd(fd)?;
    // SAFETY: the helper tolerates any address.
    let address = unsafe { bpf_probe_read_user(address) }.ok()?;
    failed(sk, &address, ret)
}
