//! Corrects the checksums of packets of any kind, since random bytes rarely have valid ones.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, IpSlice, Ipv4HeaderSlice};

/// Writes the checksums of the IP and transport headers, as far as the packet has them.
pub(crate) fn fix_checksums(bytes: &mut [u8]) {
    fix_ip_checksums(bytes);
    fix_transport_checksum(bytes);
}

fn fix_ip_checksums(bytes: &mut [u8]) {
    if let Ok(header) = Ipv4HeaderSlice::from_slice(bytes) {
        let field = header.to_header().calc_header_checksum();
        bytes[10..12].copy_from_slice(&field.to_be_bytes());
    }
}

fn fix_transport_checksum(bytes: &mut [u8]) {
    let Ok(ip) = IpSlice::from_slice(bytes) else {
        return;
    };
    let payload = ip.payload();
    let start = payload.payload.as_ptr() as usize - bytes.as_ptr() as usize;
    let (protocol, mut end) = (payload.ip_number, start + payload.payload.len());
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    let at = match protocol {
        IpNumber::UDP => 6,
        IpNumber::TCP => 16,
        IpNumber::ICMP | IpNumber::IPV6_ICMP => 2,
        _ => return,
    };
    if end - start < at + 2 {
        return;
    }
    if protocol == IpNumber::UDP {
        let stated = usize::from(u16::from_be_bytes([bytes[start + 4], bytes[start + 5]]));
        end = end.min(start + stated.max(8));
    }
    let segment = &mut bytes[start..end];
    segment[at..at + 2].fill(0);
    let mut sum = Sum16BitWords::new().add_slice(segment);
    if protocol != IpNumber::ICMP {
        sum = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => sum
                .add_4bytes(source.octets())
                .add_4bytes(destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => sum
                .add_16bytes(source.octets())
                .add_16bytes(destination.octets()),
            _ => unreachable!("one packet, one family"),
        };
        let len = u32::try_from(segment.len()).expect("an IP packet is below 64 KiB");
        sum = sum
            .add_2bytes([0, protocol.0])
            .add_4bytes(len.to_be_bytes());
    }
    let field = sum.to_ones_complement_with_no_zero().to_ne_bytes();
    segment[at..at + 2].copy_from_slice(&field);
}
