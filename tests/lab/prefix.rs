//! Whole prefixes in the TUN of a machine with a real VPN: media leaves directly, and the rest of the prefix arrives at the
//! VPN's far end as if nothing had happened.

use std::net::SocketAddr;

use crate::support::addresses as at;
use crate::support::caller::{Family, icmp, ping, probe, tcp_exchange, udp};
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane, config_with_tcp};
use crate::support::vpn::{Vpn, VpnKind};
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};

/// UDP ports of the media gateways that are no media.
const NO_MEDIA: [u16; 3] = [53, 9_999, 60_001];

/// TCP of a rule, and not of one.
const RELAYED_TCP: u16 = 443;
const OTHER_TCP: u16 = 8_443;

fn lab() -> Lab {
    let ports = NO_MEDIA.iter().chain(&[MEDIA_PORT]);
    let media = ports.flat_map(|port| at::MEDIA.both(*port));
    let udp: Vec<_> = media.chain(at::OTHER.both(53)).collect();
    Lab::with_echo(&udp, &[RELAYED_TCP, OTHER_TCP])
}

fn start(lab: &Lab) -> Voicelane {
    let config = config_with_tcp("443");
    Home::new(
        &lab.laptop,
        &format!("{config}\n[route]\ncapture = \"prefix\"\n"),
    )
    .start()
}

/// From a socket on every address, and from one on the VPN's; into the TUN, and out where it belongs.
fn assert_all_arrives(lab: &Lab, vpn: &Vpn) {
    for family in Family::BOTH {
        for local in [family.unspecified(), at::VPN_LAPTOP.of(family)] {
            let socket = udp(&lab.laptop, SocketAddr::new(local, 0));
            for port in NO_MEDIA {
                let to = at::MEDIA.at(family, port);
                let (path, payload) = lab.exchange(&socket, to);
                assert_eq!(path, PathTaken::Tunnel, "udp {to}");
                let seen = lab.on_laptop.carrying(&payload);
                assert!(seen.iter().any(|frame| frame.interface == TUN), "{seen:#?}");
                let frames = lab.on_gateway.carrying(&payload);
                let arrived = frames
                    .iter()
                    .find(|frame| frame.interface == vpn.gateway_interface && frame.goes_to(to))
                    .expect("it came through the VPN");
                assert_eq!(arrived.headers.from, at::VPN_LAPTOP.of(family));
                assert_eq!(arrived.headers.class, 0, "nobody marked it");
                assert!(arrived.headers.checksums, "{arrived:?}");
            }
            // The same socket, and still media.
            let to = at::MEDIA.at(family, MEDIA_PORT);
            let (_, payload) = lab.exchange(&socket, to);
            lab.assert_media(&payload, to, None);
            let (path, _) = lab.exchange(&socket, at::OTHER.at(family, 53));
            assert_eq!(path, PathTaken::Tunnel, "what is in no prefix");
        }
        for (port, path) in [
            (RELAYED_TCP, PathTaken::Direct),
            (OTHER_TCP, PathTaken::Tunnel),
        ] {
            let payload = tcp_exchange(&lab.laptop, at::MEDIA.at(family, port));
            assert_eq!(lab.path_of(&payload), path, "tcp {family:?} {port}");
        }
        let payload = probe();
        ping(&icmp(&lab.laptop, family), at::MEDIA.of(family), &payload).expect("there is a route");
        assert_eq!(
            lab.settled_path(&payload),
            PathTaken::Tunnel,
            "an echo is not captured"
        );
    }
}

#[test]
fn other_traffic_of_a_prefix_arrives_through_the_vpn() {
    let lab = lab();
    let vpn = lab.start_vpn(VpnKind::WgQuick);
    let before = lab.laptop.dump();
    let voicelane = start(&lab);
    assert_all_arrives(&lab, &vpn);
    let status = voicelane.status();
    assert_eq!(status["status"]["capture_mode"], "prefix");
    assert!(status["status"]["failover"]["packets"].as_u64() >= Some(6));

    // A kill leaves everything to the VPN.
    let home = voicelane.kill();
    for family in Family::BOTH {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        for port in [53, MEDIA_PORT] {
            let (path, _) = lab.exchange(&socket, at::MEDIA.at(family, port));
            assert_eq!(path, PathTaken::Tunnel, "after a kill {family:?} {port}");
        }
        let payload = tcp_exchange(&lab.laptop, at::MEDIA.at(family, RELAYED_TCP));
        assert_eq!(lab.path_of(&payload), PathTaken::Tunnel);
    }
    assert!(home.cleanup().status.success());
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
}

#[test]
fn a_later_vpn_gets_the_other_traffic_too() {
    let lab = lab();
    let voicelane = start(&lab);
    for family in Family::BOTH {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        let (_, payload) = lab.exchange(&socket, at::MEDIA.at(family, 53));
        let frames = lab.on_uplink(&payload);
        assert_eq!(
            frames[0].headers.dscp(),
            0,
            "without a VPN in clear, as ever: {frames:#?}"
        );
    }
    let vpn = lab.start_vpn(VpnKind::OpenVpnReplaced);
    assert_all_arrives(&lab, &vpn);
    voicelane.stop();
}

/// A kill switch that knows voicelane's media, by its mark or by one that media borrows, lets nothing else out when the
/// VPN is down.
#[test]
fn the_bypass_for_media_lets_nothing_else_out() {
    for (switch, setting) in [
        ("ct mark 0xf41", "conntrack_mark = 0xf41"),
        ("meta mark 0xca6c", "vpn_mark = 0xca6c"),
        ("meta mark 0x76000000", ""),
    ] {
        let lab = lab();
        lab.laptop.nft(&format!(
            "add table inet switch
             add chain inet switch out {{ type filter hook output priority 0; policy drop; }}
             add rule inet switch out oifname {{ lo, {TUN} }} accept
             add rule inet switch out icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
             add rule inet switch out {switch} accept"
        ));
        let config = format!("{CONFIG}\n[route]\ncapture = \"prefix\"\n[uplink]\n{setting}\n");
        let voicelane = Home::new(&lab.laptop, &config).start();
        for family in Family::BOTH {
            let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
            let to = at::MEDIA.at(family, MEDIA_PORT);
            let (_, payload) = lab.exchange(&socket, to);
            lab.assert_media(&payload, to, None);
            let payload = probe();
            let sent = socket.send_to(payload.as_bytes(), at::MEDIA.at(family, 53));
            sent.expect("the TUN takes it");
            assert_eq!(
                lab.settled_path(&payload),
                PathTaken::Neither,
                "{switch} {family:?}"
            );
        }
        voicelane.stop();
    }
}
