//! A service that starts with a faulty configuration, with lesser faults, and one that is paused.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use crate::support::addresses as at;
use crate::support::caller::{Family, udp};
use crate::support::program::wait_until;
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};
use tempfile::TempDir;
use voicelane::control::EventKind;

/// The lab's configuration without Talkdesk, so that IPv4 media stays in the VPN.
fn only_ipv6() -> String {
    CONFIG.replace("include = [\"talkdesk\"]", "include = []")
}

fn media_path(lab: &Lab, family: Family) -> PathTaken {
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT)).0
}

fn launch(home: Home, state: &Path) -> Voicelane {
    let state = state.display().to_string();
    let mut voicelane = home.launch(&[("VOICELANE_STATE_DIR", &state)]);
    voicelane.wait_for("ready");
    voicelane
}

fn command(voicelane: &Voicelane, arguments: &[&str]) -> Output {
    let run = voicelane.home().dir().join("run").display().to_string();
    let arguments = [arguments, &["--runtime-dir", &run]].concat();
    voicelane.home().invoke(&arguments)
}

#[test]
fn a_start_with_a_bad_file_uses_the_last_one_that_worked() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let before = lab.laptop.dump();
    let state = TempDir::new().expect("the temporary directory is writable");
    let voicelane = launch(Home::new(&lab.laptop, &only_ipv6()), state.path());
    wait_until("the configuration on the disk", || {
        state.path().join("last-good.json").exists()
    });
    let mut home = voicelane.kill();
    // The first has an error, the kernel refuses the second: the name is in use.
    for (bad, named) in [
        (CONFIG.replace("dscp = \"EF\"", "dscp = \"EE\""), "EE"),
        (format!("{CONFIG}\n[tun]\nname = \"lo\"\n"), "lo"),
    ] {
        fs::write(home.dir().join("config.toml"), &bad).expect("it is ours");
        let voicelane = launch(home, state.path());
        assert_eq!(media_path(&lab, Family::V4), PathTaken::Tunnel, "{named}");
        assert_eq!(media_path(&lab, Family::V6), PathTaken::Direct, "{named}");
        let warnings = voicelane.warnings();
        assert!(
            warnings.contains("The last one that worked") && warnings.contains(named),
            "{warnings}"
        );
        assert_eq!(command(&voicelane, &["status"]).status.code(), Some(1));
        voicelane.event_naming(0, EventKind::LastGoodUsed, named);

        voicelane.configure(&only_ipv6());
        assert!(voicelane.reload().status.success());
        let warnings = voicelane.warnings();
        assert!(!warnings.contains("last one that worked"), "{warnings}");
        home = voicelane.kill();
    }
    assert!(home.cleanup().status.success());
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);

    // The last configuration of another file is not used, and without one nothing starts.
    let bad = CONFIG.replace("dscp = \"EF\"", "dscp = \"EE\"");
    let home = Home::new(&lab.laptop, &bad);
    let state = state.path().display().to_string();
    let arguments = home.run_arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    let output = home.invoke(&[&arguments[..], &["--state-dir", &state]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn missing_groups_sockets_and_directories_do_not_stop_media() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let config =
        format!("{CONFIG}\n[control]\ngroup = \"no-such-group\"\n[metrics]\nlisten = \"unix\"\n");
    let home = Home::new(&lab.laptop, &config);
    // A directory in the place of the socket, and a file in that of the state directory.
    fs::create_dir_all(home.dir().join("run/metrics.sock")).expect("it is ours");
    let state = home.dir().join("state");
    fs::write(&state, "").expect("it is ours");
    let voicelane = launch(home, &state);
    for family in [Family::V4, Family::V6] {
        assert_eq!(media_path(&lab, family), PathTaken::Direct);
    }
    let warnings = voicelane.warnings();
    for named in [
        "no-such-group",
        "Metrics are not available",
        "Events are not saved",
        "configuration is not stored",
    ] {
        assert!(warnings.contains(named), "{named}: {warnings}");
    }
    assert_eq!(command(&voicelane, &["status"]).status.code(), Some(1));
    voicelane.stop();
}

#[test]
fn a_pause_keeps_media_in_the_vpn_and_ends_by_itself() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let paths = |expected| {
        for family in [Family::V4, Family::V6] {
            assert_eq!(media_path(&lab, family), expected, "{family:?}");
        }
    };
    paths(PathTaken::Direct);
    let output = command(&voicelane, &["pause", "1h"]);
    assert!(output.status.success(), "{output:?}");
    paths(PathTaken::Tunnel);
    let status = command(&voicelane, &["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(2), "{text}");
    let first: Vec<_> = text.lines().take(3).collect();
    assert!(first.join("\n").contains("Paused until"), "{text}");

    assert!(voicelane.reload().status.success());
    paths(PathTaken::Tunnel);
    let output = command(&voicelane, &["resume"]);
    assert!(output.status.success(), "{output:?}");
    paths(PathTaken::Direct);
    assert!(!voicelane.warnings().contains("Paused"));

    let last = voicelane.last_event();
    assert!(command(&voicelane, &["pause", "2s"]).status.success());
    voicelane.event_after(last, EventKind::PauseEnded);
    wait_until("the end of the pause in the status", || {
        !voicelane.warnings().contains("Paused")
    });
    paths(PathTaken::Direct);
    voicelane.stop();
}
