//! Life on a laptop: whatever happens to rules, routes, links and addresses, media finds its way back, at once.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::call::Call;
use crate::support::caller::{Family, udp};
use crate::support::program::{PATIENCE, Program, wait_until};
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{CABLE, Lab, MEDIA_PORT, NOTHING, PathTaken, UPLINK};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use voicelane::control::EventKind;

/// How long a call may be gone at most, whatever happens.
const LONGEST_LOSS: Duration = Duration::from_secs(3);

/// How long a running call may be silent when it moves to another uplink, though its peer takes the new address only at
/// a check, and the application's next check is more than 2 s away.
const LONGEST_GAP: Duration = Duration::from_millis(300);

fn media_way(lab: &Lab, family: Family) -> PathTaken {
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT)).0
}

/// The same while things change: what was sent into the change may be nowhere.
fn media_way_now(lab: &Lab, family: Family) -> PathTaken {
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    lab.path_from(&socket, at::MEDIA.at(family, MEDIA_PORT))
}

#[test]
fn removed_rules_are_restored_at_once_and_the_remover_is_named() {
    const BUILTIN: &str = "rule add pref 32766 lookup main\nrule add pref 32767 lookup default\n";
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    let voicelane = Voicelane::start(&lab.laptop);
    for (what, batch, named) in [
        (
            "ip rule flush",
            format!("-4 rule flush\n{BUILTIN}"),
            "removed voicelane's rules",
        ),
        (
            "systemd-networkd tidies up",
            "-4 rule flush protocol 118\n-6 rule flush protocol 118".to_owned(),
            "removed voicelane's rules",
        ),
        (
            "our routes are flushed",
            "-4 route flush table 30318\n-4 route flush table 30316\n-6 route flush table 30316"
                .to_owned(),
            "removed voicelane's rules",
        ),
        (
            "somebody gets ahead",
            "rule add to 198.18.0.0/15 lookup 77 protocol 16".to_owned(),
            "priority 99 with lookup of table 77, protocol 16 (dhcp) was added",
        ),
    ] {
        let last = voicelane.last_event_when_quiet();
        let begun = Timestamp::now();
        for line in batch.lines() {
            lab.laptop.run(&format!("ip {line}"));
        }
        let event = voicelane.event_naming(last, EventKind::RulesRestored, named);
        println!(
            "{what}: {} ms after the first command, {:?} us after the first notice",
            event.time.duration_since(begun).as_millis(),
            event.duration_us.expect("it is timed"),
        );
        wait_until(what, || {
            Family::BOTH.map(|family| media_way_now(&lab, family)) == [PathTaken::Direct; 2]
        });
    }
}

#[test]
fn a_conflict_slows_down_and_the_other_program_is_named() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let rival = Program::start(
        "rival",
        lab.laptop.command("sh").args([
            "-c",
            "while ip rule flush protocol 118; do sleep 0.01; done",
        ]),
    );
    let contested = voicelane.event_after(0, EventKind::RulesContested);
    assert!(
        contested.reason.contains("removed voicelane's rules"),
        "{contested}"
    );
    assert!(voicelane.warnings().contains("with increasing delay"));
    let corrections = || {
        let events = voicelane.events();
        let it = events.iter();
        it.filter(|event| event.kind == EventKind::RulesRestored)
            .count()
    };
    let before = corrections();
    sleep(Duration::from_secs(4));
    let during = corrections() - before;
    println!("{before} corrections before the contest was one, {during} in 4 s of it");
    assert!((1..=5).contains(&during), "half a second, one, two ...");
    drop(rival);
    wait_until("the return of the rules", || {
        media_way_now(&lab, Family::V4) == PathTaken::Direct && corrections() > before + during
    });
    voicelane.stop();
}

#[test]
fn lost_notifications_lead_to_a_full_resync() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let last = voicelane.last_event();
    kill(voicelane.pid(), Signal::SIGSTOP).expect("it runs");
    let routes: Vec<_> = (0..4_000)
        .map(|n| {
            format!(
                "route add 10.{}.{}.0/24 dev wlan0 table 77",
                n / 250,
                n % 250
            )
        })
        .collect();
    lab.laptop.ip(&routes.join("\n"));
    lab.laptop.run("ip rule flush protocol 118");
    kill(voicelane.pid(), Signal::SIGCONT).expect("it waits");
    voicelane.event_after(last, EventKind::NotificationsLost);
    voicelane.event_after(last, EventKind::RulesRestored);
    assert_eq!(media_way(&lab, Family::V4), PathTaken::Direct);
}

#[test]
fn the_service_starts_without_a_network_and_recovers() {
    let lab = Lab::new();
    lab.laptop.ip("link set wlan0 down\naddr flush dev wlan0");
    let files = TempDir::new().expect("the temporary directory is writable");
    let socket = files.path().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("the directory is empty");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let heard = || {
        let mut buffer = [0; 1_000];
        let length = manager.recv(&mut buffer).expect("the service tells");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };

    let path = socket.display().to_string();
    let home = Home::new(&lab.laptop, CONFIG);
    let mut voicelane = home.launch(&[("NOTIFY_SOCKET", &path)]);
    voicelane.wait_for("uplink_missing");
    let told = heard();
    assert!(
        told.contains("READY=1") && told.contains("STATUS=waiting for an uplink"),
        "{told}"
    );
    assert!(voicelane.status()["status"]["uplink"].is_null());

    let (own, router) = (at::LAPTOP, at::HOME);
    lab.laptop.ip(&format!(
        "link set wlan0 up\naddr add {}/24 dev wlan0\nroute add default via {}",
        own.v4, router.v4
    ));
    voicelane.wait_for("ready");
    assert!(heard().contains("STATUS=media leaves through wlan0"));
    assert_eq!(media_way(&lab, Family::V4), PathTaken::Direct);
    let status = voicelane.status();
    assert!(status["status"]["uplink"]["gateway_v6"].is_null());

    // IPv6 comes later.
    lab.laptop.ip(&format!(
        "addr add {}/64 dev wlan0 nodad\nroute add ::/0 via {}",
        own.v6, router.v6
    ));
    wait_until("IPv6", || {
        voicelane.status()["status"]["uplink"]["gateway_v6"] == router.v6.to_string()
    });
    assert_eq!(media_way(&lab, Family::V6), PathTaken::Direct);
}

#[test]
fn a_renewed_lease_moves_no_call_and_a_new_address_ends_none() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let [v4, v6] = Family::BOTH
        .map(|family| Call::with_checks(&lab, SocketAddr::new(family.unspecified(), 0)));
    let begun = Instant::now();
    for call in [&v4, &v6] {
        call.resumes_after(begun, PATIENCE, "the start");
    }
    let last = voicelane.last_event_when_quiet();
    let begun = Instant::now();
    for _ in 0..3 {
        lab.laptop.ip(&format!(
            "addr change {}/24 dev wlan0 valid_lft 3600 preferred_lft 3600",
            at::LAPTOP.v4
        ));
        sleep(Duration::from_millis(300));
    }
    let gaps = v4.gaps_since(begun);
    println!("the longest gaps while a lease was renewed: {gaps:?}");
    assert!(gaps.into_iter().all(|gap| gap < LONGEST_GAP), "{gaps:?}");
    assert_eq!(voicelane.last_event(), last, "{:#?}", voicelane.events());

    // Another address of the same network, as after a long sleep.
    v4.await_check();
    let begun = Instant::now();
    let (old, router) = (at::LAPTOP.v4, at::HOME.v4);
    lab.laptop.ip(&format!("addr del {old}/24 dev wlan0"));
    sleep(Duration::from_millis(200));
    lab.laptop.ip(&format!(
        "addr add 192.168.7.77/24 dev wlan0\nroute replace default via {router}"
    ));
    let back = v4.resumes_after(
        begun + Duration::from_millis(200),
        LONGEST_LOSS,
        "another address",
    );
    println!("the call was back {back:?} after the new address");
    assert!(back < LONGEST_GAP + Duration::from_millis(200), "{back:?}");
    let gaps = v6.gaps_since(begun);
    assert!(
        gaps.into_iter().all(|gap| gap < LONGEST_GAP),
        "IPv6 was not meant: {gaps:?}"
    );
    voicelane.stop();
}

#[test]
fn a_call_moves_from_cable_to_wifi_and_back() {
    let lab = Lab::new();
    lab.plug_in();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let calls = Family::BOTH
        .map(|family| Call::with_checks(&lab, SocketAddr::new(at::VPN_LAPTOP.of(family), 0)));
    let begun = Instant::now();
    for call in &calls {
        call.resumes_after(begun, PATIENCE, "the start");
    }
    let insides = || {
        let status = voicelane.status();
        let mappings = status["status"]["mappings"]
            .as_array()
            .expect("a list")
            .clone();
        let mut insides: Vec<_> = mappings.iter().map(|it| it["inside"].to_string()).collect();
        insides.sort();
        insides
    };
    let before = insides();
    assert_eq!(before.len(), 2, "{before:?}");
    let wifi = at::HOME;
    for (what, place, batch, uplink) in [
        (
            "the cable is lost",
            &lab.home,
            "link set lan1 down".to_owned(),
            UPLINK,
        ),
        (
            "the cable is back",
            &lab.home,
            "link set lan1 up".to_owned(),
            CABLE,
        ),
        (
            "metrics change",
            &lab.laptop,
            format!(
                "route add default via {} metric 50\nroute add ::/0 via {} metric 50",
                wifi.v4, wifi.v6
            ),
            UPLINK,
        ),
        (
            "and back",
            &lab.laptop,
            format!(
                "route del default via {} metric 50\nroute del ::/0 via {} metric 50",
                wifi.v4, wifi.v6
            ),
            CABLE,
        ),
        (
            "the cable's link is set down",
            &lab.laptop,
            "link set eth0 down".to_owned(),
            UPLINK,
        ),
    ] {
        let last = voicelane.last_event_when_quiet();
        for call in &calls {
            call.await_check();
        }
        let begun = Instant::now();
        place.ip(&batch);
        let moved = voicelane.event_after(last, EventKind::UplinkChanged);
        assert_eq!(moved.subject, uplink, "{what}: {moved}");
        let moved = Instant::now();
        for call in &calls {
            call.resumes_after(moved, PATIENCE, what);
        }
        for (call, family) in calls.iter().zip(Family::BOTH) {
            let [out, back] = call.gaps_since(begun);
            println!("{what}: {family:?} was silent for {out:?} outward, {back:?} back");
            assert!(
                out.max(back) < LONGEST_GAP,
                "{what}: {family:?} {out:?} {back:?}"
            );
        }
        assert_eq!(insides(), before, "{what}");
    }
}

/// A cable that has IPv4 alone beside a Wi-Fi that has IPv6.
#[test]
fn each_family_uses_its_own_link_and_moves_alone() {
    let lab = Lab::new();
    lab.plug_in();
    let (wifi, cable, own) = (at::HOME, at::HOME_CABLE, at::LAPTOP_CABLE);
    lab.laptop.ip(&format!(
        "route del default via {} metric 600\nroute del ::/0 via {} metric 100\naddr del {}/64 dev {CABLE}",
        wifi.v4, cable.v6, own.v6
    ));
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let links = || {
        let status = voicelane.status();
        ["uplink", "uplink_v6"].map(|it| {
            let interface = status["status"][it]["interface"].as_str();
            interface.map(str::to_owned)
        })
    };
    let both = [CABLE, UPLINK].map(|link| Some(link.to_owned()));
    assert_eq!(links(), both, "{}", voicelane.status());
    let leaves_by = |family, link: &str| {
        let socket = udp(&lab.laptop, SocketAddr::new(Family::unspecified(family), 0));
        let (path, payload) = lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        assert_eq!(path, PathTaken::Direct, "{family:?}");
        let frames = lab.on_uplink(&payload);
        assert!(
            frames.iter().all(|frame| frame.interface == link),
            "{family:?}: {frames:#?}"
        );
        assert_eq!(frames[0].headers.dscp(), 46, "{frames:#?}");
    };
    leaves_by(Family::V4, CABLE);
    leaves_by(Family::V6, UPLINK);

    let [v4, v6] =
        Family::BOTH.map(|family| Call::start(&lab, SocketAddr::new(family.unspecified(), 0)));
    let begun = Instant::now();
    for call in [&v4, &v6] {
        call.resumes_after(begun, PATIENCE, "the start");
    }
    let (begun, last) = (Instant::now(), voicelane.last_event());
    lab.home.ip("link set lan0 down");
    let lost = voicelane.event_after(last, EventKind::UplinkChanged);
    assert_eq!(lost.subject, UPLINK, "{lost}");
    assert!(lost.reason.starts_with("IPv6: no uplink"), "{lost}");
    wait_until("IPv6 in the VPN", || {
        media_way_now(&lab, Family::V6) == PathTaken::Tunnel
    });
    let only = [Some(CABLE.to_owned()), None];
    wait_until("a status without IPv6", || links() == only);

    // IPv6 comes later, by the other link.
    lab.laptop.ip(&format!(
        "addr add {}/64 dev {CABLE} nodad\nroute add ::/0 via {} metric 100",
        own.v6, cable.v6
    ));
    let found = voicelane.event_after(lost.sequence, EventKind::UplinkChanged);
    assert_eq!(found.subject, CABLE, "{found}");
    let reason = "IPv6: the default route; previously wlan0";
    assert_eq!(found.reason, reason);
    v6.resumes_after(Instant::now(), LONGEST_LOSS, "IPv6 by the cable");
    leaves_by(Family::V6, CABLE);
    leaves_by(Family::V4, CABLE);
    assert_eq!(links(), only, "{}", voicelane.status());
    let gaps = v4.gaps_since(begun);
    assert!(
        gaps.into_iter().all(|gap| gap < LONGEST_GAP),
        "IPv4 was not meant: {gaps:?}"
    );
    voicelane.stop();
}

/// While its link goes, a call falls into the VPN, which has no link either and takes its time to recover.
#[test]
fn a_call_fails_back_when_its_link_returns() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let calls =
        Family::BOTH.map(|family| Call::start(&lab, SocketAddr::new(family.unspecified(), 0)));
    let begun = Instant::now();
    for call in &calls {
        call.resumes_after(begun, PATIENCE, "the start");
    }
    lab.gateway.nft(
        "add table inet dead
         add chain inet dead in { type filter hook input priority 0; }
         add rule inet dead in iifname wan0 drop",
    );
    let last = voicelane.last_event();
    // What is in the TUN when the link has gone is refused.
    kill(voicelane.pid(), Signal::SIGSTOP).expect("it runs");
    lab.laptop.ip("link set wlan0 down");
    sleep(Duration::from_millis(200));
    kill(voicelane.pid(), Signal::SIGCONT).expect("it waits");
    voicelane.event_after(last, EventKind::CallMovedToVpn);
    voicelane.event_after(last, EventKind::UplinkLost);
    let (own, router) = (at::LAPTOP.v6, at::HOME);
    lab.laptop.ip(&format!(
        "link set wlan0 up\naddr replace {own}/64 dev wlan0 nodad\n\
         route replace default via {}\nroute replace ::/0 via {}",
        router.v4, router.v6
    ));
    let back = Instant::now();
    for (call, family) in calls.iter().zip(Family::BOTH) {
        let took = call.resumes_after(back, LONGEST_LOSS, "the link is back");
        println!("{family:?} was back {took:?} after the link");
    }
    let returned = voicelane.event_after(last, EventKind::CallMovedDirect);
    assert_eq!(returned.reason, "the uplink is available again");
    voicelane.stop();
}

#[test]
fn a_flapping_link_is_not_followed() {
    let lab = Lab::new();
    lab.plug_in();
    let voicelane = Voicelane::start(&lab.laptop);
    let last = voicelane.last_event();
    lab.home.ip("link set lan1 down");
    voicelane.event_after(last, EventKind::UplinkChanged);
    wait_until("the Wi-Fi", || {
        voicelane.status()["status"]["uplink"]["interface"] == UPLINK
    });
    let call = Call::start(&lab, SocketAddr::new(Family::V4.unspecified(), 0));
    let begun = Instant::now();
    call.resumes_after(begun, PATIENCE, "the start");
    let last = voicelane.last_event_when_quiet();
    let begun = Instant::now();
    for _ in 0..4 {
        lab.home.ip("link set lan1 up");
        sleep(Duration::from_millis(500));
        lab.home.ip("link set lan1 down");
        sleep(Duration::from_millis(100));
    }
    let gaps = call.gaps_since(begun);
    println!("the longest gaps beside a flapping cable: {gaps:?}");
    assert!(gaps.into_iter().all(|gap| gap < LONGEST_GAP), "{gaps:?}");
    assert_eq!(voicelane.last_event(), last, "{:#?}", voicelane.events());
}

#[test]
fn configuration_prefers_and_excludes_links_and_ignores_tunnels() {
    let lab = Lab::new();
    lab.plug_in();
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    for (lines, uplink) in [
        ("", CABLE),
        ("prefer = ['wl*', '*']", UPLINK),
        ("exclude = ['e*']", UPLINK),
        ("interface = 'wlan0'", UPLINK),
    ] {
        let home = Home::new(&lab.laptop, &format!("{CONFIG}\n[uplink]\n{lines}\n"));
        let voicelane = home.start();
        let status = voicelane.status();
        assert_eq!(status["status"]["uplink"]["interface"], uplink, "{lines}");
        voicelane.stop();
    }
    let home = Home::new(
        &lab.laptop,
        &format!("{CONFIG}\n[uplink]\nexclude = ['*']\n"),
    );
    let mut voicelane = home.launch(&[]);
    voicelane.wait_for("is excluded by [uplink]");
    assert_eq!(media_way(&lab, Family::V4), PathTaken::Tunnel);
}

#[test]
fn only_settings_of_the_tun_and_the_uplink_change() {
    let lab = Lab::new();
    lab.plug_in();
    for name in ["all", "default", UPLINK, CABLE] {
        lab.laptop.set(&format!("ipv4/conf/{name}/rp_filter"), "1");
    }
    let before = lab.laptop.dump();
    let settings = || {
        let changes = lab.laptop.changes_since(&before);
        let settings = changes
            .into_iter()
            .filter(|line| line.contains("sysctl -a"));
        let others = settings.filter(|line| !line.contains(&format!(".{TUN}.")));
        let mut others: Vec<_> = others
            .map(|line| {
                line.replace(
                    "sysctl -a --pattern ^net\\.ipv[46]\\.(conf|ip_forward|route|icmp): ",
                    "",
                )
            })
            .collect();
        others.sort();
        others
    };
    let loosened = |uplink: &str| {
        [
            format!("+ net.ipv4.conf.{uplink}.rp_filter = 2"),
            format!("- net.ipv4.conf.{uplink}.rp_filter = 1"),
        ]
    };
    let voicelane = Voicelane::start(&lab.laptop);
    assert_eq!(settings(), loosened(CABLE));
    let last = voicelane.last_event();
    lab.home.ip("link set lan1 down");
    voicelane.event_after(last, EventKind::UplinkChanged);
    wait_until("the old uplink's setting", || {
        settings() == loosened(UPLINK)
    });
    voicelane.stop();
    lab.home.ip("link set lan1 up");
    wait_until("the end", || settings() == NOTHING);
}
