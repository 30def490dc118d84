//! `cargo xtask vm nodes`: client, gateway and server as three machines, wired by Unix sockets of this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Card, End, Job, Outcome, kernels};
use crate::sh::{self, say};
use crate::{build, packages};

/// In the order in which the judge wants them.
const ROLES: [&str; 3] = ["client", "gateway", "server"];
/// Old, middle and new, unless others are named.
const KERNELS: [&str; 3] = ["5.10", "6.12", "7.3"];
/// The gateway waits for both others, and says nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(660);

/// The cards of `vm/provision.sh`. The gateway makes both wires.
fn cards(role: &str, folder: &Path) -> Vec<Card> {
    let card = |last: u8, wire: &str| Card {
        mac: format!("08:00:27:77:00:{last:02x}"),
        wire: folder.join(wire),
        makes: role == "gateway",
    };
    match role {
        "client" => vec![card(1, "inside")],
        "server" => vec![card(4, "outside")],
        _ => vec![card(2, "inside"), card(3, "outside")],
    }
}

/// Boots the three at once, and holds against each other what they said.
pub(crate) fn run(wanted: &[String]) -> Result<()> {
    packages::ensure(packages::Need::Vm)?;
    let (agent, nodes, init) = (build::agent()?, build::nodes()?, build::vm_init()?);
    let names: Vec<String> = match wanted {
        [] => KERNELS.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    let kernels = kernels::select(&names)?;
    for kernel in &kernels {
        kernels::fetch(kernel)?;
    }
    // Not below the repository: the path of a socket may have 107 bytes.
    let wires = std::env::temp_dir().join(format!("netprobe-nodes-{}", std::process::id()));
    fs::create_dir_all(&wires).with_context(|| format!("cannot create {}", wires.display()))?;
    let boot = |(role, kernel): (&&str, &kernels::Kernel)| -> Result<Outcome> {
        let cards = cards(role, &wires);
        if cards.iter().any(|card| !card.makes) {
            made(&cards)?;
        }
        let guest = "/bin/nodes".to_owned();
        let job = Job {
            argv: vec![guest.clone(), "be".to_owned(), (*role).to_owned()],
            programs: vec![
                super::netprobe(agent.clone()),
                (nodes.clone(), guest),
                (sh::root().join("vm/provision.sh"), "/vm/provision.sh".to_owned()),
            ],
            machine: kernels::machine(None)?,
            label: format!("[{role} {}] ", kernel.name),
            cards,
            silence: SILENCE,
        };
        super::boot(kernel, &init, &job)
    };
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let boot = &boot;
        let threads: Vec<_> = ROLES
            .iter()
            .zip(&kernels)
            .map(|node| scope.spawn(move || boot(node)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    // A temporary folder with nothing of worth.
    let _ = fs::remove_dir_all(&wires);
    let mut consoles = Vec::new();
    for (role, outcome) in ROLES.iter().zip(outcomes) {
        let outcome = outcome.with_context(|| format!("the {role}"))?;
        if outcome.end != End::Verdict(0) {
            bail!("the {role}: {}", outcome.end);
        }
        say!("the {role} after {:.0} s", outcome.took.as_secs_f64());
        let file: PathBuf = super::folder().join(format!("node-{role}.log"));
        fs::write(&file, outcome.console.join("\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        consoles.push(file);
    }
    sh::run(sh::clean(&nodes).arg("check").args(&consoles))
}

/// Waits until the gateway has made the wires.
fn made(cards: &[Card]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while let Some(card) = cards.iter().find(|card| !card.wire.exists()) {
        if Instant::now() > deadline {
            bail!("the gateway has not made {}", card.wire.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
