//! An engine in simulated time, with a relay that opens every socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use voicelane::config::Config;
use voicelane::engine::NatSettings;
use voicelane::engine::{
    Engine, FailoverSettings, HEADROOM, Outbox, ReceivedDatagram, SocketCommand,
};
use voicelane::net::{Egress, Endpoint, MappingId, Outside, TrafficClass};
use voicelane::policy::Policy;
use voicelane::wire::{IcmpError, Packet, Transport, udp};

const POLICY: &str = r#"
version = 1
include = []

[[service]]
name = "media"
description = "the media of this test"
role = "media"
protocol = "udp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = ["3478", "10000-60000"]
dscp = "EF"
allow_special_purpose = true
source = "made up for this test"
"#;

pub(crate) fn policy() -> Arc<Policy> {
    let config = Config::parse("policy", POLICY).expect("a valid policy");
    Arc::new(Policy::compile(
        &config,
        "2026-01-01".parse().expect("a date"),
    ))
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an endpoint").into()
}

/// Inside endpoint, media server, its other port, a stranger in the media range, and a host outside it; per family.
pub(crate) const FAMILIES: [[&str; 5]; 2] = [
    [
        "10.8.0.2:50000",
        "168.86.128.1:20000",
        "168.86.128.1:20002",
        "168.86.128.9:20000",
        "198.51.100.1:20000",
    ],
    [
        "[fd00:8::2]:50000",
        "[2001:db8:86::1]:20000",
        "[2001:db8:86::1]:20002",
        "[2001:db8:86::9]:20000",
        "[2001:db8:99::1]:20000",
    ],
];

pub(crate) const LIFETIME: Duration = Duration::from_mins(5);
pub(crate) const ALMOST: Duration = Duration::from_secs(298);

/// An engine with its outbox, and a relay that opens every socket.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) outbox: Outbox,
    pub(crate) now: Instant,
}

impl World {
    pub(crate) fn new(settings: NatSettings) -> Self {
        Self {
            engine: Engine::new(policy(), settings),
            outbox: Outbox::default(),
            now: Instant::now(),
        }
    }

    /// Returns an engine with failover into the VPN.
    pub(crate) fn with_failover() -> Self {
        let mut world = Self::new(NatSettings::default());
        world.engine = Engine::new(policy(), NatSettings::default())
            .with_failover(FailoverSettings::default());
        world
    }

    pub(crate) fn send_bytes(&mut self, packet: &[u8]) {
        self.outbox.clear();
        self.engine.handle_tun(packet, self.now, &mut self.outbox);
        self.open_all();
    }

    /// Opens every requested socket. A socket in the tunnel gets a different port.
    pub(crate) fn open_all(&mut self) {
        for at in 0..self.outbox.commands().len() {
            if let SocketCommand::Open {
                mapping,
                egress,
                inside,
                ..
            } = self.outbox.commands()[at]
            {
                let outside = match egress {
                    Egress::Direct => inside.0,
                    Egress::Tunnel => Endpoint::new(inside.0.addr, inside.0.port ^ 1),
                };
                self.engine
                    .handle_opened(mapping, egress, Outside(outside), &mut self.outbox);
            }
        }
    }

    /// Sends a datagram into the TUN. Returns the mapping that relays it, if any.
    pub(crate) fn send(
        &mut self,
        from: Endpoint,
        to: Endpoint,
        payload: &[u8],
    ) -> Option<MappingId> {
        self.send_bytes(&datagram(from, to, payload));
        self.outbox
            .transmits()
            .next()
            .map(|(transmit, _)| transmit.mapping)
    }

    /// Delivers a datagram to a mapping's direct socket. Returns the packets for the TUN.
    pub(crate) fn arrive(
        &mut self,
        mapping: MappingId,
        from: Endpoint,
        class: TrafficClass,
        payload: &[u8],
    ) -> Vec<Vec<u8>> {
        self.outbox.clear();
        self.take(mapping, Egress::Direct, from, class, payload);
        self.outbox.packets().map(<[u8]>::to_vec).collect()
    }

    /// Delivers a datagram to one of a mapping's sockets.
    pub(crate) fn arrive_by(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        from: Endpoint,
        bytes: &[u8],
    ) {
        self.take(mapping, egress, from, TrafficClass::default(), bytes);
    }

    fn take(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        from: Endpoint,
        traffic_class: TrafficClass,
        payload: &[u8],
    ) {
        let mut buffer = vec![0xaa; HEADROOM];
        buffer.extend_from_slice(payload);
        let range = HEADROOM..buffer.len();
        let arrival = ReceivedDatagram {
            from,
            traffic_class,
            queue_delay: Duration::ZERO,
            buffer: &mut buffer,
            payload: range,
        };
        self.engine
            .handle_datagram(mapping, egress, arrival, self.now, &mut self.outbox);
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.outbox.clear();
        self.engine.handle_timeout(self.now, &mut self.outbox);
        // Expired mappings end in batches.
        let mut ended = 0;
        while self.outbox.commands().len() >= ended + 8 {
            ended = self.outbox.commands().len();
            self.now += Duration::from_millis(1);
            self.engine.handle_timeout(self.now, &mut self.outbox);
        }
    }

    /// Whether a limit rejected a packet at this moment.
    pub(crate) fn reached(&self, label: &str) -> bool {
        let reached = self.engine.snapshot(self.now).limits_reached;
        reached.get(label) == Some(&Duration::ZERO)
    }

    pub(crate) fn dropped(&self, label: &str) -> u64 {
        let counters = self.engine.snapshot(self.now).counters;
        let count =
            |drops: &std::collections::BTreeMap<_, _>| drops.get(label).copied().unwrap_or(0);
        count(&counters.dropped_out) + count(&counters.dropped_in)
    }
}

pub(crate) fn datagram(source: Endpoint, destination: Endpoint, payload: &[u8]) -> Vec<u8> {
    let headers = udp::UdpHeaders {
        source,
        destination,
        traffic_class: TrafficClass::default(),
        hop_limit: 64,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, payload).expect("a datagram");
    packet
}

/// Asserts that `packet` is an ICMP error of this kind to `to`. Returns the quoted packet.
pub(crate) fn quoted_in(packet: &[u8], error: IcmpError, to: IpAddr) -> Vec<u8> {
    let parsed = Packet::parse(packet).expect("a valid packet");
    assert_eq!(parsed.destination(), to);
    let Transport::Icmp(message) = parsed.transport() else {
        panic!("{parsed:?} is no ICMP error")
    };
    let family = voicelane::net::Family::of(to);
    assert_eq!(
        IcmpError::from_icmp(family, message.kind, message.code, 0),
        Some(error)
    );
    let header = if to.is_ipv4() { 20 } else { 40 };
    packet[header + 8..].to_vec()
}

/// Corrects the checksum of an IPv4 header.
pub(crate) fn fix_ip_checksum(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = packet[..header].chunks(2).fold(0u32, |sum, word| {
        let sum = sum + u32::from(u16::from_be_bytes([word[0], word[1]]));
        (sum >> 16) + (sum & 0xffff)
    });
    let field = !u16::try_from(sum).expect("folded");
    packet[10..12].copy_from_slice(&field.to_be_bytes());
}
