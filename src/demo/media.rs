//! Calls: a caller and a media server exchange RTP and record what they receive.
//!
//! Each end sends 50 packets a second, as Opus does in WebRTC. The caller checks consent by STUN once a second
//! (RFC 7675). The server sends to the latest source of the caller. The payload carries clock readings instead of sound:
//! the send time, and send and receive time of the latest packet received. Both ends use the same clock.

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

use super::network::{DemoNetwork, MEDIA, TUNNEL};
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
/// The number of frames from one consent check to the next.
const CONSENT_EVERY: u64 = 50;
/// The time for which the ends still receive after their last packet.
const TAIL: Duration = Duration::from_secs(1);
/// The first sequence number, so that every call wraps around.
const FIRST_SEQUENCE: u16 = u16::MAX - 80;

/// The synchronisation sources of the two directions.
#[derive(Clone, Copy)]
pub(super) struct Ssrcs {
    /// The caller's stream.
    pub(super) up: u32,
    /// The server's stream.
    pub(super) down: u32,
}

/// A call in progress.
pub(super) struct DemoCall {
    pub(super) family: Family,
    pub(super) ssrcs: Ssrcs,
    pub(super) started: Instant,
    latest_round_trip: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    caller: JoinHandle<CallLeg>,
    server: JoinHandle<CallLeg>,
}

/// The records of a call that has ended.
pub(super) struct CallRecording {
    pub(super) family: Family,
    pub(super) ssrcs: Ssrcs,
    pub(super) started: Instant,
    /// When the ends stopped sending.
    pub(super) ended: Instant,
    pub(super) caller: CallLeg,
    pub(super) server: CallLeg,
}

/// The record of one end of a call.
pub(super) struct CallLeg {
    /// RTP packets sent.
    pub(super) sent: u64,
    /// The other end's stream; `None` before its first packet.
    pub(super) stream: Option<RtpStream>,
    /// The arrival time of each packet of the stream.
    pub(super) arrivals: Vec<Instant>,
    /// Round-trip times in microseconds, one for each packet received.
    pub(super) round_trips: Histogram<u64>,
    /// Consent checks sent.
    pub(super) asked: u64,
    /// Consent checks answered.
    pub(super) answered: u64,
    /// The own endpoint as the other end sees it.
    pub(super) mapped: Option<Endpoint>,
    /// Datagrams from other sources than the other end.
    pub(super) unsolicited: u64,
}

impl DemoCall {
    /// Calls the media server from the laptop. The source is the address of the default route, as in a browser.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub(super) fn dial(network: &DemoNetwork, family: Family) -> anyhow::Result<Self> {
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
        let end = |socket: io::Result<UdpSocket>, peer, ssrc| -> anyhow::Result<CallEnd> {
            let socket = socket.context("cannot open a socket for a call")?;
            socket.set_nonblocking(true)?;
            Ok(CallEnd::new(
                socket,
                peer,
                ssrc,
                started,
                Arc::clone(&latest_round_trip),
            ))
        };
        let server = end(
            network.cloud.enter(move || UdpSocket::bind(server_at)),
            None,
            ssrcs.down,
        )?;
        let caller = end(
            network.laptop.enter(move || UdpSocket::bind(caller_at)),
            Some(server_at),
            ssrcs.up,
        )?;
        let start = |end: CallEnd| {
            let over = Arc::clone(&over);
            thread::spawn(move || end.run(&over))
        };
        let (caller, server) = (start(caller), start(server));
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

    /// Returns the latest round-trip time; `None` before the first.
    pub(super) fn latest_round_trip(&self) -> Option<Duration> {
        let micros = self.latest_round_trip.load(Ordering::Relaxed);
        (micros > 0).then_some(Duration::from_micros(micros))
    }

    /// Waits for both ends and returns their records.
    fn join(self, ended: Instant) -> CallRecording {
        let join = |leg: JoinHandle<CallLeg>| leg.join().expect("the ends of a call do not panic");
        CallRecording {
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
pub(super) fn hang_up(calls: Vec<DemoCall>) -> Vec<CallRecording> {
    let ended = Instant::now();
    for call in &calls {
        call.over.store(true, Ordering::Relaxed);
    }
    calls.into_iter().map(|call| call.join(ended)).collect()
}

/// The clock readings in a payload, in nanoseconds since the start of the call.
struct ClockReadings {
    /// The send time of this packet.
    sent: u64,
    /// The send time of the latest packet that its sender received.
    echo: u64,
    /// The time since its sender received that packet.
    held: u64,
}

impl ClockReadings {
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

/// One end of a call in progress.
struct CallEnd {
    socket: UdpSocket,
    /// The caller's peer is fixed; the server's is the latest source.
    peer: Option<SocketAddr>,
    is_caller: bool,
    ssrc: u32,
    epoch: Instant,
    frames: u64,
    /// Send time and receive time of the latest packet received.
    latest: Option<(u64, Instant)>,
    transactions: Transactions,
    latest_round_trip: Arc<AtomicU64>,
    leg: CallLeg,
}

impl CallEnd {
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
            is_caller: peer.is_some(),
            ssrc,
            epoch,
            frames: 0,
            latest: None,
            transactions: Transactions::default(),
            latest_round_trip,
            leg: CallLeg {
                sent: 0,
                stream: None,
                arrivals: Vec::new(),
                round_trips: Histogram::new_with_bounds(1, 60_000_000, 3)
                    .expect("bounds in order, 3 digits of 5"),
                asked: 0,
                answered: 0,
                mapped: None,
                unsolicited: 0,
            },
        }
    }

    fn run(mut self, over: &AtomicBool) -> CallLeg {
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
                    self.send_frame(now);
                    next_frame += FRAME;
                }
                _ => {}
            }
            wait(&self.socket, end.unwrap_or(next_frame));
            while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                self.on_received(&buffer[..len], from, Instant::now());
            }
        }
    }

    /// Sends a frame, and a consent check with every 50th. A failed send counts as a lost packet.
    fn send_frame(&mut self, now: Instant) {
        let Some(peer) = self.peer else {
            return;
        };
        if self.is_caller && self.frames.is_multiple_of(CONSENT_EVERY) {
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
            padding: false,
            marker: self.frames == 0,
            payload_type: OPUS,
            sequence: FIRST_SEQUENCE.wrapping_add(frame as u16),
            timestamp: frame.wrapping_mul(TICKS_PER_FRAME),
            ssrc: self.ssrc,
        };
        let (echo, held) = self
            .latest
            .map_or((0, 0), |(sent, received)| (sent, nanos(now - received)));
        let readings = ClockReadings {
            sent: nanos(now - self.epoch),
            echo,
            held,
        };
        let datagram = [&header.to_bytes()[..], &readings.to_payload()].concat();
        let _ = self.socket.send_to(&datagram, peer);
        self.frames += 1;
        self.leg.sent += 1;
    }

    fn on_received(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        if self.is_caller && self.peer != Some(from) {
            self.leg.unsolicited += 1;
            return;
        }
        match DatagramKind::of(datagram) {
            Some(DatagramKind::Stun) => self.on_stun(datagram, from, now),
            Some(DatagramKind::Rtp) => self.on_rtp(datagram, now),
            _ => return,
        }
        self.peer = Some(from);
    }

    fn on_stun(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let Some(message) = StunMessage::parse(datagram) else {
            return;
        };
        match message.class {
            StunClass::Request => {
                let answer = stun::binding_success(message.transaction, from.into());
                let _ = self.socket.send_to(&answer, from);
            }
            StunClass::Success => {
                let answered = self.transactions.observe_response(message.transaction, now);
                self.leg.answered += u64::from(answered.is_some());
                self.leg.mapped = message.mapped_endpoint();
            }
            StunClass::Indication | StunClass::Error => {}
        }
    }

    fn on_rtp(&mut self, datagram: &[u8], now: Instant) {
        let (Some(header), Some(readings)) =
            (RtpHeader::parse(datagram), ClockReadings::parse(datagram))
        else {
            return;
        };
        match &mut self.leg.stream {
            Some(stream) => stream.observe(&header, now),
            stream => *stream = Some(RtpStream::new(&header, CLOCK_RATE, now)),
        }
        self.leg.arrivals.push(now);
        self.latest = Some((readings.sent, now));
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

/// Waits until the socket is readable or the time has come, to the microsecond.
fn wait(socket: &UdpSocket, until: Instant) {
    let timeout = until.saturating_duration_since(Instant::now());
    let mut readable = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    // A signal may end the wait early: the caller reads the clock again.
    let _ = ppoll(&mut readable, Some(TimeSpec::from_duration(timeout)), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_readings_survive_a_round_trip() {
        let readings = ClockReadings {
            sent: 1,
            echo: u64::MAX,
            held: 3,
        };
        let datagram = [&[0x80; RtpHeader::LEN][..], &readings.to_payload()].concat();
        assert_eq!(datagram.len(), RtpHeader::LEN + PAYLOAD);
        let read = ClockReadings::parse(&datagram).expect("three readings");
        assert_eq!((read.sent, read.echo, read.held), (1, u64::MAX, 3));
        assert!(ClockReadings::parse(&datagram[..RtpHeader::LEN + 23]).is_none());
    }
}
