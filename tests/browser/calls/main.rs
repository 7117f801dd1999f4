//! Calls of a real browser over real VPNs, judged by the peer's decrypted RTP, the wire and the browser's statistics. They
//! need root and the programs of `scripts/setup`: `scripts/check lab`.

#[path = "../../support/mod.rs"]
mod support;

mod endings;
mod relays;
mod stage;

use stage::{Stage, at_once};
use support::vpn::VpnKind;

/// Calls of both families to both kinds of peers, all at once. Each restarts ICE.
fn calls_are_direct(kind: VpnKind) {
    let stage = Stage::new(kind);
    let calls = at_once(&stage);
    for call in &calls {
        call.assert_gathered();
        call.exchange(100);
    }
    for call in &calls {
        call.restart_ice();
        call.exchange(100);
        call.assert_statistics();
    }
    for call in calls {
        call.hang_up();
        call.assert_direct();
    }
    stage.assert_only_calls_leave();
    stage.assert_no_failure(0);
}

#[test]
fn calls_over_openvpn_are_direct_from_the_first_packet() {
    calls_are_direct(VpnKind::OpenVpnDef1);
}

#[test]
fn calls_over_wg_quick_are_direct_from_the_first_packet() {
    calls_are_direct(VpnKind::WgQuick);
}
