//! TCP (RFC 9293): segments read, resets written, and segments of another hand completed.

use std::net::IpAddr;

use etherparse::{IpNumber, TcpHeader, TcpSlice};

use super::ip::{Addresses, HOP_LIMIT, IpHeader, redirect};
use super::{Packet, ParseError, Transport, checksum};
use crate::net::TrafficClass;

/// A validated TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// SEG.SEQ, the sequence number.
    pub sequence: u32,
    /// SEG.ACK, when the ACK bit is on.
    pub acknowledgment: Option<u32>,
    /// Whether the segment opens a connection.
    pub syn: bool,
    /// Whether the sender has no more data.
    pub fin: bool,
    /// Whether the segment resets the connection.
    pub rst: bool,
    /// SEG.LEN, the number of sequence numbers that the segment takes: its data, and one each for SYN and FIN.
    pub sequence_len: u32,
}

impl TcpSegment {
    pub(super) fn parse(addresses: Addresses, segment: &[u8]) -> Result<Self, ParseError> {
        let tcp = TcpSlice::from_slice(segment).map_err(|_| ParseError::TcpHeader)?;
        let sum = checksum::transport(addresses, IpNumber::TCP, segment);
        if !checksum::is_right(&sum) {
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

/// Appends the reset that answers a segment to a port where nobody listens (RFC 9293 section 3.10.7.1, CLOSED state).
///
/// Returns whether an answer was due: a reset answers no other reset, nor anything that is not TCP between two hosts.
#[expect(
    clippy::missing_panics_doc,
    reason = "a TCP header always fits an IP packet"
)]
pub fn write_reset(out: &mut Vec<u8>, packet: &Packet<'_>) -> bool {
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

/// Completes a segment behind an IP header without options: sends it to `destination`, whatever it says, and writes the
/// checksums of both.
///
/// Returns whether it is one: another protocol's packet, or one of the other family, is left as it is.
///
/// # Panics
/// When `packet` is shorter than its two headers.
pub fn seal(packet: &mut [u8], destination: IpAddr) -> bool {
    let protocol = match destination {
        IpAddr::V4(_) => packet[9],
        IpAddr::V6(_) => packet[6],
    };
    if protocol != IpNumber::TCP.0 {
        return false;
    }
    let Some(addresses) = redirect(packet, destination) else {
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
    use super::super::sample;
    use super::*;

    use etherparse::{SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_refused_segment_gets_the_reset_that_its_sender_accepts(
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
            prop_assert_eq!(write_reset(&mut out, &packet), !rst);
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
            prop_assert!(!write_reset(&mut none, &answer), "a reset answers no reset");
        }

        #[test]
        fn a_sealed_segment_is_whole_wherever_it_goes(
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

        #[test]
        fn nothing_but_tcp_is_reset(sample in sample::sample()) {
            let (datagram, mut out) = (sample.udp(), Vec::new());
            let packet = Packet::parse(&datagram).expect("a packet");
            prop_assert!(!write_reset(&mut out, &packet) && out.is_empty());
        }
    }
}
