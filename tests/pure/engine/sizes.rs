//! Fragments, large and empty datagrams, missing checksums, options.

use std::time::Duration;

use proptest::prelude::*;
use voicelane::engine::NatSettings;
use voicelane::engine::SocketCommand;
use voicelane::net::TrafficClass;
use voicelane::wire::{IcmpError, Packet, Transport, fragment};

use super::world::{FAMILIES, World, datagram, endpoint, fix_ip_checksum, quoted_in};

/// Returns the fragments of a packet, in order.
fn cut(packet: &[u8], mtu: usize, identification: u32) -> Vec<Vec<u8>> {
    let (mut out, mut ranges) = (Vec::new(), Vec::new());
    fragment::split(&mut out, packet, mtu, identification, |range| {
        ranges.push(range);
    });
    let fragments = ranges.into_iter().map(|range| out[range].to_vec());
    fragments.collect()
}

/// Returns the UDP payload of the packets for the TUN, which may be fragments.
fn joined(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut segment = Vec::new();
    for bytes in packets {
        assert!(bytes.len() <= 1_500, "larger than the TUN's MTU");
        match Packet::parse(bytes).expect("valid").transport() {
            Transport::Udp(datagram) if packets.len() == 1 => return datagram.payload.to_vec(),
            Transport::Fragment(part) => {
                assert_eq!(part.range().start, segment.len());
                segment.extend_from_slice(part.payload);
            }
            transport => panic!("{transport:?}"),
        }
    }
    segment.split_off(8)
}

proptest! {
    /// RFC 4787 REQ-14.
    #[test]
    fn fragments_in_any_order_become_one_datagram(
        v6: bool,
        size in prop_oneof![0usize..3_000, 60_000usize..=65_507],
        mtu in 576usize..1_500,
        order in any::<u64>(),
    ) {
        let [inside, server, ..] = FAMILIES[usize::from(v6)].map(endpoint);
        let payload: Vec<u8> = (0..size).map(|at| at.to_le_bytes()[0]).collect();
        let mut parts = cut(&datagram(inside, server, &payload), mtu, 7);
        if parts.len() == 1 {
            return Ok(());
        }
        parts.sort_by_cached_key(|part| {
            part.iter().fold(order, |hash, byte| {
                hash.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte)
            })
        });
        let mut world = World::new(NatSettings::default());
        let last = parts.pop().expect("at least one fragment");
        for part in parts {
            world.send_bytes(&part);
            prop_assert!(world.outbox.is_empty(), "nothing leaves before the last fragment");
        }
        world.send_bytes(&last);
        let sent: Vec<_> = world.outbox.transmits().collect();
        prop_assert_eq!(sent.len(), 1);
        prop_assert!(sent[0].1 == payload && sent[0].0.to == server);
        prop_assert!(!sent[0].0.dont_fragment, "a sender that fragments does not want DF");
    }
}

#[test]
fn the_policy_is_applied_to_the_whole_datagram() {
    for [inside, .., other] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        for part in cut(&datagram(inside, other, &[0; 3_000]), 1_400, 7) {
            world.send_bytes(&part);
        }
        assert_eq!(world.outbox.transmits().count(), 0);
        assert_eq!(world.dropped("not_in_policy"), 1);
    }
}

/// RFC 5508 REQ-10.
#[test]
fn a_missing_fragment_times_out_after_15_seconds() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        for missing in 0..3 {
            let mut world = World::new(NatSettings::default());
            let mut parts = cut(&datagram(inside, server, &[0; 3_000]), 1_400, 7);
            parts.remove(missing);
            for part in &parts {
                world.send_bytes(part);
            }
            world.wait(Duration::from_millis(14_999));
            assert_eq!(world.dropped("fragments_missing"), 0);
            world.wait(Duration::from_millis(1));
            assert_eq!(world.dropped("fragments_missing"), 1);
            assert_eq!(world.engine.poll_timeout(), None, "nothing is stored");
            let told: Vec<_> = world.outbox.packets().collect();
            if missing == 0 {
                assert!(
                    told.is_empty(),
                    "without the first fragment no error can quote it"
                );
            } else {
                let error = IcmpError::ReassemblyTimeExceeded;
                let quoted = quoted_in(told[0], error, inside.addr);
                let header = if inside.addr.is_ipv4() { 20 } else { 40 };
                assert_eq!(quoted[header..header + 2], inside.port.to_be_bytes());
            }
        }
    }
}

/// RFC 5722 and RFC 1858.
#[test]
fn overlapping_fragments_discard_their_datagram() {
    for [inside, server, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let mut world = World::new(NatSettings::default());
        let whole = datagram(inside, server, &[0; 3_000]);
        let (honest, forged) = (cut(&whole, 1_400, 7), cut(&whole, 1_000, 7));
        for part in [&honest[0], &honest[0], &forged[1], &honest[1], &honest[2]] {
            world.send_bytes(part);
        }
        assert_eq!(world.outbox.transmits().count(), 0);
        assert_eq!(world.dropped("fragment_overlap"), 3, "all but the copy");
        for part in cut(&whole, 1_400, 8) {
            world.send_bytes(&part);
        }
        assert_eq!(
            world.outbox.transmits().count(),
            1,
            "the next datagram is not affected"
        );
    }
}

#[test]
fn nested_fragments_are_dropped() {
    let [inside, server, ..] = FAMILIES[1].map(endpoint);
    let mut world = World::new(NatSettings::default());
    for part in cut(&datagram(inside, server, &[0; 3_000]), 1_400, 7) {
        for part in cut(&part, 700, 8) {
            world.send_bytes(&part);
        }
    }
    assert_eq!(world.outbox.transmits().count(), 0);
    assert!(world.dropped("extension_header") > 0);
}

#[test]
fn datagrams_of_every_size_are_returned() {
    let largest = [65_507, 65_527];
    for ([inside, server, ..], largest) in FAMILIES
        .map(|family| family.map(endpoint))
        .into_iter()
        .zip(largest)
    {
        let mut world = World::new(NatSettings::default());
        let mapping = world
            .send(inside, server, b"")
            .expect("an empty datagram is valid");
        let most = if inside.addr.is_ipv4() { 1_472 } else { 1_452 };
        for size in [0, 1, most, most + 1, 9_000, largest] {
            let payload: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
            let class = TrafficClass::default();
            let packets = world.arrive(mapping, server, class, &payload);
            assert_eq!(packets.len() == 1, size <= most, "{size}");
            assert_eq!(joined(&packets), payload);
        }
        let too_long = vec![0; largest + 1];
        let packets = world.arrive(mapping, server, TrafficClass::default(), &too_long);
        assert!(packets.is_empty());
        assert_eq!(world.dropped("too_long"), 1);
    }
}

/// RFC 4787 REQ-13.
#[test]
fn dont_fragment_is_preserved() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let with = datagram(inside, server, b"DF");
    let mut without = with.clone();
    without[6] = 0;
    fix_ip_checksum(&mut without);
    let [inside, server, ..] = FAMILIES[1].map(endpoint);
    let over_ipv6 = datagram(inside, server, b"always");
    for (packet, expected) in [(with, true), (without, false), (over_ipv6, true)] {
        let mut world = World::new(NatSettings::default());
        world.send_bytes(&packet);
        let (transmit, _) = world.outbox.transmits().next().expect("relayed");
        assert_eq!(transmit.dont_fragment, expected);
    }
}

#[test]
fn a_missing_checksum_and_options_are_valid_over_ipv4() {
    let [inside, server, ..] = FAMILIES[0].map(endpoint);
    let mut packet = datagram(inside, server, b"media");
    packet[26..28].fill(0);
    // Four NOP options and an end of options, padded.
    packet.splice(20..20, [1, 1, 1, 1, 0, 0, 0, 0]);
    packet[0] = 0x47;
    packet[3] += 8;
    fix_ip_checksum(&mut packet);
    let mut world = World::new(NatSettings::default());
    world.send_bytes(&packet);
    assert!(matches!(
        world.outbox.commands(),
        [SocketCommand::Open { .. }]
    ));
    let (transmit, payload) = world.outbox.transmits().next().expect("relayed");
    assert_eq!((transmit.to, payload), (server, &b"media"[..]));

    let mapping = transmit.mapping;
    let answers = world.arrive(mapping, server, TrafficClass::default(), b"media");
    assert_ne!(
        answers[0][26..28],
        [0, 0],
        "written datagrams have a checksum"
    );

    let [inside, server, ..] = FAMILIES[1].map(endpoint);
    let mut packet = datagram(inside, server, b"media");
    packet[46..48].fill(0);
    world.send_bytes(&packet);
    assert_eq!(world.outbox.transmits().count(), 0);
    assert_eq!(world.dropped("udp_checksum_missing"), 1);
}
