//! What drops replies, and the remedies: reverse-path filters, IPsec, a VPN's firewall.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use voicelane::engine::ReplySource;
use voicelane::ipsec::{BypassPolicy, Ipsec, bypass_policies};
use voicelane::nftables::masquerade;
use voicelane::route::desired::RoutingIds;
use voicelane::steering::watch::Watch;

use super::world::{
    DEFAULTS, Device, IPSEC, LINK, MEDIA, STATEFUL, WG_FIREWALL, WG_LINK, WG_RULES, World,
    captures, hears, ip, socket,
};
use crate::support::netns::{in_namespace, run};

#[test]
fn the_tun_carries_both_families_and_gives_no_source_address() {
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
fn media_bypasses_an_ipsec_policy_for_all_traffic() {
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
        let mut watch = Watch::open(RoutingIds::default(), 0).expect("a watch");
        run(IPSEC);
        // All ports are captured now, so that only IPsec policies differ.
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
fn bypass_policies_expire_unless_they_are_renewed() {
    in_namespace(|| async {
        run(IPSEC);
        let ipsec = Ipsec::open()
            .expect("a socket")
            .expect("a kernel with IPsec");
        let wanted = bypass_policies(&captures(), None);
        let indexes = || run("ip -s xfrm policy | grep -o 'index 1979[0-9]* .*priority 0 '");
        let reconcile = async |wanted: &[BypassPolicy], age| {
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
        // A foreign policy with the selector of one of voicelane's.
        run(
            "ip xfrm policy add src ::/0 dst 2001:db8:86::/48 proto udp dport 3478 dir out priority 7 if_id 5",
        );
        assert_eq!(reconcile(&[], 0).await, wanted.len());
        assert!(run("ip xfrm policy").contains("priority 7 "));
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
        run(STATEFUL);
        let theirs = run("nft list table ip wg-quick-wg0; nft list table ip6 wg-quick-wg0");
        let mut world = World::new().await;
        let aliases = world.acquire().await.reply_sources;
        let pairs: Vec<_> = aliases
            .iter()
            .map(
                |ReplySource {
                     real,
                     substitute: alias,
                 }| (*real, *alias),
            )
            .collect();
        assert_eq!(
            pairs,
            [
                (ip("10.8.0.2"), ip("250.8.0.2")),
                (ip("fd00:8::2"), ip("100::2"))
            ]
        );
        assert!(world.steering.reply_source_error().is_none());
        for (
            ReplySource {
                real,
                substitute: alias,
            },
            media,
        ) in aliases.into_iter().zip(MEDIA)
        {
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
fn masquerading_gives_ipv4_the_address_of_its_link_and_leaves_ipv6_alone() {
    in_namespace(|| async {
        run(LINK);
        run(
            "ip addr add 10.7.0.1/32 dev lo; ip addr add fd00:7::1/128 dev lo nodad
             ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0
             ip neigh add 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev eth0
             nft 'table netdev seen { chain arriving {
                 type filter hook ingress device far0 priority 0;
                 ip saddr 10.7.0.1 udp dport 9 counter; ip6 saddr fd00:7::1 udp dport 9 counter
                 ip saddr 192.0.2.2 udp dport 9 counter; ip6 saddr 2001:db8:1::2 udp dport 9 counter
             }; }'",
        );
        // Source addresses at the far end: the inside address (IPv4, IPv6), the link's (IPv4, IPv6).
        let await_counts = |counts: [u32; 4]| {
            let expected = counts.map(|count| format!("{count}\n")).concat();
            let count =
                || run("nft list table netdev seen | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p'");
            let arrived = (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(5));
                count() == expected
            });
            assert!(arrived, "{} instead of {expected}", count());
        };
        let send = |port| {
            for (local, remote) in [("10.7.0.1", "192.0.2.1"), ("fd00:7::1", "2001:db8:1::1")] {
                socket(local, port)
                    .send_to(b"media", (ip(remote), 9))
                    .expect("sent");
            }
        };
        send(40_000);
        await_counts([1, 1, 0, 0]);
        let table = masquerade("eth0").unwrap_or_else(|error| panic!("{error}"));
        send(40_001);
        await_counts([1, 2, 1, 0]);
        drop(table);
        assert!(!run("nft list tables").contains("masquerade"));
    });
}
