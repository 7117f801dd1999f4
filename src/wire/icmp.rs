//! ICMP over both families (RFC 792, RFC 4443): messages read, errors written.

use std::net::IpAddr;

use etherparse::IpNumber;
use etherparse::checksum::Sum16BitWords;

use super::ip::{Addresses, HOP_LIMIT, IpHeader};
use super::{Packet, ParseError, Transport, WriteError, checksum};
use crate::net::{Family, TrafficClass};

/// The length in bytes of what comes before the body of every message.
const HEADER_LEN: usize = 8;

/// An echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpEcho {
    /// A request, not a reply.
    pub is_request: bool,
    /// Which pinger.
    pub identifier: u16,
    /// Which of its pings.
    pub sequence: u16,
}

/// Another message than an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpMessage {
    /// The type; the two families number them differently.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// Whether the message reports an error or redirects: one that may not be answered by an error.
    pub is_error: bool,
}

/// Why a datagram could not be delivered, in the words that both families share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// No route to the network.
    NetUnreachable,
    /// The host does not answer.
    HostUnreachable,
    /// The host does not speak the protocol.
    ProtocolUnreachable,
    /// Nobody listens at the port.
    PortUnreachable,
    /// The policy forbids it (RFC 1812 section 5.2.7.1).
    AdminProhibited,
    /// The packet does not fit the next link and may not be fragmented (RFC 1191, RFC 8201).
    PacketTooBig {
        /// What fits, in bytes; 0 when the router did not say.
        mtu: u32,
    },
    /// The hop limit ran out on the way.
    HopLimitExceeded,
    /// Parts of the datagram did not arrive in time.
    ReassemblyTimeExceeded,
}

impl IcmpError {
    /// The type, the code and the second word of the header.
    #[must_use]
    pub fn to_icmp(self, family: Family) -> (u8, u8, u32) {
        match family {
            Family::V4 => match self {
                Self::NetUnreachable => (3, 0, 0),
                Self::HostUnreachable => (3, 1, 0),
                Self::ProtocolUnreachable => (3, 2, 0),
                Self::PortUnreachable => (3, 3, 0),
                Self::PacketTooBig { mtu } => (3, 4, mtu.min(u16::MAX.into())),
                Self::AdminProhibited => (3, 13, 0),
                Self::HopLimitExceeded => (11, 0, 0),
                Self::ReassemblyTimeExceeded => (11, 1, 0),
            },
            Family::V6 => match self {
                Self::NetUnreachable => (1, 0, 0),
                Self::AdminProhibited => (1, 1, 0),
                Self::HostUnreachable => (1, 3, 0),
                Self::PortUnreachable => (1, 4, 0),
                Self::PacketTooBig { mtu } => (2, 0, mtu),
                Self::HopLimitExceeded => (3, 0, 0),
                Self::ReassemblyTimeExceeded => (3, 1, 0),
                // An unrecognised next header, which the fixed header names at offset 6.
                Self::ProtocolUnreachable => (4, 1, 6),
            },
        }
    }

    /// Reads a type, a code and the MTU as a socket's error queue or a message gives them; `None` for what is not an
    /// error or not one to pass on, such as a source quench (RFC 6633).
    ///
    /// Finer distinctions are folded as RFC 7915 section 4.2 folds them.
    #[must_use]
    pub const fn from_icmp(family: Family, kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match (family, kind, code) {
            (Family::V4, 3, 0 | 6 | 11) | (Family::V6, 1, 0 | 2) => Some(Self::NetUnreachable),
            (Family::V4, 3, 1 | 5 | 7 | 8 | 12) | (Family::V6, 1, 3) => Some(Self::HostUnreachable),
            (Family::V4, 3, 2) | (Family::V6, 4, 1) => Some(Self::ProtocolUnreachable),
            (Family::V4, 3, 3) | (Family::V6, 1, 4) => Some(Self::PortUnreachable),
            (Family::V4, 3, 4) | (Family::V6, 2, _) => Some(Self::PacketTooBig { mtu }),
            (Family::V4, 3, 9 | 10 | 13 | 15) | (Family::V6, 1, 1 | 5 | 6) => {
                Some(Self::AdminProhibited)
            }
            (Family::V4, 11, 0) | (Family::V6, 3, 0) => Some(Self::HopLimitExceeded),
            (Family::V4, 11, 1) | (Family::V6, 3, 1) => Some(Self::ReassemblyTimeExceeded),
            _ => None,
        }
    }
}

/// Whether an ICMP error may answer a packet (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
///
/// Never one to an ICMP error or redirect, to a fragment but the first, to a group of hosts, or to a source that is
/// not one host. The first fragment of an ICMP message is not answered either: it may be an error.
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

/// Appends a whole packet to `out`: the error about the packet `quoted`, which [`may_answer`] must have allowed.
///
/// As much of it is quoted as fits 576 bytes over IPv4 (RFC 1812 section 4.3.2.3) and 1280 over IPv6 (RFC 4443 section
/// 2.4 (c)).
///
/// # Errors
/// [`WriteError::MixedFamilies`]; `out` is then as it was.
pub fn write_error(
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
    let quoted = &quoted[..quoted.len().min(limit - ip_len - HEADER_LEN)];

    let start = out.len();
    out.resize(start + ip_len, 0);
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(quoted);
    let packet = &mut out[start..];
    let field = checksum::field(&sum(addresses, &packet[ip_len..]));
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

pub(super) fn parse(
    addresses: Addresses,
    segment: &[u8],
) -> Result<Transport<'static>, ParseError> {
    let &[kind, code, _, _, id0, id1, seq0, seq1, ..] = segment else {
        return Err(ParseError::IcmpLength);
    };
    if !checksum::is_right(&sum(addresses, segment)) {
        return Err(ParseError::IcmpChecksum);
    }
    let echo = |is_request| {
        Transport::Echo(IcmpEcho {
            is_request,
            identifier: u16::from_be_bytes([id0, id1]),
            sequence: u16::from_be_bytes([seq0, seq1]),
        })
    };
    let other = |is_error| {
        Transport::Icmp(IcmpMessage {
            kind,
            code,
            is_error,
        })
    };
    Ok(match (addresses.family(), kind) {
        (Family::V4, 8) | (Family::V6, 128) => echo(true),
        (Family::V4, 0) | (Family::V6, 129) => echo(false),
        // Unreachable, source quench, redirect, time exceeded, parameter problem; over IPv6 the lower half and redirect.
        (Family::V4, 3 | 4 | 5 | 11 | 12) | (Family::V6, 0..128 | 137) => other(true),
        _ => other(false),
    })
}

/// `ICMPv6` is summed with a pseudo-header (RFC 4443 section 2.3), `ICMPv4` without.
fn sum(addresses: Addresses, message: &[u8]) -> Sum16BitWords {
    match addresses.family() {
        Family::V4 => checksum::plain(message),
        Family::V6 => checksum::transport(addresses, IpNumber::IPV6_ICMP, message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, PacketSample};
    use super::*;

    use etherparse::{LaxSlicedPacket, SlicedPacket, TransportSlice, icmpv4, icmpv6};
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

    #[test]
    fn numbers_are_those_of_the_registries() {
        for (error, code) in [
            (IcmpError::NetUnreachable, icmpv4::CODE_DST_UNREACH_NET),
            (IcmpError::HostUnreachable, icmpv4::CODE_DST_UNREACH_HOST),
            (
                IcmpError::ProtocolUnreachable,
                icmpv4::CODE_DST_UNREACH_PROTOCOL,
            ),
            (IcmpError::PortUnreachable, icmpv4::CODE_DST_UNREACH_PORT),
            (
                IcmpError::AdminProhibited,
                icmpv4::CODE_DST_UNREACH_FILTER_PROHIB,
            ),
        ] {
            let expected = (icmpv4::TYPE_DEST_UNREACH, code, 0);
            assert_eq!(error.to_icmp(Family::V4), expected);
        }
        let too_big = IcmpError::PacketTooBig { mtu: 1400 };
        let need_frag = icmpv4::CODE_DST_UNREACH_NEED_FRAG;
        assert_eq!(
            too_big.to_icmp(Family::V4),
            (icmpv4::TYPE_DEST_UNREACH, need_frag, 1400)
        );
        assert_eq!(
            too_big.to_icmp(Family::V6),
            (icmpv6::TYPE_PACKET_TOO_BIG, 0, 1400)
        );
        for (error, code) in [
            (
                IcmpError::NetUnreachable,
                icmpv6::DestUnreachableCode::NoRoute,
            ),
            (
                IcmpError::HostUnreachable,
                icmpv6::DestUnreachableCode::Address,
            ),
            (
                IcmpError::PortUnreachable,
                icmpv6::DestUnreachableCode::Port,
            ),
            (
                IcmpError::AdminProhibited,
                icmpv6::DestUnreachableCode::Prohibited,
            ),
        ] {
            assert_eq!(
                error.to_icmp(Family::V6),
                (icmpv6::TYPE_DST_UNREACH, code.code_u8(), 0)
            );
        }
        let exceeded = IcmpError::HopLimitExceeded;
        assert_eq!(
            exceeded.to_icmp(Family::V4),
            (icmpv4::TYPE_TIME_EXCEEDED, 0, 0)
        );
        assert_eq!(
            exceeded.to_icmp(Family::V6),
            (icmpv6::TYPE_TIME_EXCEEDED, 0, 0)
        );
    }

    #[test]
    fn what_is_no_error_to_pass_on_has_no_name() {
        for (kind, code) in [(0, 0), (4, 0), (5, 1), (8, 0), (11, 2), (3, 16)] {
            assert_eq!(
                IcmpError::from_icmp(Family::V4, kind, code, 0),
                None,
                "{kind}, {code}"
            );
        }
        for (kind, code) in [(1, 7), (3, 2), (4, 0), (128, 0), (137, 0)] {
            assert_eq!(
                IcmpError::from_icmp(Family::V6, kind, code, 0),
                None,
                "{kind}, {code}"
            );
        }
    }

    #[test]
    fn an_mtu_beyond_the_field_is_the_largest_there_is() {
        let error = IcmpError::PacketTooBig { mtu: 70_000 };
        assert_eq!(error.to_icmp(Family::V4).2, 65_535);
        assert_eq!(error.to_icmp(Family::V6).2, 70_000);
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
        fn errors_quote_what_fits(sample in sample::sample(), error in errors()) {
            let quoted = sample.udp();
            let mut out = vec![0xa5];
            write_error(&mut out, error, sample.destination(), sample.source(), &quoted)
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
        fn messages_are_told_apart(sample in sample::sample(), kind: u8, code: u8, word: [u8; 4]) {
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
    fn of_fragments_only_the_first_gets_an_answer() {
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
        let result = write_error(
            &mut out,
            IcmpError::PortUnreachable,
            addr(v4),
            addr(v6),
            &[],
        );
        assert_eq!((result, out), (Err(WriteError::MixedFamilies), vec![1]));
    }
}
