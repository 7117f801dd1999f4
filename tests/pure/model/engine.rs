//! Compares the UDP half of the engine with the reference model.
//!
//! Property test and fuzzer share the input: one byte of settings, then four bytes for each step.

#[path = "rules.rs"]
mod rules;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use voicelane::config::Config;
use voicelane::engine::{
    Engine, EngineEvent, HEADROOM, Outbox, ReceivedDatagram, ReturnedError, SocketCommand,
};
use voicelane::engine::{NatLimits, NatSettings};
use voicelane::net::{Egress, Endpoint, Filtering, Inside, MappingId, Outside, TrafficClass};
use voicelane::policy::Policy;
use voicelane::wire::{IcmpError, Packet, Transport, fragment, udp};

use rules::{Bucket, Effect, Model, OutboundDatagram, REMOTES, endpoint};

const INSIDES: [&str; 4] = [
    "10.8.0.2:50000",
    "10.8.0.2:50001",
    "10.8.0.3:50000",
    "[fd00:8::2]:50000",
];

const PREFIXES: [&str; 2] = [
    r#"["168.86.128.0/18", "2001:db8:86::/47"]"#,
    r#"["168.86.128.0/24", "2001:db8:86::/48"]"#,
];

static POLICIES: LazyLock<[Arc<Policy>; 2]> = LazyLock::new(|| {
    PREFIXES.map(|prefixes| {
        let text = format!(
            "version = 1\ninclude = []\n[[service]]\nname = 'media'\ndescription = 'of the model'\nrole = 'media'\n\
             protocol = 'udp'\nprefixes = {prefixes}\nports = ['10000-60000']\nallow_special_purpose = true\n\
             source = 'made up'\n"
        );
        let config = Config::parse("policy", &text).expect("a valid policy");
        let day = "2026-01-01".parse().expect("a date");
        Arc::new(Policy::compile(&config, day))
    })
});

const ERRORS: [IcmpError; 8] = [
    IcmpError::NetUnreachable,
    IcmpError::HostUnreachable,
    IcmpError::ProtocolUnreachable,
    IcmpError::PortUnreachable,
    IcmpError::AdminProhibited,
    IcmpError::PacketTooBig { mtu: 1_280 },
    IcmpError::HopLimitExceeded,
    IcmpError::ReassemblyTimeExceeded,
];

/// The engine, the model, and the ids of both.
struct Comparison {
    engine: Engine,
    outbox: Outbox,
    model: Model,
    now: Instant,
    /// The inside endpoint of every id so far.
    ids: BTreeMap<MappingId, Endpoint>,
    sockets: u16,
}

/// Runs settings and steps.
///
/// # Panics
/// If the engine and the model differ.
pub(crate) fn run(input: &[u8]) {
    let Some((&settings, steps)) = input.split_first() else {
        return;
    };
    let filtering = match settings & 3 {
        0 => Filtering::EndpointIndependent,
        1 => Filtering::AddressAndPortDependent,
        _ => Filtering::AddressDependent,
    };
    let limits = match settings >> 2 & 3 {
        0 => NatLimits {
            mappings: 2,
            mappings_of_address: 1,
            permitted_remotes: 1,
        },
        1 => NatLimits {
            mappings: 3,
            mappings_of_address: 2,
            permitted_remotes: 2,
        },
        _ => NatLimits::default(),
    };
    let settings = NatSettings {
        filtering,
        limits,
        inbound_refresh: settings >> 4 & 1 == 1,
        lifetime: Duration::from_mins(2),
    };
    let now = Instant::now();
    let full = Bucket {
        credit: Duration::from_millis(500),
        seen: now,
    };
    let mut comparison = Comparison {
        engine: Engine::new(Arc::clone(&POLICIES[0]), settings),
        outbox: Outbox::default(),
        model: Model {
            settings,
            policy: 0,
            mappings: BTreeMap::new(),
            created: 0,
            rejections: full,
            returned_errors: full,
        },
        now,
        ids: BTreeMap::new(),
        sockets: 0,
    };
    for step in steps.as_chunks().0 {
        comparison.step(*step);
    }
}

impl Comparison {
    fn step(&mut self, [what, which, other, how]: [u8; 4]) {
        self.outbox.clear();
        match what % 8 {
            0..=2 => self.send(which, other, how),
            3 => self.arrive(which, other, how),
            4 => self.fail(which, other, how),
            5 => self.wait(which, how),
            6 => {
                self.model.policy = usize::from(which & 1);
                let policy = &POLICIES[self.model.policy];
                self.engine.set_policy(Arc::clone(policy));
            }
            _ => self.move_uplink(how),
        }
        self.compare_mappings();
    }

    /// Sends a datagram, whole or in fragments, to a remote or to a neighbour's outside endpoint.
    fn send(&mut self, which: u8, other: u8, how: u8) {
        let from = endpoint(INSIDES[usize::from(which % 4)]);
        let to = self.remote(from.addr, other);
        let is_cut = how & 1 == 1;
        let length = if is_cut { 300 } else { usize::from(how >> 5) };
        let may_fragment = from.addr.is_ipv4() && how & 8 != 0;
        let datagram = OutboundDatagram {
            from,
            to,
            payload: vec![how; length],
            hop_limit: if how & 6 == 6 { 1 } else { 64 },
            dont_fragment: !is_cut && !may_fragment,
            outside: (how & 16 == 0).then(|| self.socket(from.addr, other)),
        };
        let mut packets = written(&datagram, may_fragment);
        if is_cut {
            packets = cut(&packets[0]);
        }
        for packet in packets {
            self.engine.handle_tun(&packet, self.now, &mut self.outbox);
        }
        let expected = self.model.outbound(&datagram, self.now);
        for at in 0..self.outbox.commands().len() {
            let SocketCommand::Open {
                mapping, inside, ..
            } = self.outbox.commands()[at]
            else {
                continue;
            };
            assert_eq!(self.ids.insert(mapping, inside.0), None, "each id is new");
            if let Some(outside) = datagram.outside {
                self.engine.handle_opened(
                    mapping,
                    Egress::Direct,
                    Outside(outside),
                    &mut self.outbox,
                );
                let model = self.model.mappings.get_mut(&inside.0);
                model.expect("the model has the mapping").id = mapping;
            } else {
                let error = IcmpError::AdminProhibited;
                self.engine.handle_open_failed(
                    mapping,
                    Egress::Direct,
                    error,
                    self.now,
                    &mut self.outbox,
                );
            }
        }
        self.compare(expected);
    }

    /// Delivers a datagram to an open or closed socket.
    fn arrive(&mut self, which: u8, other: u8, how: u8) {
        let Some((id, inside)) = self.mapping(which) else {
            return;
        };
        let from = self.remote(inside.addr, other);
        let length = if how & 1 == 1 {
            4_000
        } else {
            usize::from(how)
        };
        let payload = vec![how; length];
        let mut buffer = [&[0xaa; HEADROOM], payload.as_slice()].concat();
        let arrival = ReceivedDatagram {
            from,
            traffic_class: TrafficClass::from_octet(how),
            queue_delay: Duration::ZERO,
            payload: HEADROOM..buffer.len(),
            buffer: &mut buffer,
        };
        self.engine
            .handle_datagram(id, Egress::Direct, arrival, self.now, &mut self.outbox);
        let expected = self
            .stands(id)
            .then(|| self.model.inbound(inside, from, &payload, self.now))
            .flatten();
        self.compare(Vec::from_iter(expected));
    }

    /// Delivers an error of the path, or a forged one.
    fn fail(&mut self, which: u8, other: u8, how: u8) {
        let Some((id, inside)) = self.mapping(which) else {
            return;
        };
        let about = self.remote(inside.addr, other);
        let error = ERRORS[usize::from(how % 8)];
        let returned = ReturnedError {
            to: about,
            reporter: (how & 8 != 0).then_some(about.addr),
            error,
            payload: &vec![how; usize::from(how)],
        };
        self.engine
            .handle_error(id, Egress::Direct, &returned, self.now, &mut self.outbox);
        let expected = self
            .stands(id)
            .then(|| self.model.error(inside, about, error, self.now))
            .flatten();
        self.compare(Vec::from_iter(expected));
    }

    fn wait(&mut self, which: u8, how: u8) {
        let unit = [
            Duration::from_millis(1),
            Duration::from_millis(100),
            Duration::from_secs(1),
        ][usize::from(which % 3)];
        self.now += unit * u32::from(how);
        let due = self.engine.poll_timeout();
        self.engine.handle_timeout(self.now, &mut self.outbox);
        let expected = self.model.expire(self.now);
        let is_due = due.is_some_and(|due| due <= self.now);
        assert!(
            is_due || expected.is_empty(),
            "poll_timeout announces the work"
        );
        self.compare(expected);
    }

    /// Changes the uplink: each mapping gets a new socket, or none. A former endpoint of another mapping may return.
    fn move_uplink(&mut self, how: u8) {
        self.engine
            .handle_uplink_changed(|_| true, self.now, &mut self.outbox);
        let mappings = self.model.mappings.clone();
        let had: Vec<_> = mappings.values().map(|it| it.outside).collect();
        let mut expected = Vec::new();
        for (at, (inside, mapping)) in mappings.into_iter().enumerate() {
            expected.push(Effect::Opened(inside));
            if how >> at & 1 == 1 {
                self.model.mappings.remove(&inside);
                expected.push(Effect::Ended(inside));
                let error = IcmpError::NetUnreachable;
                self.engine.handle_open_failed(
                    mapping.id,
                    Egress::Direct,
                    error,
                    self.now,
                    &mut self.outbox,
                );
            } else {
                let next = had[(at + 1) % had.len()];
                let is_heir = how & 16 != 0 && next.addr.is_ipv4() == inside.addr.is_ipv4();
                let outside = if is_heir {
                    next
                } else {
                    self.socket(inside.addr, how)
                };
                let model = self.model.mappings.get_mut(&inside);
                model.expect("it is one of them").outside = outside;
                self.engine.handle_opened(
                    mapping.id,
                    Egress::Direct,
                    Outside(outside),
                    &mut self.outbox,
                );
            }
        }
        self.compare(expected);
    }

    fn mapping(&self, which: u8) -> Option<(MappingId, Endpoint)> {
        let at = usize::from(which).checked_rem(self.ids.len())?;
        self.ids.iter().nth(at).map(|(id, inside)| (*id, *inside))
    }

    fn stands(&self, id: MappingId) -> bool {
        self.model.mappings.values().any(|mapping| mapping.id == id)
    }

    fn remote(&self, family_of: IpAddr, which: u8) -> Endpoint {
        let neighbours = self.model.mappings.iter();
        let mut neighbours = neighbours.filter(|(it, _)| it.addr.is_ipv4() == family_of.is_ipv4());
        let neighbour = match which >> 4 {
            0..8 => None,
            at => neighbours.nth(usize::from(at) - 8),
        };
        let remotes = REMOTES[usize::from(family_of.is_ipv6())];
        let remote = endpoint(remotes[usize::from(which % 4)]);
        neighbour.map_or(remote, |(_, mapping)| mapping.outside)
    }

    /// The outside endpoint of the next socket: on one address, or on all.
    fn socket(&mut self, family_of: IpAddr, which: u8) -> Endpoint {
        self.sockets += 1;
        let text = match (family_of, which & 4 == 0) {
            (IpAddr::V4(_), true) => "192.168.1.10",
            (IpAddr::V4(_), false) => "0.0.0.0",
            (IpAddr::V6(_), true) => "2001:db8:1::10",
            (IpAddr::V6(_), false) => "::",
        };
        Endpoint::new(text.parse().expect("an address"), 1_024 + self.sockets)
    }

    fn compare(&self, mut expected: Vec<Effect>) {
        let commands = self.outbox.commands().iter().map(|command| match *command {
            SocketCommand::Open { inside, .. } => Effect::Opened(inside.0),
            SocketCommand::Close { mapping } => Effect::Closed(mapping),
            _ => panic!("{command:?} is not for UDP"),
        });
        let transmits = self
            .outbox
            .transmits()
            .map(|(transmit, payload)| Effect::Sent {
                by: self.ids[&transmit.mapping],
                to: transmit.to,
                dont_fragment: transmit.dont_fragment,
                payload: payload.to_vec(),
            });
        let ends = self.outbox.events().iter().filter_map(|event| match event {
            EngineEvent::Ended { inside, .. } => Some(Effect::Ended(inside.0)),
            EngineEvent::Established { .. } => None,
            other => panic!("{other:?} without failover"),
        });
        let mut seen: Vec<_> = commands.chain(transmits).chain(ends).collect();
        seen.extend(delivered(&self.outbox));
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected);
    }

    fn compare_mappings(&self) {
        let reports = self
            .engine
            .mapping_reports(0..self.engine.slots(), self.now);
        let seen: BTreeMap<_, _> = reports
            .map(|it| {
                (
                    it.inside,
                    (it.id, it.outside, it.permitted_remotes, it.idle),
                )
            })
            .collect();
        let expected: BTreeMap<_, _> = self
            .model
            .mappings
            .iter()
            .map(|(inside, it)| {
                let idle = self.now - it.refreshed;
                let outside = Some(Outside(it.outside));
                (
                    Inside(*inside),
                    (it.id, outside, it.permitted_remotes.len(), idle),
                )
            })
            .collect();
        assert_eq!(seen, expected);
        let lifetime = self.model.settings.lifetime;
        let mappings = self.model.mappings.values();
        let first = mappings.map(|it| it.refreshed + lifetime).min();
        let due = self.engine.poll_timeout();
        assert!(
            first.is_none_or(|first| due.is_some_and(|due| due <= first)),
            "the engine wakes up in time"
        );
    }
}

/// The packets for the TUN: datagrams, which may be in fragments, and errors.
fn delivered(outbox: &Outbox) -> Vec<Effect> {
    let (mut effects, mut parts) = (Vec::new(), Vec::new());
    for bytes in outbox.packets() {
        assert!(bytes.len() <= 1_500, "larger than the TUN");
        let packet = Packet::parse(bytes).expect("delivered packets are valid");
        let (source, destination) = (packet.source(), packet.destination());
        match packet.transport() {
            Transport::Udp(datagram) => effects.push(Effect::Delivered {
                from: Endpoint::new(source, datagram.source_port),
                to: Endpoint::new(destination, datagram.destination_port),
                payload: datagram.payload.to_vec(),
            }),
            Transport::Fragment(part) => {
                assert_eq!(part.range().start, parts.len(), "in order, without gaps");
                parts.extend_from_slice(part.payload);
                if !part.more {
                    let port = |at| u16::from_be_bytes([parts[at], parts[at + 1]]);
                    effects.push(Effect::Delivered {
                        from: Endpoint::new(source, port(0)),
                        to: Endpoint::new(destination, port(2)),
                        payload: parts.split_off(8),
                    });
                    parts.clear();
                }
            }
            Transport::Icmp(message) => {
                let header = if source.is_ipv4() { 20 } else { 40 };
                let quoted = &bytes[2 * header + 8..];
                let port = |at| u16::from_be_bytes([quoted[at], quoted[at + 1]]);
                let addr = match source {
                    IpAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(&bytes[44..48]).expect("4")),
                    IpAddr::V6(_) => {
                        IpAddr::from(<[u8; 16]>::try_from(&bytes[72..88]).expect("16"))
                    }
                };
                effects.push(Effect::IcmpError {
                    to: Endpoint::new(destination, port(0)),
                    about: Endpoint::new(addr, port(2)),
                    kind: (message.kind, message.code),
                });
            }
            transport => panic!("{transport:?} is not expected"),
        }
    }
    assert!(parts.is_empty(), "the last fragment is missing");
    effects
}

fn written(datagram: &OutboundDatagram, may_fragment: bool) -> Vec<Vec<u8>> {
    let headers = udp::UdpHeaders {
        source: datagram.from,
        destination: datagram.to,
        traffic_class: TrafficClass::default(),
        hop_limit: datagram.hop_limit,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, &datagram.payload).expect("a datagram");
    if may_fragment {
        // Clears DF, and corrects the checksum for it.
        packet[6] = 0;
        let sum = u16::from_be_bytes([packet[10], packet[11]]);
        let (sum, carry) = sum.overflowing_add(0x4000);
        packet[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    }
    vec![packet]
}

/// Returns the fragments, the last one first.
fn cut(packet: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut ranges) = (Vec::new(), Vec::new());
    fragment::split(&mut out, packet, 128, 7, |range| ranges.push(range));
    ranges
        .into_iter()
        .rev()
        .map(|range| out[range].to_vec())
        .collect()
}
