//! How the destinations of this host do, by what the kernel shows of them.
//!
//! A destination is a `peer` that clients of this host connect to. Its state follows from the counts of the last five
//! minutes alone, in sub-windows of 10 s, so anyone can derive it again from the evidence. Outcomes are connects
//! (established, refused, unanswered, failed) and established connections that timed out; all but the first are
//! failures. A minute is the one up to the last sub-window with an outcome: silence is no evidence.
//!
//! - `failing`: at least three failures in the minute, and at least half of its outcomes.
//! - `recovering`: was failing within the minute, and a later sub-window has connects and no failure; or it is not
//!   failing any more, but was in the minute before.
//! - `degraded`: not so bad, but one failure in twenty outcomes, one SYN retransmit in ten connects and two at least,
//!   one remote reset in ten outcomes and two at least, or a burst of retransmits.
//! - `healthy`: none of it. Without an outcome in five minutes the state is not known.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    pair::side,
    rates::{Counts, Line},
    series::Series,
    window::{Quantiles, Scratch, Span, Window},
};
use crate::event::FlowRole;

/// Sub-windows of a minute, and their length.
const MINUTE: usize = 6;
const SUB_WINDOW_SECONDS: usize = 10;

/// How a destination does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does what is asked of it.
    Healthy,
    /// It does again, after it did not.
    Recovering,
    /// It does most of what is asked of it.
    Degraded,
    /// It does not do most of what is asked of it: an incident.
    Failing,
}

/// One destination, its state, and what that follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Destination {
    /// Label of the peer.
    pub peer: String,
    /// `null`: no outcome in the last five minutes.
    pub state: Option<State>,
    /// Why, in a sentence.
    pub because: String,
    /// How long ago the last outcome was, in seconds, give or take ten.
    pub last_outcome_seconds: Option<u64>,
    /// Counts of the minute up to it.
    pub evidence: Evidence,
    /// Connect latency of the last minute.
    pub connect: Option<Quantiles>,
}

/// Counts of a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// Connections established.
    pub connects: u64,
    /// Connects refused.
    pub refused: u64,
    /// Connects nobody answered, or given up before an answer.
    pub unanswered: u64,
    /// Connects that failed otherwise.
    pub failed: u64,
    /// Established connections that timed out.
    pub timeouts: u64,
    /// Established connections the other side reset.
    pub resets: u64,
    /// Connects tried again after a failed one.
    pub retries: u64,
    /// SYN segments sent again.
    pub syn_retransmits: u64,
    /// Connections with a burst of retransmits.
    pub retransmit_bursts: u64,
}

impl From<Counts> for Evidence {
    fn from(counts: Counts) -> Self {
        Evidence {
            connects: counts.connects,
            refused: counts.refused,
            unanswered: counts.unanswered,
            failed: counts.failed,
            timeouts: counts.broken,
            resets: counts.resets,
            retries: counts.retries,
            syn_retransmits: counts.syn_retransmits,
            retransmit_bursts: counts.bursts,
        }
    }
}

impl Series {
    /// Every destination of the last five minutes, the worst first.
    pub(super) fn destinations(&self, now_ms: u64) -> Vec<Destination> {
        let mut scratch = Scratch::new();
        let mut destinations: Vec<_> = self
            .lines(now_ms, |_| true)
            .into_iter()
            .map(|(peer, (line, connect))| {
                let connect = scratch.quantiles(connect, now_ms, Span::Minute);
                destination(peer, &line, connect)
            })
            .collect();
        destinations.sort_by_key(|destination| std::cmp::Reverse(destination.state));
        destinations
    }

    /// The last five minutes of the destinations wanted, over all services.
    fn lines(
        &self,
        now_ms: u64,
        wanted: impl Fn(&Arc<str>) -> bool,
    ) -> BTreeMap<&Arc<str>, (Line, Vec<&Window>)> {
        let mut peers: BTreeMap<_, (Line, Vec<&Window>)> = BTreeMap::new();
        for pair in &self.pairs {
            if let Some(recent) = &pair.recent[side(FlowRole::Client)]
                && wanted(&pair.key.1)
            {
                let (line, connect) = peers.entry(&pair.key.1).or_default();
                recent.rates.lay_out(now_ms, line);
                connect.push(&recent.connect);
            }
        }
        peers
    }

    /// Notes which destinations are failing. Returns whether one is.
    pub(super) fn note_incidents(&mut self, now_ms: u64) -> bool {
        // Most have no failure at all, and need not be laid out.
        let suspects: HashSet<_> = self
            .pairs
            .iter()
            .filter(|pair| {
                let recent = pair.recent[side(FlowRole::Client)].as_ref();
                recent.is_some_and(|recent| recent.rates.any(|counts| counts.failures() > 0))
            })
            .map(|pair| &pair.key.1)
            .collect();
        let lines = match suspects.is_empty() {
            true => BTreeMap::new(),
            false => self.lines(now_ms, |peer| suspects.contains(peer)),
        };
        let failing = lines
            .into_iter()
            .filter(|(_, (line, _))| derive(line).0 == Some(State::Failing))
            .map(|(peer, _)| peer.clone())
            .collect();
        self.failing = failing;
        !self.failing.is_empty()
    }

    /// Whether what clients of a service dial here was failing when last looked at.
    pub(super) fn is_failing(&mut self, service: Option<&str>, peer: Option<(IpAddr, u16)>) -> bool {
        let peer = self.peer_label(service, peer);
        self.failing.contains(&peer)
    }
}

fn destination(peer: &str, line: &Line, connect: Option<Quantiles>) -> Destination {
    let (state, because, last) = derive(line);
    Destination {
        peer: peer.to_owned(),
        state,
        because,
        last_outcome_seconds: last.map(|last| ((line.len() - 1 - last) * SUB_WINDOW_SECONDS) as u64),
        evidence: last
            .map_or_else(Counts::default, |last| minute(line, last))
            .into(),
        connect,
    }
}

/// Counts of the minute up to a sub-window.
fn minute(line: &Line, last: usize) -> Counts {
    let mut sum = Counts::default();
    for counts in &line[(last + 1).saturating_sub(MINUTE)..=last] {
        sum.add(counts);
    }
    sum
}

fn is_failing(counts: &Counts) -> bool {
    const LEAST: u64 = 3;
    counts.failures() >= LEAST && 2 * counts.failures() >= counts.outcomes()
}

/// The state, why, and the last sub-window with an outcome.
fn derive(line: &Line) -> (Option<State>, String, Option<usize>) {
    let Some(last) = line.iter().rposition(|counts| counts.outcomes() > 0) else {
        return (
            None,
            "no connect and no timeout in the last five minutes".to_owned(),
            None,
        );
    };
    let sum = minute(line, last);
    let told = format!(
        "{} of {} outcomes in a minute are failures",
        sum.failures(),
        sum.outcomes()
    );
    let (state, because) = if is_failing(&sum) {
        let failed = line.iter().rposition(|counts| counts.failures() > 0).unwrap_or(0);
        match failed < last {
            true => (State::Recovering, format!("{told}, none of the latest")),
            false => (State::Failing, told),
        }
    } else if (last.saturating_sub(MINUTE)..last).any(|end| is_failing(&minute(line, end))) {
        (
            State::Recovering,
            format!("{told}; it was failing a minute before"),
        )
    } else {
        match blemish(&sum) {
            Some(because) => (State::Degraded, because),
            None => (State::Healthy, told),
        }
    };
    (Some(state), because, Some(last))
}

/// What is not right with a destination that does not fail.
fn blemish(sum: &Counts) -> Option<String> {
    let (outcomes, attempts) = (sum.outcomes(), sum.attempts());
    let many = |count: u64, of: u64| count >= 2 && 10 * count >= of;
    if sum.failures() > 0 && 20 * sum.failures() >= outcomes {
        Some(format!(
            "{} of {outcomes} outcomes in a minute are failures",
            sum.failures()
        ))
    } else if many(sum.syn_retransmits, attempts) {
        Some(format!(
            "{} SYN retransmits for {attempts} connects in a minute",
            sum.syn_retransmits
        ))
    } else if many(sum.resets, outcomes) {
        Some(format!(
            "{} connections reset of {outcomes} outcomes in a minute",
            sum.resets
        ))
    } else if sum.bursts > 0 {
        Some(format!(
            "{} connections with a burst of retransmits in a minute",
            sum.bursts
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sub-windows from `first` on: connects and refused ones in each.
    fn line(first: usize, counts: &[(u64, u64)]) -> Line {
        let mut line = Line::default();
        for (at, (connects, refused)) in counts.iter().enumerate() {
            (line[first + at].connects, line[first + at].refused) = (*connects, *refused);
        }
        line
    }

    fn state(line: &Line) -> Option<State> {
        derive(line).0
    }

    #[test]
    fn states_follow_from_outcomes() {
        for (counts, expected) in [
            (vec![], None),
            (vec![(1, 0)], Some(State::Healthy)),
            (vec![(0, 2)], Some(State::Degraded)),
            (vec![(0, 3)], Some(State::Failing)),
            (vec![(4, 3)], Some(State::Degraded)),
            (vec![(3, 3)], Some(State::Failing)),
            (vec![(200, 3)], Some(State::Healthy)),
            // Silence is no evidence: it still fails.
            (
                vec![(0, 3), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)],
                Some(State::Failing),
            ),
            (vec![(0, 3), (1, 0)], Some(State::Recovering)),
            (vec![(0, 3), (9, 0)], Some(State::Recovering)),
            (vec![(0, 3), (9, 0), (0, 1)], Some(State::Recovering)),
            (vec![(0, 3), (1, 0), (0, 1)], Some(State::Failing)),
        ] {
            assert_eq!(state(&line(10, &counts)), expected, "{counts:?}");
        }
    }

    #[test]
    fn a_recovery_ends() {
        let mut counts = vec![(0, 5)];
        let mut states = Vec::new();
        for _ in 0..14 {
            counts.push((10, 0));
            states.push(state(&line(0, &counts)));
        }
        let healthy = states
            .iter()
            .position(|state| *state == Some(State::Healthy))
            .unwrap();
        assert!(
            states[..healthy]
                .iter()
                .all(|state| *state == Some(State::Recovering)),
            "{states:?}"
        );
        assert!(
            states[healthy..]
                .iter()
                .all(|state| *state == Some(State::Healthy)),
            "{states:?}"
        );
        assert!((5..12).contains(&healthy), "{states:?}");
    }

    #[test]
    fn other_signs_degrade() {
        let with = |change: fn(&mut Counts)| {
            let mut line = line(20, &[(20, 0)]);
            change(&mut line[20]);
            state(&line)
        };
        assert_eq!(with(|_| ()), Some(State::Healthy));
        assert_eq!(with(|counts| counts.syn_retransmits = 1), Some(State::Healthy));
        assert_eq!(with(|counts| counts.syn_retransmits = 2), Some(State::Degraded));
        assert_eq!(with(|counts| counts.resets = 2), Some(State::Degraded));
        assert_eq!(with(|counts| counts.bursts = 1), Some(State::Degraded));
        assert_eq!(with(|counts| counts.broken = 3), Some(State::Degraded));
        assert_eq!(with(|counts| counts.broken = 20), Some(State::Failing));
    }
}
