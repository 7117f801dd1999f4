//! A network that lies: routes by DHCP for the media range (`TunnelVision`), a LAN that claims to be it (`TunnelCrack`),
//! packets and ARP for addresses that are nobody's business there. Media keeps its way, and nothing else gets one.
//!
//! Each test first shows that its witness, a rogue on the home network, sees what it is about to deny.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::support::addresses as at;
use crate::support::caller::{Family, answer, probe, udp};
use crate::support::namespace::Namespace;
use crate::support::program::wait_until;
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken, UPLINK};
use socket2::SockRef;
use voicelane::lab::FrameCapture;
use voicelane::lab::unique_number;

/// The rogue on the home network.
const ROGUE: at::DualAddress = at::DualAddress {
    v4: std::net::Ipv4Addr::new(192, 168, 7, 66),
    v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x66),
};
/// An address on the laptop's loopback interface, with the scope that the TUN's has.
const HOST_SCOPE: &str = "192.0.0.9";

/// A machine of its own on the home network, with a witness.
struct Rogue {
    namespace: Namespace,
    capture: FrameCapture,
}

impl Rogue {
    fn join(lab: &Lab) -> Self {
        let namespace = Namespace::new(unique_number(), "rogue");
        lab.home.ip(&format!(
            "link add link lan0 name rogue0 type macvlan mode bridge\nlink set rogue0 netns {}",
            namespace.name()
        ));
        let at::DualAddress { v4, v6 } = ROGUE;
        namespace.ip(&format!(
            "addr add {v4}/24 dev rogue0\naddr add {v6}/64 dev rogue0 nodad\nlink set rogue0 up"
        ));
        let capture = FrameCapture::start(&namespace).expect("root may capture");
        Self { namespace, capture }
    }

    fn saw(&self, payload: &str) -> bool {
        !self.capture.carrying(payload).is_empty()
    }
}

/// Sends a datagram from a socket of the laptop and gives its payload; the socket stays open.
fn send(lab: &Lab, to: SocketAddr) -> (UdpSocket, String) {
    let socket = udp(
        &lab.laptop,
        SocketAddr::new(Family::of(to.ip()).unspecified(), 0),
    );
    let payload = probe();
    socket
        .send_to(payload.as_bytes(), to)
        .expect("there is a route");
    (socket, payload)
}

fn assert_media_is_direct(lab: &Lab, rogue: &Rogue) {
    for family in Family::BOTH {
        for host in [at::MEDIA, at::MEDIA_2] {
            let to = host.at(family, MEDIA_PORT);
            let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
            let (_, payload) = lab.exchange(&socket, to);
            lab.assert_media(&payload, to, None);
            assert!(!rogue.saw(&payload), "{to}");
        }
    }
}

fn assert_the_rogue_gets_media(lab: &Lab, rogue: &Rogue) {
    for family in Family::BOTH {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let (_socket, payload) = send(lab, to);
        lab.settled_path(&payload);
        wait_until("a witness who sees media", || rogue.saw(&payload));
    }
}

#[test]
fn a_dhcp_route_for_the_media_range_is_ignored() {
    let lab = Lab::new();
    let rogue = Rogue::join(&lab);
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    let (v4, v6) = (ROGUE.v4, ROGUE.v6);
    // As DHCP option 121 and router advertisements (RFC 4191) bring them.
    lab.laptop.ip(&format!(
        "route add 168.86.128.0/18 via {v4} dev {UPLINK} metric 50\n\
         route add 2001:db8:86:4000::/50 via {v6} dev {UPLINK} metric 50"
    ));
    assert_the_rogue_gets_media(&lab, &rogue);
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_is_direct(&lab, &rogue);

    // And by another link: what is bound to the uplink does not follow.
    lab.laptop.ip(&format!(
        "link add eth1 type veth peer name lan1 netns {}",
        rogue.namespace.name()
    ));
    rogue.namespace.ip(
        "addr add 192.168.8.1/24 dev lan1\naddr add 2001:db8:8::1/64 dev lan1 nodad\nlink set lan1 up",
    );
    lab.laptop.ip(
        "addr add 192.168.8.10/24 dev eth1\naddr add 2001:db8:8::10/64 dev eth1 nodad\n\
         link set eth1 up\n\
         route add 168.86.128.0/17 via 192.168.8.1 dev eth1 metric 1\n\
         route add 168.86.130.0/24 via 192.168.8.1 dev eth1 metric 1\n\
         route add 2001:db8:86:4000::/56 via 2001:db8:8::1 dev eth1 metric 1",
    );
    assert_media_is_direct(&lab, &rogue);
    voicelane.stop();
    assert_the_rogue_gets_media(&lab, &rogue);
}

#[test]
fn a_lan_with_the_media_range_gets_no_media() {
    let lab = Lab::new();
    let rogue = Rogue::join(&lab);
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    // The rogue plays the media host, next door.
    rogue.namespace.ip(&format!(
        "addr add {}/18 dev rogue0\naddr add {}/50 dev rogue0 nodad",
        at::MEDIA.v4,
        at::MEDIA.v6
    ));
    lab.laptop.ip(&format!(
        "addr add 168.86.129.99/18 dev {UPLINK}\naddr add 2001:db8:86:4000::99/50 dev {UPLINK} nodad"
    ));
    assert_the_rogue_gets_media(&lab, &rogue);
    let voicelane = Voicelane::start(&lab.laptop);
    for family in Family::BOTH {
        let (_socket, payload) = send(&lab, at::MEDIA.at(family, MEDIA_PORT));
        assert_eq!(lab.settled_path(&payload), PathTaken::Direct, "{family:?}");
        assert!(!rogue.saw(&payload), "{family:?}");
    }
    voicelane.stop();
}

#[test]
fn no_network_message_adds_direct_traffic() {
    let lab = Lab::new();
    let rogue = Rogue::join(&lab);
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let before = lab.laptop.dump();
    let ours = ["proto 118", "lookup 303", "table 303"];
    let (v4, v6) = (ROGUE.v4, ROGUE.v6);
    lab.laptop.ip(&format!(
        "route add 192.0.2.0/24 via {v4} dev {UPLINK}\nroute add 168.86.0.0/16 via {v4} dev {UPLINK}\n\
         route add 2001:db8:53::/64 via {v6} dev {UPLINK}\n\
         addr add 168.86.200.1/24 dev {UPLINK}"
    ));
    for family in Family::BOTH {
        // The kernel's own routing follows the rogue: wg-quick lets it. That is the leak which the witness sees.
        let to = at::OTHER.at(family, MEDIA_PORT);
        let (_socket, payload) = send(&lab, to);
        lab.settled_path(&payload);
        wait_until("a witness who sees the rest", || rogue.saw(&payload));
        let mut frames = lab.on_laptop.carrying(&payload);
        frames.retain(|frame| frame.interface == TUN || frame.headers.dscp() != 0);
        assert!(frames.is_empty(), "not captured: {frames:#?}");
    }
    assert_media_is_direct(&lab, &rogue);
    assert_eq!(
        lab.laptop.dump().naming(&ours),
        before.naming(&ours),
        "rules and routes of ours are the policy's"
    );

    // Who forces himself into the TUN gets out by the policy alone.
    for family in Family::BOTH {
        for (host, leaves) in [(at::MEDIA, true), (at::OTHER, false)] {
            let to = host.at(family, MEDIA_PORT);
            let local = SocketAddr::new(at::LAPTOP.of(family), 0);
            let socket = udp(&lab.laptop, local);
            SockRef::from(&socket)
                .bind_device(Some(TUN.as_bytes()))
                .expect("root may");
            // IPv6 finds no route by the TUN to what is not captured, which is as good.
            let payload = probe();
            let _ = socket.send_to(payload.as_bytes(), to);
            let path = lab.settled_path(&payload);
            let expected = if leaves {
                PathTaken::Direct
            } else {
                PathTaken::Neither
            };
            assert_eq!(path, expected, "{to} from inside the TUN");
            assert!(!rogue.saw(&payload), "{to}");
        }
    }
    voicelane.stop();
}

/// Whether a datagram from the rogue, by the laptop's own hardware address and from a media host's address, is heard.
fn heard(lab: &Lab, rogue: &Rogue, listener: &UdpSocket, to: IpAddr) -> bool {
    let port = listener.local_addr().expect("it is bound").port();
    let payload = forge(lab, rogue, MEDIA_PORT, SocketAddr::new(to, port));
    matches!(answer(listener, &payload), Ok(Some(_)))
}

/// Sends a datagram from the rogue to the laptop's hardware address, with a media host's address and this source port.
fn forge(lab: &Lab, rogue: &Rogue, from: u16, to: SocketAddr) -> String {
    let (to, port) = (to.ip(), to.port());
    let family = Family::of(to);
    let link = lab.laptop.run(&format!("ip -o link show {UPLINK}"));
    let (_, mac) = link.split_once("link/ether ").expect("it is Ethernet");
    let mac = &mac[..17];
    let bits = family.pick(32, 128);
    rogue.namespace.ip(&format!(
        "route replace {to}/{bits} dev rogue0\n\
         neigh replace {to} lladdr {mac} dev rogue0 nud permanent"
    ));
    let socket = udp(
        &rogue.namespace,
        SocketAddr::new(at::MEDIA.of(family), from),
    );
    let payload = probe();
    socket
        .send_to(payload.as_bytes(), SocketAddr::new(to, port))
        .expect("there is a route");
    wait_until("a forged datagram on the LAN", || rogue.saw(&payload));
    payload
}

/// Whether the laptop answers on the home network for an address.
fn resolves(rogue: &Rogue, addr: &str) -> bool {
    rogue
        .namespace
        .ip(&format!("route replace {addr}/32 dev rogue0"));
    let socket = udp(&rogue.namespace, SocketAddr::new(ROGUE.v4.into(), 0));
    let to: IpAddr = addr.parse().expect("an address");
    socket.send_to(b"anybody?", (to, 9)).expect("it is queued");
    // ARP asks three times, a second apart; the first answer is enough.
    for _ in 0..60 {
        let state = rogue.namespace.run(&format!("ip neigh show {addr}"));
        if state.contains("lladdr") {
            return true;
        }
        if state.contains("FAILED") {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    false
}

#[test]
fn no_lan_host_reaches_the_tun_or_a_reply_source() {
    let lab = Lab::new();
    let rogue = Rogue::join(&lab);
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    rogue.namespace.ip(&format!(
        "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad",
        at::MEDIA.v4,
        at::MEDIA.v6
    ));
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "1");
    lab.laptop
        .ip(&format!("addr add {HOST_SCOPE}/32 scope host dev lo"));
    let settings = lab.laptop.dump();
    let voicelane = Voicelane::start(&lab.laptop);

    let changed = lab.laptop.changes_since(&settings);
    let changed = changed.iter().filter(|line| line.contains("sysctl"));
    let elsewhere: Vec<_> = changed
        .filter(|line| !line.contains(TUN) && !line.contains(".wlan0.rp_filter"))
        .collect();
    assert_eq!(elsewhere, NOTHING, "settings of no other link change");
    assert_eq!(lab.laptop.get("ipv4/conf/wlan0/rp_filter"), "2");

    let shown = lab.laptop.run(&format!("ip -o -4 addr show dev {TUN}"));
    let tun = shown.split_whitespace().nth(3).expect("it has an address");
    let tun = tun.trim_end_matches("/32");
    let on_v6 = lab.laptop.run(&format!("ip -o -6 addr show dev {TUN}"));
    assert_eq!(on_v6, "", "none to spoof on IPv6");

    // An address of the same scope on another link is answered for, which is the leak; the TUN's is not.
    assert!(resolves(&rogue, HOST_SCOPE), "the witness sees ARP");
    assert!(!resolves(&rogue, tun), "ARP for the TUN");

    let any = udp(&lab.laptop, SocketAddr::new(Family::V4.unspecified(), 0));
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert!(
        heard(&lab, &rogue, &any, ip(HOST_SCOPE)),
        "the witness is heard"
    );
    assert!(!heard(&lab, &rogue, &any, ip(tun)), "spoofed to the TUN");

    // The aliases of the VPN's addresses mean something on our TUN only.
    for (family, alias) in [(Family::V4, "250.8.0.2"), (Family::V6, "100::1000")] {
        let local = at::VPN_LAPTOP.of(family);
        let listener = udp(&lab.laptop, SocketAddr::new(local, 0));
        assert!(
            heard(&lab, &rogue, &listener, local),
            "the witness is heard at {local}: OpenVPN has no firewall"
        );
        let rules = lab.laptop.run("nft list ruleset");
        assert!(
            rules.contains(&local.to_string()) || rules.contains("0xfd08"),
            "{rules}"
        );
        assert!(!heard(&lab, &rogue, &listener, ip(alias)), "{alias}");
    }
    voicelane.stop();
}

/// A port of the media hosts that is no media: with whole prefixes captured, a mapping sends it into the VPN.
const IN_THE_VPN: u16 = 9_999;

/// A mapping in the VPN hears the VPN alone, at the VPN's address and at the laptop's own.
fn no_lan_host_is_heard_by_a_mapping_in(kind: VpnKind) {
    let lab = Lab::with_echo(&at::MEDIA.both(IN_THE_VPN), &[]);
    let rogue = Rogue::join(&lab);
    rogue.namespace.ip(&format!(
        "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad",
        at::MEDIA.v4,
        at::MEDIA.v6
    ));
    let vpn = lab.start_vpn(kind);
    let config = format!("{CONFIG}\n[route]\ncapture = \"prefix\"\n");
    let voicelane = Home::new(&lab.laptop, &config).start();
    let sockets =
        Family::BOTH.map(|family| udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0)));
    let assert_only_the_vpn_is_heard = || {
        for (family, socket) in Family::BOTH.into_iter().zip(&sockets) {
            let to = at::MEDIA.at(family, IN_THE_VPN);
            let (path, payload) = lab.exchange(socket, to);
            assert_eq!(path, PathTaken::Tunnel);
            let frames = lab.on_gateway.carrying(&payload);
            let port = frames.iter().find_map(|frame| {
                (frame.goes_to(to) && frame.headers.from == at::VPN_LAPTOP.of(family))
                    .then(|| frame.source_port())?
            });
            let port = port.expect("it came through the VPN");
            let witness = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
            for local in [at::LAPTOP.of(family), at::VPN_LAPTOP.of(family)] {
                assert!(
                    heard(&lab, &rogue, &witness, local),
                    "an ordinary socket hears the rogue at {local}"
                );
                let before = voicelane.drops("inbound", "wrong_link");
                let payload = forge(&lab, &rogue, IN_THE_VPN, SocketAddr::new(local, port));
                wait_until("a drop of the forged datagram", || {
                    voicelane.drops("inbound", "wrong_link") > before
                });
                assert!(
                    !matches!(answer(socket, &payload), Ok(Some(_))),
                    "{kind:?}: heard from the LAN at {local}"
                );
            }
        }
    };
    assert_only_the_vpn_is_heard();
    // A new device, and the same sockets.
    vpn.stop(&lab.laptop, &lab.gateway);
    let _vpn = lab.start_vpn(kind);
    assert_only_the_vpn_is_heard();
    voicelane.stop();
}

#[test]
fn no_lan_host_is_heard_by_a_mapping_in_openvpn() {
    no_lan_host_is_heard_by_a_mapping_in(VpnKind::OpenVpnDef1);
}

#[test]
fn no_lan_host_is_heard_by_a_mapping_in_openconnect() {
    no_lan_host_is_heard_by_a_mapping_in(VpnKind::OpenConnect);
}
