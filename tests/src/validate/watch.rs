//! conntrack's own events during a batch.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::{tools, truth, wait_for};

/// Source and destination of one direction.
pub(super) type Key = (SocketAddr, SocketAddr);

/// A running `conntrack -E`.
pub(super) struct Conntrack {
    child: Child,
    reader: Option<JoinHandle<BTreeMap<Key, Vec<Key>>>>,
}

impl Conntrack {
    pub(super) fn start(lab: &Lab, netns: &str) -> Result<Self> {
        let program = tools::find("conntrack").context("conntrack is not installed")?;
        let mut child = tools::within(&lab.path(netns), || {
            Command::new(program)
                .args(["-E", "-e", "NEW", "-p", "tcp", "-o", "extended", "-b", "33554432"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("conntrack does not start")
        })?;
        let stdout = child.stdout.take().context("conntrack has no stdout")?;
        let reader = std::thread::spawn(move || read(stdout));
        let watch = Self {
            child,
            reader: Some(reader),
        };
        wait_for("conntrack to listen", Duration::from_secs(30), || {
            listens(watch.child.id()).then_some(())
        })?;
        Ok(watch)
    }

    /// Ends it: original direction → reply directions, one for each time the original was used.
    pub(super) fn stop(mut self) -> Result<BTreeMap<Key, Vec<Key>>> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        self.child.wait()?;
        let reader = self.reader.take().context("already stopped")?;
        reader
            .join()
            .map_err(|_| anyhow!("the reader of conntrack's events panicked"))
    }
}

/// Whether a socket of this process has joined a group of netlink's.
fn listens(pid: u32) -> bool {
    const GROUPS: usize = 3;
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let sockets: Vec<String> = files
        .filter_map(|file| Some(std::fs::read_link(file.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap_or_default();
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (Some(groups), Some(inode)) = (fields.get(GROUPS), fields.last()) else {
            return false;
        };
        groups.bytes().any(|digit| digit != b'0') && sockets.contains(&format!("socket:[{inode}]"))
    })
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stdout: impl Read) -> BTreeMap<Key, Vec<Key>> {
    let mut entries: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
    let lines = BufReader::with_capacity(1 << 20, stdout).lines();
    for entry in lines
        .map_while(Result::ok)
        .filter_map(|line| truth::parse_conntrack(&line))
    {
        let reply = (entry.reply.src(), entry.reply.dst());
        entries
            .entry((entry.orig.src(), entry.orig.dst()))
            .or_default()
            .push(reply);
    }
    entries
}
