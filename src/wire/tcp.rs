//! TCP segments (RFC 9293).

use std::net::IpAddr;

use etherparse::{IpNumber, TcpSlice};

use super::addresses::Addresses;
use super::ip::set_destination;
use super::{ParseError, checksum};

/// A validated TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// SEG.SEQ, the sequence number.
    pub sequence: u32,
    /// SEG.ACK, if the ACK bit is set.
    pub acknowledgment: Option<u32>,
    /// Whether the segment opens a connection.
    pub syn: bool,
    /// Whether the sender has no more data.
    pub fin: bool,
    /// Whether the segment resets the connection.
    pub rst: bool,
    /// SEG.LEN, the sequence numbers that the segment occupies: its data, and one each for SYN and FIN.
    pub sequence_len: u32,
}

impl TcpSegment {
    pub(super) fn parse(addresses: Addresses, segment: &[u8]) -> Result<Self, ParseError> {
        let tcp = TcpSlice::from_slice(segment).map_err(|_| ParseError::TcpHeader)?;
        let sum = checksum::transport(addresses, IpNumber::TCP, segment);
        if !checksum::is_valid(&sum) {
            return Err(ParseError::TcpChecksum);
        }
        let data = u32::try_from(tcp.payload().len()).expect("an IP packet is below 64 KiB");
        Ok(Self {
            source_port: tcp.source_port(),
            destination_port: tcp.destination_port(),
            sequence: tcp.sequence_number(),
            acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            sequence_len: data + u32::from(tcp.syn()) + u32::from(tcp.fin()),
        })
    }
}

/// Completes a segment behind an IP header without options: sets the destination address and both checksums.
///
/// Returns false, and changes nothing, if `packet` is not TCP or of the other family.
///
/// # Panics
/// If `packet` is shorter than its two headers.
pub fn seal(packet: &mut [u8], destination: IpAddr) -> bool {
    let protocol = match destination {
        IpAddr::V4(_) => packet[9],
        IpAddr::V6(_) => packet[6],
    };
    if protocol != IpNumber::TCP.0 {
        return false;
    }
    let Some(addresses) = set_destination(packet, destination) else {
        return false;
    };
    let segment = &mut packet[addresses.header_len()..];
    segment[16..18].fill(0);
    let field = checksum::field(&checksum::transport(addresses, IpNumber::TCP, segment));
    segment[16..18].copy_from_slice(&field);
    true
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, sample};
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sealed_segment_is_valid_for_any_destination(
            sample in sample::sample(),
            v4: [u8; 4],
            v6: [u8; 16],
            junk: [u8; 2],
        ) {
            let (here, elsewhere) = match sample.source() {
                IpAddr::V4(_) => (IpAddr::from(v4), IpAddr::from(v6)),
                IpAddr::V6(_) => (IpAddr::from(v6), IpAddr::from(v4)),
            };
            let sample = sample::PacketSample { extended: false, ..sample };
            let built = sample.tcp(|_| ());
            let start = sample.addresses.header_len();
            let mut sealed = built.clone();
            sealed[start + 16..start + 18].copy_from_slice(&junk);
            prop_assert!(!seal(&mut sealed, elsewhere));
            prop_assert!(seal(&mut sealed, here));
            let packet = Packet::parse(&sealed).expect("both checksums are right");
            prop_assert_eq!((packet.source(), packet.destination()), (sample.source(), here));
            prop_assert!(seal(&mut sealed, sample.destination()));
            prop_assert_eq!(sealed, built);
            let mut datagram = sample.udp();
            prop_assert!(!seal(&mut datagram, here), "only TCP is sealed");
        }
    }
}
