//! tshark's reception statistics of generated RTP streams are ours: packets, loss, mean and highest jitter.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::namespace::require;
use tempfile::TempDir;
use voicelane::call::{RtpHeader, RtpStream};
use voicelane::net::{Endpoint, TrafficClass};
use voicelane::wire::udp::{UdpHeaders, write_datagram};

const CALLER: [u8; 4] = [192, 0, 2, 1];
const CALLEE: [u8; 4] = [192, 0, 2, 2];
const PORT: u16 = 4_000;
const OPUS: u8 = 111;
const PCMU: u8 = 0;

/// A packet and its arrival since the start of the capture.
type Arrival = (Duration, RtpHeader);

/// Reproducible random numbers (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        f64::from(u32::try_from(bits).expect("32 bits")) / f64::from(u32::MAX)
    }

    /// A normal deviate (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.next().max(f64::MIN_POSITIVE), self.next());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

/// Packets of 20 ms each. `first` is the first sequence number, `delay` the standard deviation of the delay in seconds.
struct Sender {
    payload_type: u8,
    first: u16,
    timestamp: u32,
    ticks: u32,
    delay: f64,
    count: u32,
}

const SENDER: Sender = Sender {
    payload_type: OPUS,
    first: 1_000,
    timestamp: 5_000,
    ticks: 960,
    delay: 0.0,
    count: 500,
};

impl Sender {
    /// Returns the packets in the order of their numbers. No delay exceeds half a frame, so none is overtaken.
    fn send(&self) -> Vec<Arrival> {
        let mut random = Random(0x7601);
        let packets = (0..self.count).map(|number| {
            let delay = (0.010 + self.delay * random.normal()).clamp(0.0, 0.019);
            // tshark reads microseconds of most formats; whole ones leave nothing to round.
            let delay = Duration::from_secs_f64(delay).subsec_micros();
            let header = RtpHeader {
                padding: false,
                marker: number == 0,
                payload_type: self.payload_type,
                sequence: self
                    .first
                    .wrapping_add(u16::try_from(number & 0xffff).expect("16 bits")),
                timestamp: self.timestamp.wrapping_add(number * self.ticks),
                ssrc: 0x7601_0001,
            };
            (
                Duration::from_millis(20) * number + Duration::from_micros(delay.into()),
                header,
            )
        });
        packets.collect()
    }
}

/// Writes a capture of raw IP packets (draft-ietf-opsawg-pcap): a call's offer, which names the payload types, and its media.
fn write_capture(path: &Path, arrivals: &[Arrival]) {
    let mut file = BufWriter::new(File::create(path).expect("the directory is ours"));
    let mut write = |bytes: &[u8]| file.write_all(bytes).expect("there is space");
    for word in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 65_535, 101_u32] {
        write(&word.to_le_bytes());
    }
    let mut add = |at: Duration, ports: (u16, u16), payload: &[u8]| {
        let mut packet = Vec::new();
        let headers = UdpHeaders {
            source: Endpoint::new(IpAddr::from(CALLER), ports.0),
            destination: Endpoint::new(IpAddr::from(CALLEE), ports.1),
            traffic_class: TrafficClass::default(),
            hop_limit: 64,
        };
        write_datagram(&mut packet, &headers, payload).expect("it is short");
        let length = u32::try_from(packet.len()).expect("it is short");
        let seconds = u32::try_from(at.as_secs()).expect("hours");
        for word in [seconds, at.subsec_nanos(), length, length] {
            write(&word.to_le_bytes());
        }
        write(&packet);
    };
    let body = "v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\n\
                m=audio 4000 RTP/AVP 111 0\r\na=rtpmap:111 opus/48000/2\r\n";
    let offer = format!(
        "INVITE sip:a@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
         From: <sip:b@192.0.2.1>;tag=1\r\nTo: <sip:a@192.0.2.2>\r\nCall-ID: 1@192.0.2.1\r\nCSeq: 1 INVITE\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let start = Duration::from_secs(1_000);
    add(start, (5_060, 5_060), offer.as_bytes());
    for (at, header) in arrivals {
        let payload = [&header.to_bytes()[..], &[0; 80]].concat();
        add(start + Duration::from_secs(1) + *at, (PORT, PORT), &payload);
    }
}

/// Packets, lost packets, mean and highest jitter in milliseconds.
#[derive(Debug, PartialEq)]
struct Figures(u64, i64, f64, f64);

fn tshark(path: &Path) -> Vec<Figures> {
    let mut command = Command::new("tshark");
    command.args(["-q", "-z", "rtp,streams", "-r"]).arg(path);
    let output = command.output().expect("tshark is there");
    let text = String::from_utf8_lossy(&output.stdout);
    // A row: times, source, port, destination, port, SSRC, payload, packets, lost (share), three deltas, three jitters.
    let rows = text.lines().filter(|line| line.contains("0x"));
    rows.map(|row| {
        let after = row.split("0x").nth(1).expect("the SSRC");
        let words: Vec<_> = after.split_whitespace().collect();
        let share = words
            .iter()
            .position(|word| word.starts_with('('))
            .expect("a share");
        let number = |index: usize| words[index].parse().unwrap_or_else(|_| panic!("{row}"));
        // After the share: delta min, mean, max; jitter min, mean, max.
        let packets = words[share - 2].parse().expect("packets");
        let lost = words[share - 1].parse().expect("lost packets");
        Figures(packets, lost, number(share + 5), number(share + 6))
    })
    .collect()
}

fn ours(arrivals: &[Arrival]) -> Vec<Figures> {
    let start = Instant::now();
    let mut streams: Vec<(u32, RtpStream)> = Vec::new();
    for (at, header) in arrivals {
        let clock = if header.payload_type == PCMU {
            8_000
        } else {
            48_000
        };
        match streams.iter_mut().find(|(ssrc, _)| *ssrc == header.ssrc) {
            Some((_, stream)) => stream.observe(header, start + *at),
            None => streams.push((header.ssrc, RtpStream::new(header, clock, start + *at))),
        }
    }
    let rounded = |jitter: Duration| (jitter.as_secs_f64() * 1e6).round() / 1e3;
    let figures = streams.iter().map(|(_, stream)| {
        let counts = stream.counts();
        let lost = i64::try_from(counts.lost()).expect("few");
        let jitters = [stream.mean_jitter(), stream.max_jitter()].map(rounded);
        Figures(counts.received, lost, jitters[0], jitters[1])
    });
    figures.collect()
}

fn assert_tshark_agrees(name: &str, arrivals: &[Arrival]) {
    let files = TempDir::new().expect("the temporary directory is writable");
    let path = files.path().join(name);
    write_capture(&path, arrivals);
    let (theirs, ours) = (tshark(&path), ours(arrivals));
    println!("{name}: {ours:?}");
    assert_eq!(ours, theirs, "{name}");
}

fn without(mut arrivals: Vec<Arrival>, lost: impl Fn(usize) -> bool) -> Vec<Arrival> {
    let mut number = 0;
    arrivals.retain(|_| {
        number += 1;
        !lost(number - 1)
    });
    arrivals
}

/// The rows in which tshark 4.0 follows RFC 3550. Where packets are doubled, overtaken or restarted, it has faults.
#[test]
fn tshark_computes_the_same_figures() {
    require(&[("tshark", "tshark")]);
    assert_tshark_agrees("clean", &SENDER.send());
    let delayed = Sender {
        delay: 0.004,
        ..SENDER
    };
    assert_tshark_agrees("delayed", &delayed.send());
    let mut random = Random(5);
    let some: Vec<bool> = (0..500).map(|_| random.next() < 0.05).collect();
    let within = |number: usize| (1..499).contains(&number) && some[number];
    assert_tshark_agrees("lossy", &without(delayed.send(), within));
    assert_tshark_agrees(
        "without its last three",
        &without(SENDER.send(), |number| number >= 497),
    );
    let wrapping = Sender {
        first: 65_300,
        ..SENDER
    };
    assert_tshark_agrees("wrapping", &wrapping.send());
    let around = |number: usize| (236..=238).contains(&number);
    assert_tshark_agrees("lossy at its wrap", &without(wrapping.send(), around));
    let timestamps = Sender {
        timestamp: u32::MAX - 100_000,
        ..SENDER
    };
    assert_tshark_agrees("wrapping in its timestamps", &timestamps.send());
    let pcmu = Sender {
        payload_type: PCMU,
        ticks: 160,
        delay: 0.003,
        ..SENDER
    };
    assert_tshark_agrees("pcmu", &pcmu.send());
    for marked in [true, false] {
        let mut silent = SENDER.send();
        for (number, (at, header)) in silent.iter_mut().enumerate() {
            let silences = u32::try_from(number / 100).expect("five");
            header.marker = marked && number % 100 == 0;
            header.timestamp += silences * 96_000;
            *at += Duration::from_secs(2) * silences;
        }
        assert_tshark_agrees("silences", &silent);
    }
    let mut two = SENDER.send();
    for (_, header) in &mut two[250..] {
        header.ssrc += 1;
    }
    assert_tshark_agrees("two sources", &two);
    let long = Sender {
        delay: 0.002,
        count: 360_000,
        ..SENDER
    };
    let mut random = Random(7);
    let some: Vec<bool> = (0..360_000).map(|_| random.next() < 0.005).collect();
    let within = |number: usize| (1..359_999).contains(&number) && some[number];
    assert_tshark_agrees("two hours", &without(long.send(), within));
}
