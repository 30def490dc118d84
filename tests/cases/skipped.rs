//! Changes of state that come in the middle of another, on the same processor: the kernel skips the program's run.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netprobe_tests::agent::{Agent, PATIENCE, Settings};
use netprobe_tests::event::Event;
use netprobe_tests::lab::addr;
use netprobe_tests::traffic::load::{self, Line, Plan};
use netprobe_tests::wait_for;

use super::{Case, Need};

pub(crate) const CASES: &[Case] = &[Case::new("skipped_changes_of_state_are_made_up_for", made_up)
    .alone()
    // From then on processes that come between each other see to it; before, it takes days.
    .needs(&[Need::Kernel(7, 0)])];

const PORTS: std::ops::Range<u16> = 30_460..30_464;
/// An emulated processor is in the middle of a program one moment in ten: it misses something in the first second.
const LONG: Duration = Duration::from_secs(5);

/// Most of what one program misses the other makes up for; what both miss is declared.
fn made_up() -> Result<()> {
    let ports: Vec<_> = PORTS.map(|port| port.to_string()).collect();
    let agent = Agent::start(&Settings {
        probe: format!("ports_only = [{}]", ports.join(", ")),
        sections: "[requests]\nenabled = false".to_owned(),
        ..Settings::default()
    })?;
    let plan = Plan {
        client_netns: None,
        server_netns: None,
        client_ip: None,
        ways: PORTS
            .map(|port| (addr("127.84.0.1", port), addr("127.84.0.1", port)))
            .collect(),
        refusing: None,
        connections: 400,
        seed: 13,
    };
    let (begun, mut lines) = (Instant::now(), Vec::<Line>::new());
    while begun.elapsed() < LONG {
        lines.extend(load::run(&plan, PORTS.len())?);
    }
    let ledger = agent.ledger_at_rest(Duration::from_secs(120))?;
    let probe = agent.probe()?;
    let made_up = probe["counters"]["runs_made_up"]
        .as_u64()
        .context("no such counter")?;
    let declared = ledger.losses.get("kernel/recursion").copied().unwrap_or(0);
    let cookies: HashSet<u64> = lines.iter().flat_map(|line| [line.client, line.server]).collect();
    let known = |event: &Arc<Event>| {
        event.is_final()
            && event.role.is_some()
            && event.started_at.is_some()
            && event.cookie().is_some_and(|cookie| cookies.contains(&cookie))
    };
    let mut lacking = 0;
    wait_for("the end of nearly each, with its begin", PATIENCE, || {
        let whole = agent.events().iter().filter(|event| known(event)).count();
        lacking = cookies.len() - whole;
        (lacking as u64 <= declared && lacking * 50 <= cookies.len()).then_some(())
    })
    .with_context(|| {
        format!(
            "{lacking} of {} ends lack it, {declared} runs are declared as lost",
            cookies.len()
        )
    })?;
    ensure!(made_up > declared, "{made_up} made up, {declared} lost");
    Ok(())
}
