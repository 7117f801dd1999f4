//! Plays a hostile application, a hostile far side and time to the TCP proxy.
//!
//! The input is a list of steps. Segments are made from what the engine last said, give or take a little, so that they
//! get past the handshake and near the edges of every window.

#![no_main]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use voicelane::config::Config;
use voicelane::engine::{ConnectError, Engine, Outbox, SocketCommand, TcpSettings};
use voicelane::net::ConnectionId;
use voicelane::policy::Policy;
use voicelane::wire::{IcmpError, Packet, Transport, tcp};

const TEXT: &str = r#"
version = 1
include = []

[[service]]
name = "signalling"
description = "what is fuzzed"
role = "signalling"
protocol = "tcp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = [443]
dscp = "CS5"
allow_special_purpose = true
"#;

fn policy(text: &str) -> Arc<Policy> {
    let config = Config::parse("fuzz", text).expect("a valid policy");
    let today = jiff::civil::date(2026, 1, 1);
    Arc::new(Policy::compile(&config, today))
}

/// One that relays, and one that does not.
static POLICIES: LazyLock<[Arc<Policy>; 2]> =
    LazyLock::new(|| [policy(TEXT), policy(&TEXT.replace("443", "444"))]);

/// The steps that are left.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Mostly small, sometimes anywhere.
    fn number(&mut self) -> u32 {
        match self.byte() {
            0..64 => 0,
            ahead @ 64..96 => u32::from(ahead - 64),
            behind @ 96..128 => u32::from(behind - 95).wrapping_neg(),
            shift => u32::from(self.byte()) << (shift & 31),
        }
    }
}

/// A far side that does what the input says.
struct Far<'a, 'b> {
    steps: &'a mut Steps<'b>,
}

impl Far<'_, '_> {
    fn answer(&mut self, room: usize) -> io::Result<usize> {
        let kind = match self.steps.byte() {
            0..16 => return Ok(0),
            16..32 => io::ErrorKind::ConnectionReset,
            32..40 => io::ErrorKind::Interrupted,
            40..128 => io::ErrorKind::WouldBlock,
            most => return Ok(room.min(usize::from(most) * 100)),
        };
        // The end of the input must not be an endless interruption.
        let kind = if self.steps.0.is_empty() {
            io::ErrorKind::WouldBlock
        } else {
            kind
        };
        Err(kind.into())
    }
}

impl Read for Far<'_, '_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.answer(room.len())
    }
}

impl Write for Far<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the engine last said to one port.
#[derive(Clone, Copy, Default)]
struct Heard {
    sequence: u32,
    acknowledgment: u32,
}

struct World {
    engine: Engine,
    outbox: Outbox,
    now: Instant,
    /// Connections that the shell knows, and whether they are connected.
    open: BTreeMap<ConnectionId, bool>,
    heard: BTreeMap<(bool, u16), Heard>,
}

impl World {
    fn flush(&mut self, steps: &mut Steps<'_>) {
        let mut at = 0;
        while let Some(&command) = self.outbox.commands().get(at) {
            at += 1;
            match command {
                SocketCommand::Connect { connection, .. } => {
                    assert_eq!(
                        self.open.insert(connection, false),
                        None,
                        "ids are used once"
                    );
                }
                SocketCommand::Pump { connection } => self.carry(connection, steps),
                SocketCommand::Shutdown { connection } => {
                    assert!(self.open.contains_key(&connection))
                }
                SocketCommand::Disconnect { connection, .. } => {
                    assert!(self.open.remove(&connection).is_some(), "closed once");
                }
                SocketCommand::Open { .. } | SocketCommand::Close { .. } => {
                    unreachable!("no datagram was sent")
                }
            }
        }
        let written = self.outbox.packets().count();
        assert!(written < 1_000, "{written} packets at once");
        for bytes in self.outbox.packets() {
            let packet = Packet::parse(bytes).expect("what is written is whole");
            if let Transport::Tcp(segment) = packet.transport() {
                let key = (packet.source().is_ipv6(), segment.destination_port);
                let heard = self.heard.entry(key).or_default();
                heard.sequence = segment.sequence.wrapping_add(segment.sequence_len);
                heard.acknowledgment = segment.acknowledgment.unwrap_or(heard.acknowledgment);
            }
        }
        self.outbox.clear();
    }

    fn carry(&mut self, connection: ConnectionId, steps: &mut Steps<'_>) {
        if self.open.get(&connection) == Some(&true) {
            let far = &mut Far { steps };
            self.engine
                .handle_stream(connection, far, self.now, &mut self.outbox);
        }
    }

    fn segment(&mut self, steps: &mut Steps<'_>) {
        let choice = steps.byte();
        let is_v6 = choice & 1 != 0;
        let port = 50_000 + u16::from(choice >> 1 & 3);
        let heard = self.heard.get(&(is_v6, port)).copied().unwrap_or_default();
        // A likely set of flags for half of the numbers, any for the rest.
        let flags = match steps.byte() {
            0..40 => 0x02,
            40..160 => 0x10,
            160..170 => 0x04,
            170..190 => 0x11,
            any => any.wrapping_mul(37),
        };
        let sequence = heard.acknowledgment.wrapping_add(steps.number());
        let acknowledgment = heard.sequence.wrapping_add(steps.number());
        let window = u16::from_be_bytes([steps.byte(), steps.byte()]);
        let length = usize::from(steps.byte()) * 6;
        // Maximum segment size, window scale, selective acknowledgment, or junk.
        let options: [u8; 12] = match steps.byte() {
            0..64 => [2, 4, 5, 180, 3, 3, 7, 1, 4, 2, 1, 1],
            64..96 => [2, 4, 0, 1, 3, 3, 15, 1, 1, 1, 1, 1],
            96..192 => [1; 12],
            _ => std::array::from_fn(|_| steps.byte()),
        };
        let ip = if is_v6 { 40 } else { 20 };
        let mut packet = vec![0x5a; ip + 32 + length];
        let total = u16::try_from(packet.len()).expect("short").to_be_bytes();
        let server: IpAddr = if is_v6 {
            let payload = u16::try_from(32 + length).expect("short").to_be_bytes();
            packet[..8].copy_from_slice(&[0x60, 0, 0, 0, payload[0], payload[1], 6, 64]);
            let inside = [0xfd, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
            packet[8..24].copy_from_slice(&inside);
            "2001:db8:86::1".parse().expect("an address")
        } else {
            packet[..10].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6]);
            packet[12..16].copy_from_slice(&[10, 8, 0, 2]);
            "168.86.128.1".parse().expect("an address")
        };
        let header = &mut packet[ip..ip + 32];
        header[..2].copy_from_slice(&port.to_be_bytes());
        header[2..4].copy_from_slice(&443_u16.to_be_bytes());
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        header[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
        header[12..14].copy_from_slice(&[0x80, flags]);
        header[14..16].copy_from_slice(&window.to_be_bytes());
        header[18..20].fill(0);
        header[20..].copy_from_slice(&options);
        assert!(tcp::seal(&mut packet, server));
        self.engine.handle_tun(&packet, self.now, &mut self.outbox);
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
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
    }
}

fuzz_target!(|input: &[u8]| {
    let steps = &mut Steps(input);
    let settings = TcpSettings {
        connections: 5,
        buffer: 8_192,
        ..TcpSettings::default()
    };
    let engine = Engine::new(
        Arc::clone(&POLICIES[0]),
        voicelane::engine::NatSettings::default(),
    );
    let mut world = World {
        engine: engine.with_tcp(settings),
        outbox: Outbox::default(),
        now: Instant::now(),
        open: BTreeMap::new(),
        heard: BTreeMap::new(),
    };
    while !steps.0.is_empty() {
        let action = steps.byte();
        let which = usize::from(steps.byte()) % world.open.len().max(1);
        let id = world.open.keys().nth(which).copied();
        match (action, id) {
            (0..128, _) => world.segment(steps),
            (128..160, _) => world.wait(Duration::from_micros(1 << (steps.byte() % 34))),
            (160..200, Some(id)) => {
                if let Some(connected @ false) = world.open.get_mut(&id) {
                    *connected = true;
                    world
                        .engine
                        .handle_connected(id, world.now, &mut world.outbox);
                }
            }
            (200..206, Some(id)) => {
                if world.open.get(&id) == Some(&false) {
                    world.open.remove(&id);
                    let error = match steps.byte() % 3 {
                        0 => ConnectError::Refused,
                        1 => ConnectError::TimedOut,
                        _ => ConnectError::Unreachable(IcmpError::HostUnreachable),
                    };
                    world
                        .engine
                        .handle_connect_failed(id, error, &mut world.outbox);
                }
            }
            (206..250, Some(id)) => world.carry(id, steps),
            (250..252, _) => {
                let policy = usize::from(steps.byte() & 1);
                world.engine.set_policy(Arc::clone(&POLICIES[policy]));
            }
            (252, _) => world
                .engine
                .handle_uplink_changed(|_| true, world.now, &mut world.outbox),
            _ => {}
        }
        world.flush(steps);
        let slots = 0..world.engine.slots();
        let reports = world.engine.connection_reports(slots, world.now);
        let known: Vec<_> = reports.map(|it| it.id).collect();
        assert!(known.len() <= settings.connections);
        assert!(
            known.iter().all(|id| world.open.contains_key(id)),
            "every connection has a socket"
        );
        assert_eq!(
            known.len(),
            world.open.len(),
            "and every socket a connection"
        );
    }
    // Whatever happened, it is over some day.
    for _ in 0..2_000 {
        let Some(due) = world.engine.poll_timeout() else {
            break;
        };
        let wait = due.saturating_duration_since(world.now);
        world.wait(wait);
        world.flush(steps);
    }
    assert_eq!(
        world.engine.snapshot(world.now).connections,
        0,
        "nothing stays for ever"
    );
});
