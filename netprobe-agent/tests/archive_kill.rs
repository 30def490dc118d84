//! Kills the archive, again and again, and counts what it had acknowledged against what is there.
//!
//! The test starts itself as a child that emits events, says on its standard output what is durable, and kills itself
//! with SIGKILL at a given step of its disk, or is killed at a random moment. A last child ends in order. Then every
//! acknowledged event has to be in the archive, once, and the chain has to verify.
//!
//! `NETPROBE_KILLS` is how often: a few dozen by default, a thousand in `cargo xtask validate`.

#[path = "common/history.rs"]
mod history;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use history::{history, missing};
use netprobe_agent::{
    archive::{
        Archive,
        disk::{Disk, DiskFile, Folder},
        store::Store,
    },
    config::{ArchiveConfig, Period},
    event::{Event, Flow, FlowState, Origin, Severity},
    fanout::Fanout,
};

/// Set for the child: the folder, the step at which it dies (0: it ends in order), and its run.
const CHILD: &str = "NETPROBE_KILL_CHILD";

/// The folder of a spool that ends the process at a step. Half of the time the step is done before that.
#[derive(Debug)]
struct Deadly {
    folder: Folder,
    left: Arc<AtomicU64>,
}

/// Counts a step; at the last one there is no way back.
fn step<T>(left: &AtomicU64, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut before = left.load(Ordering::Relaxed);
    while before > 0 {
        match left.compare_exchange(before, before - 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => before = now,
        }
    }
    match before {
        // Every step stands for two: dying before it, and right after.
        2 => die(),
        1 => {
            let _done = work();
            die()
        }
        _ => work(),
    }
}

#[expect(unsafe_code, reason = "the way a process kills itself without any clean-up")]
fn die() -> ! {
    // SAFETY: a signal to this process; no memory is involved.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

impl Disk for Deadly {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = step(&self.left, || self.folder.create(name))?;
        Ok(Box::new(DeadlyFile {
            file,
            left: self.left.clone(),
        }))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.folder.open(name)
    }
    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        step(&self.left, || self.folder.truncate(name, len))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        step(&self.left, || self.folder.rename(from, to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        step(&self.left, || self.folder.remove(name))
    }
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.folder.list()
    }
    fn sync_folder(&self) -> io::Result<()> {
        step(&self.left, || self.folder.sync_folder())
    }
}

struct DeadlyFile {
    file: Box<dyn DiskFile>,
    left: Arc<AtomicU64>,
}

impl DiskFile for DeadlyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left.load(Ordering::Relaxed) == 1 {
            // Killed in the middle of a write.
            let _torn = self.file.append(&bytes[..bytes.len() / 2]);
        }
        step(&self.left, || self.file.append(bytes))
    }
    fn sync(&mut self) -> io::Result<()> {
        step(&self.left, || self.file.sync())
    }
}

fn config(folder: &Path) -> ArchiveConfig {
    ArchiveConfig {
        url: format!("file://{}", folder.join("archive").display()),
        spool: folder.join("spool"),
        sync_interval: Period::millis(1),
        seal_after: Period::millis(100),
        segment_bytes: 64 << 10,
        ..ArchiveConfig::default()
    }
}

/// Not a test by itself: what the campaign starts.
#[test]
fn child() {
    let Ok(setting) = std::env::var(CHILD) else {
        return;
    };
    let mut parts = setting.splitn(3, ' ');
    let mut next = || parts.next().expect("three parts");
    let (left, run, folder) = (next().parse().expect("steps"), next(), next());
    let config = config(Path::new(folder));
    let origin = Origin::new("host", "boot", run);
    let disk = Deadly {
        folder: Folder::take(&config.spool).expect("nobody else has it"),
        left: Arc::new(AtomicU64::new(left)),
    };
    let open = {
        let config = config.clone();
        Box::new(move || Store::open(&config))
    };
    let started = Archive::start_on(&config, &origin, Arc::new(disk), open, None).expect("it always starts");
    let mut fanout = Fanout::new(origin.clone());
    fanout.add(started.sink);
    let mut said = 0;
    let begin = Instant::now();
    // In order after a while; deadly children live no longer than that either.
    while begin.elapsed() < Duration::from_millis(if left == 0 { 300 } else { 1500 }) {
        for cookie in 0..20 {
            let id = format!("boot-{cookie}").into();
            fanout.emit(Event::flow(
                &origin,
                id,
                Severity::Info,
                Flow::new(FlowState::Closed),
            ));
        }
        let durable = started.archive.report().durable_seq;
        if durable > said {
            said = durable;
            println!("durable {run} {durable}");
            io::stdout().flush().expect("the parent reads");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    fanout.shutdown(Duration::from_secs(20));
    assert_eq!(fanout.check(), Ok(()));
    println!("durable {run} {}", started.archive.report().durable_seq);
}

/// Runs a child; whether it was killed.
fn life(
    folder: &Path,
    steps: u64,
    after: Option<Duration>,
    run: u64,
    acknowledged: &mut BTreeMap<String, u64>,
) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, format!("{steps} {run:016x} {}", folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test starts");
    let lines = BufReader::new(child.stdout.take().expect("piped"));
    if let Some(after) = after {
        std::thread::sleep(after);
        child.kill().expect("it is ours");
    }
    for line in lines.lines().map_while(Result::ok) {
        // The test's own words may stand before it in the line.
        if let Some((_, said)) = line.split_once("durable ")
            && let Some((run, seq)) = said.split_once(' ')
        {
            acknowledged.insert(run.to_owned(), seq.parse().expect("a number"));
        }
    }
    let status = child.wait().expect("it ended");
    assert!(
        std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL) || status.success(),
        "a child ended with {status}"
    );
    !status.success()
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let kills: u64 = std::env::var("NETPROBE_KILLS").map_or(40, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged = BTreeMap::new();
    let (mut killed, mut random) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    for cycle in 1..=kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Three of four die at a step: the first hundred steps one after the other, then any. The rest at any moment.
        let died = if cycle % 4 > 0 {
            let steps = if cycle < 200 { cycle } else { 1 + random % 400 };
            life(folder.path(), 2 + steps, None, cycle, &mut acknowledged)
        } else {
            let after = Duration::from_micros(random % 250_000);
            life(folder.path(), u64::MAX, Some(after), cycle, &mut acknowledged)
        };
        killed += u64::from(died);
    }
    assert!(killed * 10 >= kills * 9, "only {killed} of {kills} were killed");
    assert!(!life(folder.path(), 0, None, kills + 1, &mut acknowledged));

    let found = history(&config(folder.path()));
    let (mut promised, mut lost) = (0, Vec::new());
    for (run, last) in &acknowledged {
        promised += last;
        lost.extend(missing(&found, run, *last).into_iter().map(|seq| (run, seq)));
    }
    let archived: usize = found.values().map(BTreeSet::len).sum();
    println!(
        "kills {killed} of {kills} lives, acknowledged {promised}, archived {archived}, missing {}",
        lost.len()
    );
    assert!(promised > 0, "an empty campaign proves nothing");
    assert_eq!(lost, [], "acknowledged and not archived");
}
