//! Uplink changes in simulated time: active calls move first, the others in batches. No datagram leaves by a socket of a
//! former uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use voicelane::call::stun::{TransactionId, binding_request, binding_success};
use voicelane::engine::NatSettings;
use voicelane::engine::{FailoverCause, ReturnedError, SocketCommand};
use voicelane::net::{Egress, Endpoint, Family, MappingId, Outside, PerFamily, TrafficClass};
use voicelane::wire::IcmpError;

use super::world::{FAMILIES, World, datagram, endpoint};

/// Mappings of one batch of a resync.
const BATCH: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// Returns the endpoints of an application and its peer. Families alternate, and so do the regions of IPv4.
fn call(number: u16) -> (Endpoint, Endpoint) {
    let [inside, mut server, ..] = FAMILIES[usize::from(number % 2)].map(endpoint);
    if number % 4 == 2 {
        server = endpoint("168.86.140.1:20000");
    }
    (Endpoint::new(inside.addr, 20_000 + number), server)
}

/// An engine whose sockets record the uplink that they are bound to.
struct UplinkSockets {
    world: World,
    sockets: BTreeMap<(MappingId, Egress), (Family, u32)>,
    uplinks: PerFamily<u32>,
    is_lost: bool,
    /// Direct sockets opened in this turn.
    opened: Vec<Endpoint>,
}

impl UplinkSockets {
    fn new() -> Self {
        Self {
            world: World::with_failover(),
            sockets: BTreeMap::new(),
            uplinks: PerFamily::default(),
            is_lost: false,
            opened: Vec::new(),
        }
    }

    fn with_calls(count: u16) -> Self {
        let mut calls = Self::new();
        for number in 0..count {
            calls.send(number, b"media");
        }
        calls
    }

    /// Flushes the outbox as the driver does. Panics if a datagram leaves by a former uplink.
    fn flush(&mut self) {
        let World {
            engine,
            outbox,
            now,
        } = &mut self.world;
        self.opened.clear();
        let (mut command, mut transmit) = (0, 0);
        while command < outbox.commands().len() || transmit < outbox.transmit_count() {
            if let Some(&order) = outbox.commands().get(command) {
                command += 1;
                match order {
                    SocketCommand::Open {
                        mapping,
                        egress,
                        inside,
                        ..
                    } => {
                        let family = Family::of(inside.0.addr);
                        if egress == Egress::Direct {
                            self.opened.push(inside.0);
                        }
                        if self.is_lost {
                            self.sockets.remove(&(mapping, egress));
                            let gone = IcmpError::NetUnreachable;
                            engine.handle_open_failed(mapping, egress, gone, *now, outbox);
                        } else {
                            let created_for = (family, self.uplinks[family]);
                            self.sockets.insert((mapping, egress), created_for);
                            engine.handle_opened(mapping, egress, Outside(inside.0), outbox);
                        }
                    }
                    SocketCommand::Close { mapping } => {
                        self.sockets.retain(|(id, _), _| *id != mapping);
                    }
                    other => panic!("{other:?}"),
                }
                continue;
            }
            if let Some((it, _)) = outbox.transmit_at(transmit) {
                let socket = self.sockets.get(&(it.mapping, it.egress));
                assert!(
                    socket.is_some() || it.is_copy,
                    "a socket opens before it sends"
                );
                if let Some(&(family, uplink)) = socket
                    && it.egress == Egress::Direct
                {
                    assert_eq!(uplink, self.uplinks[family], "by a former uplink");
                }
            }
            transmit += 1;
        }
        outbox.clear();
    }

    fn send(&mut self, number: u16, payload: &[u8]) {
        let (from, to) = call(number);
        let packet = datagram(from, to, payload);
        let World {
            engine,
            outbox,
            now,
        } = &mut self.world;
        engine.handle_tun(&packet, *now, outbox);
        self.flush();
    }

    /// Sends a check of a call and the response of its peer.
    fn establish(&mut self, number: u16) {
        let (from, to) = call(number);
        let id = TransactionId([number.to_le_bytes()[0]; 12]);
        self.send(number, &binding_request(id));
        let World { engine, now, .. } = &self.world;
        let mut reports = engine.mapping_reports(0..engine.slots(), *now);
        let mapping = reports
            .find(|it| it.inside.0 == from)
            .expect("the mapping exists")
            .id;
        drop(reports);
        let answer = binding_success(id, from);
        self.world
            .arrive(mapping, to, TrafficClass::default(), &answer);
        self.flush();
    }

    fn change(&mut self, moves: PerFamily<bool>) {
        for family in Family::BOTH {
            self.uplinks[family] += u32::from(moves[family]);
        }
        let World {
            engine,
            outbox,
            now,
        } = &mut self.world;
        engine.handle_uplink_changed(|family| moves[family], *now, outbox);
        self.flush();
    }

    fn pause(&mut self) {
        self.world.now += PAUSE;
        let World {
            engine,
            outbox,
            now,
        } = &mut self.world;
        engine.handle_timeout(*now, outbox);
        self.flush();
    }

    /// Returns the number of direct sockets of a former uplink.
    fn stale(&self) -> usize {
        let sockets = self.sockets.iter();
        let of_former = |(family, uplink): &(Family, u32)| *uplink != self.uplinks[*family];
        sockets
            .filter(|((_, egress), created_for)| {
                *egress == Egress::Direct && of_former(created_for)
            })
            .count()
    }
}

const BOTH: PerFamily<bool> = PerFamily { v4: true, v6: true };

#[test]
fn active_calls_move_first_and_the_others_in_batches() {
    const CALLS: u16 = 1_000;
    let mut calls = UplinkSockets::with_calls(CALLS);
    calls.change(BOTH);
    let mut moved: BTreeSet<_> = calls.opened.iter().copied().collect();
    assert_eq!(moved.len(), BATCH, "one batch moves at once");

    let speaker = CALLS - 1;
    calls.send(speaker, b"media");
    assert_eq!(
        calls.opened,
        [call(speaker).0],
        "only the socket of the active call"
    );
    moved.insert(call(speaker).0);
    calls.send(speaker, b"media");
    assert_eq!(calls.opened, [], "once");

    while calls.stale() > 0 {
        calls.pause();
        assert!((1..=BATCH).contains(&calls.opened.len()));
        for inside in &calls.opened {
            assert!(moved.insert(*inside), "once");
        }
    }
    assert_eq!(moved, (0..CALLS).map(|number| call(number).0).collect());
    calls.pause();
    assert_eq!(calls.opened, []);
}

#[test]
fn a_change_during_a_resync_moves_every_mapping_again() {
    let v4_alone = PerFamily {
        v4: true,
        v6: false,
    };
    for (second, families) in [(BOTH, 2), (v4_alone, 1)] {
        let mut calls = UplinkSockets::with_calls(200);
        calls.change(BOTH);
        for _ in 0..5 {
            calls.pause();
        }
        let moved = 6 * BATCH;
        assert_eq!(calls.stale(), 200 - moved);
        calls.change(second);
        let mut opened = calls.opened.len();
        while calls.stale() > 0 {
            calls.pause();
            opened += calls.opened.len();
        }
        // Mappings of the unchanged family move only if the first change had not reached them.
        let stay = (2 - families) * moved / 2;
        assert_eq!(opened, 200 - stay);
    }
}

#[test]
fn an_unchanged_family_keeps_its_sockets() {
    let mut calls = UplinkSockets::with_calls(100);
    calls.change(PerFamily {
        v4: false,
        v6: true,
    });
    let mut moved = calls.opened.clone();
    while calls.stale() > 0 {
        calls.send(0, b"media");
        assert_eq!(calls.opened, []);
        calls.pause();
        moved.extend(&calls.opened);
    }
    assert_eq!(moved.len(), 50);
    assert!(moved.iter().all(|inside| inside.addr.is_ipv6()));
}

#[test]
fn datagrams_of_a_former_uplink_are_delivered_and_prove_nothing() {
    for number in [98, 99] {
        let mut calls = UplinkSockets::with_calls(100);
        let (inside, server) = call(number);
        let mapping = |calls: &UplinkSockets| {
            let World { engine, now, .. } = &calls.world;
            let mut reports = engine.mapping_reports(0..engine.slots(), *now);
            reports
                .find(|it| it.inside.0 == inside)
                .expect("the mapping exists")
        };
        let id = mapping(&calls).id;
        let returned = ReturnedError {
            to: server,
            reporter: Some(inside.addr),
            error: IcmpError::HostUnreachable,
            payload: b"media",
        };
        let fail = |calls: &mut UplinkSockets| {
            let World {
                engine,
                outbox,
                now,
            } = &mut calls.world;
            engine.handle_error(id, Egress::Direct, &returned, *now, outbox);
            assert_eq!(outbox.packets().count(), 0, "no error for the application");
            calls.flush();
        };
        calls.change(BOTH);
        let delivered = calls
            .world
            .arrive(id, server, TrafficClass::default(), b"media");
        assert_eq!(delivered.len(), 1);
        calls.world.outbox.clear();
        // The answer is no evidence for the new uplink, and the error is none against it.
        fail(&mut calls);
        assert_eq!(mapping(&calls).failover_cause, None);
        calls.send(number, b"media");
        fail(&mut calls);
        assert_eq!(
            mapping(&calls).failover_cause,
            Some(FailoverCause::Unreachable)
        );
    }
}

/// No socket opens on the new uplink or in the VPN, so each batch ends its mappings.
#[test]
fn calls_leave_an_uplink_without_sockets_in_batches() {
    let mut calls = UplinkSockets::with_calls(400);
    calls.is_lost = true;
    calls.change(BOTH);
    for _ in 0..2 * 400 / BATCH {
        calls.pause();
        assert!(calls.opened.len() <= 2 * BATCH, "{:?}", calls.opened);
    }
    assert_eq!(calls.stale(), 0);
    assert_eq!(
        calls.world.engine.mappings(),
        0,
        "the VPN has no socket either"
    );
}

/// An uplink that fails, then recovers, moves all mappings in batches.
#[test]
fn a_whole_uplink_fails_and_recovers_in_batches() {
    let mut calls = UplinkSockets::new();
    for number in [0, 2] {
        calls.establish(number);
        calls.world.now += Duration::from_secs(3);
    }
    for number in 0..400 {
        calls.send(number, b"media");
    }
    let failed_over = |calls: &UplinkSockets| {
        let World { engine, now, .. } = &calls.world;
        let reports = engine.mapping_reports(0..engine.slots(), *now);
        reports.filter(|it| it.failover_cause.is_some()).count()
    };
    let turn = |calls: &mut UplinkSockets, before: usize| {
        calls.pause();
        let now = failed_over(calls);
        assert!(now.abs_diff(before) <= BATCH, "{before}, then {now}");
        now
    };
    // The kernel rejects two calls of one family.
    for number in [0, 2] {
        let (from, to) = call(number);
        let World {
            engine,
            outbox,
            now,
        } = &mut calls.world;
        engine.handle_tun(&datagram(from, to, b"media"), *now, outbox);
        let rejected = Some(IcmpError::NetUnreachable);
        engine.handle_send_failed(0, rejected, *now, outbox);
        calls.flush();
    }
    let mut count = failed_over(&calls);
    assert!(count <= 2 + BATCH);
    calls.send(398, b"media");
    count += 1;
    assert_eq!(
        failed_over(&calls),
        count,
        "an active call fails over at once"
    );
    for _ in 0..50 {
        count = turn(&mut calls, count);
    }
    assert_eq!(count, 200);
    let World {
        engine,
        outbox,
        now,
    } = &mut calls.world;
    engine.handle_uplink_restored(Family::V4, *now, outbox);
    calls.flush();
    count = failed_over(&calls);
    assert_eq!(count, 200 - BATCH);
    for _ in 0..50 {
        count = turn(&mut calls, count);
    }
    assert_eq!(count, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        number: u16,
        check: bool,
    },
    Arrive {
        which: usize,
        by: Egress,
        check: bool,
    },
    Change {
        v4: bool,
        v6: bool,
    },
    Back {
        v6: bool,
    },
    Gone {
        is: bool,
    },
    Wait {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let by = prop::sample::select(vec![Egress::Direct, Egress::Tunnel]);
    let millis = prop::sample::select(vec![1, 2, 20, 500, 2_500, 11_000, 150_000, 301_000]);
    prop_oneof![
        12 => (0u16..40, any::<bool>()).prop_map(|(number, check)| Step::Send { number, check }),
        4 => (any::<usize>(), by, any::<bool>())
            .prop_map(|(which, by, check)| Step::Arrive { which, by, check }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(v4, v6)| Step::Change { v4, v6 }),
        1 => any::<bool>().prop_map(|v6| Step::Back { v6 }),
        1 => any::<bool>().prop_map(|is| Step::Gone { is }),
        5 => millis.prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
/// Each turn checks that nothing leaves by a former uplink. At the end no socket of one is left.
    #[test]
    fn nothing_leaves_by_a_former_uplink(steps in prop::collection::vec(step(), 1..150)) {
        let mut calls = UplinkSockets::new();
        for number in 0..40 {
            calls.send(number, b"media");
        }
        let mut checks = 0;
        for step in steps {
            match step {
                Step::Send { number, check } => {
                    checks += u8::from(check);
                    let question = binding_request(TransactionId([checks; 12]));
                    calls.send(number, if check { &question } else { b"media" });
                }
                Step::Arrive { which, by, check } => {
                    let known: Vec<_> = calls.sockets.iter().collect();
                    let Some(at) = which.checked_rem(known.len()) else { continue };
                    let (&(id, _), &(family, _)) = known[at];
                    let (inside, server) = call(u16::from(family == Family::V6));
                    let answer = binding_success(TransactionId([checks; 12]), inside);
                    calls.world.arrive_by(id, by, server, if check { &answer } else { b"media" });
                    calls.flush();
                }
                Step::Change { v4, v6 } => calls.change(PerFamily { v4, v6 }),
                Step::Back { v6 } => {
                    let family = Family::BOTH[usize::from(v6)];
                    let World { engine, outbox, now } = &mut calls.world;
                    engine.handle_uplink_restored(family, *now, outbox);
                    calls.flush();
                }
                Step::Gone { is } => calls.is_lost = is,
                Step::Wait { millis } => {
                    let end = calls.world.now + Duration::from_millis(millis);
                    let mut turns = 0;
                    while let Some(due) = calls.world.engine.poll_timeout().filter(|due| *due <= end) {
                        prop_assert!(turns < 10_000, "timeouts must advance");
                        turns += 1;
                        let World { engine, outbox, now } = &mut calls.world;
                        *now = due.max(*now);
                        engine.handle_timeout(*now, outbox);
                        calls.flush();
                    }
                    calls.world.now = end;
                }
            }
        }
        for _ in 0..=40 / BATCH {
            calls.pause();
        }
        prop_assert_eq!(calls.stale(), 0);
        let lifetime = NatSettings::default().lifetime;
        calls.world.now += lifetime;
        for _ in 0..=40 / BATCH {
            calls.pause();
        }
        prop_assert!(calls.sockets.is_empty(), "{:?}", calls.sockets);
    }
}
