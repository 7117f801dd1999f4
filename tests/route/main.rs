//! Capture and uplink against a real kernel: real links, rules and packets in namespaces, `ip route get` as the judge.

#[path = "support/netns.rs"]
mod netns;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
use etherparse::{icmpv4, icmpv6};
use netns::{in_namespace, run};
use nix::net::if_::if_nametoindex;
use tempfile::TempDir;
use tun_tap::{Iface, Mode};
use voicelane::engine::Alias;
use voicelane::net::IfIndex;
use voicelane::route::nft::masquerade;
use voicelane::route::plan::{Capture, Change, Desired, Numbers, Warning};
use voicelane::route::uplink::{Gateway, Uplink, UplinkError, Why, choose};
use voicelane::route::watch::Watch;
use voicelane::route::xfrm::{Exemption, Ipsec, exemptions};
use voicelane::route::{Report, Steering, Tun, cleanup};

/// A media server of each family, inside what is captured.
const MEDIA: [&str; 2] = ["168.86.128.1", "2001:db8:86::1"];

/// A link with addresses of both families; its far end stays in the namespace.
const LINK: &str = "
    ip link add eth0 type veth peer name far0
    for l in eth0 far0; do ip link set $l addrgenmode none; done
    ip link set eth0 up; ip link set far0 up
    ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8:1::2/64 dev eth0 nodad";
const DEFAULTS: &str = "
    ip route add default via 192.0.2.1 dev eth0
    ip -6 route add default via fe80::1 dev eth0";
/// A tunnel with addresses of both families, and what wg-quick(8) does for a full tunnel.
const WG_LINK: &str = "
    ip tuntap add wg0 mode tun; ip link set wg0 up
    ip addr add 10.8.0.2/24 dev wg0; ip addr add fd00:8::2/64 dev wg0 nodad";
const WG_RULES: &str = "
    for f in -4 -6; do
        ip $f route add default dev wg0 table 51820
        ip $f rule add not fwmark 51820 table 51820
        ip $f rule add table main suppress_prefixlength 0
    done";
const WG_RULES_DOWN: &str = "
    for f in -4 -6; do
        ip $f rule del table 51820
        ip $f rule del table main suppress_prefixlength 0
    done";
/// The firewall of wg-quick(8), in the words of its script.
const WG_FIREWALL: &str = r#"
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
/// An IPsec VPN that takes everything and has no association yet.
const IPSEC: &str = "
    for any in 0.0.0.0/0 ::/0; do
        ip xfrm policy add src $any dst $any dir out priority 100 tmpl proto esp mode transport
        ip xfrm policy add src $any dst $any dir in priority 100 tmpl proto esp mode transport
    done";

fn index(name: &str) -> IfIndex {
    IfIndex(if_nametoindex(name).expect("the link is there"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Our TUN, whose other side the test plays instead of the engine.
struct Device(Iface);

impl Device {
    fn new() -> Self {
        let device =
            Iface::without_packet_info("voicelane0", Mode::Tun).expect("root can make a TUN");
        device.set_non_blocking().expect("a TUN can be polled");
        Self(device)
    }

    /// The next UDP packet to a port, if one comes.
    fn packet_to(&self, port: u16) -> Option<Vec<u8>> {
        let mut buffer = [0; 2000];
        for _ in 0..40 {
            match self.0.recv(&mut buffer) {
                Ok(length) => {
                    let packet = &buffer[..length];
                    let sliced = SlicedPacket::from_ip(packet).expect("an IP packet");
                    match sliced.transport {
                        Some(TransportSlice::Udp(udp)) if udp.destination_port() == port => {
                            return Some(packet.to_vec());
                        }
                        _ => continue,
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    /// Answers a socket from `from`, at `to`.
    fn answer(&self, from: SocketAddr, to: SocketAddr) {
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

    /// Tells the sender of `packet`, at `to`, that the port is closed.
    fn refuse(&self, packet: &[u8], to: IpAddr) {
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

fn ip6(text: &str) -> [u8; 16] {
    match ip(text) {
        IpAddr::V6(addr) => addr.octets(),
        IpAddr::V4(_) => panic!("{text} is IPv4"),
    }
}

/// A socket that waits a moment for answers.
fn socket(local: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((ip(local), port)).expect("the address is ours");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("not zero");
    socket
}

fn hears(socket: &UdpSocket) -> bool {
    let mut buffer = [0; 100];
    match socket.recv(&mut buffer) {
        Ok(length) => &buffer[..length] == b"answer",
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn captures() -> Vec<Capture> {
    let capture = |ports: &str, prefixes: &[&str]| Capture {
        protocol: voicelane::net::Protocol::Udp,
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

/// A steering with its TUN and runtime directory, on an uplink chosen from what is there.
struct World {
    steering: Steering,
    device: Device,
    desired: Desired,
    runtime: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::after(TempDir::new().expect("a directory")).await
    }

    /// A world whose runtime directory was another's.
    async fn after(runtime: TempDir) -> Self {
        let device = Device::new();
        let tun = Tun {
            name: "voicelane0".to_owned(),
            index: index("voicelane0"),
            mtu: 1500,
        };
        let steering = Steering::open(runtime.path(), Numbers::default(), tun)
            .await
            .expect("prepared");
        let mut world = Self {
            steering,
            device,
            desired: Desired {
                tun: index("voicelane0"),
                uplink: None,
                captures: captures(),
            },
            runtime,
        };
        world.desired.uplink = Some(world.uplink().await.expect("an uplink"));
        world
    }

    async fn uplink(&self) -> Result<Uplink, UplinkError> {
        let observed = self.steering.observe().await.expect("observed");
        choose(&observed, Numbers::default().protocol, None)
    }

    async fn reconcile(&mut self) -> Report {
        self.steering
            .reconcile(&self.desired)
            .await
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Brings the capture into force and sees that nothing is left to do.
    async fn acquire(&mut self) -> Report {
        let report = self.reconcile().await;
        assert_eq!(self.reconcile().await.changes, [], "a second plan is empty");
        report
    }
}

/// The device that the kernel would send by.
fn device_of(query: &str) -> String {
    let answer = run(&format!("ip route get {query}"));
    let mut words = answer.split_whitespace().skip_while(|word| *word != "dev");
    words
        .nth(1)
        .unwrap_or_else(|| panic!("{query}: {answer}"))
        .to_owned()
}

/// Media, and nothing else, goes to our TUN; the LAN stays the LAN's; the rest goes to `rest`.
fn assert_capture(rest: &str) {
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
        // Our own sockets, as the relay makes them.
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

/// Everything that we may have touched, as other programs see it, without what passes by itself.
fn state() -> Vec<String> {
    let state = run("
        ip rule; ip -6 rule
        ip route show table all; ip -6 route show table all | sed 's/ expires [0-9]*sec//'
        ip xfrm policy; nft list ruleset
        for s in /proc/sys/net/ipv[46]/conf/*/*; do
            case $s in */stable_secret|*voicelane0/*) ;; *) echo $s $(cat $s) ;; esac
        done");
    state.lines().map(str::to_owned).collect()
}

/// The lines of two states that are only in one of them.
fn differences(before: &[String], after: &[String]) -> Vec<String> {
    let only = |here: &[String], there: &[String], sign| {
        let lines = here.iter().filter(|line| !there.contains(line));
        lines
            .map(|line| format!("{sign}{line}"))
            .collect::<Vec<_>>()
    };
    [only(before, after, '-'), only(after, before, '+')].concat()
}

fn assert_unchanged(before: &[String]) {
    let after = state();
    assert!(before == after, "{:#?}", differences(before, &after));
}

fn priorities(family: &str) -> Vec<u32> {
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

/// The uplink of a namespace that `setup` made, without a TUN of ours.
fn uplink_of(setup: &'static str) -> Result<Uplink, UplinkError> {
    in_namespace(move || async move {
        run(setup);
        let kernel = voicelane::route::netlink::Kernel::open().expect("a socket");
        let observed = kernel.observe().await.expect("observed");
        choose(&observed, Numbers::default().protocol, None)
    })
}

const TWO_LINKS: &str = "
    for n in 0 1; do
        ip link add eth$n type veth peer name far$n
        ip link set eth$n up; ip link set far$n up
        ip addr add 192.0.$n.2/24 dev eth$n; ip addr add 2001:db8:$n::2/64 dev eth$n nodad
    done
    ip tuntap add tun0 mode tun; ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 up
    ip link add br0 type bridge; ip link set br0 up";

#[test]
fn the_uplink_is_the_physical_way_out_whatever_a_vpn_did_to_the_routes() {
    let v4 = Some(Gateway::Via(ip("192.0.0.1")));
    let v6 = Some(Gateway::Via(ip("fe80::1")));
    let cases: [(&str, &str, Why, [Option<Gateway>; 2]); 8] = [
        (
            "ip route add default via 192.0.0.1",
            "eth0",
            Why::DefaultRoute,
            [v4, None],
        ),
        (
            "ip route add default via 192.0.1.1 metric 600; ip route add default via 192.0.0.1 metric 100",
            "eth0",
            Why::DefaultRoute,
            [v4, None],
        ),
        // OpenVPN, redirect-gateway def1 ipv6.
        (
            "ip route add default via 192.0.0.1; ip -6 route add default via fe80::1 dev eth0
             ip route add 203.0.113.9/32 via 192.0.0.1
             for p in 0.0.0.0/1 128.0.0.0/1; do ip route add $p via 10.8.0.1; done
             ip -6 route add 2000::/3 dev tun0",
            "eth0",
            Why::DefaultRoute,
            [v4, v6],
        ),
        // OpenVPN, redirect-gateway; vpnc-script.
        (
            "ip route add 203.0.113.9/32 via 192.0.0.1; ip route add default dev tun0; ip -6 route add default dev tun0",
            "eth0",
            Why::HostRoute,
            [v4, None],
        ),
        (
            "ip -6 route add 2001:db8:ff::9/128 via fe80::1 dev eth0; ip -6 route add default dev tun0",
            "eth0",
            Why::HostRoute,
            [None, v6],
        ),
        (
            "ip -6 route add default via fe80::1 dev eth0",
            "eth0",
            Why::DefaultRoute,
            [None, v6],
        ),
        (
            "ip route add default via 192.0.0.1 table 77; ip rule add table 77",
            "eth0",
            Why::OtherTable(voicelane::net::RouteTable(77)),
            [v4, None],
        ),
        // A router of the other family.
        (
            "ip -4 route add default via inet6 fe80::1 dev eth0; ip route add default dev tun0 metric 1",
            "eth0",
            Why::DefaultRoute,
            [v6, None],
        ),
    ];
    for (routes, name, why, gateways) in cases {
        let setup: &'static str = format!("{TWO_LINKS}\n{routes}").leak();
        let uplink = uplink_of(setup).unwrap_or_else(|error| panic!("{routes}: {error}"));
        assert_eq!((uplink.name.as_str(), uplink.why), (name, why), "{routes}");
        assert_eq!([uplink.gateway_v4, uplink.gateway_v6], gateways, "{routes}");
    }
}

#[test]
fn without_a_physical_way_out_the_error_names_what_there_is() {
    let setup = format!(
        "{TWO_LINKS}\nip route add default dev tun0; ip route add default via 192.0.0.1 metric 9\nip link set far0 down"
    );
    let error = uplink_of(setup.leak()).expect_err("no uplink");
    assert_eq!(
        error.to_string(),
        "no physical uplink: tun0 (IPv4) is a tunnel, eth0 (IPv4) has no carrier; name one with --uplink IFACE"
    );
    assert!(
        matches!(uplink_of(TWO_LINKS), Err(UplinkError::NotFound(rejected)) if rejected.is_empty())
    );
}

#[test]
fn what_was_acquired_is_reverted_to_the_byte() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
        // Objects that look like ours, each in one respect.
        run(
            "ip rule add pref 120 iif lo ipproto udp dport 3478 lookup 30317 protocol static
             ip rule add pref 121 lookup 4242 protocol 118
             ip route add 10.1.0.0/16 dev eth0 table 30318 protocol static
             ip route add 10.1.0.0/16 dev eth0 table 4242 protocol 118",
        );
        let before = state();
        let mut world = World::new().await;
        assert_ne!(world.acquire().await.changes, []);
        assert_capture("eth0");
        assert_eq!(run("cat /proc/sys/net/ipv4/conf/eth0/rp_filter"), "2\n");
        let mode = run(&format!(
            "stat -c %a {}/state.json",
            world.runtime.path().display()
        ));
        assert_eq!(mode, "600\n");
        let World {
            steering,
            device,
            runtime,
            ..
        } = world;
        steering
            .revert()
            .await
            .unwrap_or_else(|errors| panic!("{errors}"));
        drop(device);
        assert_unchanged(&before);
        assert_eq!(
            runtime.path().read_dir().expect("a directory").count(),
            0,
            "the journal is gone"
        );
    });
}

#[test]
fn after_a_kill_media_is_back_in_the_vpn_and_cleanup_takes_the_rest() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run(WG_LINK);
        run(WG_RULES);
        run(IPSEC);
        run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let before = state();
        let mut world = World::new().await;
        world.acquire().await;
        assert_eq!(
            device_of("168.86.128.1 ipproto udp dport 20000"),
            "voicelane0"
        );
        // A kill: no code runs, the descriptors close.
        let World {
            steering,
            device,
            runtime,
            ..
        } = world;
        drop(steering);
        drop(device);
        for media in MEDIA {
            assert_eq!(
                device_of(&format!("{media} ipproto udp dport 20000")),
                "wg0"
            );
        }
        assert_ne!(state(), before, "something is left");
        let removed = cleanup(runtime.path(), &Numbers::default())
            .await
            .unwrap_or_else(|errors| panic!("{errors}"));
        assert_unchanged(&before);
        let rules = removed
            .changes
            .iter()
            .filter(|change| matches!(change, Change::DeleteRule(_)));
        assert_eq!(
            rules.count(),
            6,
            "one direct and two capturing rules per family"
        );
        assert!(removed.exemptions > 0);
        assert_eq!(removed.settings.len(), 1);
        assert_eq!(
            cleanup(runtime.path(), &Numbers::default())
                .await
                .expect("nothing to do"),
            Default::default()
        );
    });
}

#[test]
fn a_start_after_a_kill_takes_the_leftovers_over() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
        let before = state();
        let mut killed = World::new().await;
        killed.acquire().await;
        let World {
            steering,
            device,
            runtime,
            ..
        } = killed;
        drop(steering);
        drop(device);
        let mut world = World::after(runtime).await;
        world.acquire().await;
        assert_capture("eth0");
        let World {
            steering, device, ..
        } = world;
        steering
            .revert()
            .await
            .unwrap_or_else(|errors| panic!("{errors}"));
        drop(device);
        assert_unchanged(&before);
    });
}

#[test]
fn capture_wins_when_the_vpn_starts_first() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run(WG_LINK);
        run(WG_RULES);
        let mut world = World::new().await;
        assert_eq!(world.acquire().await.warnings, []);
        assert_eq!(priorities("-4"), [100]);
        assert_capture("wg0");
    });
}

#[test]
fn capture_wins_again_when_the_vpn_starts_later() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run(WG_LINK);
        let mut world = World::new().await;
        world.acquire().await;
        assert_capture("eth0");
        let mut watch = Watch::open().expect("a watch");
        for _ in 0..3 {
            run(WG_RULES.replace("route add", "route replace").as_str());
            assert_eq!(
                device_of("168.86.128.1 ipproto udp dport 20000"),
                "wg0",
                "the VPN got ahead"
            );
            watch.next_change().await.expect("a notice");
            world.acquire().await;
            assert_eq!((priorities("-4"), priorities("-6")), (vec![97], vec![97]));
            assert_capture("wg0");
            run(WG_RULES_DOWN);
            watch.next_change().await.expect("a notice");
            world.acquire().await;
            assert_eq!(
                (priorities("-4"), priorities("-6")),
                (vec![100], vec![100]),
                "back in its place"
            );
            assert_capture("eth0");
        }
    });
}

#[test]
fn what_another_program_flushes_is_put_back_and_what_it_made_stays() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        let mut world = World::new().await;
        world.acquire().await;
        let mut watch = Watch::open().expect("a watch");
        run("ip rule flush; ip -6 rule flush; ip route flush table 30317
             ip rule add pref 32766 lookup main; ip -6 rule add pref 32766 lookup main
             ip rule add pref 30 from 10.99.0.0/16 lookup 99; ip rule add pref 0 to 10.98.0.0/16 lookup 99");
        watch.next_change().await.expect("a notice");
        let report = world.acquire().await;
        assert!(matches!(&report.warnings[..], [Warning::Behind(rule)] if rule.table.0 == 99));
        assert_eq!((priorities("-4"), priorities("-6")), (vec![29], vec![100]));
        assert_capture("eth0");
        assert!(run("ip rule").starts_with("0:\tfrom all lookup local\n"));
        assert!(run("ip rule").contains("30:\tfrom 10.99.0.0/16 lookup 99"));
    });
}

#[test]
fn a_new_policy_and_a_lost_uplink_change_what_is_captured() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        let mut world = World::new().await;
        world.acquire().await;
        world.desired.captures.remove(1);
        world.desired.captures[0]
            .prefixes
            .push("10.77.0.0/16".parse().expect("a prefix"));
        world.acquire().await;
        assert_eq!(device_of("10.77.0.1 ipproto udp dport 20000"), "voicelane0");
        assert_eq!(device_of("168.86.128.1 ipproto udp dport 3478"), "eth0");

        run("ip -6 route del default");
        world.desired.uplink = Some(world.uplink().await.expect("an IPv4 uplink"));
        world.acquire().await;
        assert_eq!(
            run("ip -6 rule | grep -c 'proto 118' || true"),
            "0\n",
            "IPv6 has no way out"
        );
        assert_eq!(device_of("10.77.0.1 ipproto udp dport 20000"), "voicelane0");

        run("ip route replace default via 192.0.2.99 dev eth0");
        world.desired.uplink = Some(world.uplink().await.expect("an IPv4 uplink"));
        world.acquire().await;
        assert!(run("ip route show table 30316").starts_with("default via 192.0.2.99 dev eth0"));

        world.desired.uplink = None;
        world.acquire().await;
        assert_eq!(run("ip rule | grep -c 'proto 118' || true"), "0\n");
    });
}

#[test]
fn the_tun_carries_both_families_and_lends_no_address() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let mut world = World::new().await;
        world.acquire().await;
        assert!(run("ip route get 168.86.128.1 ipproto udp dport 20000").contains("src 192.0.2.2"));
        assert_eq!(run("ip -6 -o addr show dev voicelane0"), "");
        for (local, media) in ["192.0.2.2", "2001:db8:1::2"].into_iter().zip(MEDIA) {
            let app = socket(local, 40_000);
            app.send_to(b"media", (ip(media), 20_000)).expect("sent");
            assert!(world.device.packet_to(20_000).is_some(), "{media}");
            world
                .device
                .answer((ip(media), 20_000).into(), (ip(local), 40_000).into());
            assert!(hears(&app), "{media}");
        }
    });
}

#[test]
fn an_ipsec_policy_for_everything_leaves_media_alone_and_keeps_the_rest() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        let mut world = World::new().await;
        let exchange = |device: &Device, local: &str, media: &str, port: u16| {
            let app = socket(local, 40_000);
            let sent = app.send_to(b"media", (ip(media), port));
            let captured = sent.is_ok() && device.packet_to(port).is_some();
            device.answer((ip(media), port).into(), (ip(local), 40_000).into());
            (captured, hears(&app))
        };
        world.acquire().await;
        let mut watch = Watch::open().expect("a watch");
        run(IPSEC);
        // Every port goes to the TUN now, so that IPsec alone tells them apart.
        let everything = "for f in -4 -6; do ip $f rule add pref 1 iif lo ipproto udp lookup 7; ip $f route add default dev voicelane0 table 7; done";
        run(everything);
        assert_eq!(
            exchange(&world.device, "2001:db8:1::2", MEDIA[1], 20_000),
            (false, false),
            "the policy catches IPv6"
        );
        watch.next_change().await.expect("a notice of the policies");
        world.acquire().await;
        for (local, media) in ["192.0.2.2", "2001:db8:1::2"].into_iter().zip(MEDIA) {
            for port in [3478, 10_000, 20_000, 60_000] {
                assert_eq!(
                    exchange(&world.device, local, media, port),
                    (true, true),
                    "{media} {port}"
                );
            }
        }
        for (media, port) in [
            (MEDIA[1], 9_999),
            (MEDIA[1], 60_001),
            (MEDIA[1], 53),
            ("2001:db8:87::1", 20_000),
        ] {
            assert_eq!(
                exchange(&world.device, "2001:db8:1::2", media, port),
                (false, false),
                "{media} {port} stays with IPsec"
            );
        }
        let leases = run("ip -s xfrm policy | grep -c 'expire add: soft 20(sec), hard 60(sec)'");
        let ours = run("ip xfrm policy | grep -c 'priority 0 '");
        assert_eq!(leases, ours, "every exemption lapses by itself");
        run(
            "ip xfrm policy del src ::/0 dst ::/0 dir out; ip xfrm policy del src ::/0 dst ::/0 dir in",
        );
        watch.next_change().await.expect("a notice of the policies");
        world.acquire().await;
        assert_eq!(run("ip xfrm policy | grep -c 'priority 0 ' || true"), "0\n");
    });
}

#[test]
fn exemptions_are_leases_that_are_renewed_when_they_grow_old() {
    in_namespace(|| async {
        run(IPSEC);
        let ipsec = Ipsec::open()
            .expect("a socket")
            .expect("a kernel with IPsec");
        let wanted = exemptions(&captures());
        let indexes = || run("ip -s xfrm policy | grep -o 'index 1979[0-9]* .*priority 0 '");
        let reconcile = async |wanted: &[Exemption], age| {
            let now = SystemTime::now() + Duration::from_secs(age);
            ipsec
                .reconcile(wanted, now)
                .await
                .unwrap_or_else(|error| panic!("{error}"))
        };
        assert_eq!(reconcile(&wanted, 0).await, wanted.len());
        let first = indexes();
        assert_eq!(first.lines().count(), wanted.len());
        assert_eq!(reconcile(&wanted, 0).await, 0);
        assert_eq!(reconcile(&wanted, 30).await, wanted.len());
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&indexes()), sorted(&first));
        // The same packets as one of ours, but somebody else's policy.
        run(
            "ip xfrm policy add src ::/0 dst 2001:db8:86::/48 proto udp dport 3478 dir out priority 7 if_id 5",
        );
        assert_eq!(reconcile(&[], 0).await, wanted.len());
        assert!(run("ip xfrm policy").contains("priority 7 "));
    });
}

#[test]
fn a_watch_that_lost_notices_still_tells_that_something_changed() {
    in_namespace(|| async {
        run(LINK);
        let mut watch = Watch::open().expect("a watch");
        run("seq 5000 | sed 's/.*/route add 10.0.0.0\\/8 dev eth0 metric &/' | ip -batch -");
        watch.next_change().await.expect("an overflow is a change");
        run("ip rule add pref 77 lookup 77");
        watch.next_change().await.expect("and the watch goes on");
    });
}

#[test]
fn replies_reach_the_vpn_address_past_its_anti_spoofing_rule() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run(WG_LINK);
        run(WG_RULES);
        run(WG_FIREWALL);
        let theirs = run("nft list table ip wg-quick-wg0; nft list table ip6 wg-quick-wg0");
        let mut world = World::new().await;
        let aliases = world.acquire().await.aliases;
        let pairs: Vec<_> = aliases
            .iter()
            .map(|Alias { real, alias }| (*real, *alias))
            .collect();
        assert_eq!(
            pairs,
            [
                (ip("10.8.0.2"), ip("250.8.0.2")),
                (ip("fd00:8::2"), ip("100::2"))
            ]
        );
        assert!(world.steering.without_aliases().is_none());
        for (Alias { real, alias }, media) in aliases.into_iter().zip(MEDIA) {
            let server = SocketAddr::new(ip(media), 20_000);
            let browser = socket(&real.to_string(), 40_000);
            browser.send_to(b"media", server).expect("sent");
            let packet = world.device.packet_to(20_000).expect("captured");
            world.device.answer(server, (real, 40_000).into());
            assert!(!hears(&browser), "{real}: the rule is in force");
            world.device.answer(server, (alias, 40_000).into());
            assert!(hears(&browser), "{real} by {alias}");
            assert_eq!(
                browser.peer_addr().map_err(|error| error.kind()),
                Err(ErrorKind::NotConnected)
            );

            browser.connect(server).expect("connected");
            world.device.refuse(&packet, alias);
            let error = browser
                .recv(&mut [0; 100])
                .map_err(|error: io::Error| error.kind());
            assert_eq!(
                error,
                Err(ErrorKind::ConnectionRefused),
                "an ICMP error passes too"
            );
        }
        assert_eq!(
            run("nft list table ip wg-quick-wg0; nft list table ip6 wg-quick-wg0"),
            theirs
        );
        drop(world.steering);
        assert_eq!(
            run("nft list tables | grep -c voicelane || true"),
            "0\n",
            "the table went with its owner"
        );
    });
}

#[test]
fn masquerading_gives_what_leaves_the_address_of_its_link() {
    in_namespace(|| async {
        run(LINK);
        run("ip addr add 10.7.0.1/32 dev lo; ip addr add fd00:7::1/128 dev lo nodad
             ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0
             ip neigh add 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev eth0
             nft 'table netdev seen { chain arriving {
                 type filter hook ingress device far0 priority 0;
                 ip saddr 10.7.0.1 udp dport 9 counter comment \"inside\"; ip6 saddr fd00:7::1 udp dport 9 counter comment \"inside\"
                 ip saddr 192.0.2.2 udp dport 9 counter comment \"outside\"; ip6 saddr 2001:db8:1::2 udp dport 9 counter comment \"outside\"
             }; }'");
        let seen = |side: &str| {
            run(&format!(
                "nft list table netdev seen | grep {side} | grep -o 'packets [0-9]*'"
            ))
        };
        let send = |port| {
            for (local, remote) in [("10.7.0.1", "192.0.2.1"), ("fd00:7::1", "2001:db8:1::1")] {
                socket(local, port)
                    .send_to(b"media", (ip(remote), 9))
                    .expect("sent");
            }
        };
        send(40_000);
        assert_eq!(
            (seen("inside"), seen("outside")),
            (
                "packets 1\npackets 1\n".into(),
                "packets 0\npackets 0\n".into()
            )
        );
        let table = masquerade("eth0").unwrap_or_else(|error| panic!("{error}"));
        send(40_001);
        assert_eq!(
            (seen("inside"), seen("outside")),
            (
                "packets 1\npackets 1\n".into(),
                "packets 1\npackets 1\n".into()
            )
        );
        drop(table);
        assert!(!run("nft list tables").contains("masquerade"));
    });
}
