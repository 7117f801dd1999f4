//! News of an uplink in simulated time: who speaks moves first, the others part by part, and nothing goes out by a socket
//! of a former uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use voicelane::call::stun::{TransactionId, binding_request, binding_success};
use voicelane::engine::NatSettings;
use voicelane::engine::{FailoverCause, ReturnedError, SocketCommand};
use voicelane::net::{Egress, Endpoint, Family, MappingId, Outside, PerFamily, TrafficClass};
use voicelane::wire::IcmpError;

use super::world::{FAMILIES, World, datagram, endpoint};

/// Mappings that take news in with one go.
const AT_ONCE: usize = 8;
const REST: Duration = Duration::from_millis(1);

/// Each application's endpoint and its peer; the families by turns, and the regions of IPv4.
fn call(number: u16) -> (Endpoint, Endpoint) {
    let [inside, mut server, ..] = FAMILIES[usize::from(number % 2)].map(endpoint);
    if number % 4 == 2 {
        server = endpoint("168.86.140.1:20000");
    }
    (Endpoint::new(inside.addr, 20_000 + number), server)
}

/// A world in which each socket remembers for which uplink it was made.
struct Links {
    world: World,
    sockets: BTreeMap<(MappingId, Egress), (Family, u32)>,
    uplinks: PerFamily<u32>,
    is_gone: bool,
    /// Direct sockets that were opened in this turn.
    opened: Vec<Endpoint>,
}

impl Links {
    fn new() -> Self {
        Self {
            world: World::with_failover(),
            sockets: BTreeMap::new(),
            uplinks: PerFamily::default(),
            is_gone: false,
            opened: Vec::new(),
        }
    }

    fn with_calls(count: u16) -> Self {
        let mut links = Self::new();
        for number in 0..count {
            links.send(number, b"media");
        }
        links
    }

    /// Does what the driver does with an outbox, and looks that nothing goes out by a former uplink.
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
                        if self.is_gone {
                            self.sockets.remove(&(mapping, egress));
                            let gone = IcmpError::NetUnreachable;
                            engine.handle_open_failed(mapping, egress, gone, *now, outbox);
                        } else {
                            let made = (family, self.uplinks[family]);
                            self.sockets.insert((mapping, egress), made);
                            engine.handle_opened(mapping, egress, Outside(inside.0), outbox);
                        }
                    }
                    SocketCommand::Close { mapping } => {
                        self.sockets.retain(|(id, _), _| *id != mapping)
                    }
                    other => panic!("{other:?}"),
                }
                continue;
            }
            if let Some((it, _)) = outbox.transmit_at(transmit) {
                let socket = self.sockets.get(&(it.mapping, it.egress));
                assert!(socket.is_some() || it.is_copy, "a socket is open first");
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

    /// Has the peer of a call answer a check.
    fn establish(&mut self, number: u16) {
        let (from, to) = call(number);
        let id = TransactionId([number.to_le_bytes()[0]; 12]);
        self.send(number, &binding_request(id));
        let World { engine, now, .. } = &self.world;
        let mut reports = engine.mapping_reports(0..engine.slots(), *now);
        let mapping = reports
            .find(|it| it.inside.0 == from)
            .expect("it stands")
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

    fn rest(&mut self) {
        self.world.now += REST;
        let World {
            engine,
            outbox,
            now,
        } = &mut self.world;
        engine.handle_timeout(*now, outbox);
        self.flush();
    }

    /// Direct sockets that are of a former uplink.
    fn left(&self) -> usize {
        let sockets = self.sockets.iter();
        let of_former = |(family, uplink): &(Family, u32)| *uplink != self.uplinks[*family];
        sockets
            .filter(|((_, egress), made)| *egress == Egress::Direct && of_former(made))
            .count()
    }
}

const BOTH: PerFamily<bool> = PerFamily { v4: true, v6: true };

#[test]
fn who_speaks_moves_first_and_the_others_part_by_part() {
    const CALLS: u16 = 1_000;
    let mut links = Links::with_calls(CALLS);
    links.change(BOTH);
    let mut moved: BTreeSet<_> = links.opened.iter().copied().collect();
    assert_eq!(moved.len(), AT_ONCE, "a small household moves at once");

    let speaker = CALLS - 1;
    links.send(speaker, b"media");
    assert_eq!(links.opened, [call(speaker).0], "its own and nobody else's");
    moved.insert(call(speaker).0);
    links.send(speaker, b"media");
    assert_eq!(links.opened, [], "once");

    while links.left() > 0 {
        links.rest();
        assert!((1..=AT_ONCE).contains(&links.opened.len()));
        for inside in &links.opened {
            assert!(moved.insert(*inside), "once");
        }
    }
    assert_eq!(moved, (0..CALLS).map(|number| call(number).0).collect());
    links.rest();
    assert_eq!(links.opened, []);
}

#[test]
fn a_change_in_the_midst_of_another_moves_everybody_once_more() {
    let v4_alone = PerFamily {
        v4: true,
        v6: false,
    };
    for (second, families) in [(BOTH, 2), (v4_alone, 1)] {
        let mut links = Links::with_calls(200);
        links.change(BOTH);
        for _ in 0..5 {
            links.rest();
        }
        let moved = 6 * AT_ONCE;
        assert_eq!(links.left(), 200 - moved);
        links.change(second);
        let mut opened = links.opened.len();
        while links.left() > 0 {
            links.rest();
            opened += links.opened.len();
        }
        // Those of a family that stays move only if they had not yet.
        let stay = (2 - families) * moved / 2;
        assert_eq!(opened, 200 - stay);
    }
}

#[test]
fn a_family_that_stays_is_left_alone() {
    let mut links = Links::with_calls(100);
    links.change(PerFamily {
        v4: false,
        v6: true,
    });
    let mut moved = links.opened.clone();
    while links.left() > 0 {
        links.send(0, b"media");
        assert_eq!(links.opened, []);
        links.rest();
        moved.extend(&links.opened);
    }
    assert_eq!(moved.len(), 50);
    assert!(moved.iter().all(|inside| inside.addr.is_ipv6()));
}

#[test]
fn what_a_former_uplink_brings_is_let_in_and_proves_nothing() {
    for number in [98, 99] {
        let mut links = Links::with_calls(100);
        let (inside, server) = call(number);
        let mapping = |links: &Links| {
            let World { engine, now, .. } = &links.world;
            let mut reports = engine.mapping_reports(0..engine.slots(), *now);
            reports.find(|it| it.inside.0 == inside).expect("it stands")
        };
        let id = mapping(&links).id;
        let returned = ReturnedError {
            to: server,
            reporter: Some(inside.addr),
            error: IcmpError::HostUnreachable,
            payload: b"media",
        };
        let fail = |links: &mut Links| {
            let World {
                engine,
                outbox,
                now,
            } = &mut links.world;
            engine.handle_error(id, Egress::Direct, &returned, *now, outbox);
            assert_eq!(outbox.packets().count(), 0, "the application hears nothing");
            links.flush();
        };
        links.change(BOTH);
        let heard = links
            .world
            .arrive(id, server, TrafficClass::default(), b"media");
        assert_eq!(heard.len(), 1);
        links.world.outbox.clear();
        // The answer was no sign of life of the new uplink; and the error is none of its own.
        fail(&mut links);
        assert_eq!(mapping(&links).failover_cause, None);
        links.send(number, b"media");
        fail(&mut links);
        assert_eq!(
            mapping(&links).failover_cause,
            Some(FailoverCause::Unreachable)
        );
    }
}

/// Another uplink on which there is nothing to be had: everybody goes into the VPN, and nobody waits for all.
#[test]
fn an_uplink_without_sockets_is_left_in_parts() {
    let mut links = Links::with_calls(400);
    links.is_gone = true;
    links.change(BOTH);
    for _ in 0..2 * 400 / AT_ONCE {
        links.rest();
        assert!(links.opened.len() <= 2 * AT_ONCE, "{:?}", links.opened);
    }
    assert_eq!(links.left(), 0);
    assert_eq!(
        links.world.engine.mappings(),
        0,
        "the VPN has no socket either"
    );
}

/// The other news that concern everybody: the uplink is given up, and it is back.
#[test]
fn a_whole_uplink_falls_and_returns_in_parts() {
    let mut links = Links::new();
    for number in [0, 2] {
        links.establish(number);
        links.world.now += Duration::from_secs(3);
    }
    for number in 0..400 {
        links.send(number, b"media");
    }
    let failover_cause = |links: &Links| {
        let World { engine, now, .. } = &links.world;
        let reports = engine.mapping_reports(0..engine.slots(), *now);
        reports.filter(|it| it.failover_cause.is_some()).count()
    };
    let turn = |links: &mut Links, before: usize| {
        links.rest();
        let now = failover_cause(links);
        assert!(now.abs_diff(before) <= AT_ONCE, "{before}, then {now}");
        now
    };
    // Two of one family are refused.
    for number in [0, 2] {
        let (from, to) = call(number);
        let World {
            engine,
            outbox,
            now,
        } = &mut links.world;
        engine.handle_tun(&datagram(from, to, b"media"), *now, outbox);
        let refused = Some(IcmpError::NetUnreachable);
        engine.handle_send_failed(0, refused, *now, outbox);
        links.flush();
    }
    let mut count = failover_cause(&links);
    assert!(count <= 2 + AT_ONCE);
    links.send(398, b"media");
    count += 1;
    assert_eq!(failover_cause(&links), count, "who speaks falls at once");
    for _ in 0..50 {
        count = turn(&mut links, count);
    }
    assert_eq!(count, 200);
    let World {
        engine,
        outbox,
        now,
    } = &mut links.world;
    engine.handle_uplink_restored(Family::V4, *now, outbox);
    links.flush();
    count = failover_cause(&links);
    assert_eq!(count, 200 - AT_ONCE);
    for _ in 0..50 {
        count = turn(&mut links, count);
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
    /// Each turn checks that nothing goes out by a former uplink; in the end nobody is left on one.
    #[test]
    fn nothing_leaves_by_a_former_uplink(steps in prop::collection::vec(step(), 1..150)) {
        let mut links = Links::new();
        for number in 0..40 {
            links.send(number, b"media");
        }
        let mut checks = 0;
        for step in steps {
            match step {
                Step::Send { number, check } => {
                    checks += u8::from(check);
                    let question = binding_request(TransactionId([checks; 12]));
                    links.send(number, if check { &question } else { b"media" });
                }
                Step::Arrive { which, by, check } => {
                    let known: Vec<_> = links.sockets.iter().collect();
                    let Some(at) = which.checked_rem(known.len()) else { continue };
                    let (&(id, _), &(family, _)) = known[at];
                    let (inside, server) = call(u16::from(family == Family::V6));
                    let answer = binding_success(TransactionId([checks; 12]), inside);
                    links.world.arrive_by(id, by, server, if check { &answer } else { b"media" });
                    links.flush();
                }
                Step::Change { v4, v6 } => links.change(PerFamily { v4, v6 }),
                Step::Back { v6 } => {
                    let family = Family::BOTH[usize::from(v6)];
                    let World { engine, outbox, now } = &mut links.world;
                    engine.handle_uplink_restored(family, *now, outbox);
                    links.flush();
                }
                Step::Gone { is } => links.is_gone = is,
                Step::Wait { millis } => {
                    let end = links.world.now + Duration::from_millis(millis);
                    let mut turns = 0;
                    while let Some(due) = links.world.engine.poll_timeout().filter(|due| *due <= end) {
                        prop_assert!(turns < 10_000, "it must not spin");
                        turns += 1;
                        let World { engine, outbox, now } = &mut links.world;
                        *now = due.max(*now);
                        engine.handle_timeout(*now, outbox);
                        links.flush();
                    }
                    links.world.now = end;
                }
            }
        }
        for _ in 0..=40 / AT_ONCE {
            links.rest();
        }
        prop_assert_eq!(links.left(), 0);
        let lifetime = NatSettings::default().lifetime;
        links.world.now += lifetime;
        for _ in 0..=40 / AT_ONCE {
            links.rest();
        }
        prop_assert!(links.sockets.is_empty(), "{:?}", links.sockets);
    }
}
