//! The truth tests: `cargo test -p netprobe-tests --test truth [-- filter]`. They need root.

mod cases;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use netprobe_tests::{agent::Agent, gate, lab, sandbox, traffic};

use cases::Case;

/// Most cases wait rather than compute.
const THREADS: usize = 4;

fn main() -> ExitCode {
    if let Some(code) = traffic::main_if_asked().or_else(sandbox::main_if_asked) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let trials = cases::all()
        .into_iter()
        .map(|case| trial(case, arguments.list))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(Agent::take_shared());
    lab::remove_shared();
    conclusion.exit_code()
}

/// A case as the test library wants it. One that cannot run here is ignored and says why, but only if the table
/// of permitted skips lists it; any other is run and fails by what it lacks.
fn trial(case: Case, listing: bool) -> Trial {
    let lacking = case.needs.iter().find_map(|need| need.lacking());
    let skipped = lacking
        .as_ref()
        .filter(|lack| cases::skip_permitted(case.name, lack));
    if let (Some(lack), false) = (skipped, listing) {
        println!("skipped: {}: {}", case.name, lack.reason);
    }
    let ignored = skipped.is_some();
    Trial::test(case.name, move || {
        if let Some(lack) = lacking {
            return Err(Failed::from(format!("cannot run: {}", lack.reason)));
        }
        gate::run(case.share, case.run).map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(ignored)
}
