//! Whole prefixes in the TUN with two egresses: only traffic in the policy uses the direct path.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::*;
use voicelane::call::stun::{TransactionId, binding_request, binding_success};
use voicelane::config::Config;
use voicelane::engine::NatSettings;
use voicelane::engine::{
    ConnectError, Engine, EngineEvent, FailoverSettings, Outbox, ReturnedError, SocketCommand,
};
use voicelane::net::{
    Dscp, Ecn, Egress, Endpoint, Family, MappingId, PortRange, Protocol, TrafficClass,
};
use voicelane::policy::{Action, Policy};
use voicelane::wire::{IcmpError, udp};

use super::world::{FAMILIES, World, datagram, endpoint, quoted_in};

/// The policy of the other tests with TCP port 443, and whole prefixes captured or not.
fn compiled(capture: &str, disabled: &str) -> Arc<Policy> {
    let text = format!(
        r#"
version = 1
include = []
disable = [{disabled}]
[route]
capture = "{capture}"
[[service]]
name = "media"
description = "the media of this test"
role = "media"
protocol = "udp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = ["3478", "10000-60000"]
allow_special_purpose = true
[[service]]
name = "signalling"
description = "the signalling of this test"
role = "signalling"
protocol = "tcp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = [443]
allow_special_purpose = true
"#
    );
    let config = Config::parse("policy", &text).expect("a valid policy");
    let day = "2026-01-01".parse().expect("a date");
    Arc::new(Policy::compile(&config, day))
}

static POLICIES: LazyLock<[Arc<Policy>; 3]> = LazyLock::new(|| {
    [
        compiled("prefix", ""),
        compiled("exact", ""),
        compiled("prefix", "\"media\""),
    ]
});

fn engine(policy: usize) -> Engine {
    let policy = Arc::clone(&POLICIES[policy]);
    Engine::new(policy, NatSettings::default()).with_failover(FailoverSettings::default())
}

fn world(policy: usize) -> World {
    let mut world = World::new(NatSettings::default());
    world.engine = engine(policy);
    world
}

#[test]
fn only_whole_prefixes_are_captured_for_both_protocols() {
    let [prefix, exact, _] = &*POLICIES;
    let captures = prefix.captures();
    let protocols: Vec<_> = captures.iter().map(|it| it.protocol).collect();
    assert_eq!(protocols, [Protocol::Udp, Protocol::Tcp]);
    for capture in captures {
        assert_eq!(capture.ports, PortRange::ALL);
        assert_eq!(capture.prefixes.len(), 2);
    }
    for [_, server, .., other] in FAMILIES.map(|family| family.map(endpoint)) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for port in [1, 53, 443, 3478, 20_000, 60_001, 65_535] {
                let to = Endpoint::new(server.addr, port);
                let (whole, narrow) = (prefix.evaluate(protocol, to), exact.evaluate(protocol, to));
                assert_eq!(whole.rule, narrow.rule);
                assert_eq!(
                    whole.action == Action::Relay,
                    narrow.action == Action::Relay
                );
                assert_ne!(whole.action, Action::Tunnel);
                assert_ne!(narrow.action, Action::Return);
            }
            assert_eq!(prefix.evaluate(protocol, other).action, Action::Tunnel);
        }
    }
}

#[test]
fn other_traffic_of_a_prefix_enters_the_vpn_with_its_own_marks() {
    for [inside, server, .., other] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = world(0);
        let dns = Endpoint::new(server.addr, 53);
        let class = TrafficClass {
            dscp: Dscp::new(10).expect("AF11"),
            ecn: Ecn::NotEct,
        };
        let headers = udp::UdpHeaders {
            source: inside,
            destination: dns,
            traffic_class: class,
            hop_limit: 64,
        };
        let mut packet = Vec::new();
        udp::write_datagram(&mut packet, &headers, b"who is it").expect("a datagram");
        world.send_bytes(&packet);
        let transmits: Vec<_> = world.outbox.transmits().collect();
        assert_eq!(transmits.len(), 1);
        let (transmit, payload) = transmits[0];
        assert_eq!((transmit.egress, transmit.to), (Egress::Tunnel, dns));
        assert_eq!(
            (transmit.treatment.dscp, payload),
            (class.dscp, &b"who is it"[..])
        );
        let mapping = transmit.mapping;
        assert!(matches!(
            world.outbox.commands(),
            [SocketCommand::Open {
                egress: Egress::Tunnel,
                ..
            }]
        ));

        // Media of the same socket has the same mapping and the direct path.
        assert_eq!(world.send(inside, server, b"media"), Some(mapping));
        let (transmit, _) = world.outbox.transmits().next().expect("media");
        assert_eq!(
            (transmit.egress, transmit.treatment.dscp),
            (Egress::Direct, Dscp::EF)
        );
        let counters = world.engine.snapshot(world.now).counters;
        assert_eq!((counters.packets_out, counters.packets_tunnelled), (2, 1));

        // Datagrams outside all prefixes are rejected.
        let sent = datagram(inside, other, b"not for here");
        world.send_bytes(&sent);
        assert_eq!(world.outbox.transmits().count(), 0);
        let packets: Vec<_> = world.outbox.packets().collect();
        quoted_in(packets[0], IcmpError::AdminProhibited, inside.addr);

        // Both sockets close with the mapping.
        world.wait(Duration::from_mins(5));
        assert_eq!(world.outbox.commands(), [SocketCommand::Close { mapping }]);
    }
}

/// A SYN, without options.
fn syn(from: Endpoint, to: Endpoint) -> Vec<u8> {
    use etherparse::PacketBuilder;
    let mut packet = Vec::new();
    let builder = match (from.addr, to.addr) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), 64)
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), 64)
        }
        _ => panic!("mixed families"),
    };
    let segment = builder.tcp(from.port, to.port, 1_000, 64_000).syn();
    segment.write(&mut packet, &[]).expect("a vector grows");
    packet
}

/// Returns the egress of each requested connection.
fn connects(outbox: &Outbox) -> Vec<Egress> {
    let commands = outbox.commands().iter();
    let ways = commands.filter_map(|command| match command {
        SocketCommand::Connect { egress, .. } => Some(*egress),
        _ => None,
    });
    ways.collect()
}

#[test]
fn tcp_in_a_rule_goes_direct_and_other_tcp_enters_the_vpn() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = world(0);
        for (port, egress) in [(443, Egress::Direct), (22, Egress::Tunnel)] {
            world.send_bytes(&syn(inside, Endpoint::new(server.addr, port)));
            assert_eq!(connects(&world.outbox), [egress]);
        }
        // A connection whose egress the policy changes ends; it does not move.
        world
            .engine
            .set_policy(compiled("prefix", "\"signalling\""));
        world.wait(Duration::ZERO);
        let ended = |it: &&SocketCommand| matches!(it, SocketCommand::Disconnect { .. });
        assert_eq!(world.outbox.commands().iter().filter(ended).count(), 1);
        assert_eq!(world.engine.snapshot(world.now).connections, 1);
        // A new uplink ends the direct connections.
        world.send_bytes(&syn(inside, Endpoint::new(server.addr, 443)));
        assert_eq!(connects(&world.outbox), [Egress::Tunnel]);
        world
            .engine
            .handle_uplink_changed(|_| true, world.now, &mut world.outbox);
        assert_eq!(world.engine.snapshot(world.now).connections, 2);
    }
}

#[test]
fn tcp_without_a_direct_path_enters_the_vpn() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let to = Endpoint::new(server.addr, 443);
        let unreachable = ConnectError::Unreachable(IcmpError::NetUnreachable);
        for silent in [false, true] {
            let mut world = world(1);
            world.send_bytes(&syn(inside, to));
            let [SocketCommand::Connect { connection, .. }] = *world.outbox.commands() else {
                panic!("{:?}", world.outbox.commands());
            };
            if silent {
                world.wait(Duration::from_millis(1_900));
                world.send_bytes(&syn(inside, to));
                assert_eq!(
                    connects(&world.outbox),
                    [],
                    "a repeated SYN changes nothing"
                );
                world.wait(Duration::from_millis(100));
            } else {
                world.outbox.clear();
                world
                    .engine
                    .handle_connect_failed(connection, unreachable, &mut world.outbox);
            }
            assert_eq!(connects(&world.outbox), [Egress::Tunnel]);
            assert_eq!(world.outbox.packets().count(), 0, "nobody is told");
            world.outbox.clear();
            world
                .engine
                .handle_connect_failed(connection, unreachable, &mut world.outbox);
            assert_eq!(connects(&world.outbox), [], "there is no third egress");
            let packets: Vec<_> = world.outbox.packets().collect();
            quoted_in(packets[0], IcmpError::NetUnreachable, inside.addr);
        }
    }
}

/// One step of a random sequence.
#[derive(Clone, Debug)]
enum Step {
    Send {
        from: u16,
        to: usize,
        port: u16,
        check: bool,
    },
    Arrive {
        which: usize,
        by: Egress,
        check: bool,
    },
    Refuse {
        error: bool,
    },
    Returned {
        which: usize,
        by: Egress,
    },
    Wait {
        millis: u64,
    },
    Policy {
        which: usize,
    },
    Uplink,
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop::sample::select(vec![53, 443, 3478, 20_000, 60_001]);
    let by = prop::sample::select(vec![Egress::Direct, Egress::Tunnel]);
    let millis = prop::sample::select(vec![20, 300, 1_100, 2_500, 11_000, 60_000, 301_000]);
    prop_oneof![
        8 => (1u16..4, 0usize..3, port, any::<bool>())
            .prop_map(|(from, to, port, check)| Step::Send { from, to, port, check }),
        4 => (any::<usize>(), by.clone(), any::<bool>())
            .prop_map(|(which, by, check)| Step::Arrive { which, by, check }),
        2 => any::<bool>().prop_map(|error| Step::Refuse { error }),
        1 => (any::<usize>(), by).prop_map(|(which, by)| Step::Returned { which, by }),
        4 => millis.prop_map(|millis| Step::Wait { millis }),
        1 => (0usize..3).prop_map(|which| Step::Policy { which }),
        1 => Just(Step::Uplink),
    ]
}

/// Invariants of every sequence.
#[derive(Default)]
struct Watch {
    policy: usize,
    /// Requested sockets.
    sockets: BTreeSet<(MappingId, Egress)>,
    failed_over: BTreeSet<MappingId>,
    known: BTreeSet<MappingId>,
    /// Checked commands, datagrams and events of this outbox.
    seen: (usize, usize, usize),
}

impl Watch {
    fn look(&mut self, world: &mut World) {
        world.open_all();
        for command in &world.outbox.commands()[self.seen.0..] {
            match *command {
                SocketCommand::Open {
                    mapping, egress, ..
                } => {
                    self.sockets.insert((mapping, egress));
                }
                SocketCommand::Close { mapping } => {
                    self.sockets.retain(|(id, _)| *id != mapping);
                    self.failed_over.remove(&mapping);
                }
                _ => panic!("{command:?} is not for UDP"),
            }
        }
        for (transmit, _) in world.outbox.transmits().skip(self.seen.1) {
            self.known.insert(transmit.mapping);
            assert!(self.sockets.contains(&(transmit.mapping, transmit.egress)));
            let verdict = POLICIES[self.policy].evaluate(Protocol::Udp, transmit.to);
            match transmit.egress {
                Egress::Direct => assert_eq!(verdict.action, Action::Relay, "a leak: {transmit:?}"),
                Egress::Tunnel => assert_ne!(verdict.action, Action::Tunnel),
            }
        }
        for event in &world.outbox.events()[self.seen.2..] {
            match event {
                EngineEvent::FailedOver { mapping, .. } => {
                    assert!(self.failed_over.insert(*mapping));
                }
                EngineEvent::FailedBack { mapping, .. } => {
                    assert!(self.failed_over.remove(mapping));
                }
                _ => {}
            }
        }
        self.seen = (
            world.outbox.commands().len(),
            world.outbox.transmit_count(),
            world.outbox.events().len(),
        );
        for mapping in world
            .engine
            .mapping_reports(0..world.engine.slots(), world.now)
        {
            let has_failed_over = self.failed_over.contains(&mapping.id);
            assert_eq!(mapping.egress == Egress::Tunnel, has_failed_over);
            assert_eq!(mapping.failover_cause.is_some(), has_failed_over);
        }
    }
}

proptest! {
    #[test]
    fn only_traffic_in_the_policy_goes_direct(
        family in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let [inside, server, _, second, other] = FAMILIES[usize::from(family)].map(endpoint);
        let (mut world, mut watch) = (world(0), Watch::default());
        let mut checks = 0;
        for step in steps {
            world.outbox.clear();
            watch.seen = (0, 0, 0);
            match step {
                Step::Send { from, to, port, check } => {
                    let addr = [server, second, other][to].addr;
                    let is_check = check;
                    checks += u8::from(is_check);
                    let check = binding_request(TransactionId([checks; 12]));
                    let payload = if is_check { &check[..] } else { b"media" };
                    let from = Endpoint::new(inside.addr, from);
                    world.send_bytes(&datagram(from, Endpoint::new(addr, port), payload));
                }
                Step::Refuse { error } => {
                    world.send_bytes(&datagram(inside, server, b"media"));
                    watch.look(&mut world);
                    let error = [IcmpError::AdminProhibited, IcmpError::NetUnreachable]
                        [usize::from(error)];
                    let mut at = 0;
                    while at < world.outbox.transmit_count() {
                        let is_direct = world
                            .outbox
                            .transmit_at(at)
                            .is_some_and(|(it, _)| it.egress == Egress::Direct);
                        if is_direct {
                            let (now, outbox) = (world.now, &mut world.outbox);
                            world.engine.handle_send_failed(at, Some(error), now, outbox);
                            world.open_all();
                        }
                        at += 1;
                        prop_assert!(at < 20, "no datagram loops");
                    }
                }
                Step::Arrive { which, by, check } => {
                    let known: Vec<_> = watch.known.iter().copied().collect();
                    let Some(at) = which.checked_rem(known.len()) else { continue };
                    let answer = binding_success(TransactionId([checks; 12]), inside);
                    let payload = if check { &answer[..] } else { b"media" };
                    world.arrive_by(known[at], by, server, payload);
                }
                Step::Returned { which, by } => {
                    let known: Vec<_> = watch.known.iter().copied().collect();
                    let Some(at) = which.checked_rem(known.len()) else { continue };
                    let returned = ReturnedError {
                        to: server,
                        reporter: Some(second.addr),
                        error: IcmpError::HostUnreachable,
                        payload: b"media",
                    };
                    let (now, outbox) = (world.now, &mut world.outbox);
                    world.engine.handle_error(known[at], by, &returned, now, outbox);
                }
                Step::Wait { millis } => {
                    let end = world.now + Duration::from_millis(millis);
                    let mut turns = 0;
                    while let Some(due) = world.engine.poll_timeout().filter(|due| *due <= end) {
                        prop_assert!(turns < 10_000, "timeouts must advance");
                        turns += 1;
                        world.now = world.now.max(due);
                        world.outbox.clear();
                        watch.seen = (0, 0, 0);
                        world.engine.handle_timeout(world.now, &mut world.outbox);
                        watch.look(&mut world);
                    }
                    world.now = end;
                    continue;
                }
                Step::Policy { which } => {
                    watch.policy = which;
                    world.engine.set_policy(Arc::clone(&POLICIES[which]));
                }
                Step::Uplink => {
                    world.engine.handle_uplink_changed(|_| true, world.now, &mut world.outbox);
                }
            }
            watch.look(&mut world);
        }
        prop_assert!(Family::of(inside.addr) == Family::of(server.addr));
    }
}
