//! The steward's agenda: what is to be looked into, and when; rests and tries.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::steering::watch::KernelChange;

/// The least rest after a look at the kernel. One that cost much, since there is much to see, is rested from for
/// [`SHARE`] times what it cost.
pub(super) const REST: Duration = Duration::from_millis(10);

/// How many times the processor's time for a look the rest after it is: what others do to the routes must not keep this
/// machine busy. A look that only waited for the processor has cost nothing.
const SHARE: u32 = 4;

/// The longest rest after a look.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// When to try again what the kernel refused, at first; it doubles up to [`LONGEST_RETRY`].
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// How long to leave a firewall alone that was asked about: it may forbid what a probe is allowed.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest time before another try.
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What is to be looked into, and when.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) change: Option<KernelChange>,
    /// Nothing is done before this time.
    pub(super) rest: Option<Instant>,
    /// When to ask about a firewall, and when that was last done.
    pub(super) doubt: Option<Instant>,
    pub(super) asked: Option<Instant>,
    /// When to try again, and how long that was waited for.
    pub(super) retry: Option<(Instant, Duration)>,
}

impl Schedule {
    pub(super) fn add(&mut self, change: KernelChange) {
        self.change.get_or_insert_default().merge(change);
    }

    /// The driver was refused what a firewall would refuse.
    pub(super) fn doubt(&mut self) {
        let now = Instant::now();
        let at = self.asked.map_or(now, |asked| now.max(asked + PAUSE));
        self.doubt.get_or_insert(at);
    }

    /// Something that no notice told of.
    pub(super) fn add_now(&mut self) {
        self.add(KernelChange {
            noticed: Some(Instant::now()),
            ..KernelChange::default()
        });
    }
}

/// What this thread has had of the processor.
pub(super) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

pub(super) fn rest_after(cost: Duration) -> Duration {
    (cost * SHARE).clamp(REST, LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_long_for_what_cost_much_and_bounded() {
        assert_eq!(rest_after(Duration::ZERO), REST);
        let cost = Duration::from_millis(40);
        assert_eq!(rest_after(cost), cost * SHARE);
        assert_eq!(rest_after(Duration::from_secs(9)), LONGEST_REST);
    }
}
