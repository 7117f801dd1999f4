//! How often one user may ask: a token bucket for each, as many as have asked of late.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Requests in a row of one user who has not asked for a while.
const BURST: u32 = 40;

/// Time between two requests in the long run: 20 in a second.
const INTERVAL: Duration = Duration::from_millis(50);

/// Users whose pace is remembered. Those that have not asked for two seconds are forgotten first.
const USERS: usize = 1_024;

/// The paces of all users, each kept as the instant at which its bucket will be full again.
#[derive(Debug, Default)]
pub(super) struct Paces {
    full: BTreeMap<u32, Instant>,
}

impl Paces {
    /// Takes a token of a user's, if there is one.
    pub(super) fn allows(&mut self, user: u32, now: Instant) -> bool {
        if self.full.len() >= USERS {
            self.full.retain(|_, full| *full > now);
        }
        if self.full.len() >= USERS && !self.full.contains_key(&user) {
            return false;
        }
        let full = self.full.entry(user).or_insert(now);
        *full = (*full).max(now);
        let allowed = full.saturating_duration_since(now) <= INTERVAL * (BURST - 1);
        if allowed {
            *full += INTERVAL;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_burst_and_then_twenty_in_a_second() {
        let (start, mut paces) = (Instant::now(), Paces::default());
        let mut asked = |user, at| (0..1_000).filter(|_| paces.allows(user, at)).count();
        assert_eq!(asked(1, start), 40);
        assert_eq!(asked(2, start), 40);
        assert_eq!(asked(1, start + Duration::from_secs(1)), 20);
        assert_eq!(asked(1, start + Duration::from_secs(9)), 40);
    }

    #[test]
    fn many_users_are_remembered_no_longer_than_they_must() {
        let (start, mut paces) = (Instant::now(), Paces::default());
        let crowd = u32::try_from(USERS).expect("a few");
        assert!((0..crowd).all(|user| paces.allows(user, start)));
        assert!(!paces.allows(crowd, start));
        assert!(paces.allows(0, start));
        assert!(paces.allows(crowd, start + Duration::from_secs(1)));
        assert_eq!(paces.full.len(), 1);
    }
}
