//! How lost packets are spread: runs, bursts and gaps (RFC 3611 section 4.7.2).

/// A burst ends after this many received packets in a row (Gmin, RFC 3611 section 4.7.2).
const RECEIVED_BETWEEN_BURSTS: u64 = 16;

/// The spread of lost packets in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossPattern {
    /// Bursts: the longest runs that begin and end with a lost packet, with fewer than 16 received packets between two
    /// lost ones. A single lost packet is no burst.
    pub bursts: u64,
    /// Packets of all bursts, received or lost.
    pub burst_packets: u64,
    /// Lost packets of all bursts.
    pub burst_lost: u64,
    /// Lost packets outside bursts.
    pub gap_lost: u64,
    /// Runs of 1, 2, … 9 and of 10 or more packets lost in a row.
    pub runs: [u64; 10],
}

/// Finds the pattern in the packets of a stream in the order of their numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossRuns {
    ended: LossPattern,
    /// Packets of the current burst up to its latest lost one.
    packets: u64,
    /// Lost packets of the current burst. Zero without one.
    lost: u64,
    /// Received packets since the latest lost one.
    received: u64,
    /// Packets lost in a row until now.
    run: u64,
}

impl LossRuns {
    /// Records the next `count` packets, which were all received.
    pub(super) fn receive(&mut self, count: u64) {
        if count > 0 {
            self.end_run();
            self.received += count;
        }
    }

    /// Records the next `count` packets, which were all lost.
    pub(super) fn lose(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        if self.lost > 0 && self.received < RECEIVED_BETWEEN_BURSTS {
            self.packets += self.received + count;
            self.lost += count;
        } else {
            self.end_burst();
            (self.packets, self.lost) = (count, count);
        }
        self.received = 0;
        self.run += count;
    }

    /// Ends the current run and burst: the numbers that follow are of another sequence.
    pub(super) fn end(&mut self) {
        self.end_run();
        self.end_burst();
    }

    /// Returns the pattern if no further packet follows.
    pub(super) fn pattern(mut self) -> LossPattern {
        self.end();
        self.ended
    }

    fn end_run(&mut self) {
        let runs = &mut self.ended.runs;
        let longest = runs.len() as u64;
        if let Some(before) = self.run.min(longest).checked_sub(1) {
            runs[usize::try_from(before).expect("ten at most")] += 1;
        }
        self.run = 0;
    }

    fn end_burst(&mut self) {
        if self.lost > 1 {
            self.ended.bursts += 1;
            self.ended.burst_packets += self.packets;
            self.ended.burst_lost += self.lost;
        } else {
            self.ended.gap_lost += self.lost;
        }
        (self.packets, self.lost, self.received) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pattern of packets, true for a lost one.
    fn pattern_of(packets: &[bool]) -> LossPattern {
        let mut runs = LossRuns::default();
        for lost in packets {
            match lost {
                true => runs.lose(1),
                false => runs.receive(1),
            }
        }
        runs.pattern()
    }

    fn packets(lost: &[usize], count: usize) -> Vec<bool> {
        (0..count).map(|number| lost.contains(&number)).collect()
    }

    #[test]
    fn sixteen_received_packets_part_bursts() {
        let apart = pattern_of(&packets(&[20, 37, 54], 100));
        assert_eq!((apart.bursts, apart.gap_lost), (0, 3));
        assert_eq!(apart.runs[0], 3);
        let close = pattern_of(&packets(&[20, 36, 52], 100));
        assert_eq!((close.bursts, close.burst_packets), (1, 33));
        assert_eq!((close.burst_lost, close.gap_lost), (3, 0));
    }

    #[test]
    fn a_run_is_a_burst_and_a_single_loss_is_none() {
        let pattern = pattern_of(&packets(&[10, 11, 12, 13, 14, 60], 100));
        assert_eq!((pattern.bursts, pattern.burst_packets), (1, 5));
        assert_eq!((pattern.burst_lost, pattern.gap_lost), (5, 1));
        assert_eq!((pattern.runs[4], pattern.runs[0]), (1, 1));
        let every_second: Vec<_> = (0..40).map(|number| number % 2 == 0).collect();
        let pattern = pattern_of(&every_second);
        assert_eq!((pattern.bursts, pattern.burst_packets), (1, 39));
        assert_eq!(pattern.burst_lost, 20);
    }

    #[test]
    fn runs_of_ten_and_more_are_one_class() {
        let mut runs = LossRuns::default();
        runs.lose(10);
        runs.receive(20);
        runs.lose(3_000);
        assert_eq!(runs.pattern().runs[9], 2);
        assert_eq!(runs.pattern().burst_lost, 3_010);
    }

    proptest! {
        /// The definition, word by word: two lost packets are of one burst if fewer than 16 were received between them.
        #[test]
        fn bursts_follow_the_definition(packets in proptest::collection::vec(prop::bool::weighted(0.1), 0..400)) {
            let lost: Vec<usize> = (0..packets.len()).filter(|number| packets[*number]).collect();
            let groups = lost.chunk_by(|before, after| after - before <= 16);
            let mut expected = LossPattern::default();
            for group in groups {
                if let [only] = group {
                    let _ = only;
                    expected.gap_lost += 1;
                    continue;
                }
                expected.bursts += 1;
                expected.burst_packets += (group[group.len() - 1] - group[0] + 1) as u64;
                expected.burst_lost += group.len() as u64;
            }
            for run in lost.chunk_by(|before, after| after - before == 1) {
                expected.runs[run.len().min(10) - 1] += 1;
            }
            prop_assert_eq!(pattern_of(&packets), expected);
        }
    }
}
