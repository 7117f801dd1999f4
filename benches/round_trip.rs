//! The round-trip time that voicelane adds for one call, against plain routing over the same links. The packets of both
//! alternate in one run.
//!
//! One namespace is the laptop, with a home router and the internet behind it. The call sends 172 bytes every 20 ms to
//! a media address (by voicelane). 10 ms later it sends to an address outside the policy (by plain routing). The same echo
//! process answers both. Run it as root: `scripts/bench round_trip`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use support::addresses as at;
use support::caller::{Family, udp};
use support::voicelane::Voicelane;
use support::{Lab, MEDIA_PORT};

/// Round trips of each kind.
const ROUNDS: u32 = 1_000;

/// Uncounted round trips at the start; the first opens the mapping.
const WARM_UP: u32 = 50;

/// Half the time between two packets of the call.
const HALF: Duration = Duration::from_millis(10);

/// An RTP packet of 20 ms G.711: 12 bytes of header, 160 of payload.
const PAYLOAD: [u8; 172] = [0x5a; 172];

/// One of the two paths of the call.
struct Leg {
    name: &'static str,
    socket: UdpSocket,
    to: SocketAddr,
    nanoseconds: Histogram<u64>,
    lost: u32,
}

impl Leg {
    fn new(lab: &Lab, family: Family, name: &'static str, to: SocketAddr) -> Self {
        Self {
            name,
            socket: udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0)),
            to,
            nanoseconds: Histogram::new(3).expect("3 digits are allowed"),
            lost: 0,
        }
    }

    fn round(&mut self, counted: bool) {
        let mut buffer = [0; 2 * PAYLOAD.len()];
        let start = Instant::now();
        self.socket
            .send_to(&PAYLOAD, self.to)
            .expect("the laptop has a default route");
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let taken = start.elapsed();
                assert_eq!((length, from), (PAYLOAD.len(), self.to), "its answer");
                if counted {
                    let taken = u64::try_from(taken.as_nanos()).expect("less than 500 years");
                    self.nanoseconds.record(taken).expect("the histogram grows");
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.lost += 1;
            }
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
    fn microseconds(&self, quantile: f64) -> f64 {
        self.nanoseconds.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

fn main() {
    let lab = Lab::new();
    let _voicelane = Voicelane::start(&lab.laptop);
    println!("| family | path | p50 us | p90 us | p99 us | lost of {ROUNDS} |");
    println!("|---|---|---|---|---|---|");
    for family in Family::BOTH {
        let leg =
            |name, host: at::DualAddress| Leg::new(&lab, family, name, host.at(family, MEDIA_PORT));
        let mut plain = leg("plain routing", at::OTHER);
        let mut relayed = leg("voicelane", at::MEDIA);
        for round in 0..WARM_UP + ROUNDS {
            for leg in [&mut plain, &mut relayed] {
                let next = Instant::now() + HALF;
                leg.round(round >= WARM_UP);
                sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        for leg in [&plain, &relayed] {
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| leg.microseconds(quantile));
            println!(
                "| {family:?} | {} | {p50:.0} | {p90:.0} | {p99:.0} | {} |",
                leg.name, leg.lost
            );
        }
        let added = relayed.microseconds(0.5) - plain.microseconds(0.5);
        println!("| {family:?} | added at the median | {added:.0} | | | |");
    }
}
