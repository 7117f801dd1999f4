//! Feeds arbitrary bytes to the packet parser, and every answer to what it accepts back to the parser.
//!
//! Few random bytes have right checksums, so each input is parsed as it is and once more with its checksums mended.

#![no_main]

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, IpSlice, Ipv4HeaderSlice};
use libfuzzer_sys::fuzz_target;
use voicelane::net::Endpoint;
use voicelane::wire::{HEADROOM, Packet, Transport, icmp, tcp, udp};

fuzz_target!(|bytes: &[u8]| {
    exercise(bytes);
    let mut mended = bytes.to_vec();
    mend_ip(&mut mended);
    mend_transport(&mut mended);
    exercise(&mended);
});

fn exercise(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else {
        return;
    };
    assert!(bytes.starts_with(packet.bytes()));
    let again = Packet::parse(packet.bytes()).expect("what was accepted is accepted again");
    assert_eq!(again.transport(), packet.transport());
    assert_eq!(again.source().is_ipv4(), again.destination().is_ipv4());
    let _ = (
        packet.traffic_class(),
        packet.hop_limit(),
        packet.dont_fragment(),
    );

    if let Transport::Udp(datagram) = packet.transport() {
        relay(&packet, &datagram);
    }
    if icmp::may_answer(&packet) {
        refuse(&packet);
    }
    let mut out = Vec::new();
    if tcp::write_reset(&mut out, &packet) {
        let reset = Packet::parse(&out).expect("a reset is a packet");
        assert!(matches!(reset.transport(), Transport::Tcp(segment) if segment.rst));
        assert_eq!(
            (reset.source(), reset.destination()),
            (packet.destination(), packet.source())
        );
        assert!(
            !tcp::write_reset(&mut Vec::new(), &reset),
            "a reset answers no reset"
        );
    } else {
        assert!(out.is_empty());
    }
}

/// Sends the payload back the way that an answer takes.
fn relay(packet: &Packet<'_>, datagram: &udp::Datagram<'_>) {
    assert_eq!(&packet.bytes()[datagram.payload_range()], datagram.payload);
    let headers = udp::Headers {
        source: Endpoint::new(packet.destination(), datagram.destination_port),
        destination: Endpoint::new(packet.source(), datagram.source_port),
        traffic_class: packet.traffic_class(),
        hop_limit: packet.hop_limit(),
    };
    let mut buffer = [&[0; HEADROOM], datagram.payload].concat();
    let payload = HEADROOM..buffer.len();
    let range = udp::prepend(&mut buffer, payload, &headers).expect("it fitted a packet before");
    let answer = Packet::parse(&buffer[range.clone()]).expect("an answer is a packet");
    assert_eq!(
        (answer.source(), answer.destination()),
        (packet.destination(), packet.source())
    );
    assert_eq!(answer.traffic_class(), packet.traffic_class());
    let Transport::Udp(written) = answer.transport() else {
        panic!("an answer is UDP: {answer:?}");
    };
    assert_eq!(written.payload, datagram.payload);
    assert_eq!(written.source_port, datagram.destination_port);

    let mut rebuilt = Vec::new();
    udp::write_datagram(&mut rebuilt, &headers, datagram.payload).expect("it fitted before");
    assert_eq!(rebuilt, buffer[range]);
}

/// Answers with every error, and reads it again.
fn refuse(packet: &Packet<'_>) {
    for error in [
        icmp::Error::NetUnreachable,
        icmp::Error::HostUnreachable,
        icmp::Error::ProtocolUnreachable,
        icmp::Error::PortUnreachable,
        icmp::Error::AdminProhibited,
        icmp::Error::PacketTooBig { mtu: 1280 },
        icmp::Error::HopLimitExceeded,
        icmp::Error::ReassemblyTimeExceeded,
    ] {
        let mut out = Vec::new();
        icmp::write_error(
            &mut out,
            error,
            packet.destination(),
            packet.source(),
            packet.bytes(),
        )
        .expect("both addresses are of one family");
        assert!(out.len() <= if packet.source().is_ipv4() { 576 } else { 1280 });
        let answer = Packet::parse(&out).expect("an error is a packet");
        let Transport::Icmp(message) = answer.transport() else {
            panic!("an error is ICMP: {answer:?}");
        };
        let read = icmp::Error::from_icmp(answer.family(), message.kind, message.code, 1280);
        assert_eq!(read, Some(error));
        assert!(!icmp::may_answer(&answer), "an error answers no error");
    }
}

fn mend_ip(bytes: &mut [u8]) {
    if let Ok(header) = Ipv4HeaderSlice::from_slice(bytes) {
        let field = header.to_header().calc_header_checksum();
        bytes[10..12].copy_from_slice(&field.to_be_bytes());
    }
}

fn mend_transport(bytes: &mut [u8]) {
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
