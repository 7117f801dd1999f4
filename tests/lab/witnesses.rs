//! The lab itself, without voicelane: each VPN takes all traffic, and the witnesses see a leak when there is one.

use std::net::SocketAddr;

use crate::support::addresses as at;
use crate::support::caller::{Family, icmp, ping, probe, udp};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken, UPLINK};
use voicelane::lab::{FrameDirection, FrameHeaders};

/// Everything goes into the tunnel, and comes back; then a leak is made, and it is seen.
fn the_vpn_takes_all_and_a_leak_is_seen(kind: VpnKind) {
    let lab = Lab::new();
    let before = lab.laptop.dump();
    for family in Family::BOTH {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        let (path, payload) = lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        assert_eq!(
            path,
            PathTaken::Direct,
            "without a VPN {family:?} is in clear"
        );
        for frame in lab.on_uplink(&payload) {
            assert!(frame.headers.checksums, "{frame:?}");
        }
    }
    assert_eq!(
        lab.laptop.changes_since(&before),
        NOTHING,
        "traffic is no change"
    );

    let vpn = lab.start_vpn(kind);
    assert_ne!(lab.laptop.changes_since(&before), NOTHING);
    for family in Family::BOTH {
        for local in [family.unspecified(), at::VPN_LAPTOP.of(family)] {
            let socket = udp(&lab.laptop, SocketAddr::new(local, 0));
            for host in [at::MEDIA, at::OTHER] {
                let (path, payload) = lab.exchange(&socket, host.at(family, MEDIA_PORT));
                assert_eq!(path, PathTaken::Tunnel, "{kind:?} {family:?} from {local}");
                let seen = lab.on_laptop.carrying(&payload);
                assert!(
                    seen.iter().all(|frame| frame.interface == vpn.interface),
                    "{seen:#?}"
                );
            }
        }
        let payload = probe();
        ping(&icmp(&lab.laptop, family), at::OTHER.of(family), &payload).expect("there is a route");
        lab.exchange(
            &udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0)),
            at::OTHER.at(family, 53),
        );
        assert_eq!(
            lab.path_of(&payload),
            PathTaken::Tunnel,
            "{kind:?} echo {family:?}"
        );
    }

    let (v4, v6) = (at::HOME.v4, at::HOME.v6);
    lab.laptop.ip(&format!(
        "route add {}/32 via {v4} dev {UPLINK} table main\nroute add {}/128 via {v6} dev {UPLINK} table main",
        at::MEDIA.v4,
        at::MEDIA.v6
    ));
    for family in Family::BOTH {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let (path, payload) = lab.exchange(&socket, to);
        assert_eq!(path, PathTaken::Direct, "a leaking route is seen");
        let frames = lab.on_uplink(&payload);
        assert!(
            frames[0].goes_to(to) && frames[0].direction == FrameDirection::Out,
            "{frames:#?}"
        );
        assert_eq!(frames[0].headers.dscp(), 0, "nothing marks it");
    }
}

#[test]
fn openvpn_def1_carries_everything() {
    the_vpn_takes_all_and_a_leak_is_seen(VpnKind::OpenVpnDef1);
}

#[test]
fn openvpn_with_a_replaced_default_route_carries_everything() {
    the_vpn_takes_all_and_a_leak_is_seen(VpnKind::OpenVpnReplaced);
}

#[test]
fn wg_quick_carries_everything() {
    the_vpn_takes_all_and_a_leak_is_seen(VpnKind::WgQuick);
}

#[test]
fn a_wrong_checksum_is_detected() {
    let lab = Lab::new();
    for family in Family::BOTH {
        let socket = udp(&lab.laptop, at::LAPTOP.at(family, 0));
        let (_, payload) = lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        let frame = &lab.on_uplink(&payload)[0];
        let right = FrameHeaders::parse(&frame.bytes).expect("it was parsed before");
        assert!(right.checksums);
        // A bit of the source address, of the checksum itself, and of the payload.
        let transport = family.pick(20, 40);
        for byte in [family.pick(15, 23), transport + 7, frame.bytes.len() - 1] {
            let mut bytes = frame.bytes.clone();
            bytes[byte] ^= 1;
            let wrong = FrameHeaders::parse(&bytes).expect("its form is still right");
            assert!(!wrong.checksums, "{family:?} byte {byte}");
        }
    }
}
