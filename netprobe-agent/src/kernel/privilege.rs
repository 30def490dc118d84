//! What this process may do: the capability an attachment lacks, by name.

use rustix::thread::{CapabilitySet, capabilities};

use super::facts::Attach;

/// The capability without which the kernel refuses `attach`, if this process lacks it.
pub fn missing(attach: Attach) -> Option<&'static str> {
    let held = capabilities(None).ok()?.effective;
    let (needed, name) = match attach {
        Attach::CgroupSockAddr | Attach::SockOps | Attach::PacketOut | Attach::PacketIn => {
            (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN")
        }
        _ => (CapabilitySet::PERFMON, "CAP_PERFMON"),
    };
    // The old capability that contains both, for BPF.
    (!held.intersects(needed | CapabilitySet::SYS_ADMIN)).then_some(name)
}
