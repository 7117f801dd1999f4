//! Feeds arbitrary bytes to the packet parser, and every answer to what it accepts back to the parser.
//!
//! Few random bytes have right checksums, so each input is parsed as it is and once more with its checksums fixed.

#![no_main]

#[path = "../../pure/mutation/checksums.rs"]
mod checksums;

use libfuzzer_sys::fuzz_target;
use voicelane::net::Endpoint;
use voicelane::wire::{HEADROOM, IcmpError, Packet, Transport, reply, udp};

fuzz_target!(|bytes: &[u8]| {
    exercise(bytes);
    let mut fixed = bytes.to_vec();
    checksums::fix_checksums(&mut fixed);
    exercise(&fixed);
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
    if reply::may_answer(&packet) {
        refuse(&packet);
    }
    let mut out = Vec::new();
    if reply::write_tcp_reset(&mut out, &packet) {
        let reset = Packet::parse(&out).expect("a reset is a packet");
        assert!(matches!(reset.transport(), Transport::Tcp(segment) if segment.rst));
        assert_eq!(
            (reset.source(), reset.destination()),
            (packet.destination(), packet.source())
        );
        assert!(
            !reply::write_tcp_reset(&mut Vec::new(), &reset),
            "a reset answers no reset"
        );
    } else {
        assert!(out.is_empty());
    }
}

/// Sends the payload back the way that an answer takes.
fn relay(packet: &Packet<'_>, datagram: &udp::UdpDatagram<'_>) {
    assert_eq!(&packet.bytes()[datagram.payload_range()], datagram.payload);
    let headers = udp::UdpHeaders {
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
        IcmpError::NetUnreachable,
        IcmpError::HostUnreachable,
        IcmpError::ProtocolUnreachable,
        IcmpError::PortUnreachable,
        IcmpError::AdminProhibited,
        IcmpError::PacketTooBig { mtu: 1280 },
        IcmpError::HopLimitExceeded,
        IcmpError::ReassemblyTimeExceeded,
    ] {
        let mut out = Vec::new();
        reply::write_icmp_error(
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
        let read = IcmpError::from_icmp(answer.family(), message.kind, message.code, 1280);
        assert_eq!(read, Some(error));
        assert!(!reply::may_answer(&answer), "an error answers no error");
    }
}
