//! Capture in a real kernel: exact, ahead of VPNs, restored after a flush, and removed completely.

use voicelane::route::desired::{RoutingIds, Uplinks};
use voicelane::route::plan::{RoutingChange, Warning};
use voicelane::steering::watch::Watch;
use voicelane::steering::{Leftovers, cleanup};

use super::world::{
    DEFAULTS, IPSEC, LINK, MEDIA, WG_LINK, WG_RULES, WG_RULES_DOWN, World, assert_capture,
    assert_unchanged, device_of, priorities, state,
};
use crate::support::netns::{in_namespace, run};

#[test]
fn revert_restores_the_kernels_state_exactly() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
        // Foreign objects that differ from voicelane's in one attribute each.
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
        let runtime = world.revert().await;
        assert_unchanged(&before);
        assert_eq!(
            runtime.path().read_dir().expect("a directory").count(),
            0,
            "the journal is gone"
        );
    });
}

#[test]
fn after_a_kill_media_is_in_the_vpn_and_cleanup_removes_the_rest() {
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
        let runtime = world.kill();
        for media in MEDIA {
            assert_eq!(
                device_of(&format!("{media} ipproto udp dport 20000")),
                "wg0"
            );
        }
        assert_ne!(state(), before, "something is left");
        let removed = cleanup(runtime.path(), &RoutingIds::default())
            .await
            .unwrap_or_else(|errors| panic!("{errors}"));
        assert_unchanged(&before);
        let rules = removed
            .changes
            .iter()
            .filter(|change| matches!(change, RoutingChange::DeleteRule(_)));
        assert_eq!(
            rules.count(),
            6,
            "one direct and two capturing rules per family"
        );
        assert!(removed.bypasses > 0);
        assert_eq!(removed.settings.len(), 1);
        assert_eq!(
            cleanup(runtime.path(), &RoutingIds::default())
                .await
                .expect("nothing to do"),
            Leftovers::default()
        );
    });
}

#[test]
fn a_start_after_a_kill_adopts_the_leftovers() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        run("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
        let before = state();
        let mut killed = World::new().await;
        killed.acquire().await;
        let mut world = World::after(killed.kill()).await;
        world.acquire().await;
        assert_capture("eth0");
        world.revert().await;
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
        let mut watch = Watch::open(RoutingIds::default(), 0).expect("a watch");
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
fn flushed_rules_are_restored_and_foreign_objects_stay() {
    in_namespace(|| async {
        run(LINK);
        run(DEFAULTS);
        let mut world = World::new().await;
        world.acquire().await;
        let mut watch = Watch::open(RoutingIds::default(), 0).expect("a watch");
        run("ip rule flush; ip -6 rule flush; ip route flush table 30317
             ip rule add pref 32766 lookup main; ip -6 rule add pref 32766 lookup main
             ip rule add pref 30 from 10.99.0.0/16 lookup 99; ip rule add pref 0 to 10.98.0.0/16 lookup 99");
        let change = watch.next_change().await.expect("a notice");
        assert!(change.noticed.is_some() && !change.overrun);
        // A program that has ended has a process id or not even that.
        let named = change.offenders.iter().any(|who| who.contains("(process "));
        assert!(named, "{:?}", change.offenders);
        let report = world.acquire().await;
        assert!(matches!(&report.warnings[..], [Warning::Outranked(rule)] if rule.table.0 == 99));
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
        world.desired.uplinks = world.uplinks().await.expect("an IPv4 uplink");
        world.acquire().await;
        assert_eq!(
            run("ip -6 rule | grep -c 'proto 118' || true"),
            "0\n",
            "IPv6 has no path out"
        );
        assert_eq!(device_of("10.77.0.1 ipproto udp dport 20000"), "voicelane0");

        // A gateway without a route to it, as cloud providers use.
        run("ip route replace default via 203.0.113.1 dev eth0 onlink");
        world.desired.uplinks = world.uplinks().await.expect("an IPv4 uplink");
        world.acquire().await;
        assert!(run("ip route show table 30316").starts_with("default via 203.0.113.1 dev eth0"));

        world.desired.uplinks = Uplinks::default();
        world.acquire().await;
        assert_eq!(run("ip rule | grep -c 'proto 118' || true"), "0\n");
    });
}

#[test]
fn a_watch_that_lost_notifications_still_reports_a_change() {
    in_namespace(|| async {
        run(LINK);
        let mut watch = Watch::open(RoutingIds::default(), 0).expect("a watch");
        run("seq 5000 | sed 's/.*/route add 10.0.0.0\\/8 dev eth0 metric &/' | ip -batch -");
        let change = watch.next_change().await.expect("an overflow is a change");
        assert!(change.overrun);
        run("ip rule add pref 77 lookup 77");
        let change = watch.next_change().await.expect("and the watch goes on");
        assert!(change.offenders.is_empty(), "it was no rule of ours");
    });
}
