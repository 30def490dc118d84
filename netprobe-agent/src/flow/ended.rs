//! Connections that ended: what comes of them late must not begin them anew.

use std::collections::{HashMap, VecDeque};

/// Ends remembered: seconds at the highest rates, hours else.
const MAX: usize = 65_536;

/// Ends by cookie, the newest of each.
#[derive(Debug, Default)]
pub struct Ended {
    by_cookie: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
}

impl Ended {
    /// Remembers an end.
    pub fn add(&mut self, cookie: u64, ended_ns: u64) {
        self.by_cookie.insert(cookie, ended_ns);
        self.order.push_back((cookie, ended_ns));
        if self.order.len() > MAX
            && let Some((oldest, ns)) = self.order.pop_front()
            && self.by_cookie.get(&oldest) == Some(&ns)
        {
            self.by_cookie.remove(&oldest);
        }
    }

    /// Whether a life of this socket that began at `started_ns` is one that ended. A socket that connects again keeps its
    /// cookie, but begins after the end before.
    pub fn knows(&self, cookie: u64, started_ns: u64) -> bool {
        self.by_cookie
            .get(&cookie)
            .is_some_and(|ended_ns| started_ns <= *ended_ns)
    }
}
