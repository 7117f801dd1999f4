//! Calls through a TURN server over UDP and TCP, and calls over ICE-TCP.

use serde_json::{Value, json};
use tempfile::TempDir;
use voicelane::lab::{Frame, FrameTransport};
use voicelane_browser::peer::{Ice, Peer};

use crate::stage::{Stage, endpoint, leaves};
use crate::support::addresses as at;
use crate::support::caller::Family;
use crate::support::namespace::require;
use crate::support::program::Program;
use crate::support::vpn::VpnKind;

/// TURN's port (RFC 8656), of the media range.
const PORT: u16 = 3478;

/// The DSCP of media.
const EF: u8 = 46;

/// A TURN server at the second media gateway, which relays to the first.
fn turn_server(stage: &Stage, files: &TempDir) -> Program {
    require(&[("turnserver", "coturn")]);
    let mut command = stage.lab.internet.command("turnserver");
    for address in [at::MEDIA_2.v4.to_string(), at::MEDIA_2.v6.to_string()] {
        command.args(["--listening-ip", &address, "--relay-ip", &address]);
    }
    command.args([
        &format!("--listening-port={PORT}"),
        "-n",
        "--lt-cred-mech",
        "--user=agent:secret",
        "--realm=lab",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--log-file=stdout",
    ]);
    command.arg(format!("--pidfile={}/pid", files.path().display()));
    let mut program = Program::start("turnserver", &mut command);
    program.wait_for("Total General servers");
    program
}

fn relayed(family: Family, transport: &str) -> Value {
    let server = at::MEDIA_2.at(family, PORT);
    json!({
        "iceServers": [{
            "urls": format!("turn:{server}?transport={transport}"),
            "username": "agent",
            "credential": "secret",
        }],
        "iceTransportPolicy": "relay",
    })
}

/// Whether a packet goes from the laptop to the host by a physical interface, in clear.
fn goes_to(frame: &Frame, family: Family, host: at::DualAddress) -> bool {
    leaves(frame) && frame.headers.to == host.of(family)
}

/// A call through TURN over UDP is direct and marked; one over TCP is in the VPN, where the policy leaves TCP.
fn relayed_calls(kind: VpnKind) {
    let stage = Stage::new(kind);
    let files = TempDir::new().expect("the temporary directory is writable");
    let _server = turn_server(&stage, &files);
    let transports = ["udp", "tcp"];
    let calls = Family::BOTH.map(|family| {
        transports.map(|transport| {
            // The browser asks for no address family of the relay, which is IPv4 then (RFC 8656 section 7.2).
            let peer = Peer::start(&stage.lab.internet, endpoint(Family::V4), Ice::Lite);
            stage.call_with(&relayed(family, transport), peer)
        })
    });
    for call in calls.as_flattened() {
        call.exchange(100);
    }
    for (calls, family) in calls.iter().zip(Family::BOTH) {
        for call in calls {
            let arrivals = call.peer.arrivals();
            assert!(
                arrivals.iter().all(|it| it.from.ip() == at::MEDIA_2.v4),
                "{}: not through the relay",
                call.name()
            );
            call.hang_up();
        }
        let out = stage
            .lab
            .on_laptop
            .frames(|frame| goes_to(frame, family, at::MEDIA_2));
        let is_media = |frame: &&Frame| {
            matches!(frame.headers.transport, FrameTransport::Udp(_, PORT))
                && frame.headers.dscp() == EF
        };
        assert!(out.len() >= 100, "{family:?}: {} packets", out.len());
        assert!(
            out.iter().all(|frame| is_media(&frame)),
            "{family:?}: {out:#?}"
        );
        // A check may be compared with one in the VPN; the server drops it there (RFC 8656 section 12.6).
        let inside = stage.lab.on_gateway.frames(|frame| {
            frame.headers.to == at::MEDIA_2.of(family)
                && matches!(frame.udp_payload(), [0x40..=0x4f, _, _, _, 128..=191, ..])
        });
        assert!(inside.is_empty(), "{family:?}: {inside:#?}");
    }
    stage.assert_no_failure(0);
}

#[test]
fn relayed_calls_over_openvpn() {
    relayed_calls(VpnKind::OpenVpnDef1);
}

#[test]
fn relayed_calls_over_wg_quick() {
    relayed_calls(VpnKind::WgQuick);
}

/// A peer that accepts TCP alone: the call works, in the VPN, where the policy leaves TCP.
#[test]
fn a_call_over_ice_tcp_works_in_the_vpn() {
    let stage = Stage::new(VpnKind::WgQuick);
    let calls = Family::BOTH.map(|family| {
        let peer = Peer::start_tcp(&stage.lab.internet, endpoint(family));
        stage.call_with(&json!({}), peer)
    });
    for (call, family) in calls.iter().zip(Family::BOTH) {
        call.exchange(100);
        call.hang_up();
        let arrivals = call.peer.arrivals();
        let gateway = at::VPN_SERVER.of(family);
        assert!(
            arrivals.iter().all(|it| it.from.ip() == gateway),
            "{}: {:?}",
            call.name(),
            arrivals.first()
        );
    }
    stage.assert_only_calls_leave();
    stage.assert_no_failure(0);
}
