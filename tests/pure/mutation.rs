//! The engine under nearly valid packets: real ones of every kind, with bytes changed, cut, doubled and spliced. Most get
//! correct checksums, so that the parser accepts them.
//!
//! `VOICELANE_MUTATED_PACKETS` sets their number (default 50,000; `scripts/check` sends ten million).

mod checksums;

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use voicelane::config::Config;
use voicelane::engine::{
    ConnectError, Engine, FailoverSettings, HEADROOM, Outbox, ReceivedDatagram, ReturnedError,
    SocketCommand, TcpSettings,
};
use voicelane::engine::{NatLimits, NatSettings};
use voicelane::net::{Egress, Endpoint, MappingId, Outside, Protocol, TrafficClass};
use voicelane::policy::{Action, Policy};
use voicelane::wire::{IcmpError, Packet, Transport, fragment, tcp};

/// The ranges of the seeds' destinations, and a part of their ports.
const POLICY: &str = r#"
version = 1
include = []

[[service]]
name = "media"
description = "UDP of this test"
role = "media"
protocol = "udp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = ["1024-60000"]
allow_special_purpose = true
source = "made up for this test"

[[service]]
name = "signalling"
description = "TCP of this test"
role = "signalling"
protocol = "tcp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = ["100-1000"]
allow_special_purpose = true
source = "made up for this test"
"#;

/// splitmix64.
pub struct Dice(pub u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which is above 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[0]
    }

    fn one_of(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// Returns real packets: those of the fuzz target, and a large datagram in fragments.
fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/packet");
    let entries = fs::read_dir(folder).expect("the seeds are there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let mut seeds: Vec<_> = files
        .iter()
        .map(|file| fs::read(file).expect("it can be read"))
        .collect();
    for name in ["udp4_rtp", "udp6_rtp"] {
        let at = files.iter().position(|file| file.ends_with(name));
        let mut large = seeds[at.expect("it is one of them")].clone();
        large.resize(1_200, 0x5a);
        let header = if large[0] >> 4 == 4 { 20 } else { 40 };
        let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
        let (at, stated) = if header == 20 { (2, 1_200) } else { (4, 1_160) };
        large[at..at + 2].copy_from_slice(&length(stated));
        large[header + 4..header + 6].copy_from_slice(&length(1_200 - header));
        checksums::fix_checksums(&mut large);
        let mut out = Vec::new();
        let mut keep = Vec::new();
        fragment::split(&mut out, &large, 512, 7, |range| keep.push(range));
        seeds.extend(keep.into_iter().map(|range| out[range].to_vec()));
    }
    seeds
}

/// Changes a packet in one place, or cuts, doubles or splices it.
pub fn mutate(packet: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    if packet.is_empty() {
        return packet.push(dice.byte());
    }
    // Half of all changes hit a header.
    let reach = if dice.one_of(2) { 64 } else { usize::MAX };
    let at = dice.below(packet.len().min(reach));
    match dice.below(16) {
        0..5 => packet[at] = dice.byte(),
        5..9 => packet[at] ^= 1 << dice.below(8),
        9 => packet[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][dice.below(6)],
        10 => packet[at] = packet[at].wrapping_add(1),
        11 => packet.truncate(at),
        12 => packet.insert(at, dice.byte()),
        13 => drop(packet.remove(at)),
        14 => {
            let end = at + dice.below(packet.len() - at);
            packet.extend_from_within(at..end);
        }
        _ => {
            let other = &seeds[dice.below(seeds.len())];
            packet.truncate(at);
            packet.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
    // The largest packet of a TUN.
    packet.truncate(65_535);
}

/// A remote stream with random results.
struct RandomStream<'a>(&'a mut Dice);

impl RandomStream<'_> {
    fn count(&mut self, most: usize) -> io::Result<usize> {
        match self.0.below(8) {
            0 => Ok(0),
            1 => Err(io::ErrorKind::ConnectionReset.into()),
            2..5 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(1 + self.0.below(most)),
        }
    }
}

impl Read for RandomStream<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.count(room.len())
    }
}

impl Write for RandomStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a segment with data that acknowledges another.
fn reply(packet: &Packet<'_>, segment: tcp::TcpSegment) -> Vec<u8> {
    let ip = match (packet.destination(), packet.source()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("one packet, one family"),
    };
    let (sequence, taken) = (segment.acknowledgment.unwrap_or(0), segment.sequence_len);
    let mut reply = Vec::new();
    ip.tcp(
        segment.destination_port,
        segment.source_port,
        sequence,
        8_192,
    )
    .ack(segment.sequence.wrapping_add(taken))
    .write(&mut reply, b"so it goes")
    .expect("into memory");
    reply
}

struct World {
    policy: Arc<Policy>,
    engine: Engine,
    outbox: Outbox,
    now: Instant,
    dice: Dice,
    mappings: Vec<MappingId>,
    /// The replies of an application to the latest segments of the engine.
    replies: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let config = Config::parse("policy", POLICY).expect("a valid policy");
        let day = "2026-01-01".parse().expect("a date");
        let policy = Arc::new(Policy::compile(&config, day));
        // Small tables, so that all limits are met.
        let settings = NatSettings {
            limits: NatLimits {
                mappings: 64,
                mappings_of_address: 32,
                permitted_remotes: 16,
            },
            ..NatSettings::default()
        };
        let tcp = TcpSettings {
            connections: 16,
            connections_of_address: 12,
            buffer: 4_096,
            ..TcpSettings::default()
        };
        Self {
            engine: Engine::new(Arc::clone(&policy), settings)
                .with_tcp(tcp)
                .with_failover(FailoverSettings::default()),
            policy,
            outbox: Outbox::default(),
            now: Instant::now(),
            dice: Dice(4),
            mappings: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Handles one packet from the TUN, and a random other input.
    fn step(&mut self, packet: &[u8]) {
        self.outbox.clear();
        self.engine.handle_tun(packet, self.now, &mut self.outbox);
        match self.dice.below(8) {
            0 => self.arrive(packet),
            1 => self.fail(packet),
            2 => {
                let most = if self.dice.one_of(64) { 400_000 } else { 50 };
                self.now += Duration::from_millis(self.dice.below(most) as u64);
                self.engine.handle_timeout(self.now, &mut self.outbox);
            }
            _ => {}
        }
        self.flush();
    }

    /// Delivers the bytes of the packet to a socket.
    fn arrive(&mut self, packet: &[u8]) {
        let Some((mapping, from)) = self.mapping_and_remote(packet) else {
            return;
        };
        let egress = Egress::BOTH[self.dice.below(2)];
        let mut buffer = [&[0; HEADROOM], packet].concat();
        let arrival = ReceivedDatagram {
            from,
            traffic_class: TrafficClass::from_octet(self.dice.byte()),
            queue_delay: Duration::ZERO,
            payload: HEADROOM..buffer.len(),
            buffer: &mut buffer,
        };
        self.engine
            .handle_datagram(mapping, egress, arrival, self.now, &mut self.outbox);
    }

    /// Returns the bytes of the packet with an error.
    fn fail(&mut self, packet: &[u8]) {
        let Some((mapping, to)) = self.mapping_and_remote(packet) else {
            return;
        };
        let egress = Egress::BOTH[self.dice.below(2)];
        let returned = ReturnedError {
            to,
            reporter: self.dice.one_of(2).then_some(to.addr),
            error: IcmpError::PacketTooBig {
                mtu: u32::from(self.dice.byte()) << self.dice.below(24),
            },
            payload: packet,
        };
        self.engine
            .handle_error(mapping, egress, &returned, self.now, &mut self.outbox);
    }

    fn mapping_and_remote(&mut self, packet: &[u8]) -> Option<(MappingId, Endpoint)> {
        let at = self.dice.below(self.mappings.len().max(1));
        let mapping = *self.mappings.get(at)?;
        let addr = Packet::parse(packet).ok()?.destination();
        Some((mapping, Endpoint::new(addr, 3_478)))
    }

    /// Flushes the outbox as a driver does, with random failures.
    fn flush(&mut self) {
        let mut at = 0;
        while let Some(&command) = self.outbox.commands().get(at) {
            at += 1;
            let (engine, now, outbox) = (&mut self.engine, self.now, &mut self.outbox);
            match command {
                SocketCommand::Open {
                    mapping,
                    egress,
                    inside,
                    ..
                } => {
                    if self.dice.one_of(8) {
                        let error = IcmpError::NetUnreachable;
                        engine.handle_open_failed(mapping, egress, error, now, outbox);
                    } else {
                        engine.handle_opened(mapping, egress, Outside(inside.0), outbox);
                        self.mappings.push(mapping);
                    }
                }
                SocketCommand::Close { mapping } => self.mappings.retain(|it| *it != mapping),
                SocketCommand::Connect { connection, .. } => match self.dice.below(8) {
                    0 => {
                        let error = ConnectError::Refused;
                        engine.handle_connect_failed(connection, error, outbox);
                    }
                    1 => {
                        let error = ConnectError::Unreachable(IcmpError::HostUnreachable);
                        engine.handle_connect_failed(connection, error, outbox);
                    }
                    2 => {}
                    _ => engine.handle_connected(connection, now, outbox),
                },
                SocketCommand::Pump { connection } => {
                    let mut whim = RandomStream(&mut self.dice);
                    engine.handle_stream(connection, &mut whim, now, outbox);
                }
                SocketCommand::Shutdown { .. } | SocketCommand::Disconnect { .. } => {}
            }
            assert!(at < 10_000, "the outbox must end");
        }
        for (transmit, _) in self.outbox.transmits() {
            let verdict = self.policy.evaluate(Protocol::Udp, transmit.to);
            assert_eq!(verdict.action, Action::Relay, "to {}", transmit.to);
        }
        for bytes in self.outbox.packets() {
            assert!(bytes.len() <= 1_500, "larger than the TUN's MTU");
            let packet = Packet::parse(bytes).expect("a written packet is valid");
            if let Transport::Tcp(segment) = packet.transport() {
                self.replies.push(reply(&packet, segment));
            }
        }
        let most = 16;
        self.replies
            .drain(..self.replies.len().saturating_sub(most));
    }
}

#[test]
fn mutated_packets_cause_no_panic_and_leak_nothing() {
    const VARIABLE: &str = "VOICELANE_MUTATED_PACKETS";
    let count: u64 = env::var(VARIABLE).map_or(50_000, |count| {
        count
            .parse()
            .expect("VOICELANE_MUTATED_PACKETS is a number")
    });
    let seeds = seeds();
    let mut world = World::new();
    let (mut accepted, mut kinds) = (0, [0_u64; 5]);
    for _ in 0..count {
        let mut packet = match world.replies.pop() {
            Some(reply) if world.dice.one_of(2) => reply,
            _ => seeds[world.dice.below(seeds.len())].clone(),
        };
        for _ in 0..=world.dice.below(4) {
            mutate(&mut packet, &seeds, &mut world.dice);
        }
        if !world.dice.one_of(4) {
            checksums::fix_checksums(&mut packet);
        }
        if let Ok(parsed) = Packet::parse(&packet) {
            accepted += 1;
            let kind = match parsed.transport() {
                Transport::Udp(_) => 0,
                Transport::Tcp(_) => 1,
                Transport::Echo(_) | Transport::Icmp(_) => 2,
                Transport::Fragment(_) => 3,
                Transport::Other(_) => 4,
            };
            kinds[kind] += 1;
        }
        world.step(&packet);
    }
    let counters = world.engine.snapshot(world.now).counters;
    println!("{count} mutated packets, {accepted} of them accepted by the parser: {counters:#?}");
    assert!(accepted > count / 10, "{accepted} got past the parser");
    assert!(kinds.iter().all(|kind| *kind > count / 1_000), "{kinds:?}");
    // The packets reached every layer.
    for deep in [
        counters.packets_out,
        counters.packets_in,
        counters.rejected,
        counters.errors_returned,
        counters.reassembled,
        counters.tcp.accepted,
        counters.tcp.bytes_out,
    ] {
        assert!(deep > 0, "{counters:#?}");
    }
}
