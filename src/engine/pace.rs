//! The pace of ICMP errors (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).

use std::time::{Duration, Instant};

/// Errors in a row when there were none for a while.
const BURST: u32 = 50;

/// Time between two errors in the long run: 100 in a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// A token bucket, kept as the instant at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    full: Option<Instant>,
}

impl Pace {
    /// Takes a token, if there is one.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let full = self.full.map_or(now, |full| full.max(now));
        if full.saturating_duration_since(now) > INTERVAL * (BURST - 1) {
            return false;
        }
        self.full = Some(full + INTERVAL);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_hundred_in_a_second() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let mut in_a_flood = |at: Instant| (0..1_000).filter(|_| pace.allows(at)).count();
        assert_eq!(in_a_flood(start), 50);
        assert_eq!(in_a_flood(start + Duration::from_millis(9)), 0);
        assert_eq!(in_a_flood(start + Duration::from_millis(10)), 1);
        assert_eq!(in_a_flood(start + Duration::from_millis(110)), 10);
        assert_eq!(in_a_flood(start + Duration::from_mins(1)), 50);
    }
}
