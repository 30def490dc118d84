//! The current task: who it is, and the socket behind one of its descriptors.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task, bpf_get_current_uid_gid,
    },
};
use netprobe_common::*;

use super::{probe, probe_at};

/// Thread group id of the current task.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Thread id and group of the current task in one word.
#[inline(always)]
pub fn thread() -> u64 {
    bpf_get_current_pid_tgid()
}

/// The current task. Only right where the hook runs on behalf of the process, not in softirq. Fills in place: the
/// name's bytes would be copied one by one.
#[inline(always)]
pub fn fill(process: &mut Process) {
    let ids = bpf_get_current_pid_tgid();
    process.tgid = (ids >> 32) as u32;
    process.tid = ids as u32;
    // SAFETY: these helpers have no preconditions; the last writes the 16 bytes it is given.
    unsafe {
        process.uid = bpf_get_current_uid_gid() as u32;
        process.cgroup_id = bpf_get_current_cgroup_id();
        bpf_get_current_comm(process.comm.as_mut_ptr().cast(), process.comm.len() as u32);
    }
}

/// The `struct sock` behind descriptor `fd` of the current task, checked to be a socket's file.
#[inline(always)]
pub fn sock_of_fd(fd: u32) -> Option<*const c_void> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    let files: *const c_void = probe_at(task, TASK_FILES)?;
    let table: *const c_void = probe_at(files, FILES_FDT)?;
    if fd >= probe_at::<u32>(table, FDT_MAX_FDS)? {
        return None;
    }
    let fds: *const *const c_void = probe_at(table, FDT_FD)?;
    let file: *const c_void = probe(fds.wrapping_add(fd as usize).cast())?;
    if file.is_null() {
        return None;
    }
    let socket: *const c_void = probe_at(file, FILE_PRIVATE_DATA)?;
    if socket.is_null() {
        return None;
    }
    // Any file has private data; only a socket's points back.
    let back: *const c_void = probe_at(socket, SOCKET_FILE)?;
    if back != file {
        return None;
    }
    let sk: *const c_void = probe_at(socket, SOCKET_SK)?;
    if sk.is_null() { None } else { Some(sk) }
}
