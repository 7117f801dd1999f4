//! What the applications and the strangers on the internet make of a mapping: ports, filtering, ICMP errors, rejects.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use crate::support::addresses as at;
use crate::support::caller::{Family, answer, probe, udp};
use crate::support::voicelane::{TUN, Voicelane};
use crate::support::{Lab, MEDIA_PORT, PathTaken, UPLINK};
use voicelane::lab::{Frame, FrameDirection, FrameTransport};

fn unbound(lab: &Lab, family: Family) -> UdpSocket {
    udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0))
}

/// The ICMP errors that the application was given through the TUN.
fn errors(lab: &Lab) -> Vec<Frame> {
    lab.on_laptop.frames(|frame| {
        frame.interface == TUN
            && frame.direction == FrameDirection::In
            && matches!(frame.headers.transport, FrameTransport::Icmp(..))
    })
}

/// RFC 4787 REQ-3, REQ-3a and REQ-11.
#[test]
fn a_free_source_port_is_kept_and_a_taken_one_is_not_shared() {
    let lab = Lab::new();
    // Two addresses besides the uplink's, as a VPN would bring them.
    lab.laptop.ip(
        "addr add 10.99.0.1/32 dev lo\naddr add 10.99.0.2/32 dev lo\n\
         addr add fd99::1/128 dev lo nodad\naddr add fd99::2/128 dev lo nodad",
    );
    let _voicelane = Voicelane::start(&lab.laptop);
    for (family, first, second) in [
        (Family::V4, "10.99.0.1:40404", "10.99.0.2:40404"),
        (Family::V6, "[fd99::1]:40404", "[fd99::2]:40404"),
    ] {
        let sockets =
            [first, second].map(|at| udp(&lab.laptop, at.parse().expect("it is written right")));
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let ports = sockets.each_ref().map(|socket| {
            let (_, payload) = lab.exchange(socket, to);
            lab.assert_media(&payload, to, None);
            lab.on_uplink(&payload)[0].source_port()
        });
        assert_eq!(ports[0], Some(40404), "the first finds it free");
        assert_ne!(ports[1], ports[0], "the second may not take it");
        assert!(ports[1] > Some(1023), "nor one of the well-known (REQ-3a)");
        // Whether a port was free changes nothing else (REQ-11).
        for (socket, port) in sockets.iter().zip(ports) {
            let (_, payload) = lab.exchange(socket, at::MEDIA_2.at(family, MEDIA_PORT));
            assert_eq!(lab.on_uplink(&payload)[0].source_port(), port);
        }
    }
}

/// RFC 6724: an application on the uplink's own address, which has the port that is wanted outside.
#[test]
fn media_leaves_from_the_address_that_the_route_prefers() {
    let lab = Lab::new();
    lab.laptop.ip(&format!(
        "addr add 192.168.7.77/24 dev {UPLINK}\naddr add 2001:db8:7::77/64 dev {UPLINK} nodad preferred_lft 0"
    ));
    let voicelane = Voicelane::start(&lab.laptop);
    for family in Family::BOTH {
        let own = SocketAddr::new(at::LAPTOP.of(family), 40405);
        let to = at::MEDIA.at(family, MEDIA_PORT);
        for socket in [udp(&lab.laptop, own), unbound(&lab, family)] {
            let (_, payload) = lab.exchange(&socket, to);
            lab.assert_media(&payload, to, None);
            // What is shown is what is on the wire.
            let frame = &lab.on_uplink(&payload)[0];
            let port = frame.source_port().expect("it is UDP");
            let outside = SocketAddr::new(own.ip(), port).to_string();
            let mappings = voicelane.status()["status"]["mappings"].clone();
            let mut mappings = mappings.as_array().expect("a list").iter();
            assert!(
                mappings.any(|mapping| mapping["outside"] == outside.as_str()),
                "{outside}: {:#}",
                voicelane.status()
            );
        }
    }
}

/// RFC 9331 section 4.1: the octet on the wire is the rule's DSCP and the packet's ECN.
#[test]
fn ecn_of_the_application_survives_outbound() {
    let lab = Lab::new();
    let _voicelane = Voicelane::start(&lab.laptop);
    for family in Family::BOTH {
        let socket = unbound(&lab, family);
        let to = at::MEDIA.at(family, MEDIA_PORT);
        // An application's own DSCP is replaced, and each packet counts by itself.
        for octet in [0, 1, 2, 3, 0xa1, 0, 1] {
            let options = socket2::SockRef::from(&socket);
            match family {
                Family::V4 => options.set_tos_v4(octet),
                Family::V6 => options.set_tclass_v6(octet),
            }
            .expect("any octet may be set");
            let (path, payload) = lab.exchange(&socket, to);
            assert_eq!(path, PathTaken::Direct);
            let class = u32::from(lab.on_uplink(&payload)[0].headers.class);
            assert_eq!(class, 46 << 2 | octet & 3, "{family:?} {octet:#x}");
        }
    }
}

/// RFC 4787 REQ-8.
#[test]
fn unsolicited_packets_are_dropped() {
    let lab = Lab::new();
    lab.open_home();
    let voicelane = Voicelane::start(&lab.laptop);
    for family in Family::BOTH {
        let socket = unbound(&lab, family);
        let (_, payload) = lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        let outside = lab.on_uplink(&payload)[0].source_port().expect("it is UDP");
        let mapping = at::HOME_PUBLIC.at(family, outside);

        let dropped = drops(&voicelane);
        let stranger = udp(&lab.internet, at::MEDIA_2.at(family, 30000));
        let payload = probe();
        stranger
            .send_to(payload.as_bytes(), mapping)
            .expect("there is a route");
        assert!(
            matches!(answer(&socket, &payload), Ok(None)),
            "{family:?}: a stranger was let in"
        );
        let seen = lab.on_laptop.carrying(&payload);
        assert!(
            matches!(&seen[..], [frame] if frame.interface == UPLINK && frame.direction == FrameDirection::In),
            "{family:?}: it came as far as the uplink, and no further: {seen:#?}"
        );
        assert_eq!(drops(&voicelane), dropped + 1, "{}", voicelane.status());

        // Filtering is address-dependent (RFC 4787 section 5): a host that was spoken to may use another port.
        let friend = udp(&lab.internet, at::MEDIA.at(family, 30000));
        let payload = probe();
        friend
            .send_to(payload.as_bytes(), mapping)
            .expect("there is a route");
        let from = answer(&socket, &payload).expect("no error is pending");
        assert_eq!(from, Some(at::MEDIA.at(family, 30000)));
    }
}

/// RFC 4787 REQ-12, RFC 5508 REQ-4.
#[test]
fn an_unreachable_port_is_reported_to_the_application() {
    let lab = Lab::new();
    let _voicelane = Voicelane::start(&lab.laptop);
    for (family, error) in [
        (Family::V4, FrameTransport::Icmp(3, 3)),
        (Family::V6, FrameTransport::Icmp(1, 4)),
    ] {
        let socket = unbound(&lab, family);
        let silent = at::MEDIA.at(family, MEDIA_PORT + 1);
        socket.connect(silent).expect("there is a route");
        let payload = probe();
        socket
            .send(payload.as_bytes())
            .expect("nothing is known yet");
        let heard = answer(&socket, &payload);
        assert!(
            matches!(&heard, Err(e) if e.kind() == ErrorKind::ConnectionRefused),
            "{family:?}: {heard:?}: {:#?}",
            errors(&lab)
        );
        assert_eq!(lab.path_of(&payload), PathTaken::Direct);
        let frame = errors(&lab)
            .pop()
            .expect("the application was told by a packet");
        assert_eq!(frame.headers.transport, error);
        assert!(frame.headers.checksums, "{frame:?}");

        // The mapping survives it.
        let port = lab.on_uplink(&payload)[0].source_port();
        let media = at::MEDIA.at(family, MEDIA_PORT);
        socket.connect(media).expect("there is a route");
        let (_, payload) = lab.exchange_connected(&socket);
        assert_eq!(lab.on_uplink(&payload)[0].source_port(), port);
    }
}

#[test]
fn traffic_outside_the_policy_is_rejected_even_in_the_tun() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    for (family, error) in [
        (Family::V4, FrameTransport::Icmp(3, 13)),
        (Family::V6, FrameTransport::Icmp(1, 1)),
    ] {
        let to = at::OTHER.at(family, 53);
        lab.laptop.ip(&format!("route add {} dev {TUN}", to.ip()));
        let before = drops(&voicelane);
        let socket = unbound(&lab, family);
        socket.connect(to).expect("there is a route");
        let payload = probe();
        socket
            .send(payload.as_bytes())
            .expect("nothing is known yet");
        let heard = answer(&socket, &payload);
        assert!(heard.is_err(), "{family:?}: {heard:?}");
        assert_eq!(
            lab.path_of(&payload),
            PathTaken::Neither,
            "it is never forwarded"
        );
        let frame = errors(&lab)
            .pop()
            .expect("the application was told by a packet");
        assert_eq!(
            frame.headers.transport, error,
            "administratively prohibited"
        );
        assert!(frame.headers.checksums, "{frame:?}");
        assert_eq!(drops(&voicelane), before + 1, "{}", voicelane.status());
    }
}

/// All that the service says it dropped, for whatever reason.
fn drops(voicelane: &Voicelane) -> u64 {
    let status = voicelane.status();
    let count = |direction: &str| -> u64 {
        let reasons = status["status"][direction]["drops"]
            .as_object()
            .expect("drops are listed by reason");
        reasons.values().filter_map(serde_json::Value::as_u64).sum()
    };
    count("outbound") + count("inbound")
}
