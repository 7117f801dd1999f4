//! Failures of a whole uplink: their evidence, its veto, the recovery, and another uplink.

use std::time::Duration;

use voicelane::call::stun::{
    StunClass, StunMessage, TransactionId, binding_request, binding_success,
};
use voicelane::engine::{EngineEvent, FailbackCause, FailoverCause};
use voicelane::net::{Egress, Endpoint, Family, TrafficClass};
use voicelane::wire::IcmpError;

use super::call::{Call, TALK};
use super::world::{FAMILIES, World, endpoint};

/// Peers in two regions of IPv4, and one of IPv6.
fn regions() -> [Endpoint; 3] {
    [
        "168.86.128.1:20000",
        "168.86.140.1:20000",
        "[2001:db8:86::1]:20000",
    ]
    .map(endpoint)
}

#[test]
fn two_failed_calls_to_two_regions_fail_the_uplink_of_their_family() {
    let [v4, v6] = FAMILIES.map(|family| family.map(endpoint));
    let [here, there, on_v6] = regions();
    let at = |port| Endpoint::new(v4[0].addr, port);
    let mut world = World::with_failover();
    for (inside, peer) in [(at(1), here), (at(2), there), (at(3), here), (v6[0], on_v6)] {
        world.establish(inside, peer);
        world.wait(Duration::from_secs(3));
    }
    world.send(at(1), here, b"media");
    world.reject(IcmpError::NetUnreachable);
    assert_eq!(
        world.egress_of(at(2)),
        Some(Egress::Direct),
        "one failed call may be chance"
    );
    world.send(at(2), there, b"media");
    world.reject(IcmpError::NetUnreachable);
    let family = Family::V4;
    let cause = FailoverCause::Refused;
    assert!(
        world
            .outbox
            .events()
            .contains(&EngineEvent::UplinkFailed { family, cause })
    );
    assert_eq!(world.egress_of(at(3)), Some(Egress::Tunnel));
    assert_eq!(world.egress_of(v6[0]), Some(Egress::Direct));
    let snapshot = world.engine.snapshot(world.now);
    assert_eq!(snapshot.failed_uplinks, [Family::V4]);
    assert_eq!(
        snapshot.counters.failovers[FailoverCause::UplinkFailed.label()],
        1
    );

    // A new call begins in the tunnel. Its answered probes move all calls back.
    let check = |n| binding_request(TransactionId([n; 12]));
    world.wait(Duration::from_secs(10));
    for n in 0..3 {
        let mapping = world.send(at(4), v4[1], &check(n)).expect("relayed");
        assert_eq!(
            world.egresses(),
            [Egress::Direct, Egress::Tunnel],
            "a probe"
        );
        assert_eq!(world.egress_of(at(4)), Some(Egress::Tunnel));
        let answer = binding_success(TransactionId([n; 12]), v4[0]);
        world.arrive(mapping, v4[1], TrafficClass::default(), &answer);
        world.now += Duration::from_secs(1);
    }
    assert!(
        world
            .outbox
            .events()
            .contains(&EngineEvent::UplinkRecovered { family })
    );
    assert_eq!(world.egress_of(at(4)), Some(Egress::Direct));
    world.send(at(5), v4[1], b"media");
    assert_eq!(world.egresses(), [Egress::Direct]);
}

#[test]
fn a_mapping_without_responses_fails_no_uplink() {
    let [here, there, _] = regions();
    let at = |port| Endpoint::new([10, 8, 0, 2].into(), port);
    let mut world = World::with_failover();
    for port in 1..20 {
        let peer = if port % 2 == 0 { here } else { there };
        world.send(at(port), peer, b"media");
        world.reject(IcmpError::AdminProhibited);
        world.wait(Duration::from_secs(3));
    }
    assert_eq!(world.engine.snapshot(world.now).failed_uplinks, []);
    world.send(at(30), here, b"media");
    assert_eq!(world.egresses(), [Egress::Direct]);
}

#[test]
fn a_recently_answered_call_keeps_the_uplink() {
    let [here, there, _] = regions();
    let at = |port| Endpoint::new([10, 8, 0, 2].into(), port);
    let mut world = World::with_failover();
    for (port, peer) in [(1, here), (2, there), (3, here)] {
        world.establish(at(port), peer);
        world.wait(Duration::from_secs(3));
    }
    for (port, peer) in [(1, here), (2, there)] {
        world.establish(at(3), here);
        world.send(at(port), peer, b"media");
        world.reject(IcmpError::NetUnreachable);
    }
    assert_eq!(world.egress_of(at(3)), Some(Egress::Direct));
    assert_eq!(world.engine.snapshot(world.now).failed_uplinks, []);
}

#[test]
fn a_failed_uplink_without_probes_recovers_after_five_minutes() {
    let [peer, there, _] = regions();
    let at = |port| Endpoint::new([10, 8, 0, 2].into(), port);
    let mut world = World::with_failover();
    for (port, peer) in [(1, peer), (2, there)] {
        world.establish(at(port), peer);
        world.wait(Duration::from_secs(3));
    }
    for (port, peer) in [(1, peer), (2, there)] {
        world.send(at(port), peer, b"media");
        world.reject(IcmpError::NetUnreachable);
    }
    world.wait(Duration::from_mins(4));
    world.send(at(3), peer, b"media");
    assert_eq!(world.egresses(), [Egress::Tunnel]);
    world.wait(Duration::from_mins(1));
    world.send(at(4), peer, b"media");
    assert_eq!(world.egresses(), [Egress::Direct]);
}

#[test]
fn a_new_uplink_starts_without_failures() {
    for mut call in Call::for_both_families(TALK) {
        call.break_path();
        call.run(Duration::from_secs(4));
        assert_eq!(call.failovers.len(), 1);
        call.repair_path();
        let now = call.world.now;
        call.world
            .engine
            .handle_uplink_changed(|_| true, now, &mut call.world.outbox);
        call.collect();
        assert_eq!(call.failbacks[0].1, FailbackCause::UplinkChanged);
        call.longest_gap = Duration::ZERO;
        call.run(Duration::from_secs(10));
        assert!(call.longest_gap < Duration::from_millis(500));
        // A path that is dead from the start is detected as early.
        call.break_path();
        let now = call.world.now;
        call.world
            .engine
            .handle_uplink_changed(|_| true, now, &mut call.world.outbox);
        call.run(Duration::from_secs(4));
        assert_eq!(call.failovers.len(), 2);
        assert!(
            call.longest_gap < Duration::from_millis(2_500),
            "{:?}",
            call.longest_gap
        );
    }
}

#[test]
fn a_restored_uplink_is_used_at_once() {
    for mut call in Call::for_both_families(TALK) {
        call.break_path();
        call.run(Duration::from_secs(4));
        assert_eq!(call.failovers.len(), 1);
        call.repair_path();
        let now = call.world.now;
        let own = Family::of(call.inside.addr);
        let mut families = Family::BOTH;
        families.sort_by_key(|family| *family == own);
        for family in families {
            let failbacks = usize::from(family == own);
            let engine = &mut call.world.engine;
            engine.handle_uplink_restored(family, now, &mut call.world.outbox);
            call.collect();
            assert_eq!(call.failbacks.len(), failbacks, "{family}");
        }
        assert_eq!(call.failbacks[0].1, FailbackCause::UplinkRestored);
        call.longest_gap = Duration::ZERO;
        call.run(Duration::from_secs(10));
        assert!(call.longest_gap < Duration::from_millis(500));
        assert_eq!(call.failovers.len(), 1);
    }
}

/// A peer takes a new source address only at a check, and the application's next one may be seconds away.
#[test]
fn another_or_a_restored_uplink_is_announced_by_a_check_at_once() {
    for mut call in Call::for_both_families(TALK) {
        call.run(Duration::from_secs(4));
        let family = Family::of(call.inside.addr);
        for is_restored in [false, true] {
            let (now, outbox) = (call.world.now, &mut call.world.outbox);
            if is_restored {
                call.world
                    .engine
                    .handle_uplink_restored(family, now, outbox);
            } else {
                call.world
                    .engine
                    .handle_uplink_changed(|it| it == family, now, outbox);
            }
            let sent: Vec<_> = outbox
                .transmits()
                .map(|(it, payload)| (it.egress, StunMessage::parse(payload).map(|it| it.class)))
                .collect();
            assert_eq!(sent, [(Egress::Direct, Some(StunClass::Request))]);
            call.collect();
            call.run(Duration::from_secs(1));
            assert!(call.failovers.is_empty(), "{:?}", call.failovers);
        }
    }
}
