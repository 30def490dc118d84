//! Against real processes. Root is required, as for the agent.

use std::{
    env,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;

fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn seen(pid: u32, comm: &str) -> Seen {
    let mut bytes = [0; 16];
    bytes[..comm.len()].copy_from_slice(comm.as_bytes());
    Seen {
        tgid: pid,
        tid: pid,
        uid: 7,
        reserved: 0,
        cgroup_id: 0,
        comm: bytes,
    }
}

fn cache() -> ProcessCache {
    let cache = ProcessCache::new(DEFAULT_CAPACITY);
    assert!(!cache.blind(), "these tests need the initial pid namespace");
    cache
}

/// A child that is killed at the end.
struct Running(Child);

impl Running {
    fn new(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    fn sleep() -> Running {
        let running = Running::new(Command::new("sleep").arg("60"));
        running.until_comm("sleep");
        running
    }

    fn until_comm(&self, comm: &str) {
        let path = format!("/proc/{}/comm", self.0.id());
        let reached = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            fs::read_to_string(&path).unwrap().trim_end() == comm
        });
        assert!(reached, "{path} is {comm}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn which(program: &str) -> PathBuf {
    let path = env::var("PATH").unwrap();
    let found = path
        .split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|p| p.exists())
        .unwrap();
    found.canonicalize().unwrap()
}

fn exe(identity: &Identity) -> Option<PathBuf> {
    identity.process.exe.as_deref().map(PathBuf::from)
}

#[test]
fn a_live_process_is_read_once_and_then_remembered() {
    let child = Running::sleep();
    let mut cache = cache();
    let first = cache.lookup(&seen(child.0.id(), "sleep"), now()).unwrap();
    assert_eq!(exe(&first), Some(which("sleep")));
    assert_eq!(
        (first.process.comm.as_deref(), first.process.uid),
        (Some("sleep"), Some(7))
    );
    assert_eq!(first.process.pid, child.0.id());
    let again = cache.lookup(&seen(child.0.id(), "sleep"), now()).unwrap();
    assert!(Arc::ptr_eq(&first.process, &again.process));
    assert_eq!(
        cache.counters(),
        ProcessCounters {
            hits: 1,
            misses: 1,
            ..Default::default()
        }
    );
}

#[test]
fn a_process_that_is_gone_keeps_what_the_kernel_saw_and_its_cgroup() {
    let mount = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mount
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"))
        .expect("cgroup v2");
    let unit = format!("np-gone-{}.service", std::process::id());
    let folder = Path::new(mount.split(' ').nth(1).unwrap()).join(&unit);
    fs::create_dir(&folder).unwrap();
    let child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    { child }.wait().unwrap();

    let mut cache = cache();
    let with_cgroup = Seen {
        cgroup_id: fs::metadata(&folder).unwrap().ino(),
        ..seen(pid, "true")
    };
    let identity = cache.lookup(&with_cgroup, now());
    fs::remove_dir(&folder).unwrap();
    let identity = identity.unwrap();
    assert_eq!(
        (identity.process.comm.as_deref(), exe(&identity)),
        (Some("true"), None)
    );
    assert_eq!(identity.process.unit.as_deref(), Some(&*unit));
    assert_eq!(&*identity.service, unit);
    assert_eq!(
        cache.counters(),
        ProcessCounters {
            misses: 1,
            gone: 1,
            ..Default::default()
        }
    );
}

#[test]
fn a_process_younger_than_the_record_is_another_one() {
    let before = now();
    // Start times are known to 10 ms.
    std::thread::sleep(Duration::from_millis(30));
    let child = Running::sleep();
    let mut cache = cache();
    let of = seen(child.0.id(), "sleep");
    let old = cache.lookup(&of, before).unwrap();
    assert_eq!((exe(&old), cache.counters().gone), (None, 1));
    assert_eq!(
        old.process.cgroup, None,
        "the cgroup of the younger process is not its own"
    );

    // The present owner, and after it a late record of the earlier one.
    let mut cache = ProcessCache::new(DEFAULT_CAPACITY);
    assert_eq!(exe(&cache.lookup(&of, now()).unwrap()), Some(which("sleep")));
    assert_eq!(exe(&cache.lookup(&of, before).unwrap()), None);
    assert_eq!(exe(&cache.lookup(&of, now()).unwrap()), Some(which("sleep")));
    assert_eq!(
        cache.counters(),
        ProcessCounters {
            hits: 1,
            misses: 2,
            gone: 1,
            ..Default::default()
        }
    );
}

#[test]
fn an_executed_program_does_not_lend_its_path_to_the_one_before() {
    let mut child = Running::new(Command::new("sh").args(["-c", "read x; exec sleep 60"]));
    child.until_comm("sh");
    let as_shell = seen(child.0.id(), "sh");
    let mut early = cache();
    assert_eq!(exe(&early.lookup(&as_shell, now()).unwrap()), Some(which("sh")));
    let at = now();
    writeln!(child.0.stdin.as_mut().unwrap()).unwrap();
    child.until_comm("sleep");

    let mut cache = cache();
    let late = cache.lookup(&as_shell, at).unwrap();
    assert_eq!((late.process.comm.as_deref(), exe(&late)), (Some("sh"), None));
    assert_eq!(
        cache.counters(),
        ProcessCounters {
            misses: 1,
            unsure: 1,
            ..Default::default()
        }
    );
    let after = cache.lookup(&seen(child.0.id(), "sleep"), now()).unwrap();
    assert_eq!(exe(&after), Some(which("sleep")));
}

#[test]
fn an_exec_under_the_same_name_is_noticed_at_the_recheck() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    for (folder, from) in [(&a, "sh"), (&b, "sleep")] {
        fs::create_dir(folder).unwrap();
        fs::copy(which(from), folder.join("np-same")).unwrap();
    }
    let (a, b) = (a.join("np-same"), b.join("np-same"));
    let script = format!("read x; exec {} 60", b.display());
    let mut child = Running::new(Command::new(&a).args(["-c", &script]));
    child.until_comm("np-same");
    let mut cache = cache();
    let (of, at) = (seen(child.0.id(), "np-same"), now());
    assert_eq!(exe(&cache.lookup(&of, at).unwrap()), Some(a.clone()));
    writeln!(child.0.stdin.as_mut().unwrap()).unwrap();
    let link = format!("/proc/{}/exe", child.0.id());
    let executed = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        fs::read_link(&link).unwrap() == b
    });
    assert!(executed);
    assert_eq!(exe(&cache.lookup(&of, at + RECHECK_NS - 1).unwrap()), Some(a));
    assert_eq!(exe(&cache.lookup(&of, at + RECHECK_NS).unwrap()), Some(b));
}

#[test]
fn a_thread_with_a_name_of_its_own_belongs_to_its_process() {
    let mut cache = cache();
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let worker = std::thread::Builder::new().name("np-worker".into());
    let (of, identity) = std::thread::scope(|scope| {
        let cache = &mut cache;
        let run = move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            let of = Seen {
                tid,
                ..seen(std::process::id(), "np-worker")
            };
            let identity = cache.lookup(&of, now()).unwrap();
            (of, identity)
        };
        worker.spawn_scoped(scope, run).unwrap().join().unwrap()
    });
    assert_eq!(identity.process.comm.as_deref(), Some(name.trim_end()));
    assert_eq!(exe(&identity), Some(env::current_exe().unwrap()));

    // Once the thread has ended, its name could as well be that of a program before an exec.
    let late = ProcessCache::new(DEFAULT_CAPACITY).lookup(&of, now()).unwrap();
    assert_eq!(
        (late.process.comm.as_deref(), exe(&late)),
        (Some("np-worker"), None)
    );
}

#[test]
fn bounded_and_counted() {
    let mut cache = ProcessCache::new(NonZeroUsize::new(2).unwrap());
    for pid in [1, 2, 1, 3] {
        cache.lookup(&seen(pid, "np-none"), now()).unwrap();
    }
    assert_eq!((cache.len(), cache.counters().evicted), (2, 1));
    // The least recently used one was forgotten.
    let before = cache.counters();
    cache.lookup(&seen(1, "np-none"), now()).unwrap();
    assert_eq!(cache.counters().hits, before.hits + 1);
    cache.lookup(&seen(2, "np-none"), now()).unwrap();
    assert_eq!(cache.counters().misses, before.misses + 1);
}

#[test]
fn no_process_no_identity() {
    assert_eq!(cache().lookup(&Seen::default(), now()), None);
}

#[test]
fn a_process_that_lives_now() {
    let identity = identify_live(std::process::id()).unwrap();
    assert_eq!(exe(&identity), Some(env::current_exe().unwrap()));
    assert_eq!(identity.process.uid, Some(rustix::process::geteuid().as_raw()));
    assert!(identify_live(u32::MAX).is_err());
}

#[test]
fn services() {
    let id = "a".repeat(64);
    let name = |path: &str| {
        let cgroup = Cgroup::from_path(path);
        identity(1, "cmd".into(), None, None, Some(&cgroup))
            .service
            .to_string()
    };
    assert_eq!(name("/system.slice/nginx.service"), "nginx.service");
    assert_eq!(name("/user.slice/user-0.slice/session-3.scope"), "cmd");
    assert_eq!(
        name("/user.slice/user-1.slice/user@1.service/app.slice/x.scope"),
        "cmd"
    );
    assert_eq!(name("/lxc.payload.web1/system.slice/nginx.service"), "web1");
    // The name of such a container is not in its path.
    assert_eq!(name(&format!("/docker/{id}")), "cmd");
    assert_eq!(name("/"), "cmd");
}

#[test]
fn stat_with_any_name() {
    let line =
        |comm: &str| format!("42 ({comm}) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 2 3\n");
    for comm in ["sh", "a b", "a) S 9 (b", "(", ")"] {
        assert_eq!(
            parse_stat(line(comm).as_bytes()),
            Some((comm.as_bytes(), 777)),
            "{comm}"
        );
    }
    assert_eq!(parse_stat(b"42 (sh) S 1\n"), None);
    assert_eq!(parse_stat(b")42("), None);
}
