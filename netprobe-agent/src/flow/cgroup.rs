//! What a cgroup path tells about its processes: systemd unit and container; and the path of a cgroup id.
//!
//! The id in a record is what the kernel saw at that moment. It leads to the path also when the process is
//! already gone, so that short-lived processes still get their unit and container.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    num::NonZeroUsize,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    sync::Arc,
};

use lru::LruCache;

/// Cgroups remembered; a host has some hundreds.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A cgroup and what its path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Path below the root of the hierarchy.
    pub path: Arc<str>,
    /// Innermost systemd service or scope.
    pub unit: Option<Arc<str>>,
    /// Innermost container.
    pub container: Option<Container>,
}

/// A container, as far as its cgroup tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits; for LXC, its name.
    pub id: Arc<str>,
    /// The name, where the path holds it (LXC).
    pub name: Option<Arc<str>>,
}

impl Cgroup {
    /// Reads a path such as `/system.slice/nginx.service`.
    pub fn from_path(path: &str) -> Cgroup {
        let container = container(path);
        let unit = unit(path).filter(|unit| !(container.is_some() && RUNTIMES.contains(unit)));
        Cgroup {
            path: path.into(),
            unit: unit.map(Into::into),
            container,
        }
    }
}

/// Services that start containers below their own cgroup: not the unit of what runs in those.
const RUNTIMES: [&str; 4] = [
    "containerd.service",
    "docker.service",
    "crio.service",
    "kubelet.service",
];

fn unit(path: &str) -> Option<&str> {
    path.rsplit('/')
        .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
}

/// Docker, containerd, CRI-O and Podman name the cgroup by the id, bare or after a prefix
/// (`docker-ID.scope`, `cri-containerd-ID.scope`, `…slice:cri-containerd:ID`); LXC by the name.
fn container(path: &str) -> Option<Container> {
    let mut parts = path.rsplit('/').peekable();
    while let Some(part) = parts.next() {
        let bare = part.strip_suffix(".scope").unwrap_or(part);
        let (prefix, id) = match bare.rfind(['-', ':']) {
            Some(at) => (&bare[..at], &bare[at + 1..]),
            None => ("", bare),
        };
        // conmon watches the container from outside.
        if is_id(id) && !prefix.ends_with("conmon") {
            return Some(Container {
                id: id.into(),
                name: None,
            });
        }
        let lxc = part.strip_prefix("lxc.payload.").or_else(|| {
            (parts
                .peek()
                .is_some_and(|parent| *parent == "lxc" || *parent == "lxc.payload"))
            .then_some(part)
        });
        if let Some(name) = lxc.filter(|name| !name.is_empty()) {
            let name: Arc<str> = name.into();
            return Some(Container {
                id: name.clone(),
                name: Some(name),
            });
        }
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Picks the path out of `/proc/<pid>/cgroup`: the v2 line, or systemd's own hierarchy where v2 holds nothing.
pub(crate) fn path_of_process(text: &str) -> Option<&str> {
    let after = |prefix: &str| {
        // A removed cgroup, still held by a zombie, is marked.
        text.lines()
            .find_map(|line| line.strip_prefix(prefix))
            .map(|p| p.trim_end_matches(" (deleted)"))
    };
    let v2 = after("0::");
    let systemd = || {
        text.lines()
            .find_map(|line| line.split_once(":name=systemd:"))
            .map(|(_, path)| path)
    };
    v2.filter(|path| *path != "/").or_else(systemd).or(v2)
}

/// Paths by cgroup id (the inode of the folder in cgroup v2).
#[derive(Debug)]
pub(crate) struct CgroupIds {
    mount: Option<(File, PathBuf)>,
    known: LruCache<u64, Arc<Cgroup>>,
}

impl CgroupIds {
    /// Finds the cgroup v2 mount. Without one, or without CAP_DAC_READ_SEARCH, no id is known.
    pub(crate) fn new() -> CgroupIds {
        let mount = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| {
            let point = PathBuf::from(v2_mount(&text)?);
            Some((File::open(&point).ok()?, point))
        });
        CgroupIds {
            mount,
            known: LruCache::new(CAPACITY),
        }
    }

    /// The cgroup of an id, if it still exists. The root tells nothing on hybrid hosts and is left out.
    pub(crate) fn get(&mut self, id: u64) -> Option<Arc<Cgroup>> {
        if let Some(found) = self.known.get(&id) {
            return Some(found.clone());
        }
        let (mount, point) = self.mount.as_ref()?;
        let folder = open_by_id(mount, id).ok()?;
        let link = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).ok()?;
        let below = link.strip_prefix(point).ok()?.to_str()?;
        if below.is_empty() {
            return None;
        }
        let cgroup = Arc::new(Cgroup::from_path(&format!(
            "/{}",
            below.trim_end_matches(" (deleted)")
        )));
        self.known.put(id, cgroup.clone());
        Some(cgroup)
    }
}

/// Mount point of the whole cgroup v2 tree.
fn v2_mount(mountinfo: &str) -> Option<OsString> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let whole = root == "/" && back.starts_with("cgroup2 ");
        // A mount point with escapes does not open and counts as none.
        whole.then(|| OsString::from_vec(point.as_bytes().to_vec()))
    })
}

/// Opens a cgroup folder by its id.
fn open_by_id(mount: &File, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` with kernfs's 8-byte handle.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: u64,
    }
    const FILEID_KERNFS: i32 = 0xfe;
    let mut handle = Handle {
        bytes: 8,
        kind: FILEID_KERNFS,
        id,
    };
    // SAFETY: the call reads a header of 8 bytes and as many more as `bytes` says, all inside `handle`, which
    // outlives it; the descriptor is open.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just returned by the kernel, owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(path: &str) -> (Option<String>, Option<String>, Option<String>) {
        let c = Cgroup::from_path(&path.replace("ID", ID));
        let (id, name) = c
            .container
            .map_or((None, None), |c| (Some(c.id.to_string()), c.name));
        (
            c.unit.map(|u| u.replace(ID, "ID")),
            id.map(|i| i.replace(ID, "ID")),
            name.map(|n| n.to_string()),
        )
    }

    #[test]
    fn units_and_containers() {
        let cases = [
            ("/", None, None),
            ("/system.slice/nginx.service", Some("nginx.service"), None),
            ("/system.slice/ssh.service/worker", Some("ssh.service"), None),
            (
                "/user.slice/user-0.slice/session-3.scope",
                Some("session-3.scope"),
                None,
            ),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/web.service",
                Some("web.service"),
                None,
            ),
            (
                "/system.slice/docker-ID.scope",
                Some("docker-ID.scope"),
                Some("ID"),
            ),
            (
                "/system.slice/docker-ID.scope/system.slice/nginx.service",
                Some("nginx.service"),
                Some("ID"),
            ),
            ("/docker/ID", None, Some("ID")),
            (
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
                Some("cri-containerd-ID.scope"),
                Some("ID"),
            ),
            ("/kubepods/besteffort/pod1/ID", None, Some("ID")),
            (
                "/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:ID",
                None,
                Some("ID"),
            ),
            (
                "/kubepods.slice/crio-ID.scope/container",
                Some("crio-ID.scope"),
                Some("ID"),
            ),
            (
                "/kubepods.slice/crio-conmon-ID.scope",
                Some("crio-conmon-ID.scope"),
                None,
            ),
            (
                "/machine.slice/libpod-ID.scope/container",
                Some("libpod-ID.scope"),
                Some("ID"),
            ),
            (
                "/machine.slice/libpod-conmon-ID.scope",
                Some("libpod-conmon-ID.scope"),
                None,
            ),
            (
                "/system.slice/web.service/libpod-payload-ID",
                Some("web.service"),
                Some("ID"),
            ),
            ("/system.slice/docker.service", Some("docker.service"), None),
            ("/lxc.monitor.web1", None, None),
            // Not 64 lowercase hexadecimal digits.
            ("/docker/0123456789abcdef", None, None),
            ("/docker/xID", None, None),
        ];
        for (path, unit, id) in cases {
            let (u, i, _) = read(path);
            assert_eq!((u.as_deref(), i.as_deref()), (unit, id), "{path}");
        }
        let web = Some("web1".to_owned());
        assert_eq!(
            read("/lxc.payload.web1/system.slice/a.service"),
            (Some("a.service".into()), web.clone(), web.clone())
        );
        assert_eq!(read("/lxc/web1/init"), (None, web.clone(), web));
    }

    #[test]
    fn path_of_a_process_on_each_kind_of_host() {
        assert_eq!(path_of_process("0::/a.service\n"), Some("/a.service"));
        let hybrid = "9:name=systemd:/b.service\n4:memory:/c\n0::/\n";
        assert_eq!(path_of_process(hybrid), Some("/b.service"));
        let both = "1:name=systemd:/b.service\n0::/a.service\n";
        assert_eq!(path_of_process(both), Some("/a.service"));
        assert_eq!(path_of_process("0::/\n"), Some("/"));
        assert_eq!(path_of_process("0::/a.service (deleted)\n"), Some("/a.service"));
        assert_eq!(path_of_process("4:memory:/c\n"), None);
    }

    #[test]
    fn mount_of_the_whole_tree() {
        let text = "30 24 0:26 /sub /other rw - cgroup2 cgroup2 rw\n31 24 0:26 / /sys/fs/cgroup rw - tmpfs t rw\n\
            32 31 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(v2_mount(text).unwrap(), "/sys/fs/cgroup/unified");
        assert_eq!(v2_mount("31 24 0:26 / /sys/fs/cgroup rw - tmpfs t rw\n"), None);
    }

    /// Needs root and cgroup v2, as the agent does.
    #[test]
    fn id_leads_to_the_path() {
        let mut ids = CgroupIds::new();
        let (_, point) = ids.mount.as_ref().expect("cgroup v2 is mounted");
        let folder = point.join(format!("np-unit-{}.service", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let id = fs::metadata(&folder).unwrap().ino();
        let found = ids.get(id);
        fs::remove_dir(&folder).unwrap();
        let found = found.expect("found by id");
        assert_eq!(found.path.strip_prefix('/'), folder.file_name().unwrap().to_str());
        assert_eq!(found.unit.as_deref(), folder.file_name().unwrap().to_str());
        // Remembered, though it is gone.
        assert_eq!(ids.get(id), Some(found));
        // A cgroup that is gone and was not asked for is not known.
        assert_eq!(CgroupIds::new().get(id), None);
    }
}
