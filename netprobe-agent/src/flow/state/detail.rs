//! What of live flows is told: that they are open, and how they go on.
//!
//! `update` events are detail. Of connections to a destination that fails all are told, otherwise those of a share of
//! the flows: of a flow either all or none, so that who reads them sees whole lives.

use super::{
    super::{delta::Observer, live::Live, share::Share},
    StageCounters,
    observe::delta_of,
};
use crate::event::{FlowRole, FlowState};

/// Why nothing is told of a live flow that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// To stay within the budget.
    Shed,
    /// It is not of the share.
    Sampled,
}

/// What is told now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tells {
    pub(super) opens: bool,
    pub(super) updates: bool,
    pub(super) share: Share,
}

impl Tells {
    /// What a live flow tells next: first that it is open. What is shed then is told as `open` later.
    pub(super) fn next(
        self,
        opened: bool,
        flow: u64,
        incident: impl FnOnce() -> bool,
    ) -> Result<FlowState, LeftOut> {
        match opened {
            false if self.opens => Ok(FlowState::Open),
            true if self.updates && (self.share.has(flow) || incident()) => Ok(FlowState::Update),
            true if self.updates => Err(LeftOut::Sampled),
            _ => Err(LeftOut::Shed),
        }
    }
}

impl StageCounters {
    pub(super) const fn leave_out(&mut self, why: LeftOut) {
        match why {
            LeftOut::Shed => self.events_shed += 1,
            LeftOut::Sampled => self.updates_sampled_out += 1,
        }
    }
}

/// Whether what this connection leads to fails. Whoever serves has no destination.
pub(super) fn is_incident(observer: &dyn Observer, live: &Live) -> bool {
    let delta = delta_of(live);
    delta.role == FlowRole::Client && observer.is_incident(delta.service, delta.peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_told_in_an_incident_unless_it_is_shed() {
        let none = Tells {
            opens: true,
            updates: true,
            share: Share::new(0.0),
        };
        assert_eq!(none.next(false, 1, || false), Ok(FlowState::Open));
        assert_eq!(none.next(true, 1, || false), Err(LeftOut::Sampled));
        assert_eq!(none.next(true, 1, || true), Ok(FlowState::Update));
        let shed = Tells {
            opens: false,
            updates: false,
            share: Share::new(1.0),
        };
        assert_eq!(shed.next(false, 1, || true), Err(LeftOut::Shed));
        assert_eq!(shed.next(true, 1, || true), Err(LeftOut::Shed));
    }
}
