//! Which cases may run beside others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

static GATE: RwLock<()> = RwLock::new(());
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// How a case shares the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Beside others.
    Beside,
    /// Alone: it measures time, or loads the machine.
    Alone,
    /// After all others; must stand last in the list.
    Last,
}

/// Runs a case under its rule.
pub fn run<T>(share: Share, case: impl FnOnce() -> T) -> T {
    match share {
        Share::Beside => {
            let _guard = GATE.read().unwrap_or_else(PoisonError::into_inner);
            counted(case)
        }
        Share::Alone => {
            let _guard = GATE.write().unwrap_or_else(PoisonError::into_inner);
            counted(case)
        }
        Share::Last => {
            // Threads take cases in order, so every other one has been taken; those at work are waited for.
            while RUNNING.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            let _guard = GATE.write().unwrap_or_else(PoisonError::into_inner);
            case()
        }
    }
}

fn counted<T>(case: impl FnOnce() -> T) -> T {
    /// Counts down also when the case panics.
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::SeqCst);
        }
    }
    RUNNING.fetch_add(1, Ordering::SeqCst);
    let _running = Running;
    case()
}
