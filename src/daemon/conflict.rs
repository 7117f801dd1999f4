//! How fast to put back what others take away: at once, as long as they do not do it again and again.
//!
//! A correction is a reconciliation that had to change something although nothing else was wanted than before. Twenty of
//! them may follow each other without a rest, and two more each second: a VPN that starts, `ip rule flush`, a network
//! manager that tidies up. More than that is another program that wants what we do not want. Two programs that undo each
//! other's work as fast as they can help nobody, least of all a call, so from then on each correction waits for longer,
//! until there was nothing to correct for a while. In the meantime media is where the other program puts it.

use std::time::{Duration, Instant};

/// How many corrections may follow each other without a rest.
const BURST: u32 = 20;

/// How long one of them is remembered.
const REFILL: Duration = Duration::from_millis(500);

/// The rest after the first correction too many; it doubles with each further one.
const SHORTEST_REST: Duration = Duration::from_millis(500);

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(16);

/// How long there must be nothing to correct before the contest is over.
const PEACE: Duration = Duration::from_secs(30);

/// The count of corrections.
#[derive(Debug, Default)]
pub(super) struct ConflictBackoff {
    /// When the last correction would be forgotten, and all before it.
    forgotten: Option<Instant>,
    under_way: Option<UnderWay>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    rest: Duration,
    last: Instant,
}

/// What a correction or a quiet look means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing new.
    Nothing,
    /// It has become a contest.
    Begins,
    /// The contest is over.
    Ends,
}

impl ConflictBackoff {
    /// Takes note of a correction.
    pub(super) fn corrected(&mut self, now: Instant) -> Turn {
        if let Some(contest) = &mut self.under_way {
            contest.rest = (contest.rest * 2).min(LONGEST_REST);
            contest.last = now;
            return Turn::Nothing;
        }
        let forgotten = self.forgotten.map_or(now, |at| at.max(now)) + REFILL;
        if forgotten.saturating_duration_since(now) <= REFILL * BURST {
            self.forgotten = Some(forgotten);
            return Turn::Nothing;
        }
        self.under_way = Some(UnderWay {
            rest: SHORTEST_REST,
            last: now,
        });
        Turn::Begins
    }

    /// Takes note that there was nothing to correct.
    pub(super) fn quiet(&mut self, now: Instant) -> Turn {
        if self.ends().is_some_and(|end| end <= now) {
            *self = Self::default();
            return Turn::Ends;
        }
        Turn::Nothing
    }

    /// When the next correction may be made, where that is not at once.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.under_way.map(|contest| contest.last + contest.rest)
    }

    /// When the contest is over unless there is something to correct before.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.under_way
            .map(|contest| contest.last + contest.rest + PEACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_in_a_row_and_two_each_second_are_no_contest() {
        let (mut contest, start) = (ConflictBackoff::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(contest.corrected(start), Turn::Nothing);
        }
        for turn in 1..100 {
            let now = start + REFILL * turn;
            assert_eq!(contest.corrected(now), Turn::Nothing, "{turn}");
            assert_eq!(contest.rests_until(), None);
        }
    }

    #[test]
    fn a_contest_slows_down_and_ends_in_peace() {
        let (mut contest, start) = (ConflictBackoff::default(), Instant::now());
        for _ in 0..BURST {
            contest.corrected(start);
        }
        assert_eq!(contest.corrected(start), Turn::Begins);
        let mut now = start;
        let mut rests = Vec::new();
        for _ in 0..7 {
            let until = contest.rests_until().expect("a rest");
            rests.push((until - now).as_millis());
            now = until;
            assert_eq!(contest.quiet(now), Turn::Nothing);
            assert_eq!(contest.corrected(now), Turn::Nothing);
        }
        assert_eq!(rests, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 16_000]);
        let end = contest.ends().expect("an end");
        assert_eq!(contest.quiet(now + PEACE), Turn::Nothing);
        assert_eq!(contest.quiet(end), Turn::Ends);
        assert_eq!((contest.rests_until(), contest.ends()), (None, None));
        assert_eq!(contest.corrected(end), Turn::Nothing);
    }
}
