//! When to restore rules and routes that another program changes: at once, until it changes them too often.
//!
//! A few corrections in a row are normal: a VPN starts, or a network manager restarts. More are a conflict of two
//! programs, which interrupts calls each time. So each further correction waits longer.

use std::time::{Duration, Instant};

use crate::rate::{RateLimit, TokenBucket};

/// Corrections without back-off: 20 at once, then 2 per second.
const LIMIT: RateLimit = RateLimit {
    burst: 20,
    interval: Duration::from_millis(500),
};

/// Initial back-off once the correction limit is exceeded. Doubles with each further correction.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);

/// The longest back-off.
const MAX_BACKOFF: Duration = Duration::from_secs(16);

/// The time without corrections after which a conflict is over.
const QUIET_PERIOD: Duration = Duration::from_secs(30);

/// The rate of corrections, and the conflict if there is one.
#[derive(Debug, Default)]
pub(super) struct ConflictBackoff {
    corrections: TokenBucket,
    active: Option<ActiveConflict>,
}

#[derive(Clone, Copy, Debug)]
struct ActiveConflict {
    backoff: Duration,
    last_correction: Instant,
}

/// The effect of a reconciliation on the conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConflictTransition {
    /// No change.
    None,
    /// A conflict started.
    Started,
    /// The conflict is over.
    Ended,
}

impl ConflictBackoff {
    /// Records a correction.
    pub(super) fn on_correction(&mut self, now: Instant) -> ConflictTransition {
        if let Some(conflict) = &mut self.active {
            conflict.backoff = (conflict.backoff * 2).min(MAX_BACKOFF);
            conflict.last_correction = now;
            return ConflictTransition::None;
        }
        if self.corrections.take(LIMIT, now) {
            return ConflictTransition::None;
        }
        self.active = Some(ActiveConflict {
            backoff: INITIAL_BACKOFF,
            last_correction: now,
        });
        ConflictTransition::Started
    }

    /// Records a reconciliation without corrections.
    pub(super) fn on_unchanged(&mut self, now: Instant) -> ConflictTransition {
        if self.ends_at().is_some_and(|end| end <= now) {
            *self = Self::default();
            return ConflictTransition::Ended;
        }
        ConflictTransition::None
    }

    /// The earliest time of the next correction, during a conflict.
    pub(super) fn backoff_until(&self) -> Option<Instant> {
        let conflict = self.active?;
        Some(conflict.last_correction + conflict.backoff)
    }

    /// The end of the conflict, unless another correction comes first.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.backoff_until().map(|until| until + QUIET_PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_corrections_at_once_and_two_per_second_are_no_conflict() {
        let (mut conflict, start) = (ConflictBackoff::default(), Instant::now());
        for _ in 0..LIMIT.burst {
            assert_eq!(conflict.on_correction(start), ConflictTransition::None);
        }
        for count in 1..100 {
            let now = start + LIMIT.interval * count;
            let transition = conflict.on_correction(now);
            assert_eq!(transition, ConflictTransition::None, "{count}");
            assert_eq!(conflict.backoff_until(), None);
        }
    }

    #[test]
    fn the_back_off_doubles_and_ends_after_a_quiet_period() {
        let (mut conflict, start) = (ConflictBackoff::default(), Instant::now());
        for _ in 0..LIMIT.burst {
            conflict.on_correction(start);
        }
        assert_eq!(conflict.on_correction(start), ConflictTransition::Started);
        let mut now = start;
        let mut backoffs = Vec::new();
        for _ in 0..7 {
            let until = conflict.backoff_until().expect("a back-off");
            backoffs.push((until - now).as_millis());
            now = until;
            assert_eq!(conflict.on_unchanged(now), ConflictTransition::None);
            assert_eq!(conflict.on_correction(now), ConflictTransition::None);
        }
        assert_eq!(backoffs, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 16_000]);
        let end = conflict.ends_at().expect("an end");
        assert_eq!(
            conflict.on_unchanged(now + QUIET_PERIOD),
            ConflictTransition::None
        );
        assert_eq!(conflict.on_unchanged(end), ConflictTransition::Ended);
        assert_eq!((conflict.backoff_until(), conflict.ends_at()), (None, None));
        assert_eq!(conflict.on_correction(end), ConflictTransition::None);
    }
}
