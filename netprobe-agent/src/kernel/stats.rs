//! What the kernel says about loaded programs: runs, time, and runs skipped by recursion.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{Ebpf, programs::Program};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use super::facts::SECOND_CHANCE;
use crate::probe_report::ProgramReport;

/// One entry per loaded program.
pub fn programs(ebpf: &Ebpf) -> Vec<ProgramReport> {
    ebpf.programs()
        .filter_map(|(name, program)| report(name, program))
        .collect()
}

/// Kernel memory of all maps this process holds, in bytes; `None` when one of them does not tell.
pub fn map_bytes() -> Option<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo").ok()? {
        // The listing's own descriptor is gone again.
        let Ok(text) = std::fs::read_to_string(entry.ok()?.path()) else {
            continue;
        };
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        if value("map_type:").is_some() {
            bytes += value("memlock:")?.trim().parse::<u64>().ok()?;
        }
    }
    Some(bytes)
}

/// Runs that were skipped because the program was interrupted by itself, of all programs but the one that does what
/// another could not.
pub fn recursion_misses(reports: &[ProgramReport]) -> u64 {
    reports
        .iter()
        .filter(|report| report.name != SECOND_CHANCE)
        .filter_map(|report| report.recursion_misses)
        .sum()
}

fn report(name: &str, program: &Program) -> Option<ProgramReport> {
    let fd = program.fd().ok()?;
    let info = info(fd.as_fd().as_raw_fd())?;
    // The kernel counts runs only while statistics are on.
    let counted = info.run_cnt > 0;
    Some(ProgramReport {
        name: name.to_owned(),
        runs: counted.then_some(info.run_cnt),
        run_ns: counted.then_some(info.run_time_ns),
        recursion_misses: Some(info.recursion_misses),
        verified_instructions: (info.verified_insns > 0).then_some(info.verified_insns),
    })
}

/// `BPF_OBJ_GET_INFO_BY_FD`; the loader's own wrapper leaves the recursion misses out.
#[expect(unsafe_code, reason = "one system call no library wraps")]
fn info(fd: i32) -> Option<bpf_prog_info> {
    // SAFETY: both are plain integers, for which all bytes zero is a value.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = fd as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut info) as u64;
    // SAFETY: the attribute names a writable buffer of the length it says; the kernel writes no more than that.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    (ret == 0).then_some(info)
}
