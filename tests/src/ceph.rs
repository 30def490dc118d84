//! A real Ceph of one node: monitor, object store daemon and RADOS gateway from the distribution's packages, in a
//! folder, on the loopback, without anything of the host's own configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::agent::free_port;
use crate::wait_for;

/// Its one user.
const ACCESS_KEY: &str = "netprobe";
const SECRET_KEY: &str = "netprobe-secret";

/// Pools the gateway wants; it would make them itself, one after the other and slowly.
const POOLS: &[&str] = &[
    ".rgw.root",
    "default.rgw.log",
    "default.rgw.control",
    "default.rgw.meta",
    "default.rgw.buckets.index",
    "default.rgw.buckets.data",
    "default.rgw.buckets.non-ec",
];

/// The cluster; its daemons end with it.
pub struct Cluster {
    /// By name. They end before their folder goes.
    daemons: BTreeMap<&'static str, Daemon>,
    port: u16,
    folder: tempfile::TempDir,
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is ours, and holds nothing anybody wants.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster {
    /// The daemon that speaks S3.
    pub const GATEWAY: &'static str = "radosgw";
    /// The daemon that keeps the objects.
    pub const STORE: &'static str = "ceph-osd";
    const MONITOR: &'static str = "ceph-mon";

    /// Name of a key for server-side encryption (aws:kms).
    pub const KEY: &'static str = "test-key";

    /// Makes and starts one.
    pub fn start() -> Result<Cluster> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let mut cluster = Cluster {
            daemons: BTreeMap::new(),
            port,
            folder,
        };
        cluster.make()?;
        cluster.start_again(Cluster::GATEWAY)?;
        Ok(cluster)
    }

    /// Where the gateway listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The same as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Writes a file with the credentials, as the agent reads it.
    pub fn credentials(&self) -> Result<PathBuf> {
        let file = self.path("credentials.toml");
        let text = format!("access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"\n");
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Makes a bucket; with a lock nothing in it can be replaced or removed for a day.
    pub fn bucket(&self, name: &str, locked: bool) -> Result<()> {
        if !locked {
            return self.ask(&["-X", "PUT"], name).map(drop);
        }
        self.ask(
            &["-X", "PUT", "-H", "x-amz-bucket-object-lock-enabled: true"],
            name,
        )?;
        let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        self.ask(&["-X", "PUT", "-d", rule], &format!("{name}?object-lock="))
            .map(drop)
    }

    /// A signed request to the gateway; its answer.
    pub fn ask(&self, arguments: &[&str], path: &str) -> Result<String> {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--fail",
                "-m",
                "10",
                "--aws-sigv4",
                "aws:amz:us-east-1:s3",
                "--user",
            ])
            .arg(format!("{ACCESS_KEY}:{SECRET_KEY}"))
            .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
            .args(arguments)
            .arg(format!("{}/{path}", self.endpoint()))
            .output()?;
        ensure!(
            output.status.success(),
            "{arguments:?} {path}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills a daemon on the spot.
    pub fn kill(&mut self, daemon: &'static str) {
        self.daemons.remove(daemon);
    }

    /// Starts a daemon and waits until an object goes to the store and back: the gateway answers long before that.
    pub fn start_again(&mut self, daemon: &'static str) -> Result<()> {
        self.daemon(daemon)?;
        wait_for("an object in the store", Duration::from_secs(90), || {
            self.ask(&["-X", "PUT"], "ready").ok()?;
            self.ask(&["-X", "PUT", "-d", "object"], "ready/object").ok()?;
            (self.ask(&[], "ready/object").ok()? == "object").then_some(())
        })
        .with_context(|| self.log(daemon))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{name}.out"))).unwrap_or_default();
        let from = text.len().saturating_sub(2000);
        text.get(from..).unwrap_or_default().to_owned()
    }

    fn make(&mut self) -> Result<()> {
        let (monitor, first) = (free_port()?, free_port()?);
        let uuid =
            || std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|text| text.trim().to_owned());
        let (cluster, osd) = (uuid()?, uuid()?);
        let folder = self.folder.path().to_owned();
        for name in ["mon", "osd", "run"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::write(
            self.path("ceph.conf"),
            settings(&folder, &cluster, monitor, first, self.port),
        )?;
        let map = self.path("monmap");
        let map = map.to_str().context("a path in UTF-8")?;
        let address = format!("[v2:127.0.0.1:{monitor}/0]");
        self.run(
            Command::new("monmaptool").args(["--create", "--fsid", &cluster, "--addv", "a", &address, map]),
        )?;
        self.run(Command::new("ceph-mon").args(["-i", "a", "--mkfs", "--monmap", map]))?;
        self.daemon(Cluster::MONITOR)?;
        // One process for all of them: each costs a second of Python.
        let mut orders = format!("osd new {osd} 0\n");
        for pool in POOLS {
            orders += &format!("osd pool create {pool} 4 4\nosd pool application enable {pool} rgw\n");
        }
        self.order(&orders)?;
        // The monitor answers from here on; on a loaded machine not much earlier.
        self.run(Command::new("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", &osd]))?;
        self.daemon(Cluster::STORE)?;
        self.run(Command::new("radosgw-admin").args([
            "-n",
            "client.rgw",
            "user",
            "create",
            "--uid=netprobe",
            "--display-name=netprobe",
            &format!("--access-key={ACCESS_KEY}"),
            &format!("--secret-key={SECRET_KEY}"),
        ]))
    }

    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("CEPH_CONF", self.path("ceph.conf"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let output = self.environment(command).output()?;
        ensure!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn order(&self, orders: &str) -> Result<()> {
        let mut command = Command::new("timeout");
        command.args(["60", "ceph"]);
        let mut child = self
            .environment(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("piped")?
            .write_all(orders.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "ceph: {}{}",
                String::from_utf8_lossy(&output.stderr),
                self.log(Cluster::MONITOR)
            );
        }
        Ok(())
    }

    fn daemon(&mut self, name: &'static str) -> Result<()> {
        let id: &[&str] = match name {
            Cluster::GATEWAY => &["-n", "client.rgw"],
            Cluster::STORE => &["-i", "0"],
            _ => &["-i", "a"],
        };
        let log = std::fs::File::create(self.path(&format!("{name}.out")))?;
        let child = self
            .environment(Command::new(name).args(id))
            .arg("-f")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        self.daemons.insert(name, Daemon(child));
        Ok(())
    }
}

/// What makes one node enough: no authentication, one copy of everything, no cleaning, no waiting.
fn settings(folder: &Path, cluster: &str, monitor: u16, first: u16, gateway: u16) -> String {
    let folder = folder.display();
    let last = first.saturating_add(20);
    let key = Cluster::KEY;
    format!(
        "[global]
fsid = {cluster}
mon_host = [v2:127.0.0.1:{monitor}/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_port_min = {first}
ms_bind_port_max = {last}
ms_bind_msgr1 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
objecter_tick_interval = 0.5
osd_client_watch_timeout = 5
mon_data = {folder}/mon
osd_data = {folder}/osd
run_dir = {folder}/run
admin_socket = {folder}/run/$name.asok
pid_file = {folder}/run/$name.pid
log_file = {folder}/$name.log
crash_dir = {folder}/run
keyring = /dev/null
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 10000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_crush_initial_weight = 1
osd_objectstore = bluestore
osd_memory_target = 939524096
osd_memory_cache_min = 67108864
bluestore_block_size = 2147483648
bluestore_block_wal_create = false
bluestore_block_db_create = false
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{gateway}
rgw_enable_usage_log = false
rgw_dynamic_resharding = false
rgw_run_sync_thread = false
rgw_num_control_oids = 1
rgw_gc_max_objs = 4
rgw_lc_max_objs = 1
rgw_objexp_hints_num_shards = 1
rgw_data_log_num_shards = 1
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = {key}=bmV0cHJvYmUncyB0ZXN0cyBuZWVkIDMyIGJ5dGVzISE=
"
    )
}
