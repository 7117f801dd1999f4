//! Replies to packets: ICMP errors and TCP resets, and whether they are allowed.

use std::net::IpAddr;

use etherparse::{IpNumber, TcpHeader};

use super::addresses::Addresses;
use super::ip::{HOP_LIMIT, IpHeader};
use super::{IcmpError, Packet, Transport, WriteError, checksum, icmp};
use crate::net::{Family, TrafficClass};

/// Whether an ICMP error may answer a packet (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
///
/// No error answers an ICMP error or redirect, a fragment other than the first, a packet to a group, or a source that is
/// not a single host. The first fragment of an ICMP message may be an error, so it is not answered either.
#[must_use]
pub fn may_answer(packet: &Packet<'_>) -> bool {
    let answerable = match packet.transport() {
        Transport::Icmp(message) => !message.is_error,
        Transport::Fragment(part) => {
            let icmp = [IpNumber::ICMP.0, IpNumber::IPV6_ICMP.0];
            part.is_first() && !icmp.contains(&part.protocol)
        }
        Transport::Udp(_) | Transport::Tcp(_) | Transport::Echo(_) | Transport::Other(_) => true,
    };
    answerable && packet.is_between_hosts()
}

/// Appends a packet to `out`: an error about the packet `quoted`, which [`may_answer`] must have allowed.
///
/// The error quotes as much as fits 576 bytes over IPv4 (RFC 1812 section 4.3.2.3) and 1280 over IPv6 (RFC 4443 section
/// 2.4 (c)).
///
/// # Errors
/// [`WriteError::MixedFamilies`]; `out` is then as it was.
pub fn write_icmp_error(
    out: &mut Vec<u8>,
    error: IcmpError,
    from: IpAddr,
    to: IpAddr,
    quoted: &[u8],
) -> Result<(), WriteError> {
    let addresses = Addresses::new(from, to)?;
    let (protocol, limit) = match addresses.family() {
        Family::V4 => (IpNumber::ICMP, 576),
        Family::V6 => (IpNumber::IPV6_ICMP, 1280),
    };
    let (kind, code, word) = error.to_icmp(addresses.family());
    let ip_len = addresses.header_len();
    let quoted = &quoted[..quoted.len().min(limit - ip_len - icmp::HEADER_LEN)];

    let start = out.len();
    out.resize(start + ip_len, 0);
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(quoted);
    let packet = &mut out[start..];
    let field = checksum::field(&icmp::sum(addresses, &packet[ip_len..]));
    packet[ip_len + 2..ip_len + 4].copy_from_slice(&field);
    IpHeader {
        addresses,
        // Precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
        traffic_class: TrafficClass::from_octet(0xc0),
        hop_limit: HOP_LIMIT,
        protocol,
    }
    .write(packet)
}

/// Appends the reset that answers a segment of no connection (RFC 9293 section 3.10.7.1, CLOSED state).
///
/// Returns whether a reset is due: not for another reset, nor for a packet that is not TCP between two hosts.
#[expect(
    clippy::missing_panics_doc,
    reason = "a TCP header always fits an IP packet"
)]
pub fn write_tcp_reset(out: &mut Vec<u8>, packet: &Packet<'_>) -> bool {
    let Transport::Tcp(segment) = packet.transport() else {
        return false;
    };
    if segment.rst || !packet.is_between_hosts() {
        return false;
    }
    let mut reset = TcpHeader::new(segment.destination_port, segment.source_port, 0, 0);
    reset.rst = true;
    if let Some(acknowledged) = segment.acknowledgment {
        reset.sequence_number = acknowledged;
    } else {
        reset.ack = true;
        reset.acknowledgment_number = segment.sequence.wrapping_add(segment.sequence_len);
    }

    let addresses = packet.addresses().reversed();
    let ip_len = addresses.header_len();
    let start = out.len();
    out.resize(start + ip_len, 0);
    out.extend_from_slice(&reset.to_bytes());
    let answer = &mut out[start..];
    let field = checksum::field(&checksum::transport(
        addresses,
        IpNumber::TCP,
        &answer[ip_len..],
    ));
    answer[ip_len + 16..ip_len + 18].copy_from_slice(&field);
    IpHeader {
        addresses,
        traffic_class: TrafficClass::default(),
        hop_limit: HOP_LIMIT,
        protocol: IpNumber::TCP,
    }
    .write(answer)
    .expect("a TCP header fits an IP packet");
    true
}

#[cfg(test)]
mod tests {
    use super::super::icmp::{IcmpEcho, IcmpMessage};
    use super::super::sample::{self, PacketSample};
    use super::super::tcp::TcpSegment;
    use super::*;

    use etherparse::{LaxSlicedPacket, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn errors() -> impl Strategy<Value = IcmpError> {
        prop_oneof![
            Just(IcmpError::NetUnreachable),
            Just(IcmpError::HostUnreachable),
            Just(IcmpError::ProtocolUnreachable),
            Just(IcmpError::PortUnreachable),
            Just(IcmpError::AdminProhibited),
            any::<u16>().prop_map(|mtu| IcmpError::PacketTooBig { mtu: mtu.into() }),
            Just(IcmpError::HopLimitExceeded),
            Just(IcmpError::ReassemblyTimeExceeded),
        ]
    }

    /// The code and the body of an error, as etherparse reads it; its checksum is right.
    fn read_by_another_hand(packet: &[u8]) -> (u8, u8, u32, &[u8]) {
        let sliced = SlicedPacket::from_ip(packet).expect("a packet");
        let addresses = Packet::parse(packet).expect("a packet").addresses();
        match (sliced.transport, addresses) {
            (Some(TransportSlice::Icmpv4(icmp)), Addresses::V4 { .. }) => {
                assert_eq!(
                    icmp.checksum(),
                    icmp.icmp_type().calc_checksum(icmp.payload())
                );
                (
                    icmp.type_u8(),
                    icmp.code_u8(),
                    u32::from_be_bytes(icmp.bytes5to8()),
                    icmp.payload(),
                )
            }
            (
                Some(TransportSlice::Icmpv6(icmp)),
                Addresses::V6 {
                    source,
                    destination,
                },
            ) => {
                assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
                (
                    icmp.type_u8(),
                    icmp.code_u8(),
                    u32::from_be_bytes(icmp.bytes5to8()),
                    icmp.payload(),
                )
            }
            other => panic!("no ICMP: {other:?}"),
        }
    }

    proptest! {
        #[test]
        fn errors_quote_as_much_as_fits(sample in sample::sample(), error in errors()) {
            let quoted = sample.udp();
            let mut out = vec![0xa5];
            write_icmp_error(&mut out, error, sample.destination(), sample.source(), &quoted)
                .expect("one family");
            let packet = Packet::parse(&out[1..]).expect("a packet");
            prop_assert_eq!(packet.source(), sample.destination());
            prop_assert_eq!(packet.destination(), sample.source());
            let limit = match packet.family() {
                Family::V4 => 576 - 28,
                Family::V6 => 1280 - 48,
            };
            let (kind, code, word, body) = read_by_another_hand(packet.bytes());
            prop_assert_eq!(IcmpError::from_icmp(packet.family(), kind, code, word), Some(error));
            prop_assert_eq!(body, &quoted[..quoted.len().min(limit)]);
            let inner = LaxSlicedPacket::from_ip(body).expect("its header is whole");
            let Some(TransportSlice::Udp(udp)) = inner.transport else {
                return Err(TestCaseError::fail("the ports are quoted"));
            };
            prop_assert_eq!(udp.source_port(), sample.source_port);
            prop_assert_eq!(udp.destination_port(), sample.destination_port);

            let message = IcmpMessage { kind, code, is_error: true };
            prop_assert_eq!(packet.transport(), Transport::Icmp(message));
            prop_assert!(!may_answer(&packet));
            prop_assert!(may_answer(&Packet::parse(&quoted).expect("a packet")));
        }

        #[test]
        fn messages_are_distinguished(sample in sample::sample(), kind: u8, code: u8, word: [u8; 4]) {
            let bytes = sample.icmp(kind, code, word);
            let packet = Packet::parse(&bytes).expect("a packet");
            let [id0, id1, seq0, seq1] = word;
            let echo = |is_request| Transport::Echo(IcmpEcho {
                is_request,
                identifier: u16::from_be_bytes([id0, id1]),
                sequence: u16::from_be_bytes([seq0, seq1]),
            });
            match (packet.family(), kind) {
                (Family::V4, 8) | (Family::V6, 128) => prop_assert_eq!(packet.transport(), echo(true)),
                (Family::V4, 0) | (Family::V6, 129) => prop_assert_eq!(packet.transport(), echo(false)),
                (family, _) => {
                    let Transport::Icmp(message) = packet.transport() else {
                        return Err(TestCaseError::fail("a message"));
                    };
                    prop_assert_eq!((message.kind, message.code), (kind, code));
                    prop_assert_eq!(may_answer(&packet), !message.is_error);
                    prop_assert!(message.is_error || IcmpError::from_icmp(family, kind, code, 0).is_none());
                }
            }
        }
    }

    #[test]
    fn errors_and_redirects_get_no_answer_and_queries_do() {
        for (addresses, errors, queries) in [
            (
                ["192.0.2.1", "192.0.2.2"],
                &[3, 4, 5, 11, 12],
                &[8, 0, 13, 17, 42],
            ),
            (
                ["2001:db8::1", "2001:db8::2"],
                &[1, 2, 4, 127, 137],
                &[128, 129, 130, 135, 143],
            ),
        ] {
            let [source, destination] = addresses.map(|text| text.parse().expect("an address"));
            let addresses = Addresses::new(source, destination).expect("one family");
            let sample = PacketSample {
                addresses,
                ..PacketSample::default()
            };
            let answered =
                |kind| may_answer(&Packet::parse(&sample.icmp(kind, 0, [0; 4])).expect("a packet"));
            assert!(!errors.iter().any(|kind| answered(*kind)), "{source}");
            assert!(queries.iter().all(|kind| answered(*kind)), "{source}");
        }
    }

    fn udp_between(source: &str, destination: &str) -> Vec<u8> {
        let addr = |text: &str| text.parse().expect("an address");
        PacketSample {
            addresses: Addresses::new(addr(source), addr(destination)).expect("one family"),
            ..PacketSample::default()
        }
        .udp()
    }

    #[test]
    fn groups_and_non_hosts_get_no_answer() {
        let answered = |source, destination| {
            may_answer(&Packet::parse(&udp_between(source, destination)).expect("a packet"))
        };
        assert!(answered("192.0.2.1", "198.51.100.1"));
        assert!(answered("2001:db8::1", "2001:db8::2"));
        for source in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!answered(source, "192.0.2.1"), "{source}");
        }
        for source in ["::", "::1", "ff02::1"] {
            assert!(!answered(source, "2001:db8::1"), "{source}");
        }
        for destination in ["224.0.0.251", "255.255.255.255"] {
            assert!(!answered("192.0.2.1", destination), "{destination}");
        }
        assert!(!answered("2001:db8::1", "ff02::fb"));
    }

    #[test]
    fn only_the_first_fragment_gets_an_answer() {
        for (source, destination) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let addr = |text: &str| text.parse().expect("an address");
            let addresses = Addresses::new(addr(source), addr(destination)).expect("one family");
            let answered = |fragment, protocol| {
                let sample = PacketSample {
                    addresses,
                    fragment,
                    payload: vec![0; 64],
                    ..PacketSample::default()
                };
                may_answer(&Packet::parse(&sample.other(protocol)).expect("a packet"))
            };
            assert!(answered((0, true), IpNumber::UDP));
            assert!(!answered((185, true), IpNumber::UDP));
            assert!(!answered((185, false), IpNumber::UDP));
            assert!(!answered((0, true), IpNumber::ICMP));
            assert!(!answered((0, true), IpNumber::IPV6_ICMP));
        }
    }

    #[test]
    fn families_do_not_mix() {
        let mut out = vec![1];
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        let addr = |text: &str| text.parse().expect("an address");
        let result = write_icmp_error(
            &mut out,
            IcmpError::PortUnreachable,
            addr(v4),
            addr(v6),
            &[],
        );
        assert_eq!((result, out), (Err(WriteError::MixedFamilies), vec![1]));
    }

    proptest! {
        #[test]
        fn a_rejected_segment_gets_a_valid_reset(
            sample in sample::sample(),
            sequence: u32,
            acknowledged: Option<u32>,
            [syn, fin, rst]: [bool; 3],
        ) {
            let bytes = sample.tcp(|header| {
                header.sequence_number = sequence;
                header.acknowledgment_number = acknowledged.unwrap_or(0);
                header.ack = acknowledged.is_some();
                (header.syn, header.fin, header.rst) = (syn, fin, rst);
            });
            let packet = Packet::parse(&bytes).expect("a packet");
            let mut out = vec![0xa5];
            prop_assert_eq!(write_tcp_reset(&mut out, &packet), !rst);
            if rst {
                prop_assert_eq!(out, [0xa5]);
                return Ok(());
            }

            let answer = Packet::parse(&out[1..]).expect("a packet");
            prop_assert_eq!(answer.source(), sample.destination());
            prop_assert_eq!(answer.destination(), sample.source());
            let taken = sample.payload.len() + usize::from(syn) + usize::from(fin);
            let beyond = sequence.wrapping_add(u32::try_from(taken).expect("short"));
            prop_assert_eq!(answer.transport(), Transport::Tcp(TcpSegment {
                source_port: sample.destination_port,
                destination_port: sample.source_port,
                sequence: acknowledged.unwrap_or(0),
                acknowledgment: acknowledged.is_none().then_some(beyond),
                syn: false,
                fin: false,
                rst: true,
                sequence_len: 0,
            }));

            let sliced = SlicedPacket::from_ip(&out[1..]).expect("a packet");
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
                return Err(TestCaseError::fail("TCP"));
            };
            let expected = match answer.addresses() {
                Addresses::V4 { source, destination } => {
                    tcp.calc_checksum_ipv4(source.octets(), destination.octets())
                }
                Addresses::V6 { source, destination } => {
                    tcp.calc_checksum_ipv6(source.octets(), destination.octets())
                }
            };
            prop_assert_eq!(Ok(tcp.checksum()), expected);
            let mut none = Vec::new();
            prop_assert!(!write_tcp_reset(&mut none, &answer), "a reset answers no reset");
        }

        #[test]
        fn only_tcp_is_reset(sample in sample::sample()) {
            let (datagram, mut out) = (sample.udp(), Vec::new());
            let packet = Packet::parse(&datagram).expect("a packet");
            prop_assert!(!write_tcp_reset(&mut out, &packet) && out.is_empty());
        }
    }
}
