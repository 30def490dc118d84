//! Privileges: what is not needed is given up, so that a mistake in what reads the network cannot use it.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

/// What the agent needs after its programs are attached. `docs/privileges.md` says what goes without each.
pub const RUNNING: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// No program the agent might start, and it starts none, can gain what the agent does not have.
pub fn gain_nothing() {
    if let Err(error) = set_no_new_privs(true) {
        tracing::warn!(%error, "no_new_privs could not be set");
    }
}

/// Gives up every capability but these, in this thread and in those it will start. There is no way back.
pub fn keep(kept: CapabilitySet) {
    if let Err(error) = try_keep(kept) {
        tracing::warn!(%error, "capabilities that are not needed could not be given up");
    }
}

fn try_keep(kept: CapabilitySet) -> rustix::io::Result<()> {
    // The bounding set first: emptying it takes a capability. Whoever lacks that has no more to fear from it.
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // Not every kernel knows every capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(rustix::io::Errno::PERM) => break,
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    let now = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: now.effective & kept,
            permitted: now.permitted & kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Lets the agent open as many files as the system allows: each client is one.
pub fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_gone_in_this_thread_alone() {
        let before = capabilities(None).unwrap();
        std::thread::spawn(|| {
            keep(CapabilitySet::NET_ADMIN);
            let now = capabilities(None).unwrap();
            assert!(
                (now.effective | now.permitted)
                    .difference(CapabilitySet::NET_ADMIN)
                    .is_empty()
            );
            assert!(now.inheritable.is_empty());
            // There is no way back.
            let all = CapabilitySets {
                effective: CapabilitySet::SYS_ADMIN,
                permitted: CapabilitySet::SYS_ADMIN,
                inheritable: CapabilitySet::empty(),
            };
            assert!(set_capabilities(None, all).is_err());
            keep(CapabilitySet::empty());
            assert!(capabilities(None).unwrap().permitted.is_empty());
        })
        .join()
        .unwrap();
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
