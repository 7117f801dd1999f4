//! Reception statistics of an RTP stream: packets, loss and jitter (RFC 3550 sections A.1 and A.8).

use std::mem;
use std::time::{Duration, Instant};

use super::RtpHeader;
use super::loss::LossPattern;
use super::sequence::{PacketCounts, PacketOrder, SequenceNumbers};

/// The reception statistics of one synchronisation source.
#[derive(Clone, Debug)]
pub struct RtpStream {
    numbers: SequenceNumbers,
    /// Packets of padding alone.
    padding: u64,
    /// The timestamp of the newest media packet.
    newest: u32,
    jitter: Jitter,
}

impl RtpStream {
    /// Starts a stream with its first packet. `clock_rate` is that of the payload in Hz (Opus: 48,000).
    #[must_use]
    pub fn new(first: &RtpHeader, clock_rate: u32, now: Instant) -> Self {
        Self {
            numbers: SequenceNumbers::new(first.sequence),
            padding: 0,
            newest: first.timestamp,
            jitter: Jitter {
                clock_rate,
                previous: (now, first.timestamp),
                last: 0.0,
                sum: 0.0,
                count: 0,
                max: 0.0,
            },
        }
    }

    /// Records a further packet, in the order of arrival.
    pub fn observe(&mut self, header: &RtpHeader, now: Instant) {
        match self.numbers.observe(header.sequence) {
            // Padding and the later packets of an event (RFC 4733) repeat a timestamp: their spacing tells nothing.
            PacketOrder::Newest if header.timestamp == self.newest => {
                self.padding += u64::from(header.padding);
            }
            PacketOrder::Newest => {
                self.newest = header.timestamp;
                self.jitter.observe(header.timestamp, now);
            }
            PacketOrder::Restarted => {
                self.newest = header.timestamp;
                self.jitter.previous = (now, header.timestamp);
            }
            PacketOrder::Late | PacketOrder::Duplicate | PacketOrder::Stray => {}
        }
    }

    /// Returns the counts of packets.
    #[must_use]
    pub fn counts(&self) -> PacketCounts {
        self.numbers.counts()
    }

    /// Returns the number of packets of padding alone, by which browsers probe the bandwidth. They can be lost like others.
    #[must_use]
    pub fn padding(&self) -> u64 {
        self.padding
    }

    /// Returns how the lost packets are spread, if no further packet follows.
    #[must_use]
    pub fn loss_pattern(&self) -> LossPattern {
        self.numbers.pattern()
    }

    /// Returns the interarrival jitter: the smoothed deviation of the transit time (RFC 3550 A.8).
    #[must_use]
    pub fn jitter(&self) -> Duration {
        seconds(self.jitter.last)
    }

    /// Returns the mean of the jitter over all packets that it was computed at.
    #[must_use]
    pub fn mean_jitter(&self) -> Duration {
        seconds(self.jitter.sum / f64::from(self.jitter.count.max(1)))
    }

    /// Returns the highest jitter.
    #[must_use]
    pub fn max_jitter(&self) -> Duration {
        seconds(self.jitter.max)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The jitter of packets that advance the sequence and have a new timestamp.
#[derive(Clone, Debug)]
struct Jitter {
    clock_rate: u32,
    /// Arrival and timestamp of the latest packet.
    previous: (Instant, u32),
    /// In seconds, as the next two.
    last: f64,
    sum: f64,
    max: f64,
    count: u32,
}

impl Jitter {
    /// Compares the interval of two packets at arrival with that at sampling (RFC 3550 section 6.4.1).
    fn observe(&mut self, timestamp: u32, now: Instant) {
        let (arrived, sampled) = mem::replace(&mut self.previous, (now, timestamp));
        let arrival = now.saturating_duration_since(arrived).as_secs_f64();
        let sampling = f64::from(timestamp.wrapping_sub(sampled).cast_signed());
        let deviation = arrival - sampling / f64::from(self.clock_rate);
        self.last += (deviation.abs() - self.last) / 16.0;
        self.sum += self.last;
        self.max = self.max.max(self.last);
        self.count = self.count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: u32 = 48_000;
    const FRAME: Duration = Duration::from_millis(20);

    fn header(sequence: u16) -> RtpHeader {
        RtpHeader {
            padding: false,
            marker: false,
            payload_type: 111,
            sequence,
            timestamp: u32::from(sequence) * 960,
            ssrc: 1,
        }
    }

    #[test]
    fn jitter_follows_the_standards_recurrence() {
        let start = Instant::now();
        let mut stream = RtpStream::new(&header(0), CLOCK, start);
        // Arrivals that leave the 20 ms grid by 0, 5, 5 and -3 ms: deviations 0, 5, 0 and 8 ms.
        for (sequence, micros) in [(1, 20_000), (2, 45_000), (3, 65_000), (4, 77_000)] {
            stream.observe(&header(sequence), start + Duration::from_micros(micros));
        }
        let mut expected = Vec::new();
        for deviation in [0.0, 5.0, 0.0, 8.0] {
            let before = expected.last().copied().unwrap_or(0.0);
            expected.push(before + (deviation - before) / 16.0);
        }
        let near = |measured: Duration, expected: f64| {
            let measured = measured.as_secs_f64() * 1e3;
            assert!((measured - expected).abs() < 1e-5, "{measured} {expected}");
        };
        near(stream.jitter(), expected[3]);
        near(stream.max_jitter(), expected[3]);
        near(stream.mean_jitter(), expected.iter().sum::<f64>() / 4.0);
    }

    /// 500 packets on time, of which `change` makes others. The jitter of what is on time is zero.
    fn on_time(change: impl Fn(u16, &mut RtpHeader)) -> RtpStream {
        let start = Instant::now();
        let headers = (0..500).map(|number| {
            let mut header = header(number);
            change(number, &mut header);
            (header, start + FRAME * number.into())
        });
        let mut headers = headers.into_iter();
        let (first, now) = headers.next().expect("500 packets");
        let mut stream = RtpStream::new(&first, CLOCK, now);
        headers.for_each(|(header, now)| stream.observe(&header, now));
        stream
    }

    #[test]
    fn a_wrapped_timestamp_does_not_affect_the_jitter() {
        let stream = on_time(|_, header| header.timestamp = header.timestamp.wrapping_sub(10_000));
        assert!(stream.max_jitter() < Duration::from_nanos(100));
    }

    #[test]
    fn a_restart_does_not_affect_the_jitter() {
        let stream = on_time(|number, header| {
            if number >= 250 {
                header.sequence += 20_000;
                header.timestamp += 77_777;
            }
        });
        assert_eq!(stream.counts().restarts, 1);
        assert_eq!((stream.counts().received, stream.counts().lost()), (500, 0));
        assert!(stream.max_jitter() < Duration::from_nanos(100));
    }

    #[test]
    fn repeated_timestamps_do_not_affect_the_jitter() {
        let event = on_time(|number, header| {
            if (100..120).contains(&number) {
                (header.payload_type, header.timestamp) = (101, 100 * 960);
            }
        });
        assert!(event.max_jitter() < Duration::from_nanos(100));
        assert_eq!(event.padding(), 0);

        let start = Instant::now();
        let mut stream = RtpStream::new(&header(0), CLOCK, start);
        for number in 1..100_u16 {
            // Each media packet is followed by a probe, which takes a number.
            let probe = RtpHeader {
                padding: true,
                sequence: 2 * number - 1,
                ..header(number - 1)
            };
            stream.observe(&probe, start + FRAME * (number - 1).into() + FRAME / 3);
            let media = RtpHeader {
                sequence: 2 * number,
                ..header(number)
            };
            stream.observe(&media, start + FRAME * number.into());
        }
        assert_eq!((stream.padding(), stream.counts().received), (99, 199));
        assert!(stream.max_jitter() < Duration::from_nanos(100));
    }
}
