//! Failover and failback in simulated time: their causes, their timing, and evidence that must not cause them.

use std::time::Duration;

use voicelane::call::stun::{TransactionId, binding_request, binding_success};
use voicelane::engine::NatSettings;
use voicelane::engine::{FailbackCause, FailoverCause, ReturnedError, SocketCommand};
use voicelane::net::{Egress, Endpoint, TrafficClass};
use voicelane::wire::IcmpError;

use super::call::{Call, Habits, TALK};
use super::world::{FAMILIES, World, datagram, endpoint, quoted_in};

impl World {
    /// Returns the egress of each transmit, in order.
    pub(super) fn egresses(&self) -> Vec<Egress> {
        self.outbox.transmits().map(|(it, _)| it.egress).collect()
    }

    /// Sends a check from this endpoint and its response from the peer.
    pub(crate) fn establish(&mut self, inside: Endpoint, peer: Endpoint) {
        let id = TransactionId([inside.port.to_le_bytes()[0]; 12]);
        let mapping = self
            .send(inside, peer, &binding_request(id))
            .expect("relayed");
        self.arrive(
            mapping,
            peer,
            TrafficClass::default(),
            &binding_success(id, inside),
        );
        self.open_all();
        self.outbox.clear();
    }

    pub(super) fn egress_of(&self, inside: Endpoint) -> Option<Egress> {
        let mut mappings = self
            .engine
            .mapping_reports(0..self.engine.slots(), self.now);
        mappings
            .find(|it| it.inside.0 == inside)
            .map(|it| it.egress)
    }

    /// Rejects the only datagram, as the kernel does.
    pub(super) fn reject(&mut self, error: IcmpError) {
        assert_eq!(self.outbox.transmit_count(), 1);
        self.engine
            .handle_send_failed(0, Some(error), self.now, &mut self.outbox);
        self.open_all();
    }
}

#[test]
fn a_dead_path_interrupts_a_call_for_less_than_three_seconds() {
    for mut call in Call::for_both_families(TALK) {
        call.break_path();
        call.run(Duration::from_mins(1));
        assert_eq!(call.failovers.len(), 1, "{:?}", call.failovers);
        assert_eq!(call.failovers[0].1, FailoverCause::NoTraffic);
        assert_eq!(call.failbacks, []);
        assert!(
            call.longest_gap < Duration::from_millis(2_500),
            "{:?}",
            call.longest_gap
        );
        assert_eq!(call.world.egress_of(call.inside), Some(Egress::Tunnel));
    }
}

#[test]
fn a_dead_path_interrupts_a_listener_no_longer() {
    let listen = Habits {
        talks: false,
        ..TALK
    };
    for mut call in Call::for_both_families(listen) {
        call.break_path();
        call.run(Duration::from_secs(10));
        assert_eq!(call.failovers.len(), 1);
        assert!(
            call.longest_gap < Duration::from_millis(2_500),
            "{:?}",
            call.longest_gap
        );
    }
}

#[test]
fn one_way_traffic_on_a_working_path_stays_direct() {
    let checks = Some(Duration::from_secs(5));
    let habits = [(true, false), (false, true), (false, false)];
    for (talks, plays) in habits {
        for mut call in Call::for_both_families(Habits {
            talks,
            plays,
            checks,
        }) {
            call.run(Duration::from_mins(5));
            assert_eq!(call.failovers, []);
            let counters = call.world.engine.snapshot(call.world.now).counters;
            assert_eq!(counters.probes, 0);
            assert!(
                counters.checks_repeated <= 330,
                "more than one in a second: {}",
                counters.checks_repeated
            );
            if !talks && !plays {
                // The checks themselves are outbound traffic.
                assert!(
                    counters.checks_repeated <= 10,
                    "{}",
                    counters.checks_repeated
                );
            }
        }
    }
}

#[test]
fn silence_moves_no_call_without_stun() {
    for plays in [true, false] {
        for mut call in Call::for_both_families(Habits {
            talks: true,
            plays,
            checks: None,
        }) {
            call.break_path();
            call.run(Duration::from_mins(2));
            assert_eq!(call.failovers, []);
        }
    }
}

#[test]
fn packet_loss_alone_moves_no_call() {
    for plays in [true, false] {
        for mut call in Call::for_both_families(Habits { plays, ..TALK }) {
            call.loss = 10;
            call.run(Duration::from_mins(10));
            assert_eq!(call.failovers, [], "a tenth is lost");
        }
    }
}

/// A browser checks its selected pair every 2.5 s.
const BROWSER: Habits = Habits {
    checks: Some(Duration::from_millis(2_500)),
    ..TALK
};

#[test]
fn a_path_without_outbound_delivery_fails_over_within_three_seconds() {
    for phase in 0..10 {
        for mut call in Call::for_both_families(BROWSER) {
            call.run(Duration::from_millis(250) * phase);
            call.outward = false;
            let failed = call.world.now - call.start;
            call.run(Duration::from_secs(30));
            assert_eq!(call.failovers.len(), 1, "{:?}", call.failovers);
            let (at, cause) = call.failovers[0];
            assert_eq!(cause, FailoverCause::NoResponses);
            assert!(at.saturating_sub(failed) < Duration::from_secs(3), "{at:?}");
        }
    }
}

#[test]
fn the_end_of_a_call_is_no_failover() {
    for delay in [0, 100, 500, 1_000, 2_500, 10_000].map(Duration::from_millis) {
        for server_first in [true, false] {
            for phase in 0..5 {
                for mut call in Call::for_both_families(BROWSER) {
                    call.run(Duration::from_millis(500) * phase);
                    call.peer_is_there = !server_first;
                    call.application_is_there = server_first;
                    call.run(delay);
                    (call.peer_is_there, call.application_is_there) = (false, false);
                    call.run(Duration::from_mins(6));
                    let snapshot = call.world.engine.snapshot(call.world.now);
                    assert_eq!((call.failovers.len(), snapshot.mappings), (0, 0));
                    assert_eq!(snapshot.failed_uplinks, []);
                }
            }
        }
    }
}

#[test]
fn forged_packets_neither_keep_a_call_on_a_dead_path_nor_fail_it_back() {
    for mut call in Call::for_both_families(BROWSER) {
        call.break_path();
        let forged = binding_success(TransactionId([0xee; 12]), call.inside);
        for _ in 0..500 {
            call.forge(&forged);
            call.forge(&[0x80, 0, 3, 4]);
            call.run(Duration::from_millis(20));
        }
        assert_eq!(call.failovers.len(), 1);
        assert!(
            call.failovers[0].0 < Duration::from_secs(23),
            "{:?}",
            call.failovers
        );
        for _ in 0..3_000 {
            call.forge(&forged);
            call.run(Duration::from_millis(20));
        }
        assert_eq!(call.failbacks, []);
    }
}

/// Reports that a router refuses the call's packets.
fn report_router_error(call: &mut Call) {
    let families = FAMILIES.map(|it| it.map(endpoint));
    let of_call = families.into_iter().find(|it| it[0] == call.inside);
    let [_, _, _, stranger, _] = of_call.expect("the call is of one of them");
    call.report(stranger, IcmpError::AdminProhibited);
}

#[test]
fn a_forged_error_moves_no_answered_call() {
    for mut call in Call::for_both_families(BROWSER) {
        for _ in 0..600 {
            report_router_error(&mut call);
            call.run(Duration::from_millis(50));
        }
        assert_eq!(call.failovers, []);
    }
}

#[test]
fn a_router_error_moves_a_call_after_an_unanswered_check() {
    for mut call in Call::for_both_families(BROWSER) {
        call.outward = false;
        let failed = call.world.now - call.start;
        report_router_error(&mut call);
        call.run(Duration::from_secs(1));
        assert_eq!(call.failovers.len(), 1);
        let (at, cause) = call.failovers[0];
        assert_eq!(cause, FailoverCause::Unreachable);
        assert!(
            at.saturating_sub(failed) < Duration::from_millis(500),
            "{at:?}"
        );
    }
}

#[test]
fn a_call_that_starts_on_a_dead_path_fails_over() {
    for family in FAMILIES {
        let mut call = Call::start(
            family,
            Habits {
                checks: Some(Duration::from_millis(50)),
                ..TALK
            },
        );
        call.break_path();
        call.run(Duration::from_secs(2));
        assert_eq!(call.failovers.len(), 1);
        assert!(
            call.failovers[0].0 < Duration::from_secs(1),
            "{:?}",
            call.failovers
        );
        let snapshot = call.world.engine.snapshot(call.world.now);
        assert_eq!(snapshot.failed_uplinks, []);
    }
}

#[test]
fn a_healed_path_fails_back_and_a_flapping_one_later_each_time() {
    for mut call in Call::for_both_families(TALK) {
        let mut times_in_tunnel = Vec::new();
        for _ in 0..4 {
            call.break_path();
            call.run(Duration::from_secs(4));
            call.repair_path();
            call.longest_gap = Duration::ZERO;
            let before = call.failbacks.len();
            while call.failbacks.len() == before {
                call.tick();
                assert!(call.world.now - call.start < Duration::from_mins(20));
            }
            call.run(Duration::from_secs(10));
            assert!(
                call.longest_gap < Duration::from_millis(500),
                "failback interrupts the call for {:?}",
                call.longest_gap
            );
            let (failed_over, _) = call.failovers.last().expect("a failover");
            let (back, cause) = call.failbacks.last().expect("a failback");
            assert_eq!(*cause, FailbackCause::ProbesAnswered);
            times_in_tunnel.push(back.saturating_sub(*failed_over).as_secs());
        }
        assert_eq!(call.failovers.len(), 4, "{:?}", call.failovers);
        assert!(
            (10..30).contains(&times_in_tunnel[0]),
            "{times_in_tunnel:?}"
        );
        assert!(
            (20..40).contains(&times_in_tunnel[1]),
            "{times_in_tunnel:?}"
        );
        assert!(
            (40..60).contains(&times_in_tunnel[2]),
            "{times_in_tunnel:?}"
        );
        assert!(
            (80..100).contains(&times_in_tunnel[3]),
            "{times_in_tunnel:?}"
        );
        // A stable period resets the delay.
        call.run(Duration::from_mins(2));
        call.break_path();
        call.run(Duration::from_secs(4));
        call.repair_path();
        call.run(Duration::from_secs(30));
        assert_eq!(call.failbacks.len(), 5);
    }
}

#[test]
fn probes_on_a_dead_path_fail_no_call_back() {
    for mut call in Call::for_both_families(TALK) {
        call.break_path();
        call.run(Duration::from_mins(10));
        assert_eq!((call.failovers.len(), call.failbacks.len()), (1, 0));
        let counters = call.world.engine.snapshot(call.world.now).counters;
        assert!(
            (100..=120).contains(&counters.probes),
            "{}",
            counters.probes
        );
        // Inbound media are no answer to a probe.
        call.inward = true;
        call.run(Duration::from_mins(1));
        assert_eq!(call.failbacks.len(), 0);
    }
}

#[test]
fn a_datagram_rejected_by_the_kernel_enters_the_tunnel_at_once() {
    use IcmpError::{AdminProhibited, HostUnreachable, NetUnreachable};
    for [inside, peer, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        for error in [AdminProhibited, NetUnreachable, HostUnreachable] {
            let mut world = World::with_failover();
            world.send(inside, peer, b"hello").expect("relayed");
            assert_eq!(world.egresses(), [Egress::Direct]);
            world.reject(error);
            assert_eq!(world.egresses(), [Egress::Direct, Egress::Tunnel]);
            let payloads: Vec<_> = world.outbox.transmits().map(|(_, it)| it).collect();
            assert_eq!(payloads, [b"hello", b"hello"]);
            assert_eq!(
                world.outbox.packets().count(),
                0,
                "no error for the application"
            );
            world.send(inside, peer, b"more");
            assert_eq!(world.egresses(), [Egress::Tunnel]);
            assert_eq!(world.dropped("send_failed"), 0);

            // Without STUN the traffic is the probe: later it uses the direct path again, and is rejected again.
            world.wait(Duration::from_secs(10));
            world.send(inside, peer, b"again");
            assert_eq!(world.egresses(), [Egress::Direct]);
            world.reject(error);
            assert_eq!(world.egresses(), [Egress::Direct, Egress::Tunnel]);
            world.wait(Duration::from_secs(19));
            world.send(inside, peer, b"twice as long");
            assert_eq!(world.egresses(), [Egress::Tunnel]);
        }
        let mut world = World::new(NatSettings::default());
        world.send(inside, peer, b"hello").expect("relayed");
        world.reject(AdminProhibited);
        let packets: Vec<_> = world.outbox.packets().collect();
        quoted_in(packets[0], AdminProhibited, inside.addr);
        assert_eq!(
            world.dropped("send_failed"),
            1,
            "without failover the error is reported"
        );
    }
}

#[test]
fn a_router_error_moves_a_call_that_received_nothing() {
    for [inside, peer, other, stranger, _] in FAMILIES.map(|family| family.map(endpoint)) {
        let returned = |reporter, error| ReturnedError {
            to: peer,
            reporter: Some(reporter),
            error,
            payload: b"hello",
        };
        let prohibited = IcmpError::AdminProhibited;
        let cases = [
            (stranger.addr, prohibited, Egress::Tunnel),
            (stranger.addr, IcmpError::PortUnreachable, Egress::Direct),
            (peer.addr, prohibited, Egress::Direct),
        ];
        for (reporter, error, expected) in cases {
            for is_received in [false, true] {
                let mut world = World::with_failover();
                let mapping = world.send(inside, peer, b"hello").expect("relayed");
                if is_received {
                    world.arrive(mapping, other, TrafficClass::default(), b"hi");
                }
                world.outbox.clear();
                let returned = returned(reporter, error);
                let (now, outbox) = (world.now, &mut world.outbox);
                world
                    .engine
                    .handle_error(mapping, Egress::Direct, &returned, now, outbox);
                let expected = if is_received {
                    Egress::Direct
                } else {
                    expected
                };
                assert_eq!(world.egress_of(inside), Some(expected));
                let errors = usize::from(expected == Egress::Direct);
                assert_eq!(world.outbox.packets().count(), errors);
            }
        }
    }
}

#[test]
fn a_missing_socket_is_replaced_by_the_socket_of_the_other_egress() {
    for [inside, peer, ..] in FAMILIES.map(|family| family.map(endpoint)) {
        let open_failed = |world: &mut World, egress, error| {
            let command = |it: &&SocketCommand| matches!(it, SocketCommand::Open { egress: by, .. } if *by == egress);
            let opening = world.outbox.commands().iter().find(command);
            let Some(&SocketCommand::Open { mapping, .. }) = opening else {
                panic!("no socket is requested");
            };
            let (now, outbox) = (world.now, &mut world.outbox);
            world
                .engine
                .handle_open_failed(mapping, egress, error, now, outbox);
            mapping
        };
        let gone = IcmpError::NetUnreachable;
        let mut world = World::with_failover();
        let packet = datagram(inside, peer, b"hello");
        world
            .engine
            .handle_tun(&packet, world.now, &mut world.outbox);
        open_failed(&mut world, Egress::Direct, gone);
        assert_eq!(world.egresses(), [Egress::Tunnel], "the uplink is lost");
        // The tunnel has no socket either: the mapping ends, and the application gets an error.
        let mapping = open_failed(&mut world, Egress::Tunnel, IcmpError::AdminProhibited);
        assert_eq!(world.egresses(), []);
        assert_eq!(world.outbox.packets().count(), 1);
        assert_ne!(world.send(inside, peer, b"again"), Some(mapping));

        // While the direct socket exists, the mapping stays on the direct path.
        world.outbox.clear();
        world
            .engine
            .handle_tun(&packet, world.now, &mut world.outbox);
        let (now, outbox) = (world.now, &mut world.outbox);
        world.engine.handle_send_failed(0, Some(gone), now, outbox);
        open_failed(&mut world, Egress::Tunnel, IcmpError::AdminProhibited);
        assert_eq!(world.egresses(), [Egress::Direct], "the rejected datagram");
        assert_eq!(world.outbox.packets().count(), 1);
        assert_eq!(world.egress_of(inside), Some(Egress::Direct));
    }
}

#[test]
fn a_check_that_the_policy_no_longer_relays_is_not_repeated() {
    let mut call = Call::new(FAMILIES[0], TALK);
    let text = "version = 1\ninclude = []";
    let config = voicelane::config::Config::parse("nothing", text).expect("it is valid");
    let day = "2026-01-01".parse().expect("a date");
    let nothing = voicelane::policy::Policy::compile(&config, day);
    call.world.engine.set_policy(nothing.into());
    let repeated = |call: &Call| {
        let snapshot = call.world.engine.snapshot(call.world.now);
        snapshot.counters.checks_repeated
    };
    let before = repeated(&call);
    call.break_path();
    call.run(Duration::from_secs(10));
    assert_eq!(repeated(&call), before);
    assert!(
        call.in_flight.iter().all(|it| !it.is_outward),
        "nothing leaves"
    );
}
