//! How voicelane ends: on request, by a fault, or before it begins. What it found is what it leaves.

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, udp};
use crate::support::program::wait_until;
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};
use nix::sys::signal::Signal;
use tempfile::TempDir;

fn assert_media_way(lab: &Lab, path: PathTaken) {
    for family in Family::BOTH {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        let (taken, _) = lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        assert_eq!(taken, path, "{family:?}");
    }
}

/// Rules and routes of others that look like ours by half: the same priority, the same protocol number.
fn plant_lookalikes(lab: &Lab) {
    lab.laptop
        .ip("rule add priority 100 fwmark 0x99 lookup 77 protocol 99\n\
         route add 198.51.100.77/32 dev wlan0 table 77 proto 118\n\
         route add 198.51.100.78/32 dev wlan0 table 77 proto 99");
}

#[test]
fn sigterm_and_sigint_restore_the_machine() {
    let lab = Lab::new();
    plant_lookalikes(&lab);
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "1");
    let before = lab.laptop.dump();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let voicelane = Voicelane::start(&lab.laptop);
        assert_ne!(lab.laptop.changes_since(&before), NOTHING);
        assert!(voicelane.status().to_string().contains("wlan0"));
        voicelane.end(signal);
        assert_eq!(lab.laptop.changes_since(&before), NOTHING, "{signal}");
    }
}

/// The unit keeps its state in `/var/lib/voicelane`; the runtime directory goes with the machine.
#[test]
fn events_outlive_a_crash_and_a_reboot() {
    let lab = Lab::new();
    let state = TempDir::new().expect("the temporary directory is writable");
    let path = state.path().display().to_string();
    let environment = [("VOICELANE_STATE_DIR", path.as_str())];
    let mut sequences = Vec::new();
    for _ in 0..2 {
        // Each time a runtime directory of its own.
        let mut voicelane = Home::new(&lab.laptop, CONFIG).launch(&environment);
        voicelane.wait_for("ready");
        let events = voicelane.events();
        sequences = events.iter().map(|event| event.sequence).collect();
        // They are known before they are on the disk.
        wait_until("the disk's part", || {
            let text = fs::read_to_string(state.path().join("events.jsonl"));
            text.is_ok_and(|text| text.lines().count() >= sequences.len())
        });
        voicelane.kill().cleanup();
    }
    let count = u64::try_from(sequences.len()).expect("few events");
    assert_eq!(sequences, (1..=count).collect::<Vec<_>>());
    // And they can be read while nothing runs.
    let home = Home::new(&lab.laptop, CONFIG);
    let output = home.invoke(&["events", "--json", "--state-dir", &path]);
    let text = String::from_utf8_lossy(&output.stdout);
    let starts = text.lines().filter(|line| line.contains("\"started\""));
    assert_eq!(starts.count(), 2, "{text}");
    assert_eq!(text.lines().count(), sequences.len(), "{text}");
}

#[test]
fn after_a_kill_media_uses_the_vpn_and_cleanup_removes_the_rest() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    plant_lookalikes(&lab);
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "1");
    let before = lab.laptop.dump();

    let home = Home::new(&lab.laptop, CONFIG);
    let voicelane = home.start();
    assert_media_way(&lab, PathTaken::Direct);
    let home = voicelane.kill();
    assert_media_way(&lab, PathTaken::Tunnel);
    assert!(
        !lab.laptop.run("ip link").contains(TUN),
        "the TUN goes with the process"
    );
    assert_ne!(
        lab.laptop.changes_since(&before),
        NOTHING,
        "a kill leaves rules: there is something to clean"
    );
    let output = home.cleanup();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        lab.laptop.changes_since(&before),
        NOTHING,
        "cleanup removes all of ours and nothing else"
    );
    let output = home.cleanup();
    assert!(
        output.status.success(),
        "a second cleanup finds nothing: {output:?}"
    );

    // The next start finds the leftovers of a second kill by itself.
    let home = home.start().kill();
    let voicelane = home.start();
    assert_media_way(&lab, PathTaken::Direct);
    voicelane.stop();
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
    assert_media_way(&lab, PathTaken::Tunnel);
}

#[test]
fn a_deleted_tun_ends_the_service_cleanly() {
    let lab = Lab::new();
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "1");
    let before = lab.laptop.dump();
    let voicelane = Voicelane::start(&lab.laptop);
    assert_ne!(lab.laptop.changes_since(&before), NOTHING);
    lab.laptop.ip(&format!("link del {TUN}"));
    let patience = Instant::now() + Duration::from_secs(10);
    while lab.laptop.changes_since(&before) != NOTHING && Instant::now() < patience {
        sleep(Duration::from_millis(50));
    }
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
    drop(voicelane);
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let lab = Lab::new();
    let before = lab.laptop.dump();
    for (fault, named) in [
        ("ports = [\"60000-10000\"]", "60000-10000"),
        ("prefixes = [\"0.0.0.0/0\"]", "0.0.0.0/0"),
    ] {
        let (key, _) = fault.split_once(" =").expect("it is written so");
        let good = CONFIG
            .lines()
            .find(|line| line.starts_with(key))
            .expect("the configuration has the key");
        let home = Home::new(&lab.laptop, &CONFIG.replacen(good, fault, 1));
        let arguments = home.run_arguments();
        let output = home.invoke(&arguments.each_ref().map(String::as_str));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("config.toml") && said.contains(named),
            "{said}"
        );
        assert_eq!(lab.laptop.changes_since(&before), NOTHING, "{fault}");
    }
}
