//! What happens to the whole machine while the agent runs. Only in the test machine: clock and modules of a host are not
//! ours to change.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::{self, addr};
use netprobe_tests::wait_for;
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::{Case, Need, Pair, check_bytes, hold, nat};

const VM: &[Need] = &[Need::TestMachine];

pub(crate) const CASES: &[Case] = &[Case::new("clock_steps", clock_steps).alone().needs(VM)];

/// After everything else: it takes down the shared lab.
pub(crate) const LAST: &[Case] = &[Case::new("conntrack_loaded_after_the_agent", conntrack_later)
    .last()
    .needs(VM)];

/// Sets the wall clock, and back again in the end.
struct Clock {
    /// Wall-clock time less monotonic time, as it was.
    offset: Duration,
}

impl Clock {
    fn read(id: ClockId) -> Result<Duration> {
        Ok(Duration::from(clock_gettime(id)?))
    }

    fn new() -> Result<Self> {
        let offset = Self::read(ClockId::CLOCK_REALTIME)? - Self::read(ClockId::CLOCK_MONOTONIC)?;
        Ok(Self { offset })
    }

    /// Sets it to what it would be, plus so many seconds.
    fn step(&self, seconds: i64) -> Result<()> {
        let now = self.offset + Self::read(ClockId::CLOCK_MONOTONIC)?;
        let time = TimeSpec::from(now) + TimeSpec::new(seconds, 0);
        Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Err(error) = self.step(0) {
            eprintln!("the clock stays wrong: {error:#}");
        }
    }
}

/// The clock goes back an hour, then ahead two, under a live connection: durations are those of the monotonic clock, and
/// no event begins after it is told.
fn clock_steps() -> Result<()> {
    let lab = lab::gateway()?;
    let agent = Arc::new(Agent::start(&Settings::default())?);
    let mut pair = Pair::over(lab, agent.clone(), "clock", "cli", "cli", addr("127.0.0.1", 0))?;
    let clock = Clock::new()?;
    for step in [-3600, 7200] {
        let before = Clock::read(ClockId::CLOCK_MONOTONIC)?;
        let (client, server) = pair.open()?;
        pair.cli.send(client.socket, 10)?;
        clock.step(step)?;
        pair.srv.recv(server.socket, 10)?;
        let (c, s) = pair.finish(client, server)?;
        let took = (Clock::read(ClockId::CLOCK_MONOTONIC)? - before).as_secs_f64() * 1e3;
        check_bytes(&c, 10, 0)?;
        for event in [&c, &s] {
            check_times(event, took)?;
        }
    }
    drop(clock);
    for event in agent.events() {
        check_times(&event, f64::MAX)?;
    }
    Ok(())
}

fn check_times(event: &Event, at_most: f64) -> Result<()> {
    let within = |ms: Option<f64>| ms.is_none_or(|ms| (0.0..=at_most).contains(&ms));
    hold(
        event,
        "elapsed_ms is that of a steady clock",
        within(event.elapsed_ms),
    )?;
    if let Some(flow) = &event.flow {
        hold(
            event,
            "connect_ms is that of a steady clock",
            within(flow.connect_ms),
        )?;
        hold(
            event,
            "accept_wait_ms is that of a steady clock",
            within(flow.accept_wait_ms),
        )?;
    }
    let Some(began) = &event.started_at else {
        return Ok(());
    };
    // Both in the same form, so text compares as time.
    hold(event, "it began before it was told", *began <= event.ts)
}

/// Where the test machine says which modules it has, in load order.
fn conntrack_modules() -> Result<Vec<String>> {
    let list = std::fs::read_to_string("/vm/modules").context("no list of the machine's modules")?;
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let of_conntrack = |path: &&str| {
        let name = name(path);
        name.starts_with("nf_") || name.starts_with("nft_")
    };
    Ok(list.lines().filter(of_conntrack).map(str::to_owned).collect())
}

/// conntrack is not there when the agent starts, and comes later: translation is found without a restart.
fn conntrack_later() -> Result<()> {
    drop(Agent::take_shared());
    lab::remove_shared();
    let modules = conntrack_modules()?;
    let loaded = || -> Result<bool> {
        let text = std::fs::read_to_string("/proc/modules")?;
        Ok(text.lines().any(|line| line.starts_with("nf_conntrack ")))
    };
    ensure!(loaded()?, "conntrack is built in here: nothing to test");
    // Namespaces go in the background, and hold on to modules until they are gone.
    wait_for("conntrack to be unloaded", Duration::from_secs(60), || {
        for path in modules.iter().rev() {
            let name = std::ffi::CString::new(path.rsplit('/').next()?).ok()?;
            let _ = delete_module(&name, DeleteModuleFlags::O_NONBLOCK);
        }
        loaded().is_ok_and(|loaded| !loaded).then_some(())
    })?;
    let agent = Arc::new(Agent::start(&Settings::default())?);
    ensure!(!loaded()?, "starting the agent loaded conntrack");
    for path in &modules {
        match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("loading {path}")),
        }
    }
    let lab = Arc::new(lab::build_gateway()?);
    let mut pair = Pair::over(lab, agent, "late", "cli", "srv", addr(lab::SERVER, 20_901))?;
    let sides = nat::travel(&mut pair, "gw", addr(lab::VIRTUAL, 20_901))?;
    nat::check_ends(&pair, "gw", &sides, "snat+dnat")?;
    nat::check_bound(&sides)?;
    nat::check_forwarded(&pair, "gw", &sides, "snat+dnat").map(drop)
}
