//! Live flows of every kind as pages of one listing.

use std::collections::{BinaryHeap, HashMap};

use netprobe_common::UdpKey;

use super::{
    super::{
        clock::monotonic_ns,
        forward::{self, Forwarded},
        udp::{self, UdpLive},
    },
    Pipeline,
};
use crate::{event::FlowState, query::FlowPage};

/// Pages of the flow listing start here for forwarded connections; cookies are far below.
const FORWARD_PAGE: u64 = 1 << 63;
/// And here for UDP flows.
const UDP_PAGE: u64 = 1 << 62;

impl Pipeline {
    /// Live flows in the order of a number that stays theirs.
    pub(super) fn page(&self, after: Option<u64>, limit: usize) -> FlowPage {
        let udp_page = |key: &UdpKey| UDP_PAGE | (number_of(key) & (UDP_PAGE - 1));
        let forward_page = |id: &forward::Id| FORWARD_PAGE | number_of(id);
        let forwards: HashMap<u64, &Forwarded> = self
            .state
            .forwards
            .iter()
            .map(|(id, flow)| (forward_page(id), flow))
            .collect();
        let datagrams: HashMap<u64, &UdpLive> = self
            .state
            .udp
            .live
            .iter()
            .map(|(key, flow)| (udp_page(key), flow))
            .collect();
        let numbers = self
            .state
            .table
            .keys()
            .chain(forwards.keys())
            .chain(datagrams.keys())
            .copied()
            .filter(|number| after.is_none_or(|after| *number > after));
        let mut smallest = BinaryHeap::new();
        for number in numbers {
            smallest.push(number);
            if smallest.len() > limit + 1 {
                smallest.pop();
            }
        }
        let mut page = smallest.into_sorted_vec();
        let more = page.len() > limit;
        page.truncate(limit);
        let now = monotonic_ns();
        let maker = &self.state.maker;
        let flows = page
            .iter()
            .filter_map(|number| {
                if *number < UDP_PAGE {
                    let live = self.state.table.get(number)?;
                    return Some((*number, maker.live(live, listed(live.opened), now)));
                }
                if *number < FORWARD_PAGE {
                    let flow = datagrams.get(number)?;
                    return Some((*number, udp::event(maker, flow, listed(flow.opened), now)));
                }
                let flow = forwards.get(number)?;
                Some((
                    *number,
                    forward::event(maker, flow, listed(flow.opened), None, now),
                ))
            })
            .collect();
        FlowPage { flows, more }
    }
}

/// A number for a flow without a cookie of its own, the same as long as it lives.
fn number_of(id: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish() & !FORWARD_PAGE
}

const fn listed(opened: bool) -> FlowState {
    if opened {
        FlowState::Update
    } else {
        FlowState::Open
    }
}
