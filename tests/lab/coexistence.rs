//! The matrix of VPNs: whichever takes the traffic, by whichever means, and whichever comes first, a call leaves
//! directly and marked, everything else stays, and nothing is left behind.

use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, icmp, ping, probe, tcp_exchange, udp};
use crate::support::program::{PATIENCE, wait_until};
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};
use voicelane::control::EventKind;

fn unbound(lab: &Lab, family: Family) -> UdpSocket {
    udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0))
}

/// A call from a socket that is bound to nothing and from one that is bound to the VPN's address.
fn assert_calls_are_direct(lab: &Lab) {
    for family in Family::BOTH {
        for local in [family.unspecified(), at::VPN_LAPTOP.of(family)] {
            let to = at::MEDIA.at(family, MEDIA_PORT);
            let (_, payload) = lab.exchange(&udp(&lab.laptop, SocketAddr::new(local, 0)), to);
            lab.assert_media(&payload, to, None);
        }
    }
}

/// Other ports, other hosts and other protocols.
fn assert_the_rest_goes(lab: &Lab, path: PathTaken) {
    for family in Family::BOTH {
        let (taken, _) = lab.exchange(&unbound(lab, family), at::OTHER.at(family, MEDIA_PORT));
        assert_eq!(taken, path, "udp {family:?}");
        let payload = tcp_exchange(&lab.laptop, at::MEDIA.at(family, 443));
        assert_eq!(lab.path_of(&payload), path, "tcp {family:?}");
        let payload = probe();
        ping(&icmp(&lab.laptop, family), at::MEDIA.of(family), &payload).expect("there is a route");
        assert_eq!(lab.settled_path(&payload), path, "echo {family:?}");
    }
}

fn assert_media_goes(lab: &Lab, path: PathTaken) {
    for family in Family::BOTH {
        let (taken, _) = lab.exchange(&unbound(lab, family), at::MEDIA.at(family, MEDIA_PORT));
        assert_eq!(taken, path, "{family:?}");
    }
}

/// Waits until voicelane has seen what changed.
fn await_media(lab: &Lab, path: PathTaken) {
    let deadline = Instant::now() + PATIENCE;
    for family in Family::BOTH {
        loop {
            let payload = probe();
            let to = at::MEDIA.at(family, MEDIA_PORT);
            // It stays open: an answer to a closed port is sent back inside an ICMP error, by the VPN.
            let socket = unbound(lab, family);
            // A VPN that is changing its routes may have none for a moment.
            let _ = socket.send_to(payload.as_bytes(), to);
            let taken = lab.settled_path(&payload);
            if taken == path {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{family:?} went {taken:?}: {:#?} {:#?} {:#?}",
                lab.laptop.dump().naming(&["rule show", "route show"]),
                lab.on_laptop.carrying(&payload),
                lab.on_gateway.carrying(&payload),
            );
            sleep(Duration::from_millis(50));
        }
    }
}

/// Waits until a warning names all of this.
fn await_warning(voicelane: &Voicelane, words: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let warnings = voicelane.warnings();
        if words.iter().all(|word| warnings.contains(word)) {
            return;
        }
        assert!(Instant::now() < deadline, "{words:?} not in {warnings}");
        sleep(Duration::from_millis(50));
    }
}

/// One row of the matrix: the VPN first, then stopped and started again under a running voicelane.
fn row(kind: VpnKind, config: &str) {
    let lab = Lab::new();
    assert_media_goes(&lab, PathTaken::Direct);
    // What a VPN leaves behind by itself is no fault of ours.
    lab.start_vpn(kind).stop(&lab.laptop, &lab.gateway);
    let before = lab.laptop.dump();
    let vpn = lab.start_vpn(kind);
    // The witness sees both ways: without voicelane all is in the VPN.
    assert_media_goes(&lab, PathTaken::Tunnel);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);

    let voicelane = Home::new(&lab.laptop, config).start();
    assert_calls_are_direct(&lab);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);

    vpn.stop(&lab.laptop, &lab.gateway);
    await_media(&lab, PathTaken::Direct);
    assert_the_rest_goes(&lab, PathTaken::Direct);
    let vpn = lab.start_vpn(kind);
    await_media(&lab, PathTaken::Direct);
    assert_calls_are_direct(&lab);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);

    voicelane.stop();
    assert_media_goes(&lab, PathTaken::Tunnel);
    let ours = lab.laptop.dump();
    assert_eq!(
        ours.naming(&["voicelane", "proto 118", "fwmark 0x76"]),
        NOTHING
    );
    vpn.stop(&lab.laptop, &lab.gateway);
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
}

macro_rules! rows {
    ($($name:ident: $kind:ident;)*) => {$(
        #[test]
        fn $name() {
            row(VpnKind::$kind, CONFIG);
        }
    )*};
}

rows! {
    openvpn_that_blocks_the_home_network: OpenVpnBlockLocal;
    strongswan_in_user_space: StrongSwanLibipsec;
    openconnect_with_vpnc_script: OpenConnect;
    rules_as_network_manager_adds_them: NetworkManager;
    rules_as_tailscale_adds_them: Tailscale;
    a_rule_without_a_priority_as_warp_adds_it: Warp;
}

/// A kill switch that knows the VPN's packets by their mark lets media pass that bears it, where IT says so.
#[test]
fn calls_with_the_vpn_mark_pass_the_wg_quick_kill_switch() {
    for mark in ["0xca6c", "\"auto\""] {
        let config = format!("{CONFIG}\n[uplink]\nvpn_mark = {mark}\n");
        row(VpnKind::WgQuickKillSwitch, &config);
    }
}

/// A firewall that knows excluded connections by their mark lets media pass that bears it, where IT says so.
#[test]
fn calls_with_the_connection_mark_pass_the_mullvad_firewall() {
    let config = format!("{CONFIG}\n[uplink]\nconntrack_mark = 0xf41\n");
    row(VpnKind::Mullvad, &config);
}

/// Where IT has said nothing, a firewall of vendor chains is named and obeyed.
#[test]
fn the_mullvad_firewall_is_named_and_obeyed() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::Mullvad);
    assert_media_goes(&lab, PathTaken::Tunnel);
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_goes(&lab, PathTaken::Tunnel);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);
    let words = [
        "chain output in the table inet mullvad",
        "nft insert rule inet mullvad output oifname voicelane0 accept",
        "nft insert rule inet mullvad output oifname wlan0 meta mark 0x76000000 accept",
        "conntrack_mark = 0xf41",
    ];
    await_warning(&voicelane, &words);
    voicelane.stop();
    assert_media_goes(&lab, PathTaken::Tunnel);
}

/// A firewall that leaves the ports of STUN and TURN alone, and the VPN, and forbids those of media.
#[test]
fn a_firewall_that_blocks_only_media_ports_is_named_and_obeyed() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_goes(&lab, PathTaken::Direct);
    lab.laptop.nft(
        "add table inet corp
         add chain inet corp egress { type filter hook output priority 0; }
         add rule inet corp egress oifname wlan0 meta mark != 51820 udp dport 10000-60000 drop",
    );
    await_media(&lab, PathTaken::Tunnel);
    let words = [
        "the direct path through wlan0 (IPv4): rule handle",
        "the direct path through wlan0 (IPv6): rule handle",
        "chain egress in the table inet corp",
        "nft insert rule inet corp egress oifname wlan0 meta mark 0x76000000 accept",
    ];
    await_warning(&voicelane, &words);
    let warnings = voicelane.warnings();
    assert_eq!(warnings.matches("the direct path").count(), 2, "{warnings}");
    lab.laptop.nft("delete table inet corp");
    await_media(&lab, PathTaken::Direct);
    // No chain of a probe's is left, and none that has nothing to do.
    wait_until("a single chain of ours", || {
        let chains = lab.laptop.run("nft list chains");
        let ours = chains.split("table ").filter(|it| it.contains("voicelane"));
        ours.map(|it| it.matches("chain").count()).sum::<usize>() == 1
    });
    voicelane.stop();
}

/// Rules of legacy iptables cannot be read, and give no notice; that they forbid is found out all the same.
#[test]
fn a_legacy_iptables_kill_switch_is_obeyed_but_not_named() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        lab.laptop.run(&format!(
            "{program} -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j DROP"
        ));
    }
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_goes(&lab, PathTaken::Tunnel);
    let words = [
        "legacy iptables",
        "iptables-legacy -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j ACCEPT",
        "ip6tables-legacy -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j ACCEPT",
    ];
    await_warning(&voicelane, &words);
}

/// Legacy iptables gives no notice: the first datagram that is refused does.
#[test]
fn a_later_legacy_iptables_rule_is_found_by_its_first_rejection() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_goes(&lab, PathTaken::Direct);
    for (program, family) in [
        ("iptables-legacy", Family::V4),
        ("ip6tables-legacy", Family::V6),
    ] {
        let last = voicelane.last_event();
        lab.laptop.run(&format!(
            "{program} -I OUTPUT -o wlan0 -p udp -m mark --mark 0x76000000 -j DROP"
        ));
        let socket = unbound(&lab, family);
        let sent = socket.send_to(&[0x80; 172], at::MEDIA.at(family, MEDIA_PORT));
        sent.expect("the TUN takes it");
        let barred = voicelane.event_after(last, EventKind::FirewallBlocked);
        assert_eq!(barred.subject, family.pick("IPv4", "IPv6"), "{barred}");
        assert!(barred.reason.contains("legacy iptables"), "{barred}");
    }
    assert_media_goes(&lab, PathTaken::Tunnel);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);
}

/// A kill switch holds: media stays in the VPN, and status says who forbids what, and what IT must add. When that was
/// added, calls leave; when it is taken back, they stay again.
#[test]
fn the_wg_quick_kill_switch_is_named_and_obeyed() {
    let lab = Lab::new();
    let vpn = lab.start_vpn(VpnKind::WgQuickKillSwitch);
    assert_media_goes(&lab, PathTaken::Tunnel);
    let before = lab.laptop.dump();
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_goes(&lab, PathTaken::Tunnel);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);
    let excludes = |verb: &str| {
        [
            ("iptables", "voicelane0"),
            ("iptables", "wlan0 -m mark --mark 0x76000000"),
            ("ip6tables", "voicelane0"),
            ("ip6tables", "wlan0 -m mark --mark 0x76000000"),
            (
                "ip6tables",
                "wlan0 -p icmpv6 --icmpv6-type neighbour-solicitation",
            ),
            (
                "ip6tables",
                "wlan0 -p icmpv6 --icmpv6-type neighbour-advertisement",
            ),
        ]
        .map(|(program, what)| format!("{program} {verb} OUTPUT -o {what} -j ACCEPT"))
    };
    let said = excludes("-I");
    let mut words: Vec<_> = said.iter().map(String::as_str).collect();
    words.extend([
        "chain OUTPUT in the table ip filter",
        "chain OUTPUT in the table ip6 filter",
    ]);
    await_warning(&voicelane, &words);

    // What the warning says is what helps.
    for line in &said {
        lab.laptop.run(line);
    }
    await_media(&lab, PathTaken::Direct);
    assert_calls_are_direct(&lab);
    assert_the_rest_goes(&lab, PathTaken::Tunnel);
    for line in excludes("-D") {
        lab.laptop.run(&line);
    }
    await_media(&lab, PathTaken::Tunnel);

    // And it comes and goes with the VPN.
    vpn.stop(&lab.laptop, &lab.gateway);
    await_media(&lab, PathTaken::Direct);
    let vpn = lab.start_vpn(VpnKind::WgQuickKillSwitch);
    await_media(&lab, PathTaken::Tunnel);
    await_warning(&voicelane, &words);
    voicelane.stop();
    assert_media_goes(&lab, PathTaken::Tunnel);
    drop(before);
    drop(vpn);
}
