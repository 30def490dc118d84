//! Kernel-side filter: which connections are followed at all. Switched off it costs nothing, the verifier removes it.

use aya_ebpf::maps::lpm_trie::Key;
use netprobe_common::{FlowKey, KNOB_CIDR_FILTER, KNOB_NETNS, KNOB_PORT_FILTER};

use crate::{
    maps::{FILTER_NETWORKS, FILTER_PORTS},
    values::knob,
};

const ONLY: u64 = 1;

/// Whether anything is left out at all.
#[inline(always)]
pub fn active() -> bool {
    one_namespace() || knob(KNOB_PORT_FILTER) != 0 || knob(KNOB_CIDR_FILTER) != 0
}

/// Whether one network namespace alone is followed.
#[inline(always)]
pub fn one_namespace() -> bool {
    knob(KNOB_NETNS) != 0
}

/// Whether what is in this network namespace is to be left out.
#[inline(always)]
pub fn elsewhere(netns: u32) -> bool {
    one_namespace() && knob(KNOB_NETNS) != u64::from(netns)
}

/// Whether the connection is to be left out: by its namespace, the port of its serving side or its remote address.
#[inline(always)]
pub fn excluded(netns: u32, remote_addr: &[u8; 16], service_port: u16) -> bool {
    if elsewhere(netns) {
        return true;
    }
    let ports = knob(KNOB_PORT_FILTER);
    if ports != 0 {
        let listed = FILTER_PORTS
            .get(u32::from(service_port))
            .is_some_and(|&listed| listed != 0);
        if listed != (ports == ONLY) {
            return true;
        }
    }
    let networks = knob(KNOB_CIDR_FILTER);
    if networks != 0 {
        let listed = FILTER_NETWORKS.get(Key::new(128, *remote_addr)).is_some();
        if listed != (networks == ONLY) {
            return true;
        }
    }
    false
}

/// The same for a connection older than the programs, of which the serving side is not known: either port counts.
#[inline(always)]
pub fn excluded_older(key: &FlowKey) -> bool {
    let (local, remote) = (
        excluded(key.netns, &key.remote_addr, key.local_port),
        excluded(key.netns, &key.remote_addr, key.remote_port),
    );
    if knob(KNOB_PORT_FILTER) == ONLY {
        // A namespace that is left out is so for both.
        local && remote
    } else {
        local || remote
    }
}
