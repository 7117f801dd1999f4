//! Token buckets: how often something may happen.

use std::time::{Duration, Instant};

/// A limit: `burst` events at once, then one per `interval`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    /// Events at once after a long pause, at least 1.
    pub(crate) burst: u32,
    /// Time in which one more event is allowed.
    pub(crate) interval: Duration,
}

/// A token bucket, full at the start, stored as the time at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenBucket {
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Takes a token and returns true, or returns false if the bucket is empty.
    pub(crate) fn take(&mut self, limit: RateLimit, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        if full_at.saturating_duration_since(now) > limit.interval * (limit.burst - 1) {
            return false;
        }
        self.full_at = Some(full_at + limit.interval);
        true
    }

    /// Whether no token is missing.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let limit = RateLimit {
            burst: 50,
            interval: Duration::from_millis(10),
        };
        let (start, mut bucket) = (Instant::now(), TokenBucket::default());
        assert!(bucket.is_full(start));
        let mut in_a_flood = |at: Instant| (0..1_000).filter(|_| bucket.take(limit, at)).count();
        assert_eq!(in_a_flood(start), 50);
        assert_eq!(in_a_flood(start + Duration::from_millis(9)), 0);
        assert_eq!(in_a_flood(start + Duration::from_millis(10)), 1);
        assert_eq!(in_a_flood(start + Duration::from_millis(110)), 10);
        assert_eq!(in_a_flood(start + Duration::from_mins(1)), 50);
        assert!(!bucket.is_full(start + Duration::from_mins(1)));
        assert!(bucket.is_full(start + Duration::from_mins(2)));
    }
}
