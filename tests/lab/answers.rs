//! Answers of `explain`, `status` and `doctor`, compared with what captures show.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use voicelane::call::stun::{TransactionId, binding_request};
use voicelane::control::EventKind;

use crate::support::addresses as at;
use crate::support::call;
use crate::support::caller::{Family, probe, udp};
use crate::support::program::wait_until;
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, PathTaken, UPLINK};

/// The answer of `explain` about media of a family: exit code, and reason and text of the path.
fn explain(home: &Home, to: &str) -> (Option<i32>, String, String) {
    explain_from(home, to, "0.0.0.0:0")
}

/// Does the same for the packets of an application's endpoint.
fn explain_from(home: &Home, to: &str, from: &str) -> (Option<i32>, String, String) {
    let config = home.dir().join("config.toml");
    let run = home.dir().join("run");
    let output = home.invoke(&[
        "explain",
        "udp",
        to,
        "--json",
        "--from",
        from,
        "--config",
        &config.display().to_string(),
        "--runtime-dir",
        &run.display().to_string(),
    ]);
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let path = &json["addresses"][0]["path"];
    let word = |key: &str| path[key].as_str().unwrap_or_default().to_owned();
    (output.status.code(), word("reason"), word("text"))
}

/// Compares the answer about media of a family with the path that a datagram takes.
#[track_caller]
fn assert_explained(lab: &Lab, home: &Home, family: Family, reason: &str) {
    let to = at::MEDIA.at(family, MEDIA_PORT);
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    let (path, _) = lab.exchange(&socket, to);
    let (code, said, text) = explain(home, &to.to_string());
    let expected = match path {
        PathTaken::Direct => Some(0),
        PathTaken::Tunnel => Some(1),
        PathTaken::Both | PathTaken::Neither => panic!("{family:?} media took {path:?}: {text}"),
    };
    assert_eq!(
        (code, said.as_str()),
        (expected, reason),
        "{path:?}: {text}"
    );
}

/// The state, the code of its reason, and the exit code of `status`.
fn state(voicelane: &Voicelane) -> (String, String) {
    let reply = voicelane.status();
    let status = &reply["status"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (word(&status["state"]), word(&status["reason"]["code"]))
}

/// Waits until `status` has a state and the code of its reason. Events come before the state.
#[track_caller]
fn assert_state(voicelane: &Voicelane, expected: (&str, &str)) {
    wait_until(&format!("the state {expected:?}"), || {
        let (state, code) = state(voicelane);
        (state.as_str(), code.as_str()) == expected
    });
}

/// The exit code of `doctor`.
fn doctor(home: &Home) -> Option<i32> {
    let config = home.dir().join("config.toml").display().to_string();
    let run = home.dir().join("run").display().to_string();
    let output = home.invoke(&["doctor", "--config", &config, "--runtime-dir", &run]);
    output.status.code()
}

/// Reloads, and checks the exit code and a text of the output.
#[track_caller]
fn assert_reloaded(voicelane: &Voicelane, code: i32, text: &str) {
    let output = voicelane.reload();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(said.contains(text), "{output:?}");
}

#[test]
fn answers_agree_with_captures_in_every_state_of_the_service() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let home = Home::new(&lab.laptop, CONFIG);
    for family in Family::BOTH {
        assert_explained(&lab, &home, family, "not_running");
    }
    assert_eq!(doctor(&home), Some(2));

    let voicelane = home.start();
    let home = voicelane.home();
    for family in Family::BOTH {
        assert_explained(&lab, home, family, "captured");
    }
    assert_state(&voicelane, ("working", ""));
    for (to, code, reason) in [
        ("127.0.0.1:53", 3, "this_machine"),
        ("[::1]:53", 3, "this_machine"),
        (&at::HOME.at(Family::V4, 53).to_string(), 3, "not_in_policy"),
        (
            &at::OTHER.at(Family::V4, 53).to_string(),
            1,
            "not_in_policy",
        ),
        (
            &at::OTHER.at(Family::V6, 53).to_string(),
            1,
            "not_in_policy",
        ),
    ] {
        let (said, why, text) = explain(home, to);
        assert_eq!((said, why.as_str()), (Some(code), reason), "{to}: {text}");
    }

    // A firewall blocks one family.
    let last = voicelane.last_event();
    lab.laptop.nft(&format!(
        "add table inet block
         add chain inet block out {{ type filter hook output priority 0; }}
         add rule inet block out meta nfproto ipv4 oifname {UPLINK} meta mark & 0xff000000 == 0x76000000 drop"
    ));
    voicelane.event_after(last, EventKind::FirewallBlocked);
    assert_state(&voicelane, ("degraded", "firewall_blocked"));
    assert_explained(&lab, home, Family::V4, "firewall_blocked");
    assert_explained(&lab, home, Family::V6, "captured");
    // Without the other family, no media leaves.
    voicelane.configure("version = 1\ninclude = ['talkdesk']\n");
    assert_reloaded(&voicelane, 1, "State: not working: all media is in the VPN");
    assert_state(&voicelane, ("not_working", "firewall_blocked"));
    let last = voicelane.last_event();
    lab.laptop.run("nft delete table inet block");
    voicelane.event_after(last, EventKind::FirewallUnblocked);
    assert_state(&voicelane, ("working", ""));
    assert_explained(&lab, home, Family::V4, "captured");

    // A policy without services, and an interface that does not exist.
    voicelane.configure("version = 1\ninclude = []\n");
    assert_reloaded(&voicelane, 1, "The policy has no active service");
    assert_state(&voicelane, ("not_working", "empty_policy"));
    assert_explained(&lab, home, Family::V4, "not_in_policy");
    voicelane.configure(&format!("{CONFIG}\n[uplink]\ninterface = 'wlan9'\n"));
    assert_reloaded(&voicelane, 1, "\"wlan9\" does not exist");
    assert_state(&voicelane, ("not_working", "no_uplink"));
    for family in Family::BOTH {
        assert_explained(&lab, home, family, "no_uplink");
    }
    assert_eq!(doctor(home), Some(2));
    voicelane.configure("version = 2\n");
    assert_eq!(voicelane.reload().status.code(), Some(2));
    voicelane.configure(CONFIG);
    assert_reloaded(&voicelane, 0, "State: working");
    for family in Family::BOTH {
        assert_explained(&lab, home, family, "captured");
    }
    let home = voicelane.kill();
    for family in Family::BOTH {
        assert_explained(&lab, &home, family, "not_running");
    }
    home.cleanup();
}

/// Sends media and checks until `until` holds.
#[track_caller]
fn talk_until(socket: &UdpSocket, to: SocketAddr, what: &str, mut until: impl FnMut() -> bool) {
    const CHECK_EVERY: u32 = 25;
    let (mut buffer, mut turns) = ([0; 2_048], 0_u32);
    let pace = Duration::from_millis(20);
    socket.set_read_timeout(Some(pace)).expect("not zero");
    wait_until(what, || {
        for _ in 0..CHECK_EVERY {
            socket
                .send_to(&[0x80, 0, 1, 2], to)
                .expect("there is a route");
            // A timeout is the pace.
            let _ = socket.recv_from(&mut buffer);
        }
        turns += 1;
        let id = TransactionId([u8::try_from(turns % 251).expect("it is small"); 12]);
        socket
            .send_to(&binding_request(id), to)
            .expect("there is a route");
        until()
    });
}

/// The only call has failed over: that is no working state, and `explain` knows the call.
#[test]
fn a_call_that_failed_over_is_said_to_be_in_the_vpn() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let to = SocketAddr::new(at::MEDIA.v4.into(), MEDIA_PORT + 2);
    call::serve_checks(&lab.internet, to);
    let socket = udp(&lab.laptop, SocketAddr::new(Family::V4.unspecified(), 0));
    let last = voicelane.last_event();
    let mut turns = 0;
    talk_until(&socket, to, "an established call", || {
        turns += 1;
        turns > 4
    });
    assert_state(&voicelane, ("working", ""));

    lab.home.nft(&format!(
        "add table inet provider
         add chain inet provider pass {{ type filter hook forward priority 0; }}
         add rule inet provider pass iifname lan0 ip daddr {} udp dport {} drop",
        at::MEDIA.v4,
        to.port()
    ));
    talk_until(&socket, to, "the failover", || {
        let events = voicelane.events();
        let mut later = events.iter().filter(|event| event.sequence > last);
        later.any(|event| event.kind == EventKind::CallMovedToVpn)
    });
    let payload = probe();
    socket
        .send_to(payload.as_bytes(), to)
        .expect("there is a route");
    assert_eq!(lab.settled_path(&payload), PathTaken::Tunnel);
    assert_state(&voicelane, ("degraded", "call_in_vpn"));
    let port = socket.local_addr().expect("it is bound").port();
    let reply = voicelane.status();
    let mappings = reply["status"]["mappings"].as_array().expect("a list");
    let mut insides = mappings.iter().filter_map(|it| it["inside"].as_str());
    let from = insides.find(|inside| inside.ends_with(&format!(":{port}")));
    let from = from.expect("the call has a mapping").to_owned();
    let (code, reason, text) = explain_from(voicelane.home(), &to.to_string(), &from);
    assert_eq!(
        (code, reason.as_str()),
        (Some(1), "call_failed_over"),
        "{text}"
    );
    // A new call still leaves directly.
    assert_explained(&lab, voicelane.home(), Family::V4, "captured");
}

/// The VPN is named as uplink: no command says that media leaves directly.
#[test]
fn a_vpn_as_uplink_is_said_to_be_the_vpn() {
    let lab = Lab::new();
    let vpn = lab.start_vpn(VpnKind::WgQuick);
    let config = format!("{CONFIG}\n[uplink]\ninterface = '{}'\n", vpn.interface);
    let home = Home::new(&lab.laptop, &config);
    let voicelane = home.launch(&[]);
    wait_until("a status", || {
        let run = voicelane.home().dir().join("run").display().to_string();
        let output = voicelane
            .home()
            .invoke(&["status", "--json", "--runtime-dir", &run]);
        !matches!(output.status.code(), Some(3 | 4))
    });
    let to = at::MEDIA.at(Family::V4, MEDIA_PORT);
    let socket = udp(&lab.laptop, SocketAddr::new(Family::V4.unspecified(), 0));
    let (path, _) = lab.exchange(&socket, to);
    assert_eq!(path, PathTaken::Tunnel);
    let (code, _, text) = explain(voicelane.home(), &to.to_string());
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(doctor(voicelane.home()), Some(2));
}
