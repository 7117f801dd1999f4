//! UDP datagrams (RFC 768): parsing, and headers written in place before a payload.

use std::ops::Range;

use etherparse::{IpNumber, UdpHeader, UdpHeaderSlice};

use super::addresses::Addresses;
use super::ip::IpHeader;
use super::{ParseError, WriteError, checksum};
use crate::net::{Endpoint, TrafficClass};

/// A validated UDP datagram within a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpDatagram<'a> {
    /// The source port; 0 if the sender expects no reply.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// The payload, which may be empty.
    pub payload: &'a [u8],
    offset: usize,
}

/// The IP and UDP headers of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeaders {
    /// The source endpoint.
    pub source: Endpoint,
    /// The destination endpoint.
    pub destination: Endpoint,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
    /// The IPv4 time to live or the IPv6 hop limit.
    pub hop_limit: u8,
}

impl<'a> UdpDatagram<'a> {
    pub(super) fn parse(
        addresses: Addresses,
        segment: &'a [u8],
        offset: usize,
    ) -> Result<Self, ParseError> {
        let header = UdpHeaderSlice::from_slice(segment).map_err(|_| ParseError::UdpLength)?;
        let datagram = segment
            .get(..usize::from(header.length()))
            .filter(|datagram| datagram.len() >= UdpHeader::LEN)
            .ok_or(ParseError::UdpLength)?;
        match (header.checksum(), addresses) {
            (0, Addresses::V4 { .. }) => {}
            (0, Addresses::V6 { .. }) => return Err(ParseError::UdpChecksumMissing),
            _ => {
                let sum = checksum::transport(addresses, IpNumber::UDP, datagram);
                if !checksum::is_valid(&sum) {
                    return Err(ParseError::UdpChecksum);
                }
            }
        }
        Ok(Self {
            source_port: header.source_port(),
            destination_port: header.destination_port(),
            payload: &datagram[UdpHeader::LEN..],
            offset: offset + UdpHeader::LEN,
        })
    }

    /// Returns the range of the payload in [`Packet::bytes`](super::Packet::bytes).
    #[must_use]
    pub const fn payload_range(&self) -> Range<usize> {
        self.offset..self.offset + self.payload.len()
    }
}

/// Writes IP and UDP headers directly before the payload at `payload` in `buffer`. Returns the range of the packet.
///
/// [`HEADROOM`](super::HEADROOM) bytes before the payload suffice; bytes outside the packet stay unchanged. The checksum is
/// always present, over IPv4 too.
///
/// # Errors
/// [`WriteError`]; bytes before the payload may have changed.
///
/// # Panics
/// If `payload` is outside `buffer`.
pub fn prepend(
    buffer: &mut [u8],
    payload: Range<usize>,
    headers: &UdpHeaders,
) -> Result<Range<usize>, WriteError> {
    let addresses = Addresses::new(headers.source.addr, headers.destination.addr)?;
    let ip_len = addresses.header_len();
    let start = payload
        .start
        .checked_sub(ip_len + UdpHeader::LEN)
        .ok_or(WriteError::NoHeadroom)?;
    let packet = &mut buffer[start..payload.end];

    let segment = &mut packet[ip_len..];
    let udp = UdpHeader {
        source_port: headers.source.port,
        destination_port: headers.destination.port,
        length: u16::try_from(segment.len()).map_err(|_| WriteError::TooLong)?,
        checksum: 0,
    };
    segment[..UdpHeader::LEN].copy_from_slice(&udp.to_bytes());
    let sum = checksum::transport(addresses, IpNumber::UDP, segment);
    // Zero means "no checksum" (RFC 768).
    let field = sum.to_ones_complement_with_no_zero().to_ne_bytes();
    segment[6..8].copy_from_slice(&field);

    IpHeader {
        addresses,
        traffic_class: headers.traffic_class,
        hop_limit: headers.hop_limit,
        protocol: IpNumber::UDP,
    }
    .write(packet)?;
    Ok(start..payload.end)
}

/// Appends a packet to `out`: a datagram with this payload.
///
/// # Errors
/// [`WriteError`]; `out` stays unchanged.
pub fn write_datagram(
    out: &mut Vec<u8>,
    headers: &UdpHeaders,
    payload: &[u8],
) -> Result<(), WriteError> {
    let start = out.len();
    let addresses = Addresses::new(headers.source.addr, headers.destination.addr)?;
    out.resize(start + addresses.header_len() + UdpHeader::LEN, 0);
    let payload_start = out.len();
    out.extend_from_slice(payload);
    let range = payload_start..out.len();
    match prepend(out, range, headers) {
        Ok(_) => Ok(()),
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HEADROOM, Packet, Transport, sample};
    use super::*;
    use crate::net::Family;

    use etherparse::{SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = UdpHeaders> {
        (
            sample::addresses(),
            any::<[u16; 2]>(),
            any::<u8>(),
            any::<u8>(),
        )
            .prop_map(|(addresses, ports, class, hop_limit)| UdpHeaders {
                source: Endpoint::new(addresses.source(), ports[0]),
                destination: Endpoint::new(addresses.destination(), ports[1]),
                traffic_class: TrafficClass::from_octet(class),
                hop_limit,
            })
    }

    fn headers_between(source: &str, destination: &str) -> UdpHeaders {
        let endpoint = |text: &str| Endpoint::new(text.parse().expect("an address"), 3478);
        UdpHeaders {
            source: endpoint(source),
            destination: endpoint(destination),
            traffic_class: TrafficClass::default(),
            hop_limit: 64,
        }
    }

    const PAIRS: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")];

    /// The checksum in the packet, and the checksum that etherparse computes.
    fn read_by_another_hand(packet: &[u8]) -> (u16, u16) {
        let sliced = SlicedPacket::from_ip(packet).expect("a packet");
        let Some(TransportSlice::Udp(udp)) = sliced.transport else {
            panic!("no UDP: {sliced:?}");
        };
        let expected = match Packet::parse(packet).expect("a packet").addresses() {
            Addresses::V4 {
                source,
                destination,
            } => udp.to_header().calc_checksum_ipv4_raw(
                source.octets(),
                destination.octets(),
                udp.payload(),
            ),
            Addresses::V6 {
                source,
                destination,
            } => udp.to_header().calc_checksum_ipv6_raw(
                source.octets(),
                destination.octets(),
                udp.payload(),
            ),
        };
        (udp.checksum(), expected.expect("the payload fits"))
    }

    proptest! {
        #[test]
        fn written_packets_parse_to_the_same_values(
            headers in headers(),
            payload in sample::payload(),
            tail in 0..10usize,
        ) {
            let mut buffer = vec![0xa5; HEADROOM];
            buffer.extend_from_slice(&payload);
            buffer.resize(buffer.len() + tail, 0x5a);
            let range = prepend(&mut buffer, HEADROOM..HEADROOM + payload.len(), &headers)
                .expect("there is room");
            prop_assert!(buffer[..range.start].iter().all(|byte| *byte == 0xa5));
            prop_assert!(buffer[range.end..].iter().all(|byte| *byte == 0x5a));

            let bytes = &buffer[range];
            let packet = Packet::parse(bytes).expect("a packet");
            let Transport::Udp(udp) = packet.transport() else {
                return Err(TestCaseError::fail("UDP"));
            };
            let read = UdpHeaders {
                source: Endpoint::new(packet.source(), udp.source_port),
                destination: Endpoint::new(packet.destination(), udp.destination_port),
                traffic_class: packet.traffic_class(),
                hop_limit: packet.hop_limit(),
            };
            prop_assert_eq!(read, headers);
            prop_assert_eq!(udp.payload, &payload);
            prop_assert_eq!(packet.bytes(), bytes);
            prop_assert!(packet.dont_fragment());
            prop_assert!(packet.family() == Family::V6 || bytes[4..6] == [0, 0]);
            let (stands, expected) = read_by_another_hand(bytes);
            prop_assert_eq!(stands, expected);

            let mut rebuilt = vec![1, 2, 3];
            write_datagram(&mut rebuilt, &headers, &payload).expect("it fits");
            prop_assert_eq!(&rebuilt[..3], &[1, 2, 3]);
            prop_assert_eq!(&rebuilt[3..], bytes);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_ones() {
        for (source, destination) in PAIRS {
            let headers = headers_between(source, destination);
            let mut packet = Vec::new();
            write_datagram(&mut packet, &headers, &[0, 0]).expect("it fits");
            let at = packet.len() - 4;
            // A payload equal to the checksum makes the sum zero.
            let payload = [packet[at], packet[at + 1]];
            packet.clear();
            write_datagram(&mut packet, &headers, &payload).expect("it fits");
            assert_eq!(packet[at..at + 2], [0xff, 0xff], "{source}");
            assert!(Packet::parse(&packet).is_ok());
        }
    }

    #[test]
    fn a_missing_checksum_passes_over_ipv4_only() {
        for ((source, destination), expected) in PAIRS
            .into_iter()
            .zip([None, Some(ParseError::UdpChecksumMissing)])
        {
            let mut packet = Vec::new();
            write_datagram(&mut packet, &headers_between(source, destination), b"media")
                .expect("it fits");
            let at = packet.len() - 7;
            packet[at..at + 2].fill(0);
            assert_eq!(Packet::parse(&packet).err(), expected);
        }
    }

    #[test]
    fn the_udp_length_lies_between_its_header_and_the_packet() {
        for (source, destination) in PAIRS {
            let mut packet = Vec::new();
            write_datagram(&mut packet, &headers_between(source, destination), b"media")
                .expect("it fits");
            let at = packet.len() - 9;
            for length in [0, 7, 14] {
                packet[at..at + 2].copy_from_slice(&u16::to_be_bytes(length));
                assert_eq!(
                    Packet::parse(&packet).err(),
                    Some(ParseError::UdpLength),
                    "{length}"
                );
            }
        }
    }

    #[test]
    fn bytes_beyond_the_udp_length_are_no_payload() {
        let headers = headers_between("192.0.2.1", "192.0.2.2");
        let mut packet = Vec::new();
        write_datagram(&mut packet, &headers, b"media").expect("it fits");
        packet.extend_from_slice(b"more");
        let ip = IpHeader {
            addresses: Addresses::new(headers.source.addr, headers.destination.addr).expect("IPv4"),
            traffic_class: headers.traffic_class,
            hop_limit: headers.hop_limit,
            protocol: IpNumber::UDP,
        };
        ip.write(&mut packet).expect("it fits");
        let parsed = Packet::parse(&packet).expect("a packet");
        let Transport::Udp(udp) = parsed.transport() else {
            panic!("UDP");
        };
        assert_eq!(
            (udp.payload, parsed.bytes().len()),
            (b"media".as_slice(), packet.len())
        );
        assert_eq!(&parsed.bytes()[udp.payload_range()], b"media");
    }

    #[test]
    fn a_failed_write_changes_no_buffer() {
        for ((source, destination), most) in PAIRS.into_iter().zip([65_507, 65_527]) {
            let headers = headers_between(source, destination);
            let mut out = vec![9];
            write_datagram(&mut out, &headers, &vec![0; most]).expect("it fits");
            assert!(Packet::parse(&out[1..]).is_ok());
            out.truncate(1);
            let refused = write_datagram(&mut out, &headers, &vec![0; most + 1]);
            assert_eq!(
                (refused, out),
                (Err(WriteError::TooLong), vec![9]),
                "{source}"
            );
        }
        let mut buffer = [0; 100];
        let v6 = headers_between("2001:db8::1", "2001:db8::2");
        assert_eq!(
            prepend(&mut buffer, 47..50, &v6),
            Err(WriteError::NoHeadroom)
        );
        assert_eq!(prepend(&mut buffer, 48..50, &v6), Ok(0..50));
        let mixed = headers_between("192.0.2.1", "2001:db8::2");
        assert_eq!(
            prepend(&mut buffer, 48..50, &mixed),
            Err(WriteError::MixedFamilies)
        );
    }
}
