//! What is measured and by which methods, as data: the ladder. First that attaches wins.

mod members;
mod table;

pub use table::FACTS;

/// The method of `lifecycle` for kernels that give tracing programs no socket storage. The state of connections is one for
/// all programs, so this choice is made for the object as a whole.
pub const STATE_IN_HASH: &str = "tp_btf+hash";

/// Methods, by fact, whose programs keep something in the socket's own storage.
pub const IN_STORAGE: &[(&str, &str)] = &[
    ("lifecycle", "tp_btf"),
    ("udp", "tp_btf+cgroup"),
    (REQUESTS, "cgroup_skb"),
    (TLS, "uprobe"),
];

/// The fact that requests are made of.
pub const REQUESTS: &str = "requests";
/// The fact that those in encrypted connections are made of, beside it.
pub const TLS: &str = "tls";

/// The program that does what `set_state` could not because it was running already.
pub const SECOND_CHANCE: &str = "set_state_again";

/// How one program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A BTF tracepoint.
    TpBtf(&'static str),
    /// Exit of a function that is in the kernel image.
    FExit(&'static str),
    /// The same where there is such a function; where there is none, nothing passes by it.
    FExitIfAny(&'static str),
    /// Entry of any function, modules too.
    Kprobe(&'static str),
    /// Return of any function.
    Kretprobe(&'static str),
    /// UDP send or receive with an address, at the root of cgroup v2.
    CgroupSockAddr,
    /// Connects and handshakes done, at the root of cgroup v2.
    SockOps,
    /// Packets that local sockets send, at the root of cgroup v2.
    PacketOut,
    /// Packets that local sockets get, at the root of cgroup v2.
    PacketIn,
    /// Entry of this function in every TLS library; one that has none is as good.
    Library(&'static str),
    /// Returns of these functions in every TLS library.
    LibraryReturns(&'static [&'static str]),
}

/// A program of the BPF object and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program.
    pub program: &'static str,
    /// Where it is attached.
    pub attach: Attach,
}

/// One way to learn a fact.
#[derive(Debug)]
pub struct Method {
    /// Name, as in `--method fact=method`.
    pub name: &'static str,
    /// All must attach. Empty: served by the agent without a program.
    pub hooks: &'static [Hook],
    /// Members of kernel structs without which the programs would guess.
    pub members: &'static [usize],
    /// Oldest kernel on which it can work.
    pub floor: &'static str,
    /// What it cannot see, next to the better methods; empty: nothing.
    pub limits: &'static str,
}

/// Something the probe measures.
#[derive(Debug)]
pub struct Fact {
    /// Name.
    pub name: &'static str,
    /// Whether the agent refuses to run without it.
    pub required: bool,
    /// Best first.
    pub methods: &'static [Method],
}

/// The oldest kernel with a method for every required fact.
pub fn floor() -> Option<(u32, u32)> {
    let oldest = |fact: &Fact| {
        fact.methods
            .iter()
            .filter_map(|method| version(method.floor))
            .min()
    };
    FACTS.iter().filter(|fact| fact.required).filter_map(oldest).max()
}

/// Major and minor number of a kernel's release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The fact called `name`.
pub fn fact(name: &str) -> Option<&'static Fact> {
    FACTS.iter().find(|fact| fact.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_floor_is_a_version_and_some_kernel_is_too_old() {
        for method in FACTS.iter().flat_map(|fact| fact.methods) {
            assert!(version(method.floor).is_some(), "{method:?}");
        }
        assert!(floor() > version("4.19.0-test"));
    }
}
