//! Calls: a caller and a media server that speak RTP to each other, and what each of them hears.
//!
//! Fifty packets a second each way, 20 ms of sound in each, as Opus in WebRTC. The caller checks consent by STUN
//! once a second (RFC 7675); the server sends to wherever it heard the caller last. The payload, which for a codec
//! would be sound, carries clock readings: those of the sender, and of what the sender heard last and when. Both ends
//! run on one machine and read one clock.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::world::{MEDIA, TUNNEL, World};
use crate::call::stun::{self, StunClass, StunMessage, TransactionId, Transactions};
use crate::call::{DatagramKind, RtpHeader, RtpStream};
use crate::net::{Endpoint, Family};

/// The media server's port.
pub(super) const PORT: u16 = 24_680;

const FRAME: Duration = Duration::from_millis(20);
const CLOCK_RATE: u32 = 48_000;
const TICKS_PER_FRAME: u32 = 960;
const OPUS: u8 = 111;
const PAYLOAD: usize = 160;
/// A consent check goes with every so many frames.
const CONSENT_EVERY: u64 = 50;
/// How long the ends still listen after the last word.
const TAIL: Duration = Duration::from_secs(1);
/// The first sequence number: soon enough before the wrap that every call passes it.
const FIRST_SEQUENCE: u16 = u16::MAX - 80;

/// The synchronisation sources of the two directions.
#[derive(Clone, Copy)]
pub(super) struct Ssrcs {
    /// What the caller sends.
    pub(super) up: u32,
    /// What the server sends.
    pub(super) down: u32,
}

/// A call that goes on in the background.
pub(super) struct Call {
    pub(super) family: Family,
    pub(super) ssrcs: Ssrcs,
    pub(super) started: Instant,
    latest_round_trip: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    caller: JoinHandle<Leg>,
    server: JoinHandle<Leg>,
}

/// A call that has ended, as both ends kept it.
pub(super) struct Recording {
    pub(super) family: Family,
    pub(super) ssrcs: Ssrcs,
    pub(super) started: Instant,
    /// When the ends spoke their last word.
    pub(super) ended: Instant,
    pub(super) caller: Leg,
    pub(super) server: Leg,
}

/// What one end of a call did and heard.
pub(super) struct Leg {
    /// RTP packets sent.
    pub(super) sent: u64,
    /// The other end's stream; `None` if nothing was heard.
    pub(super) heard: Option<RtpStream>,
    /// When each of its packets came.
    pub(super) arrivals: Vec<Instant>,
    /// Microseconds to the other end and back, by every packet heard.
    pub(super) round_trips: Histogram<u64>,
    /// Consent checks sent.
    pub(super) asked: u64,
    /// Consent checks answered.
    pub(super) answered: u64,
    /// Own endpoint as the other end sees it.
    pub(super) mapped: Option<Endpoint>,
    /// Datagrams from others than the other end.
    pub(super) strangers: u64,
}

impl Call {
    /// Calls the media server from the laptop, as a browser does: from the address that the default route has.
    ///
    /// # Errors
    /// No socket at one of the ends.
    pub(super) fn dial(world: &World, family: Family) -> anyhow::Result<Self> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let server_at = SocketAddr::new(MEDIA.of(family), PORT);
        let caller_at = SocketAddr::new(TUNNEL.of(family), 0);
        let call =
            u32::try_from(CALLS.fetch_add(1, Ordering::Relaxed)).expect("a handful of calls");
        let ssrcs = Ssrcs {
            up: 0x7601_0000 + call,
            down: 0x7602_0000 + call,
        };
        let started = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let latest_round_trip = Arc::default();
        let end = |socket: io::Result<UdpSocket>, peer, ssrc| -> anyhow::Result<End> {
            let socket = socket.context("no socket for a call")?;
            socket.set_nonblocking(true)?;
            Ok(End::new(
                socket,
                peer,
                ssrc,
                started,
                Arc::clone(&latest_round_trip),
            ))
        };
        let server = end(
            world.cloud.enter(move || UdpSocket::bind(server_at)),
            None,
            ssrcs.down,
        )?;
        let caller = end(
            world.laptop.enter(move || UdpSocket::bind(caller_at)),
            Some(server_at),
            ssrcs.up,
        )?;
        let talk = |end: End| {
            let over = Arc::clone(&over);
            thread::spawn(move || end.talk(&over))
        };
        let (caller, server) = (talk(caller), talk(server));
        Ok(Self {
            family,
            ssrcs,
            started,
            latest_round_trip,
            over,
            caller,
            server,
        })
    }

    /// The round-trip time that was measured last; `None` before the first.
    pub(super) fn latest_round_trip(&self) -> Option<Duration> {
        let micros = self.latest_round_trip.load(Ordering::Relaxed);
        (micros > 0).then_some(Duration::from_micros(micros))
    }

    /// Gives what both ends heard once they have stopped, the packets still on their way included.
    fn join(self, ended: Instant) -> Recording {
        let join = |leg: JoinHandle<Leg>| leg.join().expect("the ends of a call do not panic");
        Recording {
            family: self.family,
            ssrcs: self.ssrcs,
            started: self.started,
            ended,
            caller: join(self.caller),
            server: join(self.server),
        }
    }
}

/// Ends all calls at once.
pub(super) fn hang_up(calls: Vec<Call>) -> Vec<Recording> {
    let ended = Instant::now();
    for call in &calls {
        call.over.store(true, Ordering::Relaxed);
    }
    calls.into_iter().map(|call| call.join(ended)).collect()
}

/// Clock readings in a payload, in nanoseconds since the call began.
struct Readings {
    /// When this packet was sent.
    sent: u64,
    /// When the packet was sent that its sender heard last.
    echo: u64,
    /// How long ago that was heard.
    held: u64,
}

impl Readings {
    fn to_payload(&self) -> [u8; PAYLOAD] {
        let mut payload = [0x5a; PAYLOAD];
        let words = [self.sent, self.echo, self.held].map(u64::to_be_bytes);
        payload[..24].copy_from_slice(words.as_flattened());
        payload
    }

    fn parse(datagram: &[u8]) -> Option<Self> {
        let payload = datagram.get(RtpHeader::LEN..)?;
        let (words, _) = payload.as_chunks::<8>();
        let &[sent, echo, held, ..] = words else {
            return None;
        };
        Some(Self {
            sent: u64::from_be_bytes(sent),
            echo: u64::from_be_bytes(echo),
            held: u64::from_be_bytes(held),
        })
    }
}

/// One end while the call goes on.
struct End {
    socket: UdpSocket,
    /// The caller knows whom it calls; the server sends to where it heard the caller last.
    peer: Option<SocketAddr>,
    calls: bool,
    ssrc: u32,
    epoch: Instant,
    frames: u64,
    /// When the packet heard last was sent, and when it was heard.
    last_heard: Option<(u64, Instant)>,
    transactions: Transactions,
    latest_round_trip: Arc<AtomicU64>,
    leg: Leg,
}

impl End {
    fn new(
        socket: UdpSocket,
        peer: Option<SocketAddr>,
        ssrc: u32,
        epoch: Instant,
        latest_round_trip: Arc<AtomicU64>,
    ) -> Self {
        Self {
            socket,
            peer,
            calls: peer.is_some(),
            ssrc,
            epoch,
            frames: 0,
            last_heard: None,
            transactions: Transactions::default(),
            latest_round_trip,
            leg: Leg {
                sent: 0,
                heard: None,
                arrivals: Vec::new(),
                round_trips: Histogram::new_with_bounds(1, 60_000_000, 3)
                    .expect("bounds in order, 3 digits of 5"),
                asked: 0,
                answered: 0,
                mapped: None,
                strangers: 0,
            },
        }
    }

    fn talk(mut self, over: &AtomicBool) -> Leg {
        let mut next_frame = self.epoch;
        let mut end = None;
        let mut buffer = [0; 2048];
        loop {
            let now = Instant::now();
            if over.load(Ordering::Relaxed) && end.is_none() {
                end = Some(now + TAIL);
            }
            match end {
                Some(end) if now >= end => return self.leg,
                None if now >= next_frame => {
                    self.speak(now);
                    next_frame += FRAME;
                }
                _ => {}
            }
            wait(&self.socket, end.unwrap_or(next_frame));
            while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                self.hear(&buffer[..len], from, Instant::now());
            }
        }
    }

    /// Sends a frame, and with some a consent check. A failed send is a lost packet.
    fn speak(&mut self, now: Instant) {
        let Some(peer) = self.peer else {
            return;
        };
        if self.calls && self.frames.is_multiple_of(CONSENT_EVERY) {
            let mut id = [0; 12];
            id[..8].copy_from_slice(&self.frames.to_be_bytes());
            id[8..].copy_from_slice(&self.ssrc.to_be_bytes());
            let transaction = TransactionId(id);
            self.transactions.observe_request(transaction, now);
            self.leg.asked += 1;
            let _ = self
                .socket
                .send_to(&stun::binding_request(transaction), peer);
        }
        let frame = u32::try_from(self.frames).expect("calls of seconds");
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
        let header = RtpHeader {
            marker: self.frames == 0,
            payload_type: OPUS,
            sequence: FIRST_SEQUENCE.wrapping_add(frame as u16),
            timestamp: frame.wrapping_mul(TICKS_PER_FRAME),
            ssrc: self.ssrc,
        };
        let (echo, held) = self
            .last_heard
            .map_or((0, 0), |(sent, heard)| (sent, nanos(now - heard)));
        let readings = Readings {
            sent: nanos(now - self.epoch),
            echo,
            held,
        };
        let datagram = [&header.to_bytes()[..], &readings.to_payload()].concat();
        let _ = self.socket.send_to(&datagram, peer);
        self.frames += 1;
        self.leg.sent += 1;
    }

    fn hear(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        if self.calls && self.peer != Some(from) {
            self.leg.strangers += 1;
            return;
        }
        match DatagramKind::of(datagram) {
            Some(DatagramKind::Stun) => self.hear_stun(datagram, from, now),
            Some(DatagramKind::Rtp) => self.hear_rtp(datagram, now),
            _ => return,
        }
        self.peer = Some(from);
    }

    fn hear_stun(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let Some(message) = StunMessage::parse(datagram) else {
            return;
        };
        match message.class {
            StunClass::Request => {
                let answer = stun::binding_success(message.transaction, from.into());
                let _ = self.socket.send_to(&answer, from);
            }
            StunClass::Success => {
                let answered = self.transactions.observe_answer(message.transaction, now);
                self.leg.answered += u64::from(answered.is_some());
                self.leg.mapped = message.mapped_endpoint();
            }
            StunClass::Indication | StunClass::Error => {}
        }
    }

    fn hear_rtp(&mut self, datagram: &[u8], now: Instant) {
        let (Some(header), Some(readings)) =
            (RtpHeader::parse(datagram), Readings::parse(datagram))
        else {
            return;
        };
        match &mut self.leg.heard {
            Some(stream) => stream.observe(&header, now),
            heard => *heard = Some(RtpStream::new(&header, CLOCK_RATE, now)),
        }
        self.leg.arrivals.push(now);
        self.last_heard = Some((readings.sent, now));
        if readings.echo > 0 {
            let round_trip = nanos(now - self.epoch).saturating_sub(readings.echo + readings.held);
            self.leg.round_trips.saturating_record(round_trip / 1000);
            self.latest_round_trip
                .store(round_trip / 1000, Ordering::Relaxed);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("calls of seconds")
}

/// Waits until the socket can be read or the time has come, to the microsecond.
fn wait(socket: &UdpSocket, until: Instant) {
    let timeout = until.saturating_duration_since(Instant::now());
    let mut readable = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    // An interrupted wait is a short one: the caller looks at the clock again.
    let _ = ppoll(&mut readable, Some(TimeSpec::from_duration(timeout)), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_survive_the_wire() {
        let readings = Readings {
            sent: 1,
            echo: u64::MAX,
            held: 3,
        };
        let datagram = [&[0x80; RtpHeader::LEN][..], &readings.to_payload()].concat();
        assert_eq!(datagram.len(), RtpHeader::LEN + PAYLOAD);
        let read = Readings::parse(&datagram).expect("three readings");
        assert_eq!((read.sent, read.echo, read.held), (1, u64::MAX, 3));
        assert!(Readings::parse(&datagram[..RtpHeader::LEN + 23]).is_none());
    }
}
