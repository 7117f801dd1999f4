//! The lab: a laptop at home, the internet, and a VPN gateway, in network namespaces.
//!
//! ```text
//!  laptop                 home (NAT)                   internet                     gateway (NAT)
//!  wlan0 192.168.7.10 --- lan0 .1 | wan0 203.0.113.2 --- home0 .1 | vpn0 198.51.100.1 --- wan0 .2
//!  [tun0, wgN, voicelane0]                             media cloud, test host, others          [tun0, wgN]
//!        2001:db8:7::/64                    2001:db8:113::/64         2001:db8:100::/64
//! ```
//!
//! Laptop and gateway have a capture of all interfaces. A payload in clear on `wlan0` (or `eth0`, the cable) took the direct
//! path. A payload at the gateway took the tunnel, for the direct path does not touch the gateway.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file compiles the whole lab and uses a part"
)]

pub mod addresses;
pub mod call;
pub mod caller;
pub mod echo;
pub mod media;
pub mod namespace;
pub mod netns;
pub mod program;
pub mod voicelane;
pub mod vpn;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ::voicelane::lab::{
    DualAddress, Frame, FrameCapture, FrameDirection, link as links, unique_number,
};
use addresses as at;
use caller::Family;
use echo::Echo;
use namespace::{Namespace, require, run};
use vpn::{Vpn, VpnKind};

/// The laptop's physical link.
pub const UPLINK: &str = "wlan0";

/// The laptop's second physical link, if plugged in.
pub const CABLE: &str = "eth0";

/// No changes.
pub const NOTHING: [&str; 0] = [];

/// A port of the media range, served everywhere.
pub const MEDIA_PORT: u16 = 20000;

/// The hosts, their links and their echo servers.
pub struct Lab {
    /// The laptop.
    pub laptop: Namespace,
    /// The home router.
    pub home: Namespace,
    /// The internet with its hosts.
    pub internet: Namespace,
    /// The VPN gateway.
    pub gateway: Namespace,
    /// The capture on the laptop.
    pub on_laptop: FrameCapture,
    /// The capture on the gateway.
    pub on_gateway: FrameCapture,
    echoes: Vec<Echo>,
}

/// The path that a payload took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathTaken {
    /// In clear over the physical link.
    Direct,
    /// Only inside the VPN.
    Tunnel,
    /// Both in clear and inside the VPN.
    Both,
    /// Neither.
    Neither,
}

impl Lab {
    /// Builds the lab, with UDP echo at the media hosts and the other host, and TCP echo everywhere.
    pub fn new() -> Self {
        let hosts = [at::MEDIA, at::MEDIA_2, at::OTHER];
        let udp: Vec<_> = hosts
            .iter()
            .flat_map(|host| host.both(MEDIA_PORT))
            .chain(at::TEST_HOST.both(3478))
            .chain(at::OTHER.both(53))
            .collect();
        Self::with_echo(&udp, &[443, MEDIA_PORT])
    }

    /// Builds the lab with UDP echo at these endpoints of the internet and TCP echo at all its addresses.
    pub fn with_echo(udp: &[SocketAddr], tcp: &[u16]) -> Self {
        require(&[
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("ethtool", "ethtool"),
            ("sysctl", "procps"),
            ("ping", "iputils-ping"),
        ]);
        let number = unique_number();
        let [laptop, home, internet, gateway] =
            ["laptop", "home", "internet", "gateway"].map(|role| Namespace::new(number, role));
        link((&laptop, UPLINK, at::LAPTOP), (&home, "lan0", at::HOME));
        link(
            (&home, "wan0", at::HOME_PUBLIC),
            (&internet, "home0", at::PROVIDER),
        );
        link(
            (&gateway, "wan0", at::VPN_SERVER),
            (&internet, "vpn0", at::CARRIER),
        );
        for (namespace, via) in [
            (&laptop, at::HOME),
            (&home, at::PROVIDER),
            (&gateway, at::CARRIER),
        ] {
            let (v4, v6) = (via.v4, via.v6);
            namespace.ip(&format!(
                "route add default via {v4}\nroute add ::/0 via {v6}"
            ));
        }
        for router in [&home, &gateway] {
            router.nft(
                "add table inet nat
                 add chain inet nat out { type nat hook postrouting priority srcnat; }
                 add rule inet nat out oifname wan0 masquerade",
            );
        }
        for router in [&home, &internet, &gateway] {
            router.set("ipv4/ip_forward", "1");
            router.set("ipv6/conf/all/forwarding", "1");
        }
        // Every address of a prefix is local to the internet. An IPv6 bind needs the setting.
        internet.set("ipv6/ip_nonlocal_bind", "1");
        for prefix in at::INTERNET {
            internet.ip(&format!("route add local {prefix} dev lo"));
        }
        laptop.set("ipv4/ping_group_range", "0 2147483647");
        Self {
            on_laptop: FrameCapture::start(&laptop).expect("root may capture"),
            on_gateway: FrameCapture::start(&gateway).expect("root may capture"),
            echoes: vec![
                Echo::start(&internet, udp, tcp),
                Echo::start(&home, &at::HOME.both(MEDIA_PORT), &[MEDIA_PORT]),
            ],
            laptop,
            home,
            internet,
            gateway,
        }
    }

    /// Starts a VPN on the laptop.
    pub fn start_vpn(&self, kind: VpnKind) -> Vpn {
        Vpn::start(kind, &self.laptop, &self.gateway)
    }

    /// Plugs in the cable, whose addresses the laptop has. Its default routes precede the Wi-Fi's.
    pub fn plug_in(&self) {
        link(
            (&self.laptop, CABLE, at::LAPTOP_CABLE),
            (&self.home, "lan1", at::HOME_CABLE),
        );
        // IPv6 addresses survive a router's link that goes down and up, and answer without delay.
        for link in ["lan0", "lan1"] {
            for (key, value) in [
                ("keep_addr_on_down", "1"),
                ("router_solicitation_delay", "0"),
            ] {
                self.home.set(&format!("ipv6/conf/{link}/{key}"), value);
            }
        }
        let (wifi, cable) = (at::HOME, at::HOME_CABLE);
        self.laptop.ip(&format!(
            "route del default\nroute add default via {} metric 600\n\
             route del ::/0\nroute add ::/0 via {} metric 600\n\
             route add default via {} metric 100\nroute add ::/0 via {} metric 100",
            wifi.v4, wifi.v6, cable.v4, cable.v6
        ));
        // A new link has no neighbour entries, and may not answer a solicitation for a second.
        for router in Family::BOTH.map(|family| [wifi.of(family), cable.of(family)]) {
            for address in router {
                self.laptop.reach(address);
            }
        }
    }

    /// Ends both captures, for a test with more packets than fit the memory.
    pub fn stop_captures(&mut self) {
        self.on_laptop.stop();
        self.on_gateway.stop();
    }

    /// Makes the home router forward every UDP datagram from the internet, so that voicelane has to drop it.
    pub fn open_home(&self) {
        self.home.nft(&format!(
            "add chain inet nat in {{ type nat hook prerouting priority dstnat; }}
             add rule inet nat in iifname wan0 meta nfproto ipv4 meta l4proto udp dnat ip to {}
             add rule inet nat in iifname wan0 meta nfproto ipv6 meta l4proto udp dnat ip6 to {}",
            at::LAPTOP.v4,
            at::LAPTOP.v6
        ));
    }

    /// Returns the path that a payload took.
    pub fn path_of(&self, payload: &str) -> PathTaken {
        let direct = !self.on_uplink(payload).is_empty();
        let tunnel = !self.on_gateway.carrying(payload).is_empty();
        match (direct, tunnel) {
            (true, false) => PathTaken::Direct,
            (false, true) => PathTaken::Tunnel,
            (true, true) => PathTaken::Both,
            (false, false) => PathTaken::Neither,
        }
    }

    /// Returns the path of a payload without an answer. Waits until it is seen, or for the time of an answer.
    pub fn settled_path(&self, payload: &str) -> PathTaken {
        let deadline = Instant::now() + caller::ANSWER_TIME;
        loop {
            match self.path_of(payload) {
                PathTaken::Neither if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                path => return path,
            }
        }
    }

    /// Sends a datagram and returns its path. A datagram that cannot leave took neither path.
    pub fn path_from(&self, socket: &UdpSocket, to: SocketAddr) -> PathTaken {
        let payload = caller::probe();
        if let Err(refusal) = socket.send_to(payload.as_bytes(), to) {
            eprintln!("{to}: {refusal}");
        }
        self.settled_path(&payload)
    }

    /// The packets on the laptop's physical links that carry the payload in clear.
    pub fn on_uplink(&self, payload: &str) -> Vec<Frame> {
        let mut frames = self.on_laptop.carrying(payload);
        frames.retain(|frame| [UPLINK, CABLE].contains(&frame.interface.as_str()));
        frames
    }

    /// Sends a probe and receives its echo from the endpoint. Returns the path and the payload.
    pub fn exchange(&self, socket: &UdpSocket, to: SocketAddr) -> (PathTaken, String) {
        let payload = caller::probe();
        let sent = socket.send_to(payload.as_bytes(), to);
        self.receive_echo(socket, to, payload, sent)
    }

    /// Sends a probe to the endpoint that the socket is connected to, and receives its echo.
    pub fn exchange_connected(&self, socket: &UdpSocket) -> (PathTaken, String) {
        let payload = caller::probe();
        let to = socket.peer_addr().expect("it is connected");
        let sent = socket.send(payload.as_bytes());
        self.receive_echo(socket, to, payload, sent)
    }

    fn receive_echo(
        &self,
        socket: &UdpSocket,
        to: SocketAddr,
        payload: String,
        sent: io::Result<usize>,
    ) -> (PathTaken, String) {
        let answer = sent.and_then(|_| caller::answer(socket, &payload));
        let path = self.path_of(&payload);
        assert!(
            matches!(answer, Ok(Some(from)) if from == to),
            "{to} did not answer {socket:?}: {answer:?}, it went {path:?}: {:#?}",
            self.on_laptop.carrying(&payload)
        );
        (path, payload)
    }

    /// Panics unless the payload left by the physical link as media should, once, and came back once; with the source
    /// port where one is given.
    pub fn assert_media(&self, payload: &str, to: SocketAddr, port: Option<u16>) {
        let frames = self.on_uplink(payload);
        let family = Family::of(to.ip());
        let [out, back] = &frames[..] else {
            panic!("expected one packet each path on {UPLINK}: {frames:#?}");
        };
        assert_eq!(
            (out.direction, back.direction),
            (FrameDirection::Out, FrameDirection::In)
        );
        assert!(out.goes_to(to), "{out:?}");
        assert_eq!(out.headers.from, at::LAPTOP.of(family), "{out:?}");
        assert!(
            port.is_none() || out.source_port() == port,
            "{port:?}: {out:?}"
        );
        assert_eq!(out.headers.class, 46 << 2, "{out:?}");
        assert!(out.headers.checksums, "{out:?}");
        let inside = self.on_gateway.carrying(payload);
        assert!(inside.is_empty(), "also in the VPN: {inside:#?}");
    }
}

/// Joins two namespaces by a link with addresses at both ends. The packets have complete checksums, as on a network card.
fn link(a: (&Namespace, &str, DualAddress), b: (&Namespace, &str, DualAddress)) {
    links::join(a.0, a.1, b.0, b.1).expect("the names are free");
    for (namespace, name, address) in [a, b] {
        links::add_addresses(namespace, name, address, &Family::BOTH, 24).expect("it has none");
        run(
            namespace.command("ethtool").args(["-K", name, "tx", "off"]),
            "",
        );
    }
}
