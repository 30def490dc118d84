//! Runs of programs that the kernel skipped, and that nobody made up for.

/// What is known of them.
#[derive(Debug, Default)]
pub struct SkippedRuns {
    lost: u64,
    /// Skipped as of the reading before.
    skipped: u64,
}

impl SkippedRuns {
    /// Takes both counts, and returns how many runs are lost. The second program comes right after the one that was
    /// skipped, but not in the same instant: a run counts as lost from the second reading on.
    pub fn read(&mut self, skipped: u64, made_up: u64) -> u64 {
        self.lost = self.lost.max(self.skipped.saturating_sub(made_up));
        self.skipped = skipped;
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_up_for_is_not_lost() {
        let mut runs = SkippedRuns::default();
        // The second program is about to run.
        assert_eq!(runs.read(3, 2), 0);
        assert_eq!(runs.read(3, 3), 0);
    }

    #[test]
    fn the_others_are() {
        let mut runs = SkippedRuns::default();
        let read: Vec<_> = [(3, 1), (3, 1), (9, 7), (9, 7)]
            .into_iter()
            .map(|(skipped, made_up)| runs.read(skipped, made_up))
            .collect();
        assert_eq!(read, [0, 2, 2, 2]);
    }
}
