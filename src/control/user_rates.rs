//! The request rate of each user.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::rate::{RateLimit, TokenBucket};

/// Requests of one user: 40 at once, then 20 per second.
const LIMIT: RateLimit = RateLimit {
    burst: 40,
    interval: Duration::from_millis(50),
};

/// The most users with a bucket of their own. Full buckets are forgotten first.
const USERS: usize = 1_024;

/// A token bucket for each user, by user id.
#[derive(Debug, Default)]
pub(super) struct UserRates {
    buckets: BTreeMap<u32, TokenBucket>,
}

impl UserRates {
    /// Takes a token of a user, if there is one.
    pub(super) fn allows(&mut self, user: u32, now: Instant) -> bool {
        if self.buckets.len() >= USERS {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.buckets.len() >= USERS && !self.buckets.contains_key(&user) {
            return false;
        }
        self.buckets.entry(user).or_default().take(LIMIT, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_bucket() {
        let (start, mut rates) = (Instant::now(), UserRates::default());
        let mut allowed = |user, at| (0..1_000).filter(|_| rates.allows(user, at)).count();
        assert_eq!(allowed(1, start), 40);
        assert_eq!(allowed(2, start), 40);
        assert_eq!(allowed(1, start + Duration::from_secs(1)), 20);
        assert_eq!(allowed(1, start + Duration::from_secs(9)), 40);
    }

    #[test]
    fn full_buckets_are_forgotten_when_there_are_many() {
        let (start, mut rates) = (Instant::now(), UserRates::default());
        let users = u32::try_from(USERS).expect("a few");
        assert!((0..users).all(|user| rates.allows(user, start)));
        assert!(!rates.allows(users, start));
        assert!(rates.allows(0, start));
        assert!(rates.allows(users, start + Duration::from_secs(1)));
        assert_eq!(rates.buckets.len(), 1);
    }
}
