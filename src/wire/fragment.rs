//! Fragments (RFC 791 section 3.2, RFC 8200 section 4.5): parsing, joining and splitting.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6FragmentHeaderSlice, Ipv6Header,
};

use super::WriteError;
use super::addresses::Addresses;
use super::ip::IpHeader;
use crate::net::TrafficClass;

/// A fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The datagram's identification: 16 bits over IPv4, 32 over IPv6.
    pub identification: u32,
    /// The IP protocol number; over IPv6 reliable in the first fragment only (RFC 8200 section 4.5).
    pub protocol: u8,
    /// The offset in the datagram's payload, in bytes: a multiple of 8 below 65,536.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// The fragment's payload.
    pub payload: &'a [u8],
}

impl Fragment<'_> {
    /// Whether it is the first fragment, which has the transport header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// Returns the range of its payload in the datagram's.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let start = usize::from(self.offset);
        start..start + self.payload.len()
    }
}

/// Finds the fragment header of an IPv6 packet that is a fragment.
///
/// The bytes after that header are payload: only in the first fragment are they headers. So the search ends there. `None`
/// for a broken chain of headers, which the full parser reports.
pub(super) fn find_v6(packet: &[u8]) -> Option<Fragment<'_>> {
    let mut next = IpNumber(*packet.get(6)?);
    let after_fixed = packet.get(Ipv6Header::LEN..)?;
    let mut rest = after_fixed;
    loop {
        let len = match next {
            IpNumber::IPV6_HEADER_HOP_BY_HOP if rest.len() < after_fixed.len() => return None,
            IpNumber::IPV6_HEADER_HOP_BY_HOP
            | IpNumber::IPV6_ROUTE_HEADER
            | IpNumber::IPV6_DESTINATION_OPTIONS => 8 * (1 + usize::from(*rest.get(1)?)),
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let part = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                if part.is_fragmenting_payload() {
                    return Some(Fragment {
                        identification: part.identification(),
                        protocol: part.next_header().0,
                        offset: part.fragment_offset().value() * 8,
                        more: part.more_fragments(),
                        payload: &rest[Ipv6FragmentHeader::LEN..],
                    });
                }
                Ipv6FragmentHeader::LEN
            }
            _ => return None,
        };
        next = IpNumber(rest[0]);
        rest = rest.get(len..)?;
    }
}

/// The IP header of a reassembled packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramHeader {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub traffic_class: TrafficClass,
    /// The IPv4 time to live or the IPv6 hop limit.
    pub hop_limit: u8,
    /// The IP protocol number of the first fragment.
    pub protocol: u8,
}

/// Appends a reassembled packet to `out`, without IPv4 options and IPv6 extension headers.
///
/// # Errors
/// [`WriteError`]; `out` stays unchanged.
pub fn join<'a>(
    out: &mut Vec<u8>,
    whole: &DatagramHeader,
    payload: impl Iterator<Item = &'a [u8]>,
) -> Result<(), WriteError> {
    let start = out.len();
    let header = IpHeader {
        addresses: Addresses::new(whole.source, whole.destination)?,
        traffic_class: whole.traffic_class,
        hop_limit: whole.hop_limit,
        protocol: IpNumber(whole.protocol),
    };
    out.resize(start + header.addresses.header_len(), 0);
    payload.for_each(|part| out.extend_from_slice(part));
    let written = header.write(&mut out[start..]);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends the fragments of a packet to `out`, each of at most `mtu` bytes, and passes their ranges to `each`. The packet's
/// IP header has neither options nor extensions.
///
/// # Panics
/// If `mtu` is too small for the headers and 8 bytes, or `packet` is shorter than its header.
pub fn split(
    out: &mut Vec<u8>,
    packet: &[u8],
    mtu: usize,
    identification: u32,
    mut each: impl FnMut(Range<usize>),
) {
    let (ip_len, own_len) = match packet[0] >> 4 {
        4 => (Ipv4Header::MIN_LEN, 0),
        _ => (Ipv6Header::LEN, Ipv6FragmentHeader::LEN),
    };
    let payload = &packet[ip_len..];
    // All but the last carry a multiple of 8 bytes.
    let most = (mtu - ip_len - own_len) & !7;
    for (part, offset) in payload.chunks(most).zip((0..).step_by(most)) {
        let more = offset + part.len() < payload.len();
        let units = u16::try_from(offset / 8).expect("a payload is below 64 KiB");
        let units = IpFragOffset::try_new(units).expect("13 bits");
        let len = u16::try_from(own_len + part.len()).expect("less than the packet");
        let start = out.len();
        if own_len == 0 {
            let (mut ip, _) = Ipv4Header::from_slice(packet).expect("the header is valid");
            ip.set_payload_len(part.len())
                .expect("less than the packet");
            let [.., high, low] = identification.to_be_bytes();
            ip.identification = u16::from_be_bytes([high, low]);
            (ip.dont_fragment, ip.more_fragments) = (false, more);
            ip.fragment_offset = units;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend_from_slice(&ip.to_bytes());
        } else {
            let (mut ip, _) = Ipv6Header::from_slice(packet).expect("the header is valid");
            let own = Ipv6FragmentHeader::new(ip.next_header, units, more, identification);
            ip.payload_length = len;
            ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            out.extend_from_slice(&ip.to_bytes());
            out.extend_from_slice(&own.to_bytes());
        }
        out.extend_from_slice(part);
        each(start..out.len());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, Transport, sample};
    use super::*;

    use etherparse::SlicedPacket;
    use etherparse::defrag::IpDefragPool;
    use proptest::prelude::*;

    fn fragments(packet: &[u8], mtu: usize, identification: u32) -> Vec<Vec<u8>> {
        let (mut out, mut ranges) = (vec![1, 2, 3], Vec::new());
        split(&mut out, packet, mtu, identification, |range| {
            ranges.push(range);
        });
        ranges
            .into_iter()
            .map(|range| out[range].to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn fragments_join_into_the_original(
            sample in sample::sample(),
            mtu in 68usize..1500,
            identification: u32,
        ) {
            let sample = sample::PacketSample { extended: false, ..sample };
            let mut packet = Vec::new();
            let original = sample.udp();
            let whole = DatagramHeader {
                source: sample.source(),
                destination: sample.destination(),
                traffic_class: sample.traffic_class,
                hop_limit: sample.hop_limit,
                protocol: IpNumber::UDP.0,
            };
            let header = sample.addresses.header_len();
            join(&mut packet, &whole, [&original[header..]].into_iter()).expect("it fits");

            let parts = fragments(&packet, mtu, identification);
            let mut pool = IpDefragPool::<(), ()>::new();
            let mut joined = Vec::new();
            let mut by_another_hand = None;
            for (at, bytes) in parts.iter().enumerate() {
                prop_assert!(bytes.len() <= mtu);
                let parsed = Packet::parse(bytes).expect("a fragment is a packet");
                prop_assert_eq!(parsed.traffic_class(), sample.traffic_class);
                let part = match parsed.transport() {
                    Transport::Fragment(part) => part,
                    transport => {
                        prop_assert_eq!(parts.len(), 1, "{:?}", transport);
                        return Ok(());
                    }
                };
                let identified = match sample.addresses {
                    Addresses::V4 { .. } => identification & 0xffff,
                    Addresses::V6 { .. } => identification,
                };
                prop_assert_eq!(part.identification, identified);
                prop_assert_eq!((part.is_first(), part.more), (at == 0, at + 1 < parts.len()));
                prop_assert_eq!(part.range().start, joined.len());
                joined.extend_from_slice(part.payload);
                let sliced = SlicedPacket::from_ip(bytes).expect("a packet");
                by_another_hand = pool.process_sliced_packet(&sliced, (), ()).expect("consistent");
            }
            prop_assert_eq!(&joined, &packet[header..]);
            prop_assert_eq!(by_another_hand.expect("complete").payload, joined);
        }
    }

    #[test]
    fn a_later_fragment_has_no_transport_header() {
        // The fragment header names destination options; their length would lead beyond the packet.
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 44, 64];
        packet.extend_from_slice(&[0x20; 32]);
        packet.extend_from_slice(&[60, 0, 0, 8 | 1, 0, 0, 0, 7]);
        packet.extend_from_slice(&[0xff; 16]);
        let parsed = Packet::parse(&packet).expect("a fragment");
        let expected = Fragment {
            identification: 7,
            protocol: 60,
            offset: 8,
            more: true,
            payload: &[0xff; 16],
        };
        assert_eq!(parsed.transport(), Transport::Fragment(expected));
        assert!(!parsed.dont_fragment());
    }
}
