//! Reception statistics of an RTP stream: order, loss and jitter (RFC 3550 sections A.1, A.3 and A.8).

use std::time::{Duration, Instant};

use super::RtpHeader;

/// A jump forward by this many sequence numbers or more is a restart, not loss (`MAX_DROPOUT`, RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;
/// A packet at most this far back is late, not a restart (`MAX_MISORDER`, RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;

/// The reception statistics of one synchronisation source.
///
/// The first packet counts at once. RFC 3550 A.1 has a probation of two packets against stray datagrams; here the policy
/// has already admitted the datagram as media.
#[derive(Clone, Debug)]
pub struct RtpStream {
    clock_rate: u32,
    /// The extended sequence number of the first packet of the stream or of its latest restart.
    base: u64,
    /// The highest extended sequence number received: cycles in the upper bits.
    highest: u64,
    received: u64,
    /// The sequence number that confirms a restart if it comes next.
    after_jump: Option<u16>,
    /// The latest packet's arrival and timestamp.
    latest: (Instant, u32),
    /// In ticks of the payload's clock.
    jitter: f64,
}

impl RtpStream {
    /// Starts a stream with its first packet. `clock_rate` is that of the payload in Hz (Opus: 48,000).
    #[must_use]
    pub fn new(first: &RtpHeader, clock_rate: u32, now: Instant) -> Self {
        Self {
            clock_rate,
            base: first.sequence.into(),
            highest: first.sequence.into(),
            received: 1,
            after_jump: None,
            latest: (now, first.timestamp),
            jitter: 0.0,
        }
    }

    /// Records a further packet, in the order of arrival.
    pub fn observe(&mut self, header: &RtpHeader, now: Instant) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the sequence number is the lower 16 bits"
        )]
        let forward = header.sequence.wrapping_sub(self.highest as u16);
        if forward < MAX_DROPOUT {
            self.highest += u64::from(forward);
        } else if forward <= u16::MAX - MAX_MISORDER + 1 {
            if self.after_jump == Some(header.sequence) {
                // Two packets in sequence after a jump: the sender has restarted, and so do the counts.
                let jitter = self.jitter;
                *self = Self::new(header, self.clock_rate, now);
                self.jitter = jitter;
            } else {
                self.after_jump = Some(header.sequence.wrapping_add(1));
            }
            return;
        }
        self.after_jump = None;
        self.received += 1;
        self.observe_spacing(header.timestamp, now);
    }

    /// Returns the highest sequence number received, extended beyond its 16 bits.
    #[must_use]
    pub fn extended_highest(&self) -> u64 {
        self.highest
    }

    /// Returns the number of packets sent, by their sequence numbers.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.highest - self.base + 1
    }

    /// Returns the number of packets received, late ones and duplicates included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns expected less received, clamped to the signed 24 bits of a receiver report (RFC 3550 A.3).
    ///
    /// Duplicates make it negative.
    #[must_use]
    pub fn cumulative_lost(&self) -> i32 {
        let lost = i128::from(self.expected()) - i128::from(self.received);
        i32::try_from(lost.clamp(-0x80_0000, 0x7f_ffff)).expect("24 bits fit into 32")
    }

    /// Returns the interarrival jitter: the smoothed deviation of the transit time (RFC 3550 A.8).
    #[must_use]
    pub fn jitter(&self) -> Duration {
        Duration::from_secs_f64(self.jitter / f64::from(self.clock_rate))
    }

    /// Compares the interval of two packets at arrival with that at sampling (RFC 3550 section 6.4.1).
    fn observe_spacing(&mut self, timestamp: u32, now: Instant) {
        let (arrived, sampled) = self.latest;
        let arrival = now.saturating_duration_since(arrived).as_secs_f64();
        let sampling = timestamp.wrapping_sub(sampled).cast_signed();
        let deviation = arrival * f64::from(self.clock_rate) - f64::from(sampling);
        self.jitter += (deviation.abs() - self.jitter) / 16.0;
        self.latest = (now, timestamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLOCK: u32 = 48_000;

    fn header(sequence: u16) -> RtpHeader {
        RtpHeader {
            marker: false,
            payload_type: 111,
            sequence,
            timestamp: u32::from(sequence) * 960,
            ssrc: 1,
        }
    }

    fn stream_of(sequences: &[u16]) -> RtpStream {
        let now = Instant::now();
        let mut stream = RtpStream::new(&header(sequences[0]), CLOCK, now);
        for &sequence in &sequences[1..] {
            stream.observe(&header(sequence), now);
        }
        stream
    }

    #[test]
    fn the_extended_sequence_number_survives_a_wrap() {
        let stream = stream_of(&[65_534, 65_535, 0, 1]);
        assert_eq!(stream.extended_highest(), 0x1_0001);
        assert_eq!((stream.expected(), stream.received()), (4, 4));
        assert_eq!(stream.cumulative_lost(), 0);
    }

    #[test]
    fn a_gap_is_loss_until_the_late_packet_arrives() {
        let mut stream = stream_of(&[10, 11, 14]);
        assert_eq!(stream.cumulative_lost(), 2);
        stream.observe(&header(12), Instant::now());
        assert_eq!(stream.cumulative_lost(), 1);
        assert_eq!(stream.extended_highest(), 14);
    }

    #[test]
    fn a_late_packet_from_before_the_wrap_stays_late() {
        let stream = stream_of(&[65_535, 1, 0]);
        assert_eq!(stream.extended_highest(), 0x1_0001);
        assert_eq!((stream.expected(), stream.received()), (3, 3));
    }

    #[test]
    fn duplicates_make_the_loss_negative_and_it_is_clamped() {
        let mut stream = stream_of(&[7, 7, 7]);
        assert_eq!(stream.cumulative_lost(), -2);
        stream.received = 1 << 40;
        assert_eq!(stream.cumulative_lost(), -0x80_0000);
        stream.received = 1;
        stream.highest += 1 << 40;
        assert_eq!(stream.cumulative_lost(), 0x7f_ffff);
    }

    #[test]
    fn one_stray_number_is_ignored_and_two_are_a_restart() {
        let mut stream = stream_of(&[100, 101, 40_000, 102]);
        assert_eq!((stream.expected(), stream.received()), (3, 3));
        stream.observe(&header(40_000), Instant::now());
        stream.observe(&header(40_001), Instant::now());
        stream.observe(&header(40_002), Instant::now());
        assert_eq!(stream.extended_highest(), 40_002);
        assert_eq!((stream.expected(), stream.received()), (2, 2));
    }

    #[test]
    fn jitter_follows_the_standards_recurrence() {
        let start = Instant::now();
        let mut stream = RtpStream::new(&header(0), CLOCK, start);
        // Arrivals that leave the 20 ms grid by 0, 5, 5 and -3 ms: deviations 0, 5, 0 and 8 ms.
        for (sequence, micros) in [(1, 20_000), (2, 45_000), (3, 65_000), (4, 77_000)] {
            stream.observe(&header(sequence), start + Duration::from_micros(micros));
        }
        let expected = [0.0, 5.0, 0.0, 8.0].iter().fold(0.0, |jitter, deviation| {
            jitter + (deviation - jitter) / 16.0
        });
        let measured = stream.jitter().as_secs_f64() * 1e3;
        assert!((measured - expected).abs() < 1e-6, "{measured} {expected}");
    }

    #[test]
    fn a_wrapped_timestamp_does_not_affect_the_jitter() {
        let start = Instant::now();
        let at = |sequence: u16| RtpHeader {
            timestamp: (u32::MAX - 1000).wrapping_add(u32::from(sequence) * 960),
            ..header(sequence)
        };
        let mut stream = RtpStream::new(&at(0), CLOCK, start);
        for sequence in 1..10 {
            stream.observe(
                &at(sequence),
                start + Duration::from_millis(20) * sequence.into(),
            );
        }
        assert!(stream.jitter() < Duration::from_nanos(100));
    }

    proptest! {
        #[test]
        fn without_jumps_the_counts_are_those_of_a_set(
            first: u16,
            kept in proptest::collection::vec(any::<bool>(), 1..2000),
        ) {
            let sent: Vec<u16> = std::iter::once(first)
                .chain(kept.iter().zip(1..).filter(|(kept, _)| **kept).map(|(_, n)| first.wrapping_add(n)))
                .collect();
            let stream = stream_of(&sent);
            let last = kept.iter().rposition(|kept| *kept).map_or(0, |at| at as u64 + 1);
            prop_assert_eq!(stream.expected(), last + 1);
            prop_assert_eq!(stream.received(), sent.len() as u64);
        }

        #[test]
        fn any_order_of_numbers_is_counted(sequences in proptest::collection::vec(any::<u16>(), 1..200)) {
            let stream = stream_of(&sequences);
            prop_assert!(stream.expected() >= 1);
            prop_assert!(stream.jitter() >= Duration::ZERO);
        }
    }
}
