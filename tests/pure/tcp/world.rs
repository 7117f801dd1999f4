//! A network in simulated time: an application with its own TCP stack, a link with loss and reordering, the engine, and
//! remotes in memory.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time;
use smoltcp::wire::{HardwareAddress, IpCidr};
use voicelane::engine::{
    ConnectError, ConnectionReport, Engine, Outbox, SocketCommand, TcpSettings,
};
use voicelane::net::{ConnectionId, Egress, Endpoint, Treatment};
use voicelane::policy::Policy;

pub(crate) const POLICY: &str = r#"
version = 1
include = []

[[service]]
name = "signalling"
description = "the signalling of this test"
role = "signalling"
protocol = "tcp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = [443]
dscp = "CS5"
allow_special_purpose = true
source = "made up for this test"
"#;

/// The application's address and the server's endpoint, per family.
pub(crate) const FAMILIES: [(&str, &str); 2] = [
    ("10.8.0.2", "168.86.128.1:443"),
    ("fd00:8::2", "[2001:db8:86::1]:443"),
];

/// The reaction of a remote to a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Accept,
    Fail(ConnectError),
    Nothing,
}

/// How the link between the application and the engine treats packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkQuality {
    /// Lost packets, in percent.
    pub(crate) loss: u64,
    /// The largest delay. Packets overtake each other within it.
    pub(crate) jitter: Duration,
}

/// Returns the byte at an offset of every stream.
pub(crate) fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]
}

/// The socket of a remote.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    pub(crate) to: Option<Endpoint>,
    pub(crate) treatment: Option<Treatment>,
    /// Received bytes.
    pub(crate) received: u64,
    /// Bytes that it accepts in total.
    pub(crate) takes: u64,
    /// Sent bytes.
    pub(crate) sent: u64,
    /// Bytes that it sends in total.
    pub(crate) sends: u64,
    /// Whether it closes after the last byte.
    pub(crate) ends: bool,
    /// Whether its connection breaks after the last byte.
    pub(crate) breaks: bool,
    /// Whether the engine has shut it down for writing.
    pub(crate) shut: bool,
    /// `None` while open, `Some(true)` if closed with a reset.
    pub(crate) closed: Option<bool>,
}

impl Read for Remote {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let left = self.sends - self.sent;
        if left == 0 && self.breaks {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if left == 0 && self.ends {
            return Ok(0);
        }
        if left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // Odd sizes, as a network gives them.
        let count = room
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX))
            .min(5_003);
        for byte in &mut room[..count] {
            *byte = pattern(self.sent);
            self.sent += 1;
        }
        Ok(count)
    }
}

impl Write for Remote {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.shut, "nothing is written after the end");
        if self.breaks && self.sent == self.sends {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let left = usize::try_from(self.takes - self.received).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = bytes.len().min(left).min(4_099);
        for byte in &bytes[..count] {
            assert_eq!(*byte, pattern(self.received), "byte {}", self.received);
            self.received += 1;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The program of an application.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) sent: u64,
    pub(crate) sends: u64,
    /// Whether it closes its direction after the last byte.
    pub(crate) ends: bool,
    pub(crate) received: u64,
    /// Bytes that it reads in total.
    pub(crate) reads: u64,
    /// Whether it has read the end of the stream.
    pub(crate) saw_end: bool,
}

#[derive(Default)]
struct Queues {
    arrived: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: time::Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: time::Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) outbox: Outbox,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) link_quality: LinkQuality,
    pub(crate) answer: Answer,
    /// Makes a new remote.
    pub(crate) remote: fn() -> Remote,
    pub(crate) remotes: BTreeMap<ConnectionId, Remote>,
    pub(crate) programs: BTreeMap<SocketHandle, Program>,
    /// Every written packet of the engine, in order.
    pub(crate) written: Vec<Vec<u8>>,
    /// Whether `written` is kept.
    pub(crate) keeps: bool,
    pub(crate) connects: usize,
    app: Interface,
    pub(crate) sockets: SocketSet<'static>,
    queues: Queues,
    /// Packets in flight: time of arrival, number, and whether they go to the engine.
    under_way: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    number: u64,
    dice: u64,
}

pub(crate) fn policy(text: &str) -> Arc<Policy> {
    let config = voicelane::config::Config::parse("policy", text).expect("a valid policy");
    Arc::new(Policy::compile(
        &config,
        "2026-01-01".parse().expect("a date"),
    ))
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an endpoint").into()
}

impl World {
    pub(crate) fn new(address: &str) -> Self {
        Self::with(address, TcpSettings::default())
    }

    pub(crate) fn with(address: &str, settings: TcpSettings) -> Self {
        let mut queues = Queues::default();
        let config = Config::new(HardwareAddress::Ip);
        let mut app = Interface::new(config, &mut queues, time::Instant::ZERO);
        let address: IpAddr = address.parse().expect("an address");
        app.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(address.into(), 32))
                .expect("room for one");
        });
        let now = Instant::now();
        Self {
            engine: Engine::new(policy(POLICY), voicelane::engine::NatSettings::default())
                .with_tcp(settings),
            outbox: Outbox::default(),
            start: now,
            now,
            link_quality: LinkQuality::default(),
            answer: Answer::Accept,
            remote: || Remote {
                takes: u64::MAX,
                ..Remote::default()
            },
            remotes: BTreeMap::new(),
            programs: BTreeMap::new(),
            written: Vec::new(),
            keeps: true,
            connects: 0,
            app,
            sockets: SocketSet::new(Vec::new()),
            queues,
            under_way: BTreeMap::new(),
            number: 0,
            dice: 0x2545_f491_4f6c_dd1d,
        }
    }

    /// Connects the application.
    pub(crate) fn connect(&mut self, server: &str, port: u16, program: Program) -> SocketHandle {
        let room = || SocketBuffer::new(vec![0; 65_536]);
        let mut socket = Socket::new(room(), room());
        socket.set_congestion_control(CongestionControl::Reno);
        let server = endpoint(server);
        socket
            .connect(self.app.context(), (server.addr, server.port), port)
            .expect("a free port");
        let handle = self.sockets.add(socket);
        self.programs.insert(handle, program);
        handle
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn state(&self, handle: SocketHandle) -> State {
        self.sockets.get::<Socket<'static>>(handle).state()
    }

    /// Returns the remote of the only connection.
    pub(crate) fn only(&mut self) -> &mut Remote {
        assert_eq!(self.remotes.len(), 1);
        self.remotes.values_mut().next().expect("one remote")
    }

    /// Returns the report of the only connection.
    pub(crate) fn report(&self) -> ConnectionReport {
        let mut reports = self
            .engine
            .connection_reports(0..self.engine.slots(), self.now);
        reports.next().expect("one connection")
    }

    pub(crate) fn dropped(&self, label: &str) -> u64 {
        let counters = self.engine.snapshot(self.now).counters;
        counters.dropped_out.get(label).copied().unwrap_or(0)
    }

    /// Delivers a packet to the engine without the link.
    pub(crate) fn inject(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let before = self.written.len();
        self.engine.handle_tun(packet, self.now, &mut self.outbox);
        self.flush();
        self.written[before..].to_vec()
    }

    /// Advances the time until `done`, at most by `limit`. Returns whether it is done.
    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.step();
            if done(self) {
                return true;
            }
            let app = self.app.poll_at(self.stack_now(), &self.sockets);
            let app = app
                .map(|due| self.start + Duration::from_micros(due.total_micros().unsigned_abs()));
            let link = self.under_way.first_key_value().map(|((due, _), _)| *due);
            let next = [app, link, self.engine.poll_timeout()]
                .into_iter()
                .flatten()
                .min();
            match next {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => {
                    self.now = end;
                    return false;
                }
            }
        }
    }

    /// Advances the time.
    pub(crate) fn wait(&mut self, duration: Duration) {
        self.run(duration, |_| false);
    }

    /// Reports a remote as ready.
    pub(crate) fn ready(&mut self, id: ConnectionId) {
        if let Some(remote) = self
            .remotes
            .get_mut(&id)
            .filter(|remote| remote.closed.is_none())
        {
            self.engine
                .handle_stream(id, remote, self.now, &mut self.outbox);
        }
        self.flush();
    }

    /// Reports the only remote as ready.
    pub(crate) fn only_ready(&mut self) {
        let id = *self.remotes.keys().next().expect("one remote");
        self.ready(id);
    }

    fn stack_now(&self) -> time::Instant {
        let micros = (self.now - self.start).as_micros();
        time::Instant::from_micros(i64::try_from(micros).expect("short"))
    }

    fn step(&mut self) {
        while let Some(entry) = self
            .under_way
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let (outward, packet) = entry.remove();
            if outward {
                self.engine.handle_tun(&packet, self.now, &mut self.outbox);
            } else {
                self.queues.arrived.push_back(packet);
            }
        }
        if self
            .engine
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.engine.handle_timeout(self.now, &mut self.outbox);
            assert!(
                self.engine.poll_timeout().is_none_or(|due| due > self.now),
                "time goes on"
            );
        }
        self.flush();
        let now = self.stack_now();
        self.app.poll(now, &mut self.queues, &mut self.sockets);
        for (handle, program) in &mut self.programs {
            program.go(self.sockets.get_mut(*handle));
        }
        self.app.poll(now, &mut self.queues, &mut self.sockets);
        for packet in std::mem::take(&mut self.queues.leaving) {
            self.send(true, packet);
        }
    }

    /// Flushes the outbox as a driver does.
    fn flush(&mut self) {
        let mut at = 0;
        while let Some(command) = self.outbox.commands().get(at).copied() {
            at += 1;
            match command {
                SocketCommand::Connect {
                    connection,
                    egress: Egress::Direct,
                    to,
                    treatment,
                    ..
                } => {
                    self.connects += 1;
                    let remote = Remote {
                        to: Some(to),
                        treatment: Some(treatment),
                        ..(self.remote)()
                    };
                    assert!(
                        self.remotes.insert(connection, remote).is_none(),
                        "ids are used once"
                    );
                    match self.answer {
                        Answer::Accept => {
                            self.engine
                                .handle_connected(connection, self.now, &mut self.outbox);
                        }
                        Answer::Fail(error) => {
                            self.engine
                                .handle_connect_failed(connection, error, &mut self.outbox);
                        }
                        Answer::Nothing => {}
                    }
                }
                SocketCommand::Pump { connection } => {
                    let remote = self.remotes.get_mut(&connection).expect("a remote");
                    if remote.closed.is_none() {
                        self.engine
                            .handle_stream(connection, remote, self.now, &mut self.outbox);
                    }
                }
                SocketCommand::Shutdown { connection } => {
                    self.remotes.get_mut(&connection).expect("a remote").shut = true;
                }
                SocketCommand::Disconnect { connection, reset } => {
                    let remote = self.remotes.get_mut(&connection).expect("a remote");
                    assert_eq!(remote.closed.replace(reset), None, "closed once");
                }
                SocketCommand::Connect { .. } => {
                    panic!("without failover all connections are direct")
                }
                SocketCommand::Open { .. } | SocketCommand::Close { .. } => {
                    panic!("no datagrams here")
                }
            }
        }
        let packets: Vec<_> = self.outbox.packets().map(<[u8]>::to_vec).collect();
        self.outbox.clear();
        for packet in packets {
            if self.keeps {
                self.written.push(packet.clone());
            }
            self.send(false, packet);
        }
    }

    fn send(&mut self, outward: bool, packet: Vec<u8>) {
        if self.roll(100) < self.link_quality.loss {
            return;
        }
        let jitter = u64::try_from(self.link_quality.jitter.as_micros()).expect("short");
        let delay = Duration::from_micros(100 + self.roll(jitter + 1));
        self.number += 1;
        self.under_way
            .insert((self.now + delay, self.number), (outward, packet));
    }

    /// Returns a random number below `sides` (xorshift64*, Vigna 2016).
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % sides
    }
}

impl Program {
    fn go(&mut self, socket: &mut Socket<'static>) {
        while self.sent < self.sends && socket.can_send() {
            let left = usize::try_from(self.sends - self.sent).expect("short");
            let count = socket.send(|room| {
                let count = room.len().min(left);
                for (at, byte) in (self.sent..).zip(&mut room[..count]) {
                    *byte = pattern(at);
                }
                (count, count as u64)
            });
            self.sent += count.expect("it can send");
        }
        if self.ends && self.sent == self.sends && socket.may_send() {
            socket.close();
        }
        while self.received < self.reads && socket.can_recv() {
            let left = usize::try_from(self.reads - self.received).unwrap_or(usize::MAX);
            let count = socket.recv(|bytes| {
                let count = bytes.len().min(left);
                for (at, byte) in (self.received..).zip(&bytes[..count]) {
                    assert_eq!(*byte, pattern(at), "byte {at}");
                }
                (count, count as u64)
            });
            self.received += count.expect("it can receive");
        }
        let ended = socket.recv(|_| (0, ()));
        self.saw_end |= ended == Err(smoltcp::socket::tcp::RecvError::Finished);
    }
}
