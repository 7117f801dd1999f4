//! Order and loss of a stream's packets by their sequence numbers (RFC 3550 section A.1).

use super::loss::{LossPattern, LossRuns};

/// A jump forward by this many sequence numbers or more is a restart, not loss (`MAX_DROPOUT`, RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;
/// A packet at most this far back is late, not a restart (`MAX_MISORDER`, RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;
/// Numbers below the highest of which is known whether they were received. More than `MAX_MISORDER`.
const WINDOW: u64 = u128::BITS as u64;
/// The extended number of the first packet, less its 16 bits. Numbers before the first packet stay above zero.
const START: u64 = 1 << 16;

/// The place of a packet in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketOrder {
    /// The highest number until now.
    Newest,
    /// The second packet in sequence after a jump: the sender has restarted its numbers.
    Restarted,
    /// Below the highest number, and not received before.
    Late,
    /// Received before.
    Duplicate,
    /// Far from the highest number. Does not count unless the next packet follows it.
    Stray,
}

/// Counts of packets. Duplicates are not received packets: a browser's replay check drops them (RFC 3711 section 3.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// Packets sent, by their numbers, from the first to the highest received. Each restart adds its own.
    pub expected: u64,
    /// Different numbers received.
    pub received: u64,
    /// Received packets with a number below the highest.
    pub late: u64,
    /// Packets with a number received before.
    pub duplicates: u64,
    /// Packets with a number far from the others.
    pub strays: u64,
    /// Restarts of the numbers.
    pub restarts: u64,
    /// The largest distance of a late packet below the highest number.
    pub displacement: u64,
}

impl PacketCounts {
    /// Returns the numbers that were not received until now.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.expected - self.received
    }
}

/// The numbers of a stream.
#[derive(Clone, Debug)]
pub(super) struct SequenceNumbers {
    /// The lowest extended number since the start or the latest restart.
    base: u64,
    /// The highest extended number: cycles in the upper bits.
    highest: u64,
    /// Whether a number was received: bit 0 is the highest.
    received: u128,
    /// The number that confirms a restart if it comes next.
    after_jump: Option<u16>,
    /// All but the expected packets since the latest restart.
    counts: PacketCounts,
    /// The numbers that have left the window.
    runs: LossRuns,
}

impl SequenceNumbers {
    /// Starts with the number of the first packet.
    ///
    /// It counts at once. RFC 3550 A.1 has a probation of two packets against stray datagrams; here the policy has
    /// already admitted the datagram as media.
    pub(super) fn new(first: u16) -> Self {
        Self {
            base: START + u64::from(first),
            highest: START + u64::from(first),
            received: 1,
            after_jump: None,
            counts: PacketCounts {
                received: 1,
                ..PacketCounts::default()
            },
            runs: LossRuns::default(),
        }
    }

    /// Records the number of the next packet, in the order of arrival.
    pub(super) fn observe(&mut self, number: u16) -> PacketOrder {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the sequence number is the lower 16 bits"
        )]
        let forward = number.wrapping_sub(self.highest as u16);
        let back = forward.wrapping_neg();
        let expected_after_jump = self.after_jump.take();
        if (1..MAX_DROPOUT).contains(&forward) {
            self.advance(forward.into());
            self.counts.received += 1;
            PacketOrder::Newest
        } else if back <= MAX_MISORDER {
            self.observe_behind(back.into())
        } else if expected_after_jump == Some(number) {
            self.restart(number);
            PacketOrder::Restarted
        } else {
            self.after_jump = Some(number.wrapping_add(1));
            self.counts.strays += 1;
            PacketOrder::Stray
        }
    }

    /// Returns all counts until now.
    pub(super) fn counts(&self) -> PacketCounts {
        PacketCounts {
            expected: self.counts.expected + self.highest - self.base + 1,
            ..self.counts
        }
    }

    /// Returns the spread of lost packets if no further packet follows.
    pub(super) fn pattern(&self) -> LossPattern {
        let mut ended = self.clone();
        ended.leave_window(WINDOW);
        ended.runs.pattern()
    }

    fn advance(&mut self, forward: u64) {
        self.leave_window(forward);
        self.highest += forward;
        let shift = u32::try_from(forward).expect("less than MAX_DROPOUT");
        self.received = self.received.checked_shl(shift).unwrap_or(0) | 1;
    }

    fn observe_behind(&mut self, back: u64) -> PacketOrder {
        let bit = 1 << back;
        if self.received & bit != 0 {
            self.counts.duplicates += 1;
            return PacketOrder::Duplicate;
        }
        self.received |= bit;
        // Another packet has overtaken the first one.
        self.base = self.base.min(self.highest - back);
        self.counts.received += 1;
        self.counts.late += 1;
        self.counts.displacement = self.counts.displacement.max(back);
        PacketOrder::Late
    }

    /// Begins anew with the packet before this one, which was held as a stray.
    fn restart(&mut self, number: u16) {
        self.leave_window(WINDOW);
        self.runs.end();
        self.counts = self.counts();
        self.counts.restarts += 1;
        self.counts.strays -= 1;
        self.counts.received += 2;
        self.base = START + u64::from(number.wrapping_sub(1));
        self.highest = self.base + 1;
        self.received = 0b11;
    }

    /// Records which numbers were received, of those that leave the window when it moves on by `count`.
    fn leave_window(&mut self, count: u64) {
        let within = (self.highest - self.base + 1).min(WINDOW);
        let leaving = (within + count).saturating_sub(WINDOW);
        for oldest in (within.saturating_sub(leaving)..within).rev() {
            if self.received >> oldest & 1 == 1 {
                self.runs.receive(1);
            } else {
                self.runs.lose(1);
            }
        }
        // A jump over more than the window leaves out these numbers.
        self.runs.lose(leaving.saturating_sub(within));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn observed(numbers: impl IntoIterator<Item = u16>) -> SequenceNumbers {
        let mut numbers = numbers.into_iter();
        let mut sequence = SequenceNumbers::new(numbers.next().expect("a first packet"));
        for number in numbers {
            sequence.observe(number);
        }
        sequence
    }

    fn counts(expected: u64, received: u64) -> PacketCounts {
        PacketCounts {
            expected,
            received,
            ..PacketCounts::default()
        }
    }

    #[test]
    fn numbers_survive_a_wrap() {
        assert_eq!(observed(65_300..=65_535).counts(), counts(236, 236));
        let wrapped = (65_300..=65_535).chain(0..264);
        assert_eq!(observed(wrapped.clone()).counts(), counts(500, 500));
        let around = wrapped.filter(|number| !(0..=2).contains(number));
        let sequence = observed(around);
        assert_eq!(sequence.counts(), counts(500, 497));
        assert_eq!(sequence.pattern().bursts, 1);
    }

    #[test]
    fn a_number_that_is_overtaken_is_late_and_not_lost() {
        let late = PacketCounts {
            late: 1,
            displacement: 1,
            ..counts(3, 3)
        };
        assert_eq!(observed([10, 12, 11]).counts(), late, "the last");
        assert_eq!(observed([11, 10, 12]).counts(), late, "the first");
        assert_eq!(
            observed([65_535, 1, 0]).counts(),
            late,
            "the first of a cycle"
        );
        assert_eq!(
            observed([0, 65_535, 1]).counts(),
            late,
            "the first, at a wrap"
        );
        assert_eq!(observed([10, 11, 14]).counts().lost(), 2);
        assert_eq!(observed([10, 11, 14, 12]).counts().lost(), 1);
    }

    #[test]
    fn duplicates_hide_no_loss() {
        let sequence = observed([1, 2, 2, 2, 6, 7, 7]);
        let duplicates = PacketCounts {
            duplicates: 3,
            ..counts(7, 4)
        };
        assert_eq!(sequence.counts(), duplicates);
        assert_eq!(sequence.counts().lost(), 3);
    }

    #[test]
    fn a_restart_keeps_what_was_counted() {
        for restarted in [30_000_u16, 60_000] {
            let numbers = (40_000..40_250).chain(restarted..restarted + 250);
            let mut sequence = observed(numbers);
            let restart = PacketCounts {
                restarts: 1,
                ..counts(500, 500)
            };
            assert_eq!(sequence.counts(), restart);
            assert_eq!(sequence.observe(100), PacketOrder::Stray);
            assert_eq!(sequence.observe(restarted + 250), PacketOrder::Newest);
            let stray = PacketCounts {
                strays: 1,
                expected: 501,
                received: 501,
                ..restart
            };
            assert_eq!(sequence.counts(), stray, "one stray number is no restart");
            assert_eq!(sequence.pattern(), LossPattern::default());
        }
    }

    #[test]
    fn a_packet_behind_the_window_stays_lost() {
        let without = (0..400).filter(|number| *number != 100);
        let sequence = observed(without.chain([100]));
        assert_eq!(sequence.counts().lost(), 1);
        assert_eq!(sequence.counts().strays, 1);
        assert_eq!(sequence.pattern().gap_lost, 1);
    }

    #[test]
    fn a_jump_over_the_window_is_one_run() {
        let sequence = observed((0..10).chain([2_000]));
        assert_eq!(sequence.counts(), counts(2_001, 11));
        let pattern = sequence.pattern();
        assert_eq!((pattern.burst_lost, pattern.runs[9]), (1_990, 1));
    }

    proptest! {
        #[test]
        fn without_jumps_the_counts_are_those_of_a_set(
            first: u16,
            steps in proptest::collection::vec((0_u16..20, 0_u16..60), 1..600),
        ) {
            let (mut sequence, mut highest) = (SequenceNumbers::new(first), 100_000_u32);
            let mut model = BTreeSet::from([highest]);
            let mut sent = 1;
            for (forward, back) in steps {
                let number = highest + u32::from(forward) - u32::from(back);
                let low_bits = u16::try_from(number.wrapping_sub(100_000) & 0xffff).expect("16 bits");
                sequence.observe(first.wrapping_add(low_bits));
                model.insert(number);
                highest = highest.max(number);
                sent += 1;
            }
            let lowest = *model.first().expect("the first packet");
            let counts = sequence.counts();
            prop_assert_eq!(counts.expected, u64::from(highest - lowest + 1));
            prop_assert_eq!(counts.received, model.len() as u64);
            prop_assert_eq!(counts.received + counts.duplicates, sent);
            let pattern = sequence.pattern();
            prop_assert_eq!(pattern.burst_lost + pattern.gap_lost, counts.lost());
        }

        #[test]
        fn any_order_of_numbers_is_counted(numbers in proptest::collection::vec(any::<u16>(), 1..300)) {
            let sequence = observed(numbers.iter().copied());
            let (counts, pattern) = (sequence.counts(), sequence.pattern());
            prop_assert!(counts.received <= counts.expected);
            prop_assert_eq!(counts.received + counts.duplicates + counts.strays, numbers.len() as u64);
            prop_assert_eq!(pattern.burst_lost + pattern.gap_lost, counts.lost());
        }
    }
}
