//! What addresses are called: names seen in answers of DNS and in the first message of TLS, for a while and bounded.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;

/// A name holds at least so long: connections are made with what was looked up a while ago.
const LEAST: Duration = Duration::from_secs(300);
/// And at most so long, whatever a server says.
const MOST: Duration = Duration::from_secs(86_400);

/// Names by address; the one that was not asked for the longest goes first.
#[derive(Debug)]
pub struct Names {
    names: LruCache<IpAddr, (Arc<str>, u64)>,
}

impl Names {
    /// For at most so many addresses.
    pub fn new(most: NonZeroUsize) -> Names {
        Names {
            names: LruCache::new(most),
        }
    }

    /// An address got a name at `now` (monotonic, ns). The newest name wins.
    pub fn learn(&mut self, address: IpAddr, name: &Arc<str>, ttl: Duration, now: u64) {
        let holds = ttl.clamp(LEAST, MOST).as_nanos() as u64;
        self.names
            .put(address.to_canonical(), (name.clone(), now.saturating_add(holds)));
    }

    /// The name of an address at `now`.
    pub fn of(&mut self, address: IpAddr, now: u64) -> Option<Arc<str>> {
        let (name, until) = self.names.get(&address.to_canonical())?;
        (now <= *until).then(|| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_a_while_and_bounded() {
        let mut names = Names::new(NonZeroUsize::new(2).expect("two"));
        let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
        let name: Arc<str> = "a.example".into();
        names.learn(ip(1), &name, Duration::from_secs(600), 0);
        names.learn(ip(2), &name, Duration::ZERO, 0);
        assert_eq!(
            names.of("::ffff:192.0.2.1".parse().expect("an address"), 1),
            Some(name.clone())
        );
        assert_eq!(names.of(ip(2), 299_000_000_000), Some(name.clone()));
        assert_eq!(names.of(ip(2), 301_000_000_000), None);
        assert_eq!(names.of(ip(1), 601_000_000_000), None);
        names.learn(ip(1), &name, Duration::from_secs(u64::MAX / 2), 0);
        assert_eq!(names.of(ip(1), 86_401_000_000_000), None);
        names.learn(ip(3), &name, Duration::ZERO, 0);
        assert_eq!(names.of(ip(2), 0), None, "the oldest went");
    }
}
