//! Network namespaces for the integration tests. Root is required: a test that cannot make one fails.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use netprobe_agent::kernel::netns::NetNs;

/// A namespace with loopback up, removed on drop.
pub(crate) struct TestNs {
    pub(crate) name: String,
    pub(crate) ns: NetNs,
}

impl TestNs {
    pub(crate) fn new(label: &str) -> TestNs {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "np-{label}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run("ip", &["netns", "add", &name]);
        let path = PathBuf::from("/run/netns").join(&name);
        let inode = fs::metadata(&path).expect("namespace file").ino();
        let ns = TestNs {
            name,
            ns: NetNs {
                inode,
                path,
                pid: None,
            },
        };
        ns.exec(&["ip", "link", "set", "lo", "up"]);
        ns
    }

    /// Runs a command inside and gives its standard output.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        let mut arguments = vec!["netns", "exec", &self.name];
        arguments.extend(command);
        run("ip", &arguments)
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        // A panic here would hide the test's own.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {arguments:?} (these tests need root): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}
