//! Mappings behave the same with other mappings, equal addresses, and any payload.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use voicelane::engine::NatSettings;
use voicelane::engine::SocketCommand;
use voicelane::net::{Egress, Endpoint, Outside, TrafficClass};
use voicelane::wire::{Packet, Transport};

use super::world::{ALMOST, FAMILIES, LIFETIME, World, endpoint};

/// Returns the visible behaviour of a mapping: the admitted remotes before and after a refresh, and its end.
fn behaviour(
    world: &mut World,
    [inside, server, other_port, stranger, _]: [Endpoint; 5],
) -> String {
    let mut seen = String::new();
    let mapping = world.send(inside, server, b"1").expect("relayed");
    let is_closed = |world: &World| {
        world
            .outbox
            .commands()
            .contains(&SocketCommand::Close { mapping })
    };
    for _ in 0..2 {
        for from in [server, other_port, stranger] {
            let packets = world.arrive(mapping, from, TrafficClass::default(), b"?");
            seen += if packets.is_empty() { "-" } else { "+" };
        }
        world.wait(ALMOST);
        assert!(!is_closed(world));
        let again = world.send(inside, other_port, b"2");
        seen += if again == Some(mapping) {
            " same "
        } else {
            " another "
        };
    }
    world.wait(LIFETIME);
    seen + if is_closed(world) { "closed" } else { "open" }
}

/// RFC 4787 REQ-11: neither a full table nor an occupied port changes a mapping.
#[test]
fn other_mappings_do_not_affect_a_mapping() {
    for family in FAMILIES.map(|family| family.map(endpoint)) {
        let [inside, server, _, stranger, _] = family;
        let alone = behaviour(&mut World::new(NatSettings::default()), family);
        assert_eq!(alone, "++- same ++- same closed");

        let mut world = World::new(NatSettings::default());
        // The limit of an address, less the watched mapping. The neighbours send to the stranger.
        for port in 1_000..9_191 {
            let neighbour = Endpoint::new(inside.addr, port);
            assert!(world.send(neighbour, stranger, b"?").is_some());
        }
        assert_eq!(behaviour(&mut world, family), alone, "in a full table");

        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, b"?").expect("relayed");
        let moved = Outside(Endpoint::new(inside.addr, 1_024));
        world
            .engine
            .handle_opened(mapping, Egress::Direct, moved, &mut world.outbox);
        assert_eq!(behaviour(&mut world, family), alone, "on another port");
    }
}

/// RFC 4787 REQ-7: an inside address may be in the outside range, or equal a remote host.
#[test]
fn equal_inside_and_outside_addresses_do_not_conflict() {
    for [_, server, other_port, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        for inside in [other_port, stranger] {
            let mut world = World::new(NatSettings::default());
            let mapping = world.send(inside, server, b"?").expect("relayed");
            let (transmit, _) = world.outbox.transmits().next().expect("it goes out");
            assert_eq!(transmit.to, server);
            let packets = world.arrive(mapping, server, TrafficClass::default(), b"!");
            let packet = Packet::parse(&packets[0]).expect("valid");
            assert_eq!(packet.source(), server.addr);
            assert_eq!(packet.destination(), inside.addr);
        }
    }
}

proptest! {
/// RFC 4787 REQ-10: no payload is changed, even if it contains an address.
    #[test]
    fn payloads_are_relayed_unchanged(v6: bool, noise: Vec<u8>, names: bool) {
        let [inside, server, ..] = FAMILIES[usize::from(v6)].map(endpoint);
        let mut payload = noise;
        if names {
            let octets = match inside.addr {
                IpAddr::V4(addr) => addr.octets().to_vec(),
                IpAddr::V6(addr) => addr.octets().to_vec(),
            };
            payload.extend(octets);
            payload.extend(format!("Contact: <sip:agent@{inside}>\r\nc=IN IP4 {}\r\n", inside.addr).bytes());
        }
        let mut world = World::new(NatSettings::default());
        let mapping = world.send(inside, server, &payload).expect("relayed");
        let (_, sent) = world.outbox.transmits().next().expect("it goes out");
        prop_assert_eq!(sent, &payload);
        world.wait(Duration::from_millis(1));
        let packets = world.arrive(mapping, server, TrafficClass::default(), &payload);
        let packet = Packet::parse(&packets[0]).expect("valid");
        let Transport::Udp(datagram) = packet.transport() else {
            return Err(TestCaseError::fail("it is UDP"));
        };
        prop_assert_eq!(datagram.payload, &payload);
    }
}
