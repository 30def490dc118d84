//! Why the kernel refused a program, in one line.

use std::io;

use aya::programs::ProgramError;

use super::{
    facts::{Attach, Hook},
    privilege,
};

/// The mode of lockdown in which programs get no helper that reads kernel memory.
const CONFIDENTIALITY: &str = "confidentiality";

/// What kprobes are made through.
const KPROBE_SOURCE: &str = "/sys/bus/event_source/devices/kprobe/type";

/// Whether programs get no helper that reads kernel memory.
pub fn reads_forbidden() -> bool {
    lockdown().as_deref() == Some(CONFIDENTIALITY)
}

/// The word in brackets of `/sys/kernel/security/lockdown`; `None` when it cannot be read.
pub fn lockdown() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The whole chain of causes in one line, the verifier's last words at the end.
pub fn explain(error: &ProgramError, hook: &Hook) -> String {
    let lockdown = lockdown().is_some_and(|mode| mode != "none");
    let io = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            tracing::debug!(program = hook.program, log = %log, "the verifier's words");
            let last = last_words(&log);
            let missing = privilege::missing(hook.attach);
            return match (io_error.raw_os_error(), last) {
                (Some(libc::EPERM), _) if missing.is_some() => {
                    format!("{} is missing (EPERM)", missing.unwrap_or_default())
                }
                (Some(libc::EPERM), _)
                    if lockdown && matches!(hook.attach, Attach::FExit(_) | Attach::FExitIfAny(_)) =>
                {
                    "not permitted: this kernel is locked down or built without it (EPERM)".to_owned()
                }
                (_, Some(last)) if reads_forbidden() && last.contains("bpf_probe_read") => {
                    "not permitted: this kernel is locked down, programs may not read its memory".to_owned()
                }
                (_, Some(last)) => format!("the verifier refused it: {io_error}: {}", last.trim()),
                (_, None) => format!("the kernel refused to load it: {io_error}"),
            };
        }
        other => other,
    };
    let mut text = io.to_string();
    if text.contains(KPROBE_SOURCE) {
        return format!("this kernel has no kprobes for programs ({KPROBE_SOURCE} is missing)");
    }
    let mut cause = std::error::Error::source(io);
    while let Some(inner) = cause {
        let errno = inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if let (Some(libc::EPERM), Some(missing)) = (errno, privilege::missing(hook.attach)) {
            return format!("{missing} is missing (EPERM)");
        }
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// The verifier's last words: what it says at the end of its way through the program.
fn last_words(log: &str) -> Option<&str> {
    // Behind them stand statistics, and on newer kernels (7.3 was seen to) a report with advice.
    const REPORT: &str = "Verification failed:";
    const STATISTICS: [&str; 5] = [
        "processed",
        "stack depth",
        "verification time",
        "insns",
        "subprog ",
    ];
    let way = log.split(REPORT).next().unwrap_or(log);
    way.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use super::last_words;

    #[test]
    fn words_of_older_and_of_newer_kernels() {
        let way = "31: (85) call bpf_probe_read#4\nprogram of this type cannot use helper bpf_probe_read#4\n";
        let statistics = "verification time 276766 usec\nstack depth max 0\n\
                          subprog 0 (state) main insns_self 29 insns_total 29 stack 0\nprocessed 29 insns (limit 1000000)\n";
        let report = "\nVerification failed: Policy\n\nReason:\n  The helper is not allowed.\n\nSuggestion:\n  Use another.\n\n";
        let words = Some("program of this type cannot use helper bpf_probe_read#4");
        assert_eq!(last_words(&format!("{way}{statistics}")), words);
        assert_eq!(last_words(&format!("{way}{report}{statistics}")), words);
        assert_eq!(last_words(statistics), None);
    }
}
