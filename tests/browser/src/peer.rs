//! A WebRTC peer as a media server: ICE, DTLS and SRTP by str0m on one socket, a voice packet every 20 ms.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::format::Codec;
use str0m::media::Mid;
use str0m::net::{Protocol, Receive, TcpType};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use voicelane::lab::Namespace;

use crate::link::Link;

/// The time between two voice packets.
pub const PACE: Duration = Duration::from_millis(20);

/// The RTP time of one packet at Opus' clock of 48 kHz.
const SAMPLES: u32 = 960;

/// A frame of silence in Opus (RFC 6716): full band, 20 ms.
const SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];

/// The longest time for which the thread waits without a look at its commands.
const LOOK: Duration = Duration::from_millis(5);

/// How the peer takes part in ICE (RFC 8445 section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ice {
    /// It only answers checks, as most voice gateways.
    Lite,
    /// It sends checks itself.
    Full,
}

impl fmt::Display for Ice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lite => "ICE-lite",
            Self::Full => "full ICE",
        })
    }
}

/// A voice packet that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When it was read from the socket.
    pub at: Instant,
    /// Its source on the wire.
    pub from: SocketAddr,
    /// Its RTP sequence number.
    pub sequence: u16,
}

#[derive(Debug, Default)]
struct Arrivals {
    decrypted: Vec<Arrival>,
    rejected: Vec<Arrival>,
}

enum Command {
    Accept(String, Sender<String>),
    /// Ends the call. The socket remains open, and answers nothing, until the sender of this channel is gone.
    FallSilent(Receiver<()>),
}

/// One end of one call. Its drop closes the socket.
pub struct Peer {
    at: SocketAddr,
    kind: Ice,
    commands: Option<Sender<Command>>,
    arrivals: Arc<Mutex<Arrivals>>,
    thread: Option<JoinHandle<()>>,
    silence: Option<Sender<()>>,
}

impl Peer {
    /// Starts a peer on an endpoint of a namespace.
    ///
    /// # Panics
    /// If the endpoint is taken.
    #[must_use]
    pub fn start(namespace: &Namespace, at: SocketAddr, ice: Ice) -> Self {
        Self::on(namespace.enter(|| Link::udp(at)), at, ice)
    }

    /// Starts a peer that listens for TCP alone (RFC 6544).
    ///
    /// # Panics
    /// If the endpoint is taken.
    #[must_use]
    pub fn start_tcp(namespace: &Namespace, at: SocketAddr) -> Self {
        Self::on(namespace.enter(|| Link::tcp(at)), at, Ice::Lite)
    }

    fn on(link: io::Result<Link>, at: SocketAddr, ice: Ice) -> Self {
        let link = link.unwrap_or_else(|e| panic!("a peer at {at}: {e}"));
        let (commands, receiver) = mpsc::channel();
        let arrivals = Arc::default();
        let sink = Arc::clone(&arrivals);
        let thread = thread::spawn(move || {
            Session::new(link, at, ice, sink).run(&receiver);
        });
        Self {
            at,
            kind: ice,
            commands: Some(commands),
            arrivals,
            thread: Some(thread),
            silence: None,
        }
    }

    /// The endpoint of the peer.
    #[must_use]
    pub const fn endpoint(&self) -> SocketAddr {
        self.at
    }

    /// How the peer takes part in ICE.
    #[must_use]
    pub const fn kind(&self) -> Ice {
        self.kind
    }

    /// Accepts an offer, the first one or one of an ICE restart, and returns the answer.
    ///
    /// # Panics
    /// If the offer is not valid SDP.
    #[must_use]
    pub fn accept(&self, offer: &str) -> String {
        let (reply, answer) = mpsc::channel();
        self.send(Command::Accept(offer.to_owned(), reply));
        answer.recv().expect("the peer rejected the offer")
    }

    /// Returns all voice packets so far that were authentic.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        locked(&self.arrivals).decrypted.clone()
    }

    /// Returns all voice packets so far that the peer rejected: those before its keys were agreed, copies and forgeries.
    #[must_use]
    pub fn rejected(&self) -> Vec<Arrival> {
        locked(&self.arrivals).rejected.clone()
    }

    /// Ends the call by closing the socket. The kernel answers later packets with ICMP "port unreachable".
    pub fn close(&mut self) {
        drop((self.commands.take(), self.silence.take()));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the peer did not panic");
        }
    }

    /// Ends the call, but leaves the socket open until this value is dropped: later packets are not answered at all.
    pub fn fall_silent(&mut self) {
        let (silence, end) = mpsc::channel();
        self.send(Command::FallSilent(end));
        self.silence = Some(silence);
    }

    fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("the call has not ended");
        commands.send(command).expect("the peer runs");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop((self.commands.take(), self.silence.take()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns the sequence number of an RTP packet; `None` for RTCP and everything else (RFC 5761 section 4).
#[must_use]
pub const fn rtp_sequence(packet: &[u8]) -> Option<u16> {
    match packet {
        [128..=191, ..=191 | 224.., high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

fn locked(arrivals: &Mutex<Arrivals>) -> MutexGuard<'_, Arrivals> {
    arrivals.lock().expect("no thread panics while it holds it")
}

/// The call in its thread.
struct Session {
    rtc: Rtc,
    link: Link,
    at: SocketAddr,
    arrivals: Arc<Mutex<Arrivals>>,
    /// The audio, once the keys are agreed.
    audio: Option<Mid>,
    connected: bool,
    /// The number of the next packet.
    sequence: u32,
    next: Instant,
}

impl Session {
    fn new(link: Link, at: SocketAddr, ice: Ice, arrivals: Arc<Mutex<Arrivals>>) -> Self {
        let config = RtcConfig::new()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .set_ice_lite(ice == Ice::Lite)
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false);
        let mut rtc = config.build(Instant::now());
        let candidate = match link {
            Link::Udp(_) => Candidate::builder().udp().host(at).build(),
            Link::Tcp(..) => {
                let tcp = Candidate::builder().tcp().host(at);
                tcp.tcptype(TcpType::Passive).build()
            }
        };
        rtc.add_local_candidate(candidate.expect("a host's address"));
        Self {
            rtc,
            link,
            at,
            arrivals,
            audio: None,
            connected: false,
            sequence: 1,
            next: Instant::now(),
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.try_recv() {
                Ok(Command::Accept(offer, reply)) => self.accept(&offer, &reply),
                Ok(Command::FallSilent(end)) => {
                    // The sender's drop is the end.
                    let _ = end.recv();
                    return;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let due = self.flush(None);
            let now = Instant::now();
            if self.connected && now >= self.next {
                self.speak(now);
            }
            let mut wait = due.saturating_duration_since(now).min(LOOK);
            if self.connected {
                wait = wait.min(self.next.saturating_duration_since(now));
            }
            let packets = self.link.receive(wait);
            if packets.is_empty() {
                self.handle(Input::Timeout(Instant::now()));
            }
            for (from, bytes) in packets {
                self.receive(from, &bytes);
            }
        }
    }

    fn accept(&mut self, offer: &str, reply: &Sender<String>) {
        let offer = SdpOffer::from_sdp_string(offer).expect("the browser writes SDP");
        let answer = self.rtc.sdp_api().accept_offer(offer);
        let answer = answer.expect("an offer of audio");
        // The caller waits, unless it has panicked.
        let _ = reply.send(answer.to_sdp_string());
    }

    fn receive(&mut self, from: SocketAddr, bytes: &[u8]) {
        let at = Instant::now();
        let Ok(contents) = bytes.try_into() else {
            return;
        };
        let datagram = Receive {
            proto: match self.link {
                Link::Udp(_) => Protocol::Udp,
                Link::Tcp(..) => Protocol::Tcp,
            },
            source: from,
            destination: self.at,
            contents,
        };
        let before = locked(&self.arrivals).decrypted.len();
        self.handle(Input::Receive(at, datagram));
        self.flush(Some((at, from)));
        let mut arrivals = locked(&self.arrivals);
        if let Some(sequence) = rtp_sequence(bytes)
            && arrivals.decrypted.len() == before
        {
            arrivals.rejected.push(Arrival { at, from, sequence });
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        if let Err(cause) = self.rtc.handle_input(input) {
            eprintln!("peer {}: {cause}", self.at);
        }
    }

    /// Sends all packets and records all events, which the datagram of this time and source caused. Returns the time of
    /// the next input.
    fn flush(&mut self, cause: Option<(Instant, SocketAddr)>) -> Instant {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(due)) => return due,
                Ok(Output::Transmit(packet)) => {
                    let sent = self.link.send(packet.destination, &packet.contents);
                    self.report(sent);
                }
                Ok(Output::Event(event)) => self.record(event, cause),
                Err(error) => {
                    eprintln!("peer {}: {error}", self.at);
                    return Instant::now() + LOOK;
                }
            }
        }
    }

    /// The browser's private addresses have no route here. Everything else is worth a line.
    fn report(&self, sent: io::Result<()>) {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        if let Err(error) = sent
            && !matches!(
                error.kind(),
                ConnectionRefused | HostUnreachable | NetworkUnreachable
            )
        {
            eprintln!("peer {}: {error}", self.at);
        }
    }

    fn record(&mut self, event: Event, cause: Option<(Instant, SocketAddr)>) {
        match event {
            Event::Connected => {
                self.connected = true;
                self.next = Instant::now();
            }
            Event::MediaAdded(media) => self.audio = Some(media.mid),
            Event::RtpPacket(packet) => {
                let (at, from) = cause.expect("only a datagram causes it");
                locked(&self.arrivals).decrypted.push(Arrival {
                    at,
                    from,
                    sequence: packet.header.sequence_number,
                });
            }
            _ => {}
        }
    }

    fn speak(&mut self, now: Instant) {
        // After a delay the missed packets are not sent all at once.
        self.next = now.max(self.next + PACE);
        let Some(mid) = self.audio else { return };
        let opus = self
            .rtc
            .codec_config()
            .find(|it| it.spec().codec == Codec::Opus);
        let pt = opus.expect("the configuration has Opus").pt();
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_tx_by_mid(mid, None) else {
            return;
        };
        let (sequence, time) = (
            u64::from(self.sequence).into(),
            self.sequence.wrapping_mul(SAMPLES),
        );
        stream.write_rtp(RtpWrite::new(pt, sequence, time, now, &SILENCE[..]));
        self.sequence += 1;
        self.handle(Input::Timeout(now));
    }
}
