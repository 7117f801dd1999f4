//! The engine in simulated time: packets and instants in, outbox out. No socket, no clock, both address families.

mod call;
mod end;
mod failover;
mod limits;
mod prefix;
mod sizes;
mod steady;
mod uplink;
mod uplink_failure;
mod world;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use voicelane::engine::{Engine, EngineEvent, Outbox, ReplySource, ReturnedError, SocketCommand};
use voicelane::engine::{NatLimits, NatSettings, UNANSWERED_LIFETIME};
use voicelane::net::{Dscp, Ecn, Egress, Endpoint, Filtering, Protocol, TrafficClass};
use voicelane::policy::Action;
use voicelane::wire::{IcmpError, Packet, Transport, udp};

use world::{ALMOST, FAMILIES, LIFETIME, World, datagram, endpoint, policy, quoted_in};

#[test]
fn a_media_packet_opens_a_mapping_and_goes_out_marked() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"hello").expect("relayed");
        let [
            SocketCommand::Open {
                mapping: opened,
                egress: Egress::Direct,
                inside: of,
                to,
                treatment,
            },
        ] = world.outbox.commands()
        else {
            panic!("{:?}", world.outbox.commands())
        };
        assert_eq!((*opened, of.0, treatment.dscp), (mapping, inside, Dscp::EF));
        assert_eq!(*to, server, "its route selects the source address");
        let transmits: Vec<_> = world.outbox.transmits().collect();
        assert_eq!(transmits.len(), 1);
        assert_eq!((transmits[0].0.to, transmits[0].1), (server, &b"hello"[..]));
        assert!(matches!(
            world.outbox.events(),
            [EngineEvent::Established { .. }]
        ));

        let again = world.send(inside, server, b"again").expect("relayed");
        assert_eq!(again, mapping);
        assert!(world.outbox.commands().is_empty(), "one socket per mapping");
    }
}

/// RFC 9331 section 4.1: ECN belongs to the endpoints and the routers, not to the rule.
#[test]
fn a_packet_keeps_its_ecn_and_gets_the_dscp_of_the_rule() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        for ecn in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce] {
            let headers = udp::UdpHeaders {
                source: inside,
                destination: server,
                traffic_class: TrafficClass {
                    dscp: Dscp::CS5,
                    ecn,
                },
                hop_limit: 64,
            };
            let mut packet = Vec::new();
            udp::write_datagram(&mut packet, &headers, b"media").expect("a datagram");
            world.send_bytes(&packet);
            let (transmit, _) = world.outbox.transmits().next().expect("relayed");
            assert_eq!((transmit.treatment.dscp, transmit.ecn), (Dscp::EF, ecn));
        }
    }
}

/// RFC 4787 REQ-1.
#[test]
fn one_mapping_serves_every_remote() {
    for [inside, server, other_port, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"1");
        assert!(mapping.is_some());
        assert_eq!(
            world.send(inside, other_port, b"2"),
            mapping,
            "RFC 4787 REQ-1"
        );
        assert_eq!(
            world.send(inside, stranger, b"3"),
            mapping,
            "RFC 4787 REQ-1"
        );
    }
}

#[test]
fn a_response_reaches_the_application_with_its_marks() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"question").expect("relayed");
        let class = TrafficClass {
            dscp: Dscp::EF,
            ecn: Ecn::Ce,
        };
        let packets = world.arrive(mapping, server, class, b"answer");
        assert_eq!(packets.len(), 1);
        let packet = Packet::parse(&packets[0]).expect("valid, checksums included");
        assert_eq!(
            (packet.source(), packet.destination()),
            (server.addr, inside.addr)
        );
        assert_eq!(packet.traffic_class(), class);
        let Transport::Udp(datagram) = packet.transport() else {
            panic!("{packet:?}")
        };
        assert_eq!(
            (datagram.source_port, datagram.destination_port),
            (server.port, inside.port)
        );
        assert_eq!(datagram.payload, b"answer");
    }
}

/// RFC 4787 REQ-8.
#[test]
fn inbound_datagrams_pass_the_configured_filtering() {
    let cases = [
        (Filtering::AddressDependent, [true, true, false]),
        (Filtering::AddressAndPortDependent, [true, false, false]),
        (Filtering::EndpointIndependent, [true, true, true]),
    ];
    for [inside, server, other_port, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        for (filtering, expected) in cases {
            let mut world = World::new(NatSettings {
                filtering,
                ..NatSettings::default()
            });
            let mapping = world.send(inside, server, b"question").expect("relayed");
            let admitted = [server, other_port, stranger].map(|from| {
                !world
                    .arrive(mapping, from, TrafficClass::default(), b"?")
                    .is_empty()
            });
            assert_eq!(admitted, expected, "{filtering:?}");
            let refused = expected.iter().filter(|admitted| !**admitted).count() as u64;
            assert_eq!(world.dropped("unsolicited"), refused);
        }
    }
}

#[test]
fn datagrams_outside_the_policy_are_rejected_and_counted() {
    for [inside, server, .., other] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        for to in [
            other,
            Endpoint::new(server.addr, 53),
            Endpoint::new(server.addr, 60_001),
        ] {
            let sent = datagram(inside, to, b"not for here");
            world.send_bytes(&sent);
            assert_eq!(world.outbox.transmits().count(), 0, "not forwarded");
            let packets: Vec<_> = world.outbox.packets().collect();
            assert_eq!(packets.len(), 1);
            assert_eq!(
                quoted_in(packets[0], IcmpError::AdminProhibited, inside.addr),
                sent
            );
        }
        assert_eq!(world.dropped("not_in_policy"), 3);
        assert_eq!(world.engine.snapshot(world.now).counters.rejected, 3);
    }
}

/// RFC 4787 REQ-5 and REQ-6.
#[test]
fn only_outbound_packets_refresh_a_mapping() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"1").expect("relayed");
        world.arrive(mapping, server, TrafficClass::default(), b"answer");
        world.wait(ALMOST);
        assert!(world.outbox.commands().is_empty());
        assert_eq!(
            world.send(inside, server, b"2"),
            Some(mapping),
            "refreshed by an outbound packet"
        );
        world.wait(ALMOST);
        assert!(
            world.outbox.commands().is_empty(),
            "the refreshed mapping exists"
        );
        assert_eq!(
            world
                .arrive(mapping, server, TrafficClass::default(), b"3")
                .len(),
            1
        );
        assert!(
            world
                .engine
                .poll_timeout()
                .is_some_and(|due| due <= world.now + Duration::from_secs(2))
        );
        world.wait(LIFETIME.saturating_sub(ALMOST));
        assert_eq!(
            world.outbox.commands(),
            [SocketCommand::Close { mapping }],
            "an inbound packet does not refresh"
        );
        assert!(
            world
                .arrive(mapping, server, TrafficClass::default(), b"4")
                .is_empty()
        );
        assert_eq!(world.dropped("no_mapping"), 1);
        assert_eq!(world.engine.poll_timeout(), None);

        let next = world
            .send(inside, server, b"5")
            .expect("relayed by a new mapping");
        assert_ne!(next, mapping, "the id of a closed mapping is unknown");
    }
}

/// RFC 4787 REQ-12, RFC 5508 REQ-4.
#[test]
fn an_icmp_error_of_the_path_reaches_the_application() {
    for [inside, server, _, _, router] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"anyone?").expect("relayed");
        for (reporter, error) in [
            (Some(server.addr), IcmpError::PortUnreachable),
            (Some(router.addr), IcmpError::HostUnreachable),
        ] {
            world.outbox.clear();
            let returned = ReturnedError {
                to: server,
                reporter,
                error,
                payload: b"anyone?",
            };
            world.engine.handle_error(
                mapping,
                Egress::Direct,
                &returned,
                world.now,
                &mut world.outbox,
            );
            let packets: Vec<_> = world.outbox.packets().collect();
            assert_eq!(packets.len(), 1);
            let quoted = quoted_in(packets[0], error, inside.addr);
            let inner = Packet::parse(&quoted).expect("the datagram as the application sent it");
            assert_eq!(
                (inner.source(), inner.destination()),
                (inside.addr, server.addr)
            );
            assert_eq!(
                Packet::parse(packets[0]).expect("valid").source(),
                reporter.expect("set above")
            );
        }
        assert_eq!(
            world.send(inside, server, b"still there"),
            Some(mapping),
            "RFC 4787 REQ-12"
        );
    }
}

/// RFC 5508 REQ-3.
#[test]
fn a_forged_error_changes_nothing() {
    for [inside, server, _, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"hello").expect("relayed");
        world.outbox.clear();
        let error = IcmpError::PortUnreachable;
        let returned = ReturnedError {
            to: stranger,
            reporter: None,
            error,
            payload: b"never sent",
        };
        world.engine.handle_error(
            mapping,
            Egress::Direct,
            &returned,
            world.now,
            &mut world.outbox,
        );
        assert_eq!(world.outbox.packets().count(), 0);
    }
}

#[test]
fn replies_come_from_the_substitute_and_quotes_keep_the_real_address() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let substitute: IpAddr = if inside.addr.is_ipv4() {
            "240.0.0.1"
        } else {
            "100::1"
        }
        .parse()
        .expect("an address");
        world.engine.set_reply_sources(vec![ReplySource {
            real: inside.addr,
            substitute,
        }]);
        let mapping = world.send(inside, server, b"question").expect("relayed");
        let packets = world.arrive(mapping, server, TrafficClass::default(), b"answer");
        assert_eq!(
            Packet::parse(&packets[0]).expect("valid").destination(),
            substitute
        );

        let sent = datagram(inside, Endpoint::new(server.addr, 53), b"no");
        world.send_bytes(&sent);
        let packets: Vec<_> = world.outbox.packets().collect();
        assert_eq!(
            quoted_in(packets[0], IcmpError::AdminProhibited, substitute),
            sent
        );
    }
}

#[test]
fn a_failed_socket_open_is_retried() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let mut engine = Engine::new(policy(), NatSettings::default());
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    for attempt in 1..=3 {
        outbox.clear();
        engine.handle_tun(&datagram(inside, server, b"hello"), now, &mut outbox);
        let [SocketCommand::Open { mapping, .. }] = *outbox.commands() else {
            panic!("{:?}", outbox.commands())
        };
        engine.handle_open_failed(
            mapping,
            Egress::Direct,
            IcmpError::AdminProhibited,
            now,
            &mut outbox,
        );
        let snapshot = engine.snapshot(now);
        assert_eq!(snapshot.counters.dropped_out["open_failed"], attempt);
        assert_eq!(snapshot.mappings, 0);
        assert_eq!(engine.poll_timeout(), None, "nothing expires later");
    }
}

/// Shorter than RFC 4787 REQ-5 requires: no session uses such a mapping.
#[test]
fn an_unanswered_mapping_expires_after_thirty_seconds() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"1").expect("relayed");
        world.wait(UNANSWERED_LIFETIME.saturating_sub(Duration::from_secs(1)));
        assert!(world.outbox.commands().is_empty());
        world.wait(Duration::from_secs(1));
        assert_eq!(world.outbox.commands(), [SocketCommand::Close { mapping }]);
    }
}

/// Thousands of sockets to addresses that do not answer do not displace a call.
#[test]
fn calls_replace_unanswered_mappings() {
    let limits = NatLimits {
        mappings_of_address: 100,
        ..NatLimits::default()
    };
    for [inside, server, _, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings {
            limits,
            ..NatSettings::default()
        });
        let at = |port| Endpoint::new(inside.addr, port);
        let call = world.send(at(1), server, b"media").expect("relayed");
        world.arrive(call, server, TrafficClass::default(), b"answer");
        for port in 100..8_400 {
            assert!(world.send(at(port), stranger, b"?").is_some());
            assert_eq!(world.outbox.transmits().count(), 1);
        }
        assert_eq!(world.send(at(1), server, b"media"), Some(call));
        let next = world.send(at(2), server, b"media").expect("a second call");
        let delivered = world.arrive(next, server, TrafficClass::default(), b"answer");
        assert_eq!(delivered.len(), 1);
        let snapshot = world.engine.snapshot(world.now);
        assert_eq!((snapshot.mappings, snapshot.counters.evicted), (100, 8_202));
    }
}

/// RFC 5508 REQ-8.
#[test]
fn a_full_mapping_table_rejects_with_an_icmp_error() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let limits = NatLimits {
        mappings: 1,
        ..NatLimits::default()
    };
    let mut world = World::new(NatSettings {
        limits,
        ..NatSettings::default()
    });
    let first = world.send(inside, server, b"first").expect("relayed");
    world.arrive(first, server, TrafficClass::default(), b"answer");
    let second = Endpoint::new(inside.addr, inside.port + 1);
    assert!(world.send(second, server, b"second").is_none());
    assert_eq!(
        world.outbox.packets().count(),
        1,
        "an ICMP error to the application (RFC 5508 REQ-8)"
    );
    assert_eq!(world.dropped("too_many_mappings"), 1);
    assert!(world.reached("too_many_mappings"));
    assert!(
        world.send(inside, server, b"first again").is_some(),
        "existing mappings stay"
    );
}

/// RFC 5508 REQ-10.
#[test]
fn a_packet_at_its_last_hop_gets_time_exceeded() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let headers = udp::UdpHeaders {
        source: inside,
        destination: server,
        traffic_class: TrafficClass::default(),
        hop_limit: 1,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, b"traceroute").expect("a datagram");
    let mut world = World::new(NatSettings::default());
    world.send_bytes(&packet);
    let packets: Vec<_> = world.outbox.packets().collect();
    assert_eq!(
        quoted_in(packets[0], IcmpError::HopLimitExceeded, inside.addr),
        packet
    );
    assert_eq!(world.outbox.transmits().count(), 0);
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        // The bounds of the prefixes and their outside neighbours.
        prop::sample::select(vec![
            "168.86.127.255",
            "168.86.128.0",
            "168.86.191.255",
            "168.86.192.0",
            "2001:db8:85:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:86::",
            "2001:db8:86:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:87::",
        ])
        .prop_map(|text| text.parse().expect("an address")),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        prop::sample::select(vec![3477, 3478, 3479, 9_999, 10_000, 60_000, 60_001]),
        any::<u16>()
    ]
}

proptest! {
    #[test]
    fn only_datagrams_in_the_policy_leave(addr in address(), port in port(), payload: Vec<u8>) {
        let inside = endpoint(FAMILIES[usize::from(addr.is_ipv6())][0]);
        let to = Endpoint::new(addr, port);
        let mut world = World::new(NatSettings::default());
        let relayed = world.send(inside, to, &payload).is_some();
        prop_assert_eq!(relayed, policy().evaluate(Protocol::Udp, to).action == Action::Relay);
        let media = if addr.is_ipv4() { "168.86.128.0/18" } else { "2001:db8:86::/48" };
        let media: voicelane::net::Prefix = media.parse().expect("a prefix");
        prop_assert_eq!(relayed, media.contains(addr) && (port == 3478 || (10_000..=60_000).contains(&port)));
    }

    #[test]
    fn random_bytes_cause_no_panic_and_no_transmit(bytes: Vec<u8>) {
        let mut world = World::new(NatSettings::default());
        world.send_bytes(&bytes);
        prop_assert_eq!(world.outbox.transmits().count(), 0, "random bytes are not media");
    }

    #[test]
    fn a_changed_packet_causes_no_panic(at in 0usize..60, value: u8, v6: bool, cut in 0usize..60) {
        let [inside, server, ..] = FAMILIES[usize::from(v6)].map(endpoint);
        let mut packet = datagram(inside, server, b"some payload");
        let length = packet.len();
        packet[at % length] = value;
        packet.truncate(length - cut.min(length));
        World::new(NatSettings::default()).send_bytes(&packet);
    }
}
