//! A branch gateway: clients behind it, a real VPN on it that takes everything, and their media past the VPN.
//!
//! ```text
//!  client-a .2 --+
//!  client-b .3 --+-- lan0 (bridge) 10.9.0.1, fd09::1     the lab's laptop is the gateway -- wlan0 and the VPN
//!  client-c .2 ----- lan1          10.9.1.1, fd09:1::1
//! ```

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::addresses::{self as at, DualAddress};
use crate::support::caller::{ANSWER_TIME, Family, icmp, ping, probe, tcp_exchange, udp};
use crate::support::echo::ANSWER_CLASS;
use crate::support::namespace::Namespace;
use crate::support::program::PATIENCE;
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane, config_with_tcp};
use crate::support::vpn::{Vpn, VpnKind};
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken, UPLINK};
use socket2::SockRef;
use voicelane::control::EventKind;
use voicelane::lab::FrameCapture;
use voicelane::lab::unique_number;
use voicelane::lab::{Frame, FrameDirection, FrameTransport};

/// A client's only link.
const LINK: &str = "eth0";

/// Of the internet's media hosts, a port that nobody serves.
const CLOSED_PORT: u16 = 30_000;

/// Addresses that the LAN does not lead back to.
const FOREIGN: [&str; 2] = ["10.77.0.5", "fd77::5"];

const GATEWAY: &str = "[gateway]\ninterfaces = [\"lan0\"]\n";

/// A machine behind the gateway.
struct Client {
    namespace: Namespace,
    addresses: DualAddress,
}

impl Client {
    /// Plugs a client in at a link of the gateway's, which the gateway's side then is; a bridge takes it if there is one.
    fn new(
        lab: &Lab,
        role: &str,
        (link, bridge): (&str, Option<&str>),
        net: u16,
        host: u8,
    ) -> Self {
        let namespace = Namespace::new(unique_number(), role);
        let third = u8::try_from(net).expect("a small number");
        let v6 = |host| Ipv6Addr::new(0xfd09, net, 0, 0, 0, 0, 0, host);
        let (v4, router4) = (
            Ipv4Addr::new(10, 9, third, host),
            Ipv4Addr::new(10, 9, third, 1),
        );
        let addresses = DualAddress {
            v4,
            v6: v6(u16::from(host)),
        };
        let (v6, router6) = (addresses.v6, v6(1));
        lab.laptop.ip(&format!(
            "link add {link} type veth peer name {LINK} netns {}",
            namespace.name()
        ));
        let routers = format!(
            "addr replace {router4}/24 dev {0}\naddr replace {router6}/64 dev {0} nodad\nlink set {0} up",
            bridge.unwrap_or(link)
        );
        lab.laptop.ip(&match bridge {
            Some(bridge) => format!("link set {link} master {bridge} up\n{routers}"),
            None => routers,
        });
        namespace.ip(&format!(
            "addr add {v4}/24 dev {LINK}\naddr add {v6}/64 dev {LINK} nodad\nlink set {LINK} up\n\
             route add default via {router4}\nroute add ::/0 via {router6}"
        ));
        namespace.set("ipv4/ping_group_range", "0 2147483647");
        for router in [IpAddr::from(router4), router6.into()] {
            namespace.run(&format!("ping -c 1 -W 5 {router}"));
        }
        Self {
            namespace,
            addresses,
        }
    }

    fn udp(&self, family: Family, port: u16) -> UdpSocket {
        udp(&self.namespace, self.addresses.at(family, port))
    }
}

/// A site: the lab with its gateway, clients, and no VPN yet.
struct Site {
    a: Client,
    b: Client,
    c: Client,
    lab: Lab,
}

impl Site {
    /// Whatever clients send beyond the gateway gets its address, whichever way it leaves: a rule for the VPN that asks
    /// for no interface, as many have it.
    fn new() -> Self {
        let lab = Lab::new();
        lab.laptop.ip("link add lan0 type bridge");
        // As careful routers are: a source must be where it comes from.
        lab.laptop.set("ipv4/conf/all/rp_filter", "1");
        lab.laptop.set("ipv4/ip_forward", "1");
        lab.laptop.set("ipv6/conf/all/forwarding", "1");
        lab.laptop.nft(
            "table inet site {
                 chain out {
                     type nat hook postrouting priority srcnat
                     ip saddr 10.9.0.0/16 masquerade
                     ip6 saddr fd09::/16 masquerade
                 }
             }",
        );
        Self {
            a: Client::new(&lab, "client-a", ("port1", Some("lan0")), 0, 2),
            b: Client::new(&lab, "client-b", ("port2", Some("lan0")), 0, 3),
            c: Client::new(&lab, "client-c", ("lan1", None), 1, 2),
            lab,
        }
    }

    fn with_vpn() -> (Self, Vpn) {
        let site = Self::new();
        let vpn = site.lab.start_vpn(VpnKind::WgQuick);
        (site, vpn)
    }

    fn serve(&self, config: &str) -> Voicelane {
        Home::new(&self.lab.laptop, config).start()
    }

    /// Which way a client's probes to every kind of destination go: media, another port, another host, TCP, an echo.
    fn ways(&self, client: &Client, family: Family) -> [PathTaken; 5] {
        let socket = client.udp(family, 0);
        let asked = [at::MEDIA, at::OTHER].map(|host| host.at(family, MEDIA_PORT));
        let other_port = at::OTHER.at(family, 53);
        let [media, host] = asked.map(|to| self.lab.exchange(&socket, to).0);
        let (port, _) = self.lab.exchange(&socket, other_port);
        let tcp = tcp_exchange(&client.namespace, at::MEDIA.at(family, MEDIA_PORT));
        let echo = probe();
        let pings = icmp(&client.namespace, family);
        ping(&pings, at::MEDIA.of(family), &echo).expect("there is a route");
        let [tcp, echo] = [tcp, echo].map(|payload| self.lab.settled_path(&payload));
        [media, host, port, tcp, echo]
    }
}

/// Sends so many bytes that begin with a probe, waits for all of them to come back, and gives the probe. A path whose MTU
/// is not yet known may lose a few.
fn ask_at_length(socket: &UdpSocket, to: SocketAddr, length: usize) -> String {
    let payload = probe();
    let mut bytes = payload.clone().into_bytes();
    bytes.resize(length, b'.');
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 1 << 16];
    let mut again = Instant::now();
    loop {
        if again <= Instant::now() {
            socket.send_to(&bytes, to).expect("there is a route");
            again = Instant::now() + ANSWER_TIME;
        }
        match socket.recv_from(&mut buffer) {
            Ok((got, from)) if from == to && buffer[..got] == bytes => return payload,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{length} bytes to {to}: {error}"),
        }
        assert!(Instant::now() < deadline, "{length} bytes to {to} are lost");
    }
}

/// Waits until a question is answered by this way.
fn wait_for_way(site: &Site, socket: &UdpSocket, to: SocketAddr, wanted: PathTaken) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let payload = probe();
        let _ = socket.send_to(payload.as_bytes(), to);
        let answer = crate::support::caller::answer(socket, &payload);
        let path = site.lab.path_of(&payload);
        if path == wanted && matches!(answer, Ok(Some(from)) if from == to) {
            return;
        }
        assert!(Instant::now() < deadline, "{to} by {path:?}: {answer:?}");
    }
}

#[test]
fn client_media_leaves_directly_and_other_traffic_stays_in_the_vpn() {
    let site = Site::new();
    let (lab, everything) = (&site.lab, [&site.a, &site.b, &site.c]);
    // First the witness proves that it can see what it is about to deny.
    for family in Family::BOTH {
        assert_eq!(site.ways(&site.a, family), [PathTaken::Direct; 5], "no VPN");
    }
    let vpn = lab.start_vpn(VpnKind::WgQuick);
    for family in Family::BOTH {
        assert_eq!(
            site.ways(&site.a, family),
            [PathTaken::Tunnel; 5],
            "the VPN"
        );
    }
    let (before, start) = (lab.laptop.dump(), Instant::now());
    let voicelane = site.serve(&format!("{CONFIG}{GATEWAY}"));

    let tunnel = PathTaken::Tunnel;
    let served = [PathTaken::Direct, tunnel, tunnel, tunnel, tunnel];
    for family in Family::BOTH {
        for client in [&site.a, &site.b] {
            assert_eq!(site.ways(client, family), served, "{family:?}");
        }
        assert_eq!(site.ways(&site.c, family), [tunnel; 5], "behind lan1");
        // The gateway's own media is captured as ever.
        let own = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        assert_eq!(
            lab.exchange(&own, at::MEDIA.at(family, MEDIA_PORT)).0,
            PathTaken::Direct
        );
    }
    // Two clients with the same port, at the same host: each has its own way and gets its own answers.
    for family in Family::BOTH {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let sockets = [&site.a, &site.b].map(|client| client.udp(family, 15_000));
        let payloads = [0, 1, 0, 1].map(|one| lab.exchange(&sockets[one], to).1);
        for payload in &payloads {
            lab.assert_media(payload, to, None);
        }
        let ports = payloads.map(|it| lab.on_uplink(&it)[0].source_port());
        assert_eq!((ports[0], ports[1]), (ports[2], ports[3]));
        assert_ne!(ports[0], ports[1]);
        assert_eq!(ports[0], Some(15_000), "kept where it is free");
    }
    // Of all that left by the uplink since, everything is the VPN's or media.
    let strangers = lab.on_laptop.frames(|frame| {
        let media = [at::MEDIA, at::MEDIA_2, at::TEST_HOST];
        let known = media.iter().chain([&at::VPN_SERVER]);
        let mut known = known.flat_map(|host| [IpAddr::from(host.v4), host.v6.into()]);
        // Neighbour discovery (RFC 4861) and multicast listener reports (RFC 3810), which no router passes on.
        let is_neighbourly = matches!(
            frame.headers.transport,
            FrameTransport::Icmp(133..=136 | 143, 0)
        );
        frame.at >= start
            && frame.interface == UPLINK
            && frame.direction == FrameDirection::Out
            && !is_neighbourly
            && !known.any(|it| it == frame.headers.to)
    });
    assert!(strangers.is_empty(), "{strangers:#?}");

    let status = voicelane.status();
    let clients = serde_json::json!({ "lan0": ["ipv4", "ipv6"] });
    assert_eq!(status["status"]["clients"], clients);
    assert_eq!(voicelane.warnings(), "[]");
    // Nor did anything else enter the TUN, but what a router says to its neighbours on every link.
    let strangers = lab.on_laptop.frames(|frame| {
        let known = [at::MEDIA, at::MEDIA_2].map(|host| [IpAddr::from(host.v4), host.v6.into()]);
        frame.interface == TUN
            && frame.direction == FrameDirection::Out
            && !known.as_flattened().contains(&frame.headers.to)
    });
    let is_listener_report =
        |frame: &Frame| frame.headers.transport == FrameTransport::Icmp(143, 0);
    assert!(strangers.iter().all(is_listener_report), "{strangers:#?}");

    // Another interface by a reload, and none but the policy's.
    voicelane.configure(&format!("{CONFIG}[gateway]\ninterfaces = [\"lan1\"]\n"));
    assert!(voicelane.reload().status.success());
    for family in Family::BOTH {
        assert_eq!(site.ways(&site.a, family), [tunnel; 5], "no longer served");
        assert_eq!(site.ways(&site.c, family), served, "served now");
    }
    voicelane.stop();
    for (client, family) in everything
        .into_iter()
        .zip([Family::V4, Family::V6, Family::V4])
    {
        assert_eq!(site.ways(client, family), [tunnel; 5], "all is over");
    }
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
    vpn.stop(&lab.laptop, &lab.gateway);
}

#[test]
fn large_client_datagrams_are_fragmented_both_ways() {
    let (site, _vpn) = Site::with_vpn();
    // A link that takes less than the TUN.
    for (namespace, link) in [
        (&site.lab.laptop, "port1"),
        (&site.lab.laptop, "port2"),
        (&site.a.namespace, LINK),
        (&site.b.namespace, LINK),
        (&site.lab.laptop, "lan0"),
    ] {
        namespace.ip(&format!("link set {link} mtu 1400"));
    }
    let voicelane = site.serve(&format!("{CONFIG}{GATEWAY}"));
    for family in Family::BOTH {
        let socket = site.a.udp(family, 0);
        let (media, other) = (
            at::MEDIA.at(family, MEDIA_PORT),
            at::OTHER.at(family, MEDIA_PORT),
        );
        // What the TUN takes whole and the client's link does not; and what takes many fragments.
        for length in [1_420, 4_000, 20_000] {
            let payload = ask_at_length(&socket, media, length);
            assert_eq!(
                site.lab.path_of(&payload),
                PathTaken::Direct,
                "{family:?} {length}"
            );
            let payload = ask_at_length(&socket, other, length);
            assert_eq!(
                site.lab.path_of(&payload),
                PathTaken::Tunnel,
                "{family:?} {length}"
            );
        }
    }
    let status = voicelane.status();
    let reassembled = status["status"]["reassembled"].as_u64();
    // The smallest may stay whole on its way from link to link.
    assert!(reassembled >= Some(4), "{status:#}");
}

#[test]
fn a_client_has_a_limit_and_answers_are_remarked() {
    let (site, _vpn) = Site::with_vpn();
    let lab = &site.lab;
    let config = format!(
        "{}{GATEWAY}mappings_per_client = 3\nconnections_per_client = 2\nremark = \"EF\"\n",
        config_with_tcp("443")
    );
    let voicelane = site.serve(&config);
    let on_client = FrameCapture::start(&site.a.namespace).expect("root may capture");
    for family in Family::BOTH {
        let media = at::MEDIA.at(family, MEDIA_PORT);
        let sockets = [(); 3].map(|()| site.a.udp(family, 0));
        for socket in &sockets {
            let (path, payload) = lab.exchange(socket, media);
            assert_eq!(path, PathTaken::Direct);
            let back = on_client.carrying(&payload);
            let back = back.iter().find(|it| it.direction == FrameDirection::In);
            let class = back.map(|it| it.headers.class);
            assert_eq!(class, Some(46 << 2 | ANSWER_CLASS & 3), "EF, ECN kept");
        }
        // RFC 6888 REQ-4, REQ-5: one more is refused, and the neighbour has its own share.
        let one_more = site.a.udp(family, 0);
        one_more.connect(media).expect("a route");
        one_more.send(b"too much").expect("it can be sent");
        assert!(one_more.recv(&mut [0; 8]).is_err());
        lab.exchange(&site.b.udp(family, 0), media);
        // What stays in the VPN is marked as it came.
        let (path, payload) = lab.exchange(&site.a.udp(family, 0), at::OTHER.at(family, 53));
        let back = on_client.carrying(&payload);
        let back = back.iter().find(|it| it.direction == FrameDirection::In);
        assert_eq!(path, PathTaken::Tunnel);
        assert_ne!(back.map(|it| it.headers.dscp()), Some(46));
    }
    assert_eq!(
        voicelane.drops("outbound", "too_many_mappings_of_address"),
        2
    );
    // Although the firewall translates whatever leaves, the engine knows clients by their own addresses.
    let inside = voicelane.status()["status"]["mappings"].to_string();
    for address in [site.a.addresses, site.b.addresses] {
        assert!(inside.contains(&format!("{}:", address.v4)), "{inside}");
        assert!(inside.contains(&format!("[{}]:", address.v6)), "{inside}");
    }

    // TCP of a rule, and what no rule names.
    for family in Family::BOTH {
        let payload = tcp_exchange(&site.b.namespace, at::MEDIA.at(family, 443));
        assert_eq!(lab.path_of(&payload), PathTaken::Direct);
        assert_eq!(lab.on_uplink(&payload)[0].headers.dscp(), 40);
        let payload = tcp_exchange(&site.b.namespace, at::OTHER.at(family, 443));
        assert_eq!(lab.path_of(&payload), PathTaken::Tunnel);
    }
}

#[test]
fn the_gateway_forwards_as_a_router() {
    let (site, _vpn) = Site::with_vpn();
    let lab = &site.lab;
    let voicelane = site.serve(&format!("{CONFIG}{GATEWAY}"));
    let on_client = FrameCapture::start(&site.a.namespace).expect("root may capture");
    for family in Family::BOTH {
        let (media, closed) = (
            at::MEDIA.at(family, MEDIA_PORT),
            at::MEDIA.at(family, CLOSED_PORT),
        );
        // RFC 1812 section 5.3.1, RFC 4443 section 3.3: the last hop is told by the gateway itself.
        let last_hop = site.a.udp(family, 0);
        let options = SockRef::from(&last_hop);
        let limited = match family {
            Family::V4 => options.set_ttl_v4(1),
            Family::V6 => options.set_unicast_hops_v6(1),
        };
        limited.expect("it is a hop limit");
        let payload = probe();
        last_hop
            .send_to(payload.as_bytes(), media)
            .expect("a route");
        let exceeded = FrameTransport::Icmp(family.pick(11, 3), 0);
        let deadline = Instant::now() + PATIENCE;
        let told = |frame: &Frame| {
            frame.direction == FrameDirection::In && frame.headers.transport == exceeded
        };
        while on_client.frames(told).is_empty() {
            assert!(Instant::now() < deadline, "nobody tells of the last hop");
        }
        let router = on_client.frames(told)[0].headers.from;
        let expected = family.pick(
            Ipv4Addr::new(10, 9, 0, 1).into(),
            Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1).into(),
        );
        assert_eq!(
            (router, lab.path_of(&payload)),
            (expected, PathTaken::Neither)
        );

        // What the far side refuses is told to the client.
        let refused = site.a.udp(family, 0);
        refused.set_read_timeout(Some(PATIENCE)).expect("not zero");
        refused.connect(closed).expect("a route");
        refused.send(b"anybody?").expect("it can be sent");
        let error = refused.recv(&mut [0; 8]).expect_err("nobody");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        // An address that the LAN does not lead back to is none of a client's: as without us.
        let (foreign, bits) = family.pick((FOREIGN[0], 32), (FOREIGN[1], 128));
        let nodad = family.pick("", "nodad");
        site.a
            .namespace
            .ip(&format!("addr add {foreign}/{bits} dev {LINK} {nodad}"));
        let source = SocketAddr::new(foreign.parse().expect("an address"), 0);
        let payload = probe();
        udp(&site.a.namespace, source)
            .send_to(payload.as_bytes(), media)
            .expect("a route");
        thread::sleep(Duration::from_millis(200));
        let path = lab.path_of(&payload);
        assert!(
            matches!(path, PathTaken::Tunnel | PathTaken::Neither),
            "{path:?}"
        );
    }
    let inside = voicelane.status()["status"]["mappings"].to_string();
    for foreign in FOREIGN {
        assert!(!inside.contains(foreign), "{inside}");
    }
}

#[test]
fn client_calls_use_the_vpn_after_the_gateway_is_killed() {
    let (site, _vpn) = Site::with_vpn();
    let families = Family::BOTH.into_iter().cycle().take(12);
    let sockets = families.map(|family| {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let socket = site.a.udp(family, 0);
        // The connection that the VPN's translation remembers must not keep the call in the VPN either.
        assert_eq!(site.lab.exchange(&socket, to).0, PathTaken::Tunnel);
        (socket, to)
    });
    let sockets: Vec<_> = sockets.collect();
    let voicelane = site.serve(&format!("{CONFIG}{GATEWAY}"));
    for (socket, to) in &sockets {
        assert_eq!(site.lab.exchange(socket, *to).0, PathTaken::Direct);
    }
    // Packets are under way at every moment of the end: none of them may leave behind what keeps its call from the VPN.
    let flood = Arc::new(AtomicBool::new(true));
    let senders = sockets.iter().map(|(socket, to)| {
        let (socket, to) = (socket.try_clone().expect("a descriptor"), *to);
        let flood = Arc::clone(&flood);
        thread::spawn(move || {
            while flood.load(Ordering::Relaxed) {
                // What cannot leave now is not missed.
                let _ = socket.send_to(b"flood", to);
                thread::sleep(Duration::from_micros(500));
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    thread::sleep(Duration::from_millis(50));
    let home = voicelane.kill();
    thread::sleep(Duration::from_millis(50));
    flood.store(false, Ordering::Relaxed);
    for sender in senders {
        sender.join().expect("it only sends");
    }
    // Room for what comes now.
    for (socket, _) in &sockets {
        while socket.recv(&mut [0; 8]).is_ok() {}
    }
    // The very same calls go on, translated for the VPN as anything that begins now.
    for (socket, to) in &sockets {
        wait_for_way(&site, socket, *to, PathTaken::Tunnel);
        assert_eq!(site.lab.exchange(socket, *to).0, PathTaken::Tunnel);
    }
    let voicelane = home.start();
    for (socket, to) in &sockets {
        wait_for_way(&site, socket, *to, PathTaken::Direct);
    }
    voicelane.stop();
    for (socket, to) in &sockets {
        wait_for_way(&site, socket, *to, PathTaken::Tunnel);
    }
}

#[test]
fn a_firewall_that_blocks_forwarding_is_named_and_media_stays_in_the_vpn() {
    let (site, vpn) = Site::with_vpn();
    // As many gateways have it: what was begun from the LAN into the VPN may go on, all else is dropped.
    site.lab.laptop.nft(&format!(
        "table inet office {{
             chain forward {{
                 type filter hook forward priority filter; policy drop;
                 ct state established,related accept
                 iifname lan0 oifname {} accept
             }}
         }}",
        vpn.interface
    ));
    let voicelane = site.serve(&format!("{CONFIG}{GATEWAY}"));
    let last = voicelane.last_event();
    let sockets =
        Family::BOTH.map(|family| (site.a.udp(family, 0), at::MEDIA.at(family, MEDIA_PORT)));
    for (socket, to) in &sockets {
        wait_for_way(&site, socket, *to, PathTaken::Tunnel);
    }
    let barred = voicelane.event_after(last, EventKind::FirewallBlocked);
    assert!(
        barred
            .reason
            .contains("chain forward in the table inet office"),
        "{barred:?}"
    );
    let add = format!("nft insert rule inet office forward iifname lan0 oifname {TUN} accept");
    let back = format!("nft insert rule inet office forward iifname {TUN} oifname lan0 accept");
    let warnings = voicelane.warnings();
    assert!(warnings.contains(&format!("{add}; {back}")), "{warnings}");

    // Half of it: now it is the answers that are dropped.
    site.lab.laptop.run(&add);
    assert!(voicelane.reload().status.success());
    for (socket, to) in &sockets {
        wait_for_way(&site, socket, *to, PathTaken::Tunnel);
    }
    assert!(voicelane.warnings().contains(&back));
    site.lab.laptop.run(&back);
    assert!(voicelane.reload().status.success());
    for (socket, to) in &sockets {
        wait_for_way(&site, socket, *to, PathTaken::Direct);
    }
    assert_eq!(voicelane.warnings(), "[]");
}

#[test]
fn a_machine_without_forwarding_is_reported() {
    let site = Site::new();
    site.lab.laptop.set("ipv4/ip_forward", "0");
    site.lab.laptop.set("ipv6/conf/all/forwarding", "0");
    let voicelane = site.serve(&format!(
        "{CONFIG}[gateway]\ninterfaces = [\"lan0\", \"lan7\"]\n"
    ));
    let warnings = voicelane.warnings();
    for wanted in [
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "[gateway] interfaces names lan7",
    ] {
        assert!(warnings.contains(wanted), "{wanted}: {warnings}");
    }
    assert_eq!(
        site.lab.laptop.get("ipv4/ip_forward"),
        "0",
        "not ours to switch"
    );
    assert_eq!(site.lab.laptop.get("ipv6/conf/all/forwarding"), "0");
}
