//! A packet, validated once.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Slice, Ipv6Header, Ipv6HeaderSlice, Ipv6Slice};

use super::addresses::Addresses;
use super::fragment::{self, Fragment};
use super::{ParseError, checksum, icmp, tcp, udp};
use crate::net::{Family, TrafficClass};

/// An IPv4 or IPv6 packet whose lengths and checksums are valid.
///
/// It borrows the bytes and keeps the result of the validation, so that its accessors cannot fail.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    traffic_class: TrafficClass,
    hop_limit: u8,
    dont_fragment: bool,
    transport: Transport<'a>,
}

/// The content of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'a> {
    /// A whole UDP datagram.
    Udp(udp::UdpDatagram<'a>),
    /// A whole TCP segment.
    Tcp(tcp::TcpSegment),
    /// An `ICMPv4` or `ICMPv6` echo request or reply.
    Echo(icmp::IcmpEcho),
    /// Another `ICMPv4` or `ICMPv6` message.
    Icmp(icmp::IcmpMessage),
    /// A fragment. Its transport header may be missing, and its checksum is not verified.
    Fragment(Fragment<'a>),
    /// Any other protocol, by its IP protocol number; not verified.
    Other(u8),
}

impl<'a> Packet<'a> {
    /// Validates a packet read from a TUN without packet information.
    ///
    /// Bytes beyond the IP header's length field are ignored. The checksums of the IPv4 header and of unfragmented
    /// UDP, TCP and ICMP are verified; UDP over IPv4 may come without one (RFC 768). IPv6 jumbograms (RFC 2675) are not
    /// accepted. An atomic IPv6 fragment is no fragment (RFC 6946).
    ///
    /// # Errors
    /// [`ParseError`]: the packet is to be dropped without an answer.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(ParseError::NotIp),
            None => Err(ParseError::Truncated),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let ip = Ipv4Slice::from_slice(bytes)?;
        let header = ip.header();
        if !checksum::is_valid(&checksum::plain(header.slice())) {
            return Err(ParseError::IpChecksum);
        }
        let bytes = &bytes[..usize::from(header.total_len())];
        let payload = ip.payload();
        let transport = if payload.fragmented {
            let offset = bytes.len() - payload.payload.len();
            Transport::Fragment(Fragment {
                identification: header.identification().into(),
                protocol: payload.ip_number.0,
                offset: header.fragments_offset().value() * 8,
                more: header.more_fragments(),
                payload: &bytes[offset..],
            })
        } else {
            Transport::parse(bytes, payload.ip_number, payload.payload)?
        };
        Ok(Self {
            bytes,
            traffic_class: TrafficClass::from_octet(bytes[1]),
            hop_limit: header.ttl(),
            dont_fragment: header.dont_fragment(),
            transport,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, ParseError> {
        // etherparse reads a payload length of zero as "to the end of the slice".
        let stated = bytes.get(4..6).ok_or(ParseError::Truncated)?;
        let len = Ipv6Header::LEN + usize::from(u16::from_be_bytes([stated[0], stated[1]]));
        let bytes = bytes.get(..len).ok_or(ParseError::Truncated)?;
        let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| ParseError::Truncated)?;
        let next = header.next_header();
        let (part, transport) =
            if matches!(next, IpNumber::UDP | IpNumber::TCP | IpNumber::IPV6_ICMP) {
                // The common case: no extension headers.
                let payload = &bytes[Ipv6Header::LEN..];
                (None, Transport::parse(bytes, next, payload)?)
            } else if let Some(part) = fragment::find_v6(bytes) {
                (Some(part), Transport::Fragment(part))
            } else {
                let ip = Ipv6Slice::from_slice(bytes)?;
                let payload = ip.payload();
                let transport = Transport::parse(bytes, payload.ip_number, payload.payload)?;
                (None, transport)
            };
        Ok(Self {
            bytes,
            traffic_class: TrafficClass::from_octet(header.traffic_class()),
            hop_limit: header.hop_limit(),
            dont_fragment: part.is_none(),
            transport,
        })
    }

    /// Returns the packet, without trailing bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.addresses().source()
    }

    /// Returns the destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.addresses().destination()
    }

    /// Returns the address family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.addresses().family()
    }

    /// Returns DSCP and ECN.
    #[must_use]
    pub const fn traffic_class(&self) -> TrafficClass {
        self.traffic_class
    }

    /// Returns the IPv4 time to live or the IPv6 hop limit.
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    /// Whether fragmentation is forbidden: the DF bit over IPv4; over IPv6 true unless it is a fragment.
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        self.dont_fragment
    }

    /// Returns the content of the packet.
    #[must_use]
    pub const fn transport(&self) -> Transport<'a> {
        self.transport
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses::of(self.bytes)
    }

    /// Whether the source is a single host and the destination no group. Otherwise neither an error nor a reset may answer
    /// the packet (RFC 1122 sections 3.2.2 and 4.2.3.10, RFC 4443 section 2.4 (e)).
    pub(super) fn is_between_hosts(&self) -> bool {
        match self.addresses() {
            Addresses::V4 {
                source,
                destination,
            } => {
                // 0/8 is this network; 240/4 is reserved and includes the limited broadcast address.
                let of_no_host = matches!(source.octets()[0], 0 | 127 | 224..);
                !of_no_host && !destination.is_multicast() && !destination.is_broadcast()
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let of_no_host =
                    source.is_unspecified() || source.is_loopback() || source.is_multicast();
                !of_no_host && !destination.is_multicast()
            }
        }
    }
}

impl<'a> Transport<'a> {
    /// Validates `payload`, the last part of `packet`, which is no fragment.
    fn parse(packet: &'a [u8], protocol: IpNumber, payload: &[u8]) -> Result<Self, ParseError> {
        let offset = packet.len() - payload.len();
        let segment = &packet[offset..];
        let addresses = Addresses::of(packet);
        match (protocol, addresses.family()) {
            (IpNumber::UDP, _) => {
                udp::UdpDatagram::parse(addresses, segment, offset).map(Self::Udp)
            }
            (IpNumber::TCP, _) => tcp::TcpSegment::parse(addresses, segment).map(Self::Tcp),
            (IpNumber::ICMP, Family::V4) | (IpNumber::IPV6_ICMP, Family::V6) => {
                Ok(match icmp::parse(addresses, segment)? {
                    icmp::ParsedIcmp::Echo(echo) => Self::Echo(echo),
                    icmp::ParsedIcmp::Other(message) => Self::Icmp(message),
                })
            }
            (IpNumber(other), _) => Ok(Self::Other(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, PacketSample};
    use super::*;

    use etherparse::SlicedPacket;
    use proptest::prelude::*;

    const UDP: u8 = IpNumber::UDP.0;

    /// Where the transport header of a valid packet starts.
    fn transport_start(packet: &[u8]) -> usize {
        let sliced = SlicedPacket::from_ip(packet).expect("a packet");
        packet.len() - sliced.ip_payload().expect("an IP packet").payload.len()
    }

    fn of_both_families(change: impl Fn(&mut PacketSample)) -> [PacketSample; 2] {
        let v6 = Addresses::V6 {
            source: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            destination: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
        };
        let mut samples = [
            PacketSample::default(),
            PacketSample {
                addresses: v6,
                ..PacketSample::default()
            },
        ];
        samples.iter_mut().for_each(change);
        samples
    }

    fn fault(packet: &[u8]) -> Option<ParseError> {
        Packet::parse(packet).err()
    }

    proptest! {
        #[test]
        fn a_parsed_datagram_equals_the_built_one(
            sample in sample::sample(),
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let built = sample.udp();
            let read = [built.as_slice(), &after].concat();
            let packet = Packet::parse(&read).expect("a packet");
            prop_assert_eq!(packet.bytes(), &built);
            prop_assert_eq!(packet.source(), sample.source());
            prop_assert_eq!(packet.destination(), sample.destination());
            prop_assert_eq!(packet.traffic_class(), sample.traffic_class);
            prop_assert_eq!(packet.hop_limit(), sample.hop_limit);
            prop_assert!(packet.dont_fragment());
            let Transport::Udp(udp) = packet.transport() else {
                return Err(TestCaseError::fail("UDP"));
            };
            prop_assert_eq!(udp.source_port, sample.source_port);
            prop_assert_eq!(udp.destination_port, sample.destination_port);
            prop_assert_eq!(udp.payload, &sample.payload);
            prop_assert_eq!(&packet.bytes()[udp.payload_range()], &sample.payload);
        }

        #[test]
        fn a_truncated_packet_is_rejected(sample in sample::sample(), cut: prop::sample::Index) {
            for built in [sample.udp(), sample.tcp(|_| ()), sample.icmp(8, 0, [0; 4])] {
                prop_assert_eq!(fault(&built[..cut.index(built.len())]), Some(ParseError::Truncated));
            }
        }

        /// A flipped bit always changes a ones' complement sum.
        #[test]
        fn a_flipped_bit_is_detected(sample in sample::sample(), at: prop::sample::Index, bit in 0..8u8) {
            for (mut built, expected) in [
                (sample.udp(), ParseError::UdpChecksum),
                (sample.tcp(|_| ()), ParseError::TcpChecksum),
                (sample.icmp(8, 0, [0; 4]), ParseError::IcmpChecksum),
            ] {
                let payload = built.len() - sample.payload.len();
                if !sample.payload.is_empty() {
                    let at = payload + at.index(sample.payload.len());
                    built[at] ^= 1 << bit;
                    prop_assert_eq!(fault(&built), Some(expected));
                    built[at] ^= 1 << bit;
                }
                // The pseudo-header over IPv6, the IP header itself over IPv4.
                let (addresses, expected) = match sample.addresses {
                    Addresses::V4 { .. } => (12..20, ParseError::IpChecksum),
                    Addresses::V6 { .. } => (8..40, expected),
                };
                built[addresses.start + at.index(addresses.len())] ^= 1 << bit;
                prop_assert_eq!(fault(&built), Some(expected));
            }
        }

        #[test]
        fn random_bytes_cause_no_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            version in prop_oneof![Just(None), Just(Some(0x45)), Just(Some(0x60))],
        ) {
            if let (Some(version), Some(first)) = (version, bytes.first_mut()) {
                *first = version;
            }
            if let Err(error) = Packet::parse(&bytes) {
                prop_assert!(!error.label().is_empty());
            }
        }

        /// Corrects the IPv4 header checksum after the change, so that the parser reads the next header.
        #[test]
        fn a_changed_header_causes_no_panic(
            sample in sample::sample(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            for mut built in [sample.udp(), sample.tcp(|_| ()), sample.icmp(3, 3, [0; 4])] {
                for (at, value) in &changes {
                    let at = at.index(built.len().min(80));
                    built[at] = *value;
                }
                let header_len = usize::from(built[0] & 15) * 4;
                if built[0] >> 4 == 4 && (20..=built.len()).contains(&header_len) {
                    built[10..12].fill(0);
                    let field = checksum::field(&checksum::plain(&built[..header_len]));
                    built[10..12].copy_from_slice(&field);
                }
                if let Ok(packet) = Packet::parse(&built) {
                    prop_assert!(built.starts_with(packet.bytes()));
                    if let Transport::Udp(udp) = packet.transport() {
                        prop_assert_eq!(&packet.bytes()[udp.payload_range()], udp.payload);
                    }
                }
            }
        }

        #[test]
        fn a_fragment_is_a_fragment(
            sample in sample::sample(),
            offset in prop_oneof![0..2u16, 0..0x2000u16],
            more: bool,
        ) {
            let sample = PacketSample { fragment: (offset, more), ..sample };
            let built = sample.other(IpNumber::UDP);
            match Packet::parse(&built) {
                Ok(packet) if (offset, more) != (0, false) => {
                    let identification = if packet.family() == Family::V6 { 7 } else { 0 };
                    let offset = offset * 8;
                    let fragment = Fragment {
                        identification,
                        protocol: UDP,
                        offset,
                        more,
                        payload: &sample.payload,
                    };
                    prop_assert_eq!(packet.transport(), Transport::Fragment(fragment));
                    prop_assert!(!packet.dont_fragment());
                }
                read => prop_assert_eq!((offset, more), (0, false), "{:?}", read),
            }
        }
    }

    #[test]
    fn protocols_of_the_other_family_are_other() {
        for sample in of_both_families(|sample| sample.payload = vec![0; 8]) {
            let foreign = match sample.addresses {
                Addresses::V4 { .. } => IpNumber::IPV6_ICMP,
                Addresses::V6 { .. } => IpNumber::ICMP,
            };
            for protocol in [
                foreign,
                IpNumber::IGMP,
                IpNumber::SCTP,
                IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
            ] {
                let built = sample.other(protocol);
                let packet = Packet::parse(&built).expect("a packet");
                assert_eq!(packet.transport(), Transport::Other(protocol.0));
            }
        }
    }

    #[test]
    fn errors_are_distinguished() {
        assert_eq!(fault(&[]), Some(ParseError::Truncated));
        for version in [0, 1, 5, 7, 15] {
            assert_eq!(fault(&[version << 4; 40]), Some(ParseError::NotIp));
        }
        for sample in of_both_families(|sample| sample.payload = vec![0; 30]) {
            let mut tcp = sample.tcp(|_| ());
            let start = transport_start(&tcp);
            tcp[start + 12] = 0x40;
            assert_eq!(fault(&tcp), Some(ParseError::TcpHeader), "data offset 4");
            tcp[start + 12] = 0xf0;
            assert_eq!(fault(&tcp), Some(ParseError::TcpHeader), "data offset 15");
        }
        for sample in of_both_families(|sample| sample.payload = vec![0; 7]) {
            let icmp = match sample.addresses {
                Addresses::V4 { .. } => IpNumber::ICMP,
                Addresses::V6 { .. } => IpNumber::IPV6_ICMP,
            };
            assert_eq!(fault(&sample.other(icmp)), Some(ParseError::IcmpLength));
            assert_eq!(
                fault(&sample.other(IpNumber::UDP)),
                Some(ParseError::UdpLength)
            );
            assert_eq!(
                fault(&sample.other(IpNumber::TCP)),
                Some(ParseError::TcpHeader)
            );
        }
        let [v4, v6] = of_both_families(|_| ());
        let mut short_header = v4.udp();
        short_header[0] = 0x44;
        assert_eq!(fault(&short_header), Some(ParseError::IpLength));
        let mut short_total = v4.udp();
        short_total[2..4].copy_from_slice(&[0, 19]);
        assert_eq!(fault(&short_total), Some(ParseError::IpLength));
        for (protocol, payload) in [
            (
                IpNumber::IPV6_HEADER_HOP_BY_HOP,
                vec![UDP, 9, 0, 0, 0, 0, 0, 0],
            ),
            (
                IpNumber::IPV6_DESTINATION_OPTIONS,
                vec![0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (IpNumber::IPV6_FRAGMENTATION_HEADER, vec![UDP, 0, 0]),
            (IpNumber::IPV6_ROUTE_HEADER, vec![]),
        ] {
            let mut built = PacketSample {
                payload,
                ..v6.clone()
            }
            .other(IpNumber::UDP);
            built[6] = protocol.0;
            assert_eq!(
                fault(&built),
                Some(ParseError::ExtensionHeader),
                "{protocol:?}"
            );
        }
    }

    #[test]
    fn a_payload_length_of_zero_means_no_payload() {
        let [_, v6] = of_both_families(|_| ());
        let mut built = v6.udp();
        built[4..6].fill(0);
        assert_eq!(fault(&built), Some(ParseError::UdpLength));
        built[6] = IpNumber::IPV6_NO_NEXT_HEADER.0;
        let packet = Packet::parse(&built).expect("a packet that carries nothing");
        assert_eq!(packet.bytes().len(), 40);
    }
}
