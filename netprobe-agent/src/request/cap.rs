//! The bound on routes: so many a service, and what is beyond is one.

use std::{collections::HashSet, num::NonZeroUsize, sync::Arc};

use lru::LruCache;

/// What stands for all further routes of a service.
pub const OTHER: &str = "~other";
/// Services whose routes are remembered.
const MOST_SERVICES: NonZeroUsize = NonZeroUsize::new(1000).expect("a thousand is not nothing");

/// Routes of each service.
#[derive(Debug)]
pub struct RouteCap {
    most: usize,
    services: LruCache<Arc<str>, HashSet<Arc<str>>>,
    other: Arc<str>,
}

impl RouteCap {
    /// For at most so many routes a service.
    pub fn new(most: usize) -> RouteCap {
        RouteCap {
            most,
            services: LruCache::new(MOST_SERVICES),
            other: OTHER.into(),
        }
    }

    /// The route to tell for this one, and whether it is itself.
    pub fn admit(&mut self, service: &Arc<str>, route: &Arc<str>) -> (Arc<str>, bool) {
        let routes = self.services.get_or_insert_mut(service.clone(), HashSet::new);
        if let Some(known) = routes.get(route) {
            return (known.clone(), true);
        }
        if routes.len() >= self.most {
            return (self.other.clone(), false);
        }
        routes.insert(route.clone());
        (route.clone(), true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_own_bound() {
        let mut cap = RouteCap::new(2);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut admit = |service: &Arc<str>, route: &str| cap.admit(service, &route.into());
        assert_eq!(admit(&a, "/1"), ("/1".into(), true));
        assert_eq!(admit(&a, "/2"), ("/2".into(), true));
        assert_eq!(admit(&a, "/3"), (OTHER.into(), false));
        assert_eq!(admit(&a, "/1"), ("/1".into(), true));
        assert_eq!(admit(&b, "/3"), ("/3".into(), true));
    }
}
