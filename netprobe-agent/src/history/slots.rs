//! Up, down or unknown: the rule.
//!
//! Time is cut into slots of 10 s, aligned to the clock (UTC): the sub-windows of `/resilience/state`. What counts is
//! the same as there: connects that were established, and failures: refused, unanswered, failed otherwise, and
//! established connections that timed out. What differs is hindsight: a slot is judged by itself, not at the end of a
//! minute that was good before.
//!
//! 1. A slot is bad when at least half of its outcomes are failures. Bad slots without a good one between them are a
//!    stretch; with three failures in all it is **down**. With fewer its slots are up if something succeeded in them,
//!    else unknown (`few`).
//! 2. Any other slot with a success is **up**. Without a connect an answered request is one.
//! 3. A slot without outcome takes the state of its neighbours when both have the same and are at most a minute apart.
//! 4. Everything else is **unknown**: `silence`, or `loss` when the probe itself lost something then, or did not run. A
//!    slot with a loss is no bridge, and what was seen in it by the host that lost is not used.

use std::collections::BTreeMap;

use crate::event::Nanos;

/// Seconds of a slot.
pub const SLOT_SECONDS: i64 = 10;
const SLOT_NS: i64 = SLOT_SECONDS * 1_000_000_000;
/// Slots that what was seen speaks for.
pub(super) const REACH: i64 = 6;
/// Failures that make a stretch of bad slots a downtime.
const LEAST: u64 = 3;

/// How far evidence outside of a span reaches into it.
pub const REACH_NS: i64 = REACH * SLOT_NS;

/// The slot of a moment.
pub const fn slot(ts: Nanos) -> i64 {
    ts.0.div_euclid(SLOT_NS)
}

/// When a slot begins.
pub const fn begin(slot: i64) -> Nanos {
    Nanos(slot.saturating_mul(SLOT_NS))
}

/// What was seen of a destination in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connects established.
    pub ok: u64,
    /// Failures.
    pub failed: u64,
    /// Requests answered.
    pub answered: u64,
    /// First and last success.
    pub good: Option<(Nanos, Nanos)>,
    /// First and last failure.
    pub bad: Option<(Nanos, Nanos)>,
}

impl Seen {
    /// A connect that was established.
    pub fn succeed(&mut self, at: Nanos) {
        self.ok += 1;
        self.good = Some(widen(self.good, (at, at)));
    }

    /// A failure.
    pub fn fail(&mut self, at: Nanos) {
        self.failed += 1;
        self.bad = Some(widen(self.bad, (at, at)));
    }

    /// A request that was answered.
    pub fn answer(&mut self, at: Nanos) {
        self.answered += 1;
        self.good = Some(widen(self.good, (at, at)));
    }

    /// Adds what another host saw.
    pub fn add(&mut self, other: &Seen) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.answered += other.answered;
        self.good = other.good.map_or(self.good, |good| Some(widen(self.good, good)));
        self.bad = other.bad.map_or(self.bad, |bad| Some(widen(self.bad, bad)));
    }

    const fn is_bad(&self) -> bool {
        self.failed > 0 && 2 * self.failed >= self.ok + self.failed
    }
}

fn widen(known: Option<(Nanos, Nanos)>, (first, last): (Nanos, Nanos)) -> (Nanos, Nanos) {
    known.map_or((first, last), |(from, to)| (from.min(first), to.max(last)))
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It accepted connections, or answered.
    Up,
    /// It did not.
    Down,
    /// Nobody tried.
    Silence,
    /// The probe lost something, or did not run.
    Loss,
    /// One or two failures, and no success.
    Few,
}

/// States of the slots `from` up to, not including, `to`.
pub fn states(seen: &BTreeMap<i64, Seen>, lossy: impl Fn(i64) -> bool, (from, to): (i64, i64)) -> Vec<State> {
    let judged = judge(seen.range(from - REACH..to + REACH), &lossy);
    let mut states: Vec<_> = (from..to)
        .map(|slot| if lossy(slot) { State::Loss } else { State::Silence })
        .collect();
    let mut fill = |first: i64, last: i64, state| {
        for slot in first.max(from)..=last.min(to - 1) {
            states[(slot - from) as usize] = state;
        }
    };
    for (index, &(slot, state)) in judged.iter().enumerate() {
        fill(slot, slot, state);
        if let Some(&(next, next_state)) = judged.get(index + 1)
            && state == next_state
            && state != State::Few
            && is_near(slot, next, &lossy)
        {
            fill(slot + 1, next - 1, state);
        }
    }
    states
}

/// Whether what was seen in one slot and in a later one speaks for those between them.
fn is_near(slot: i64, next: i64, lossy: &impl Fn(i64) -> bool) -> bool {
    next - slot <= REACH && !(slot + 1..next).any(lossy)
}

/// States of the slots in which something was seen, by that alone.
fn judge<'a>(
    seen: impl Iterator<Item = (&'a i64, &'a Seen)>,
    lossy: &impl Fn(i64) -> bool,
) -> Vec<(i64, State)> {
    let mut judged: Vec<(i64, State)> = Vec::new();
    let mut stretch: Vec<(i64, &Seen)> = Vec::new();
    let end = |stretch: &mut Vec<(i64, &Seen)>, judged: &mut Vec<(i64, State)>| {
        let down = stretch.iter().map(|(_, seen)| seen.failed).sum::<u64>() >= LEAST;
        judged.extend(stretch.drain(..).map(|(slot, seen)| {
            let state = match (down, seen.good) {
                (true, _) => State::Down,
                (false, Some(_)) => State::Up,
                (false, None) => State::Few,
            };
            (slot, state)
        }));
    };
    for (&slot, seen) in seen {
        if stretch
            .last()
            .is_some_and(|(last, _)| !is_near(*last, slot, lossy))
        {
            end(&mut stretch, &mut judged);
        }
        if seen.is_bad() {
            stretch.push((slot, seen));
            continue;
        }
        end(&mut stretch, &mut judged);
        if seen.good.is_some() {
            judged.push((slot, State::Up));
        }
    }
    end(&mut stretch, &mut judged);
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.` nothing, `u` ten established, `d` ten refused, `1` one refused, `h` one of each, `a` an answer, `L` a loss.
    fn of(text: &str) -> String {
        let mut seen: BTreeMap<i64, Seen> = BTreeMap::new();
        for (slot, what) in text.chars().enumerate() {
            let slot = slot as i64;
            let (ok, failed, answered) = match what {
                'u' => (10, 0, 0),
                'd' => (0, 10, 0),
                '1' => (0, 1, 0),
                'h' => (1, 1, 0),
                'a' => (0, 0, 1),
                _ => continue,
            };
            let of = seen.entry(slot).or_default();
            (0..ok).for_each(|_| of.succeed(begin(slot)));
            (0..failed).for_each(|_| of.fail(begin(slot)));
            (0..answered).for_each(|_| of.answer(begin(slot)));
        }
        let lossy = |slot: i64| text.as_bytes().get(slot as usize) == Some(&b'L');
        states(&seen, lossy, (0, text.len() as i64))
            .into_iter()
            .map(|state| match state {
                State::Up => 'U',
                State::Down => 'D',
                State::Silence => '.',
                State::Loss => 'L',
                State::Few => '?',
            })
            .collect()
    }

    #[test]
    fn the_rule() {
        for (seen, states) in [
            ("", ""),
            // No traffic is not up.
            ("....", "...."),
            ("uuddduu", "UUDDDUU"),
            // Evidence speaks for a minute, between like neighbours.
            ("u.....u", "UUUUUUU"),
            ("u......u", "U......U"),
            ("d...d", "DDDDD"),
            ("u..d", "U..D"),
            // One or two failures are no downtime; nor is it up, when nothing succeeded.
            ("1", "?"),
            ("u1u", "U?U"),
            ("11", "??"),
            ("111", "DDD"),
            ("1.1.1", "DDDDD"),
            ("1......1......1", "?......?......?"),
            // A good slot ends a stretch.
            ("1u1u1u", "?U?U?U"),
            ("huh", "UUU"),
            ("hhh", "DDD"),
            // An answered request is up where nobody connects, and no excuse where connects fail.
            ("a..a", "UUUU"),
            // A loss is no bridge.
            ("u.L.u", "U.L.U"),
            ("uLu", "ULU"),
            ("1L1L1", "?L?L?"),
        ] {
            assert_eq!(of(seen), states, "{seen}");
        }
    }

    #[test]
    fn evidence_reaches_in_from_outside() {
        let mut seen: BTreeMap<i64, Seen> = BTreeMap::new();
        for slot in [0, 5] {
            seen.entry(slot).or_default().succeed(begin(slot));
        }
        assert_eq!(states(&seen, |_| false, (2, 4)), [State::Up, State::Up]);
    }
}
