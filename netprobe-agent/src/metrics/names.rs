//! What addresses are called, as answers of DNS and hellos of TLS say.
//!
//! An address keeps its name while that is said of it, and for as long as it was said to hold: one that has several does
//! not change its series with each answer.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc};

use lru::LruCache;

/// Addresses that are remembered.
const MOST: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// A name holds for so long at least: resolvers and applications keep answers longer than they may.
const LEAST_MS: u64 = 60_000;

/// Names of addresses.
#[derive(Debug)]
pub(super) struct Names {
    known: LruCache<IpAddr, (Arc<str>, u64)>,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            known: LruCache::new(MOST),
        }
    }
}

impl Names {
    /// An address was called so, for so long. Returns whether that is news.
    pub(super) fn put(&mut self, address: IpAddr, name: &Arc<str>, ttl_ms: u64, now_ms: u64) -> bool {
        let until = now_ms.saturating_add(ttl_ms.max(LEAST_MS));
        match self.known.get_mut(&address) {
            Some((known, holds)) if known == name => {
                *holds = until.max(*holds);
                false
            }
            Some((_, holds)) if *holds > now_ms => false,
            _ => {
                self.known.put(address, (name.clone(), until));
                true
            }
        }
    }

    /// What the address is called.
    pub(super) fn get(&mut self, address: IpAddr) -> Option<Arc<str>> {
        self.known.get(&address).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_while_it_is_said() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut names = Names::default();
        assert!(names.put(address, &a, 1, 0), "the first");
        assert!(!names.put(address, &b, 1, LEAST_MS - 1), "it holds still");
        assert!(!names.put(address, &a, 1, LEAST_MS - 1), "said again");
        assert!(!names.put(address, &b, 1, LEAST_MS + 1), "holds for longer now");
        assert_eq!(names.get(address), Some(a));
        assert!(names.put(address, &b, 1, 2 * LEAST_MS), "not said any more");
        assert_eq!(names.get(address), Some(b));
    }
}
