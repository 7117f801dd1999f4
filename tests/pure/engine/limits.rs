//! Limits, forged errors, hairpinning and invalid sources.

use std::net::IpAddr;
use std::time::Duration;

use etherparse::PacketBuilder;
use voicelane::engine::{EngineEvent, ReturnedError, SocketCommand};
use voicelane::engine::{NatLimits, NatSettings};
use voicelane::net::{Egress, Endpoint, Filtering, Outside, TrafficClass};
use voicelane::wire::{IcmpError, Packet, Transport, fragment, reply};

use super::world::{ALMOST, FAMILIES, LIFETIME, World, datagram, endpoint, quoted_in};

fn with_limits(limits: NatLimits) -> World {
    World::new(NatSettings {
        limits,
        ..NatSettings::default()
    })
}

/// RFC 6888 REQ-4, RFC 5508 REQ-8.
#[test]
fn one_inside_address_leaves_room_for_others() {
    for [inside, server, _, other_host, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = with_limits(NatLimits {
            mappings_of_address: 2,
            ..NatLimits::default()
        });
        let greedy = [0, 1, 2].map(|at| Endpoint::new(inside.addr, inside.port + at));
        let relayed = greedy.map(|from| {
            let mapping = world.send(from, server, b"?");
            if let Some(mapping) = mapping {
                world.arrive(mapping, server, TrafficClass::default(), b"!");
            }
            mapping.is_some()
        });
        assert_eq!(relayed, [true, true, false]);
        let told: Vec<_> = world.outbox.packets().collect();
        quoted_in(told[0], IcmpError::AdminProhibited, inside.addr);
        assert_eq!(world.dropped("too_many_mappings_of_address"), 1);
        assert!(world.reached("too_many_mappings_of_address"));
        assert!(
            world.send(other_host, server, b"?").is_some(),
            "another address has its own"
        );
        world.wait(Duration::from_mins(5));
        assert!(
            world.send(greedy[2], server, b"?").is_some(),
            "a closed mapping is not counted"
        );
    }
}

#[test]
fn a_mapping_limits_its_permitted_remotes() {
    let limits = NatLimits {
        permitted_remotes: 1,
        ..NatLimits::default()
    };
    for [inside, server, _, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        for filtering in [Filtering::AddressDependent, Filtering::EndpointIndependent] {
            let mut world = World::new(NatSettings {
                filtering,
                limits,
                ..NatSettings::default()
            });
            assert!(world.send(inside, server, b"?").is_some());
            assert!(world.send(inside, stranger, b"?").is_none());
            assert_eq!(world.dropped("too_many_remotes"), 1);
            assert!(world.reached("too_many_remotes"));
            assert!(world.send(inside, server, b"?").is_some());
        }
    }
}

/// RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f).
#[test]
fn icmp_errors_are_rate_limited_per_kind() {
    for [inside, server, .., other] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"hello").expect("relayed");
        let mut told = 0;
        for _ in 0..200 {
            world.send_bytes(&datagram(inside, other, b"not for here"));
            told += world.outbox.packets().count();
        }
        assert_eq!(told, 50, "of our own");
        assert_eq!(world.dropped("not_in_policy"), 200);

        world.outbox.clear();
        let returned = ReturnedError {
            to: server,
            reporter: None,
            error: IcmpError::PortUnreachable,
            payload: b"hello",
        };
        for _ in 0..200 {
            world.engine.handle_error(
                mapping,
                Egress::Direct,
                &returned,
                world.now,
                &mut world.outbox,
            );
        }
        assert_eq!(world.outbox.packets().count(), 50, "of the path");
        let counters = world.engine.snapshot(world.now).counters;
        assert_eq!((counters.rejected, counters.errors_returned), (50, 50));
        assert_eq!(counters.errors_suppressed, 300);

        world.wait(Duration::from_millis(10));
        world.send_bytes(&datagram(inside, other, b"not for here"));
        assert_eq!(world.outbox.packets().count(), 1);
    }
}

/// RFC 5508 REQ-3.
#[test]
fn an_error_about_a_stranger_is_dropped_under_any_filtering() {
    for filtering in [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ] {
        for [inside, server, _, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
            let mut world = World::new(NatSettings {
                filtering,
                ..NatSettings::default()
            });
            let mapping = world.send(inside, server, b"hello").expect("relayed");
            let foreign = usize::from(inside.addr.is_ipv4());
            let foreign = endpoint(FAMILIES[foreign][1]);
            for (to, reporter) in [
                (stranger, None),
                (foreign, None),
                (server, Some(foreign.addr)),
            ] {
                let returned = ReturnedError {
                    to,
                    reporter,
                    error: IcmpError::PortUnreachable,
                    payload: b"",
                };
                world.outbox.clear();
                world.engine.handle_error(
                    mapping,
                    Egress::Direct,
                    &returned,
                    world.now,
                    &mut world.outbox,
                );
                assert_eq!(world.outbox.packets().count(), 0, "{to} by {reporter:?}");
            }
            assert_eq!(world.send(inside, server, b"again"), Some(mapping));
        }
    }
}

/// RFC 4787 REQ-12, RFC 5508 REQ-6: an error neither ends a mapping nor keeps it alive.
#[test]
fn an_error_refreshes_no_mapping() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let mut world = World::new(NatSettings {
        inbound_refresh: true,
        ..NatSettings::default()
    });
    let mapping = world.send(inside, server, b"hello").expect("relayed");
    world.arrive(mapping, server, TrafficClass::default(), b"answer");
    world.wait(ALMOST);
    let returned = ReturnedError {
        to: server,
        reporter: None,
        error: IcmpError::PortUnreachable,
        payload: b"hello",
    };
    world.engine.handle_error(
        mapping,
        Egress::Direct,
        &returned,
        world.now,
        &mut world.outbox,
    );
    world.wait(LIFETIME.saturating_sub(ALMOST));
    assert_eq!(world.outbox.commands(), [SocketCommand::Close { mapping }]);
}

/// RFC 4787 REQ-6 and RFC 7857 section 7.
#[test]
fn inbound_refresh_is_configurable_and_excludes_strangers() {
    for [inside, server, _, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings {
            filtering: Filtering::EndpointIndependent,
            inbound_refresh: true,
            ..NatSettings::default()
        });
        let mapping = world.send(inside, server, b"hello").expect("relayed");
        let class = TrafficClass::default();
        assert_eq!(world.arrive(mapping, server, class, b"known").len(), 1);
        world.wait(ALMOST);
        assert_eq!(world.arrive(mapping, server, class, b"known").len(), 1);
        world.wait(ALMOST);
        assert!(world.outbox.commands().is_empty(), "refreshed");
        assert_eq!(world.arrive(mapping, stranger, class, b"unknown").len(), 1);
        world.wait(LIFETIME.saturating_sub(ALMOST));
        assert_eq!(world.outbox.commands(), [SocketCommand::Close { mapping }]);
    }
}

/// RFC 5508 REQ-8.
#[test]
fn datagrams_queued_for_a_failed_socket_are_rejected() {
    for [inside, server, other_port, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let sent = [server, other_port].map(|to| datagram(inside, to, b"hello"));
        world.outbox.clear();
        for packet in &sent {
            world
                .engine
                .handle_tun(packet, world.now, &mut world.outbox);
        }
        let [SocketCommand::Open { mapping, .. }] = *world.outbox.commands() else {
            panic!("{:?}", world.outbox.commands())
        };
        let error = IcmpError::AdminProhibited;
        world.engine.handle_open_failed(
            mapping,
            Egress::Direct,
            error,
            world.now,
            &mut world.outbox,
        );
        assert_eq!(world.outbox.transmits().count(), 0);
        let told: Vec<_> = world.outbox.packets().collect();
        let quoted = [0, 1].map(|at| quoted_in(told[at], error, inside.addr));
        assert_eq!(quoted, sent);
        assert_eq!(world.dropped("open_failed"), 2);
    }
}

#[test]
fn a_mapping_that_cannot_move_ends() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let mut world = World::new(NatSettings::default());
    let mapping = world.send(inside, server, b"hello").expect("relayed");
    world.outbox.clear();
    let error = IcmpError::NetUnreachable;
    world
        .engine
        .handle_open_failed(mapping, Egress::Direct, error, world.now, &mut world.outbox);
    assert!(matches!(world.outbox.events(), [EngineEvent::Ended { .. }]));
    assert_ne!(world.send(inside, server, b"again"), Some(mapping));
}

/// RFC 4787 REQ-14a, RFC 6888 REQ-5.
#[test]
fn a_flood_of_fragments_of_one_source_leaves_room_for_others() {
    for [inside, server, _, other_host, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let first = |from: Endpoint, identification| {
            let (mut out, mut ranges) = (Vec::new(), Vec::new());
            let whole = datagram(from, server, &[0; 2_000]);
            fragment::split(&mut out, &whole, 1_400, identification, |range| {
                ranges.push(range);
            });
            ranges
                .into_iter()
                .map(|range| out[range].to_vec())
                .collect::<Vec<_>>()
        };
        for identification in 0..10_000 {
            world.send_bytes(&first(inside, identification)[0]);
        }
        assert!(world.dropped("too_many_fragments") > 9_000);
        assert!(world.reached("too_many_fragments"));
        for part in first(other_host, 7) {
            world.send_bytes(&part);
        }
        assert_eq!(world.outbox.transmits().count(), 1);
        world.wait(Duration::from_secs(15));
        for part in first(inside, 7) {
            world.send_bytes(&part);
        }
        assert_eq!(
            world.outbox.transmits().count(),
            1,
            "the fragments of the flood have expired"
        );
    }
}

/// RFC 4787 REQ-9 and REQ-9a: from the sender's outside endpoint, through the receiver's filter.
#[test]
fn neighbours_reach_each_other_by_their_outside_endpoints() {
    for [inside, server, _, other_host, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        // This relay uses equal inside and outside endpoints, so the test needs two other addresses.
        let outside = [40_001, 40_002].map(|port| Endpoint::new(uplink(inside), port));
        for (from, outside) in [inside, other_host].into_iter().zip(outside) {
            let mapping = world.send(from, server, b"hello").expect("relayed");
            world.engine.handle_opened(
                mapping,
                Egress::Direct,
                Outside(outside),
                &mut world.outbox,
            );
        }
        world.send_bytes(&datagram(inside, outside[1], b"knock"));
        assert!(
            world.outbox.is_empty(),
            "{other_host} has not sent to {inside} yet"
        );
        assert_eq!(world.dropped("unsolicited"), 1);

        world.send_bytes(&datagram(other_host, outside[0], b"hello"));
        assert_eq!(
            world.outbox.transmits().count(),
            0,
            "hairpinned datagrams do not leave"
        );
        let packets: Vec<_> = world.outbox.packets().collect();
        let packet = Packet::parse(packets[0]).expect("valid");
        let Transport::Udp(datagram) = packet.transport() else {
            panic!("{packet:?}")
        };
        let from = Endpoint::new(packet.source(), datagram.source_port);
        let to = Endpoint::new(packet.destination(), datagram.destination_port);
        assert_eq!((from, to), (outside[1], inside));
        assert_eq!(datagram.payload, b"hello");

        let nobody = Endpoint::new(uplink(inside), 40_003);
        world.send_bytes(&super::world::datagram(inside, nobody, b"?"));
        assert_eq!(
            world.dropped("not_in_policy"),
            1,
            "an unused endpoint is no neighbour"
        );
    }
}

fn uplink(family_of: Endpoint) -> IpAddr {
    let text = if family_of.addr.is_ipv4() {
        "192.168.1.10"
    } else {
        "2001:db8:1::10"
    };
    text.parse().expect("an address")
}

/// RFC 5508 REQ-1: rules capture only UDP and TCP, so an echo request stays in the VPN. A captured one is prohibited.
#[test]
fn a_captured_echo_request_is_prohibited() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut packet = Vec::new();
        match (inside.addr, server.addr) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), 64)
                    .icmpv4_echo_request(1, 1)
                    .write(&mut packet, b"ping")
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), 64)
                    .icmpv6_echo_request(1, 1)
                    .write(&mut packet, b"ping")
            }
            _ => unreachable!("one family"),
        }
        .expect("into memory");
        let parsed = Packet::parse(&packet).expect("valid");
        assert!(matches!(parsed.transport(), Transport::Echo(_)));
        let mut world = World::new(NatSettings::default());
        world.send_bytes(&packet);
        let told: Vec<_> = world.outbox.packets().collect();
        let error = IcmpError::AdminProhibited;
        assert_eq!(quoted_in(told[0], error, inside.addr), packet);
        assert!(world.outbox.commands().is_empty());
    }
}

/// RFC 5508 REQ-5: an ICMP error of the application is neither forwarded nor answered.
#[test]
fn an_icmp_error_from_the_application_is_dropped() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"?").expect("relayed");
        let class = TrafficClass::default();
        let late = world.arrive(mapping, server, class, b"too late");
        let error = IcmpError::PortUnreachable;
        let mut packet = Vec::new();
        reply::write_icmp_error(&mut packet, error, inside.addr, server.addr, &late[0])
            .expect("one family");
        world.send_bytes(&packet);
        assert!(world.outbox.is_empty());
        assert_eq!(world.dropped("not_in_policy"), 1);
        assert_eq!(world.send(inside, server, b"?"), Some(mapping));
    }
}

#[test]
fn a_source_that_is_no_host_gets_no_mapping() {
    let [_, server, ..] = FAMILIES[0].map(endpoint);
    for source in [
        "0.0.0.0:5000",
        "224.0.0.1:5000",
        "255.255.255.255:5000",
        "127.0.0.1:5000",
    ] {
        let mut world = World::new(NatSettings::default());
        world.send_bytes(&datagram(endpoint(source), server, b"?"));
        assert!(world.outbox.is_empty(), "{source}");
        assert_eq!(world.dropped("martian"), 1);
    }
}
