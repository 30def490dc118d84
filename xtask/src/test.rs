//! `cargo xtask test` and `cargo xtask vm test`: everything there is, and a count that cannot hide a gap.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::ebpf;
use crate::engine;
use crate::follow::{self, Ended};
use crate::packages::{self, Need};
use crate::report::{self, Report};
use crate::sh::{self, say};
use crate::vm::kernels;
use crate::web;

mod machines;

use machines::Programs;
pub(crate) use machines::on_kernels;

/// The longest a test may say nothing before its run is stopped.
const SILENCE: Duration = Duration::from_secs(300);

/// Set-up, build, unit tests, then the truth tests on this kernel or, where it cannot, in a machine.
pub(crate) fn everything(filter: Option<&str>) -> Result<()> {
    packages::ensure(Need::Test)?;
    web::modules()?;
    engine::ensure()?;
    let agent = build::agent()?;
    let truth = build::truth()?;
    let mut reports = vec![
        unit(
            "unit tests",
            &[
                &["--workspace", "--exclude", "netprobe-tests"],
                &build::FEATURES[..],
            ]
            .concat(),
            filter,
        )?,
        unit(
            "unit tests of the tests",
            &["-p", "netprobe-tests", "--lib", "--bins"],
            filter,
        )?,
    ];
    match host_can(&agent) {
        Ok(()) => reports.push(on_host(&agent, &truth, filter)?),
        Err(why) => {
            say!("the truth tests cannot run on this kernel: {why:#}; a virtual machine takes over");
            let programs = Programs {
                agent,
                truth,
                init: build::vm_init()?,
            };
            for kernel in kernels::select(&[])? {
                reports.push(machines::plain(&kernel, &programs, filter, SILENCE)?);
            }
        }
    }
    conclude(&reports)
}

/// What `cargo xtask test` does to the archive a few times, many times.
pub(crate) fn archive_campaigns() -> Result<()> {
    packages::ensure(Need::Test)?;
    ebpf::build()?;
    for (test, variable, times) in [
        ("archive_kill", "NETPROBE_KILLS", "1000"),
        ("archive_power", "NETPROBE_CUTS", "50"),
    ] {
        say!("{test}: {times} times");
        let mut cmd = cargo_test();
        cmd.args(["-p", "netprobe-agent", "--test", test, "--", "--nocapture"]);
        if std::env::var_os(variable).is_none() {
            cmd.env(variable, times);
        }
        sh::run(&mut cmd)?;
    }
    Ok(())
}

/// The pictures of the documents: what the browser test saw.
pub(crate) fn pictures() -> Result<()> {
    packages::ensure(Need::Test)?;
    web::modules()?;
    let agent = match std::env::var_os("NETPROBE_BIN") {
        Some(agent) => PathBuf::from(agent),
        None => build::agent()?,
    };
    let folder = sh::root().join("docs/pictures");
    let mut cmd = sh::privileged("env")?;
    cmd.arg(format!("NETPROBE_BIN={}", agent.display()))
        .arg(format!("NETPROBE_PICTURES={}", folder.display()))
        .arg(build::truth()?)
        .arg("dashboard_in_a_browser")
        .current_dir(sh::root());
    sh::run(&mut cmd)?;
    let fleet_folder = sh::root().join("target/fleet");
    fleet(&fleet_folder)?;
    std::fs::copy(fleet_folder.join("timeline.png"), folder.join("fleet.png"))?;
    say!("wrote {}", folder.display());
    Ok(())
}

/// The three hosts of `tests/cases/fleet.rs`, in the long form; what came of it is in the folder.
pub(crate) fn fleet(folder: &Path) -> Result<()> {
    packages::ensure(Need::Test)?;
    engine::ensure()?;
    let (agent, truth) = (build::agent()?, build::truth()?);
    let folder = sh::root().join(folder);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut cmd = sh::privileged("env")?;
    cmd.arg(format!("NETPROBE_BIN={}", agent.display()))
        .arg(format!("NETPROBE_FLEET={}", folder.display()))
        .arg(truth)
        .args(["--exact", "three_hosts_tell_one_story"])
        .current_dir(sh::root());
    sh::run(&mut cmd)?;
    let (page, picture) = (folder.join("timeline.html"), folder.join("timeline.png"));
    if !page.exists() {
        bail!("it did not run: what it lacks is said above");
    }
    sh::run(
        sh::clean("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--window-size=1100,800",
            ])
            .arg(format!("--screenshot={}", picture.display()))
            .arg(format!("file://{}", page.display())),
    )?;
    say!("wrote {}", folder.display());
    Ok(())
}

fn conclude(reports: &[Report]) -> Result<()> {
    if report::summary(reports) {
        return Ok(());
    }
    bail!("not every test passed");
}

/// `cargo test` with root's rights for the tests: some make network namespaces, read netlink, or mount.
fn cargo_test() -> Command {
    let mut cmd = sh::cargo(None);
    // What they need is installed: a test that leaves out what is missing is wrong here.
    cmd.env("NETPROBE_TEST_ALL", "1");
    if !sh::is_root() {
        let arch = std::env::consts::ARCH.to_uppercase();
        cmd.env(format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"), "sudo -E");
    }
    cmd.arg("test");
    cmd
}

/// Cargo's own tests, of the packages that `selection` names.
fn unit(title: &str, selection: &[&str], filter: Option<&str>) -> Result<Report> {
    say!("{title}");
    let command = || {
        let mut cmd = cargo_test();
        cmd.args(selection);
        cmd
    };
    // Built first: the compiler may be silent for longer than a test may.
    sh::run(command().args(["--no-run", "--quiet"])).context("the unit tests did not build")?;
    let mut report = Report::new(title);
    let success = stream(command().args(["--no-fail-fast", "--"]).args(filter), &mut report)?;
    Ok(close(report, success, None))
}

/// Whether this kernel lets us load what the agent needs; the agent itself is the judge.
fn host_can(agent: &Path) -> Result<()> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!("it has no BTF (/sys/kernel/btf/vmlinux)");
    }
    sh::output(sh::privileged(agent)?.arg("doctor")).map(drop)
}

fn on_host(agent: &Path, truth: &Path, filter: Option<&str>) -> Result<Report> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let title = format!("truth tests, this kernel ({})", release.trim());
    say!("{title}");
    let expected = list(truth, filter)?;
    let run = |arguments: &[&str]| {
        let mut cmd = sh::privileged("env")?;
        cmd.arg(format!("NETPROBE_BIN={}", agent.display()))
            .arg(truth)
            .args(arguments)
            .current_dir(sh::root());
        let mut report = Report::new(title.clone());
        let success = stream(&mut cmd, &mut report)?;
        Ok::<_, anyhow::Error>((report, success))
    };
    let (report, success) = run(filter.as_slice())?;
    let mut report = close(report, success, Some(&expected));
    for name in report.second_tries() {
        say!("{name} failed: once more, by itself");
        report.tried_again(&name, &run(&["--exact", &name])?.0);
    }
    Ok(report)
}

/// The names that have to report.
fn list(truth: &Path, filter: Option<&str>) -> Result<BTreeSet<String>> {
    Ok(report::listed(&sh::output(
        sh::clean(truth).arg("--list").args(filter),
    )?))
}

/// A run that ends badly without a failed test to show for it is a failure of its own.
fn close(mut report: Report, success: bool, expected: Option<&BTreeSet<String>>) -> Report {
    if !success && !report.has_failures() {
        report.broke("the run ended with an error and no failed test");
    }
    report.finish(expected)
}

/// Runs a test command: its output passes through and into the report. Returns whether it succeeded.
fn stream(cmd: &mut Command, report: &mut Report) -> Result<bool> {
    let shown = sh::shown(cmd);
    let mut child = cmd
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().context("the command has no stdout")?;
    let ended = follow::lines::<()>(stdout, SILENCE, |line| {
        println!("{line}");
        report.line(&line);
        ControlFlow::Continue(())
    });
    if ended == Ended::Silent {
        report.broke(format!(
            "`{shown}` said nothing for {} s and was stopped",
            SILENCE.as_secs()
        ));
        // Through sudo the signal may not arrive; then the wait below ends with the command.
        let _ = child.kill();
    }
    Ok(child
        .wait()
        .with_context(|| format!("cannot wait for `{shown}`"))?
        .success())
}
