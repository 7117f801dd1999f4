//! The world of the tests: links, VPNs, a TUN that the test reads and writes, and assertions.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
use etherparse::{icmpv4, icmpv6};
use nix::net::if_::if_nametoindex;
use tempfile::TempDir;
use tun_tap::{Iface, Mode};
use voicelane::net::{Capture, IfIndex, Protocol};
use voicelane::route::desired::{Desired, FirewallMarks, PortlessLookups, RoutingIds, Uplinks};
use voicelane::route::uplink::{UplinkError, UplinkPreferences, choose};
use voicelane::steering::{SteeringReport, TrafficSteering, TunInterface};

use crate::support::netns::run;

/// A media server of each family, within the captured prefixes.
pub(crate) const MEDIA: [&str; 2] = ["168.86.128.1", "2001:db8:86::1"];

/// A link with addresses of both families; its far end stays in the namespace.
pub(crate) const LINK: &str = "
    ip link add eth0 type veth peer name far0
    for l in eth0 far0; do ip link set $l addrgenmode none; done
    ip link set eth0 up; ip link set far0 up
    ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8:1::2/64 dev eth0 nodad";
pub(crate) const DEFAULTS: &str = "
    ip route add default via 192.0.2.1 dev eth0
    ip -6 route add default via fe80::1 dev eth0";
/// A tunnel with addresses of both families, and what wg-quick(8) does for a full tunnel.
pub(crate) const WG_LINK: &str = "
    ip tuntap add wg0 mode tun; ip link set wg0 up
    ip addr add 10.8.0.2/24 dev wg0; ip addr add fd00:8::2/64 dev wg0 nodad";
pub(crate) const WG_RULES: &str = "
    for f in -4 -6; do
        ip $f route add default dev wg0 table 51820
        ip $f rule add not fwmark 51820 table 51820
        ip $f rule add table main suppress_prefixlength 0
    done";
pub(crate) const WG_RULES_DOWN: &str = "
    for f in -4 -6; do
        ip $f rule del table 51820
        ip $f rule del table main suppress_prefixlength 0
    done";
/// The firewall of wg-quick(8), in the words of its script.
pub(crate) const WG_FIREWALL: &str = r#"
    { for pf in "ip 10.8.0.2" "ip6 fd00:8::2"; do
        set -- $pf
        echo "add table $1 wg-quick-wg0"
        echo "add chain $1 wg-quick-wg0 preraw { type filter hook prerouting priority -300; }"
        echo "add chain $1 wg-quick-wg0 premangle { type filter hook prerouting priority -150; }"
        echo "add chain $1 wg-quick-wg0 postmangle { type filter hook postrouting priority -150; }"
        echo "add rule $1 wg-quick-wg0 preraw iifname != \"wg0\" $1 daddr $2 fib saddr type != local drop"
        echo "add rule $1 wg-quick-wg0 postmangle meta l4proto udp mark 51820 ct mark set mark"
        echo "add rule $1 wg-quick-wg0 premangle meta l4proto udp meta mark set ct mark"
    done; } | nft -f -"#;
/// A firewall that accepts replies, as desktops have it.
pub(crate) const STATEFUL: &str = r#"nft 'table inet host { chain input {
        type filter hook input priority 0;
        iifname "voicelane0" ct state established,related accept
        iifname "voicelane0" drop
    }; }'"#;
/// An IPsec VPN that takes all traffic and has no association yet.
pub(crate) const IPSEC: &str = "
    for any in 0.0.0.0/0 ::/0; do
        ip xfrm policy add src $any dst $any dir out priority 100 tmpl proto esp mode transport
        ip xfrm policy add src $any dst $any dir in priority 100 tmpl proto esp mode transport
    done";

pub(crate) fn index(name: &str) -> IfIndex {
    IfIndex(if_nametoindex(name).expect("the link is there"))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The TUN. The test reads and writes its packets instead of the engine.
pub(crate) struct Device(Iface);

impl Device {
    pub(crate) fn new() -> Self {
        let device =
            Iface::without_packet_info("voicelane0", Mode::Tun).expect("root can make a TUN");
        device.set_non_blocking().expect("a TUN can be polled");
        Self(device)
    }

    /// Closes the TUN and waits until it is gone: a program that another test starts may hold it a moment longer.
    fn close(self) {
        drop(self);
        let gone = (0..400).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            if_nametoindex("voicelane0").is_err()
        });
        assert!(gone, "a closed TUN goes");
    }

    /// Returns the next UDP packet to a port, if one comes.
    pub(crate) fn packet_to(&self, port: u16) -> Option<Vec<u8>> {
        let mut buffer = [0; 2000];
        for _ in 0..40 {
            match self.0.recv(&mut buffer) {
                Ok(length) => {
                    let packet = &buffer[..length];
                    let sliced = SlicedPacket::from_ip(packet).expect("an IP packet");
                    if let Some(TransportSlice::Udp(udp)) = sliced.transport
                        && udp.destination_port() == port
                    {
                        return Some(packet.to_vec());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    /// Sends a reply to a socket from `from`, at `to`.
    pub(crate) fn answer(&self, from: SocketAddr, to: SocketAddr) {
        let mut packet = Vec::new();
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            }
            _ => panic!("{from} and {to} are of two families"),
        };
        let builder = builder.udp(from.port(), to.port());
        builder
            .write(&mut packet, b"answer")
            .expect("a vector takes everything");
        self.0.send(&packet).expect("the TUN takes a packet");
    }

    /// Sends "port unreachable" to the sender of `packet`, at `to`.
    pub(crate) fn refuse(&self, packet: &[u8], to: IpAddr) {
        let mut error = Vec::new();
        match to {
            IpAddr::V4(to) => PacketBuilder::ipv4([203, 0, 113, 9], to.octets(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(
                    icmpv4::DestUnreachableHeader::Port,
                ))
                .write(&mut error, packet),
            IpAddr::V6(to) => PacketBuilder::ipv6(ip6("2001:db8:99::9"), to.octets(), 64)
                .icmpv6(Icmpv6Type::DestinationUnreachable(
                    icmpv6::DestUnreachableCode::Port,
                ))
                .write(&mut error, packet),
        }
        .expect("a vector takes everything");
        self.0.send(&error).expect("the TUN takes a packet");
    }
}

pub(crate) fn ip6(text: &str) -> [u8; 16] {
    match ip(text) {
        IpAddr::V6(addr) => addr.octets(),
        IpAddr::V4(_) => panic!("{text} is IPv4"),
    }
}

/// Returns a socket that waits for replies for a short time.
pub(crate) fn socket(local: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((ip(local), port)).expect("the address is ours");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("not zero");
    socket
}

pub(crate) fn hears(socket: &UdpSocket) -> bool {
    let mut buffer = [0; 100];
    match socket.recv(&mut buffer) {
        Ok(length) => &buffer[..length] == b"answer",
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn captures() -> Vec<Capture> {
    let capture = |ports: &str, prefixes: &[&str]| Capture {
        protocol: Protocol::Udp,
        ports: ports.parse().expect("ports"),
        prefixes: prefixes
            .iter()
            .map(|text| text.parse().expect("a prefix"))
            .collect(),
    };
    vec![
        capture("10000-60000", &["168.86.128.0/18", "2001:db8:86::/48"]),
        capture(
            "3478",
            &["168.86.128.0/18", "198.51.100.7/32", "2001:db8:86::/48"],
        ),
    ]
}

/// Traffic steering with its TUN and runtime directory, and an uplink selected from the observed state.
pub(crate) struct World {
    pub(crate) steering: TrafficSteering,
    pub(crate) device: Device,
    pub(crate) desired: Desired,
    pub(crate) runtime: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::after(TempDir::new().expect("a directory")).await
    }

    /// Returns a world with the runtime directory of a former one.
    pub(crate) async fn after(runtime: TempDir) -> Self {
        let device = Device::new();
        let tun = TunInterface {
            name: "voicelane0".to_owned(),
            index: index("voicelane0"),
            mtu: 1500,
        };
        let steering = TrafficSteering::open(runtime.path(), RoutingIds::default(), tun)
            .await
            .expect("prepared");
        let mut world = Self {
            steering,
            device,
            desired: Desired {
                tun: index("voicelane0"),
                uplinks: Uplinks::default(),
                captures: captures(),
                blocked: Vec::new(),
                marks: FirewallMarks::default(),
                clients: BTreeSet::new(),
                lookups: PortlessLookups::default(),
            },
            runtime,
        };
        world.desired.uplinks = world.uplinks().await.expect("an uplink");
        world
    }

    pub(crate) async fn uplinks(&self) -> Result<Uplinks, UplinkError> {
        let observed = self.steering.observe().await.expect("observed");
        choose(
            &observed,
            RoutingIds::default().protocol,
            &UplinkPreferences::default(),
        )
    }

    pub(crate) async fn reconcile(&mut self) -> SteeringReport {
        self.steering
            .reconcile(&self.desired)
            .await
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Applies the capture and asserts that the next plan is empty.
    pub(crate) async fn acquire(&mut self) -> SteeringReport {
        let report = self.reconcile().await;
        assert_eq!(self.reconcile().await.changes, [], "a second plan is empty");
        report
    }

    /// Reverts; returns the runtime directory.
    pub(crate) async fn revert(self) -> TempDir {
        let reverted = self.steering.revert().await;
        reverted.unwrap_or_else(|errors| panic!("{errors}"));
        self.device.close();
        self.runtime
    }

    /// Ends as after a kill: the descriptors close, and nothing is reverted.
    pub(crate) fn kill(self) -> TempDir {
        drop(self.steering);
        self.device.close();
        self.runtime
    }
}

/// Returns the interface of the kernel's routing decision.
pub(crate) fn device_of(query: &str) -> String {
    let answer = run(&format!("ip route get {query}"));
    let mut words = answer.split_whitespace().skip_while(|word| *word != "dev");
    words
        .nth(1)
        .unwrap_or_else(|| panic!("{query}: {answer}"))
        .to_owned()
}

/// Asserts that only media enters the TUN, that the LAN is reachable, and that all other traffic leaves by `rest`.
pub(crate) fn assert_capture(rest: &str) {
    for media in MEDIA {
        for port in [3478, 10_000, 34_567, 60_000] {
            assert_eq!(
                device_of(&format!("{media} ipproto udp dport {port}")),
                "voicelane0",
                "{media} {port}"
            );
        }
        for other in [
            "udp dport 3477",
            "udp dport 9999",
            "udp dport 60001",
            "udp dport 53",
            "tcp dport 20000",
        ] {
            assert_eq!(
                device_of(&format!("{media} ipproto {other}")),
                rest,
                "{media} {other}"
            );
        }
        // Sockets of the relay.
        let direct = format!("{media} oif eth0 mark 0x76000000 ipproto udp dport 20000");
        assert_eq!(device_of(&direct), "eth0");
    }
    assert_eq!(
        device_of("198.51.100.7 ipproto udp dport 3478"),
        "voicelane0"
    );
    let others = [
        "168.86.192.1",
        "168.86.127.255",
        "198.51.100.8",
        "2001:db8:85:ffff::1",
        "2001:db8:87::1",
    ];
    for other in others.iter().chain(&["198.51.100.7"]) {
        assert_eq!(
            device_of(&format!("{other} ipproto udp dport 20000")),
            rest,
            "{other}"
        );
    }
    for neighbour in ["192.0.2.77", "2001:db8:1::77"] {
        assert_eq!(
            device_of(&format!("{neighbour} ipproto udp dport 20000")),
            "eth0"
        );
    }
}

/// Returns all state that voicelane may change, without values that change by themselves.
pub(crate) fn state() -> Vec<String> {
    let state = run("
        ip rule; ip -6 rule
        ip route show table all; ip -6 route show table all | sed 's/ expires [0-9]*sec//'
        ip xfrm policy; nft list ruleset
        for s in /proc/sys/net/ipv[46]/conf/*/*; do
            case $s in */stable_secret|*voicelane0/*) ;; *) echo $s $(cat $s) ;; esac
        done");
    state.lines().map(str::to_owned).collect()
}

/// Returns the lines that only one of two states has.
pub(crate) fn differences(before: &[String], after: &[String]) -> Vec<String> {
    let only = |here: &[String], there: &[String], sign| {
        let lines = here.iter().filter(|line| !there.contains(line));
        lines
            .map(|line| format!("{sign}{line}"))
            .collect::<Vec<_>>()
    };
    [only(before, after, '-'), only(after, before, '+')].concat()
}

pub(crate) fn assert_unchanged(before: &[String]) {
    let after = state();
    assert!(before == after, "{:#?}", differences(before, &after));
}

pub(crate) fn priorities(family: &str) -> Vec<u32> {
    let rules = run(&format!("ip {family} rule"));
    let ours = rules.lines().filter(|line| line.ends_with("proto 118"));
    let mut found: Vec<_> = ours
        .map(|line| {
            line.split(':')
                .next()
                .and_then(|number| number.parse().ok())
                .expect("a number")
        })
        .collect();
    found.dedup();
    found
}
