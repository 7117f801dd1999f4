//! Media leaves real VPNs and comes back, marked, while everything else stays: whichever of the two started first,
//! wherever the application bound its socket, on IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, icmp, ping, probe, tcp_exchange, udp};
use crate::support::echo::ANSWER_CLASS;
use crate::support::program::PATIENCE;
use crate::support::voicelane::{TUN, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken, UPLINK};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use voicelane::lab::FrameDirection;

/// Whether answers to media may arrive on the physical link (RFC 3704): its own setting, and the one for all. The
/// kernel takes the greater of the two; 1 is strict.
fn set_rp_filter(lab: &Lab, all: &str, uplink: &str) {
    for (name, value) in [("all", all), ("default", all), (UPLINK, uplink)] {
        let key = format!("ipv4/conf/{name}/rp_filter");
        lab.laptop.set(&key, value);
    }
}

fn unbound(lab: &Lab, family: Family) -> UdpSocket {
    udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0))
}

/// Media from every kind of socket, to two hosts each, with answers as the host marked them.
fn assert_media_is_direct(lab: &Lab) {
    for family in Family::BOTH {
        let vpn: IpAddr = at::VPN_LAPTOP.of(family);
        for local in [family.unspecified(), vpn, at::LAPTOP.of(family)] {
            let socket = udp(&lab.laptop, SocketAddr::new(local, 0));
            // On any other address the application's own socket holds the port that the mapping would like.
            let port = socket.local_addr().expect("it is bound").port();
            let kept = (local == vpn).then_some(port);
            let mut outside = Vec::new();
            for host in [at::MEDIA, at::MEDIA_2] {
                let to = host.at(family, MEDIA_PORT);
                let (_, payload) = lab.exchange(&socket, to);
                lab.assert_media(&payload, to, kept);
                outside.push(lab.on_uplink(&payload)[0].source_port());

                let mut answers = lab.on_laptop.carrying(&payload);
                answers.retain(|frame| {
                    frame.interface == TUN && frame.direction == FrameDirection::In
                });
                assert_eq!(answers.len(), 1, "{answers:#?}");
                assert_eq!(answers[0].headers.from, to.ip());
                assert_eq!(answers[0].headers.class, ANSWER_CLASS, "{answers:#?}");
                assert!(answers[0].headers.checksums, "{answers:#?}");
            }
            assert_eq!(
                outside[0], outside[1],
                "one mapping for one socket (RFC 4787 REQ-1)"
            );

            let connected = udp(&lab.laptop, SocketAddr::new(local, 0));
            let to = at::MEDIA.at(family, MEDIA_PORT);
            connected.connect(to).expect("there is a route");
            let (_, payload) = lab.exchange_connected(&connected);
            lab.assert_media(&payload, to, None);
        }
    }
}

/// Other hosts, other ports, other protocols: inside the VPN, and only there. And the home network stays at home.
fn assert_the_rest_stays(lab: &Lab) {
    for family in Family::BOTH {
        for local in [family.unspecified(), at::VPN_LAPTOP.of(family)] {
            let socket = udp(&lab.laptop, SocketAddr::new(local, 0));
            for port in [53, MEDIA_PORT] {
                let (path, _) = lab.exchange(&socket, at::OTHER.at(family, port));
                assert_eq!(
                    path,
                    PathTaken::Tunnel,
                    "udp {family:?} {port} from {local}"
                );
            }
        }
        for (host, port) in [(at::MEDIA, 443), (at::MEDIA, MEDIA_PORT), (at::OTHER, 443)] {
            let to = host.at(family, port);
            let payload = tcp_exchange(&lab.laptop, to);
            assert_eq!(lab.path_of(&payload), PathTaken::Tunnel, "tcp {to}");
        }
        for host in [at::MEDIA, at::OTHER] {
            let payload = probe();
            ping(&icmp(&lab.laptop, family), host.of(family), &payload).expect("there is a route");
            assert_eq!(
                lab.settled_path(&payload),
                PathTaken::Tunnel,
                "echo {family:?}"
            );
        }
        let (_, payload) = lab.exchange(&unbound(lab, family), at::HOME.at(family, MEDIA_PORT));
        let frames = lab.on_uplink(&payload);
        assert!(
            frames.len() == 2 && frames[0].headers.dscp() == 0,
            "{frames:#?}"
        );
    }
}

fn assert_media_way(lab: &Lab, path: PathTaken) {
    for family in Family::BOTH {
        let (taken, _) = lab.exchange(&unbound(lab, family), at::MEDIA.at(family, MEDIA_PORT));
        assert_eq!(taken, path, "{family:?}");
    }
}

/// The VPN is there when voicelane comes, and still there when it goes, just as it was.
fn vpn_first(kind: VpnKind) {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(kind);
    assert_media_way(&lab, PathTaken::Tunnel);
    for (all, uplink) in [("0", "0"), ("0", "1"), ("1", "0"), ("2", "0")] {
        set_rp_filter(&lab, all, uplink);
        let before = lab.laptop.dump();
        let voicelane = Voicelane::start(&lab.laptop);
        assert_media_is_direct(&lab);
        assert_the_rest_stays(&lab);
        voicelane.stop();
        assert_eq!(lab.laptop.changes_since(&before), NOTHING);
        assert_media_way(&lab, PathTaken::Tunnel);
    }
}

/// The VPN comes later, and puts its rules and routes where it likes.
fn voicelane_first(kind: VpnKind) {
    let lab = Lab::new();
    set_rp_filter(&lab, "0", "1");
    let voicelane = Voicelane::start(&lab.laptop);
    for family in Family::BOTH {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let (_, payload) = lab.exchange(&unbound(&lab, family), to);
        lab.assert_media(&payload, to, None);
        let (_, payload) = lab.exchange(&unbound(&lab, family), at::OTHER.at(family, 53));
        assert_eq!(
            lab.on_uplink(&payload)[0].headers.dscp(),
            0,
            "without a VPN, unmarked"
        );
    }
    let _vpn = lab.start_vpn(kind);
    await_media_is_direct(&lab);
    assert_media_is_direct(&lab);
    assert_the_rest_stays(&lab);
    voicelane.stop();
    assert_eq!(lab.laptop.get("ipv4/conf/wlan0/rp_filter"), "1");
    let after = lab.laptop.dump();
    let ours = ["voicelane", "proto 118", "fwmark 0x76"];
    assert_eq!(after.naming(&ours), NOTHING);
    assert_media_way(&lab, PathTaken::Tunnel);
}

/// Waits until voicelane has seen the newcomer and stepped in front of it.
fn await_media_is_direct(lab: &Lab) {
    let deadline = Instant::now() + PATIENCE;
    for family in Family::BOTH {
        let socket = unbound(lab, family);
        loop {
            let payload = probe();
            socket
                .send_to(payload.as_bytes(), at::MEDIA.at(family, MEDIA_PORT))
                .expect("there is a route");
            if lab.settled_path(&payload) == PathTaken::Direct {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "media stays in the VPN that came later: {:#?}",
                lab.laptop.dump().naming(&["rule"])
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn openvpn_def1_then_voicelane() {
    vpn_first(VpnKind::OpenVpnDef1);
}

#[test]
fn openvpn_replacing_the_default_route_then_voicelane() {
    vpn_first(VpnKind::OpenVpnReplaced);
}

#[test]
fn wg_quick_then_voicelane() {
    vpn_first(VpnKind::WgQuick);
}

#[test]
fn voicelane_then_openvpn_def1() {
    voicelane_first(VpnKind::OpenVpnDef1);
}

#[test]
fn voicelane_then_openvpn_replacing_the_default_route() {
    voicelane_first(VpnKind::OpenVpnReplaced);
}

#[test]
fn voicelane_then_wg_quick() {
    voicelane_first(VpnKind::WgQuick);
}

/// ICE gathering binds a socket to each address of each running interface (RFC 8445 section 5.1.1.1), and a browser
/// waits for an address that cannot be bound.
#[test]
fn applications_can_bind_to_every_address_and_find_none_of_ours_on_a_running_link() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    let _voicelane = Voicelane::start(&lab.laptop);
    let mut interfaces = Vec::new();
    lab.laptop.enter(|| {
        for entry in getifaddrs().expect("the kernel lists addresses") {
            let Some(storage) = entry.address else {
                continue;
            };
            let v4 = storage
                .as_sockaddr_in()
                .map(|at| SocketAddr::from((at.ip(), 0)));
            let v6 = storage
                .as_sockaddr_in6()
                .map(|at| std::net::SocketAddrV6::new(at.ip(), 0, 0, at.scope_id()).into());
            let Some(at) = v4.or(v6) else { continue };
            let bound = UdpSocket::bind(at);
            assert!(bound.is_ok(), "{}: {at}: {bound:?}", entry.interface_name);
            let runs = entry.flags.contains(InterfaceFlags::IFF_RUNNING);
            interfaces.push((entry.interface_name, runs));
        }
    });
    for (name, runs) in [(UPLINK, true), (TUN, false)] {
        let mut states = interfaces.iter().filter(|it| it.0 == name).peekable();
        assert!(states.peek().is_some(), "{name}: {interfaces:?}");
        assert!(states.all(|it| it.1 == runs), "{name}: {interfaces:?}");
    }
}
