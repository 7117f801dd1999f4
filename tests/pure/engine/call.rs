//! A call in simulated time over a direct path, which can break, and a working tunnel. The peer answers checks and sends
//! media on the path of the latest check.

use std::time::{Duration, Instant};

use voicelane::call::stun::{
    StunClass, StunMessage, TransactionId, binding_request, binding_success,
};
use voicelane::engine::{
    EngineEvent, FailbackCause, FailoverCause, HEADROOM, ReceivedDatagram, ReturnedError,
};
use voicelane::net::{Egress, Endpoint, MappingId, TrafficClass};
use voicelane::wire::IcmpError;

use super::world::{FAMILIES, World, datagram, endpoint};

const TICK: Duration = Duration::from_millis(10);
const DELAY: Duration = Duration::from_millis(40);

/// The traffic of the application and its peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// The application's media, every 20 ms.
    pub(crate) talks: bool,
    /// The media of the peer.
    pub(crate) plays: bool,
    /// Time between two checks of the application; `None` without STUN.
    pub(crate) checks: Option<Duration>,
}

pub(crate) const TALK: Habits = Habits {
    talks: true,
    plays: true,
    checks: Some(Duration::from_secs(5)),
};

/// A datagram in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    at: Instant,
    by: Egress,
    pub(crate) is_outward: bool,
    payload: Vec<u8>,
}

/// A call, its peer, and both paths.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing that a test switches"
)]
pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) inside: Endpoint,
    peer: Endpoint,
    habits: Habits,
    /// Whether the direct path delivers outbound, and inbound.
    pub(crate) outward: bool,
    pub(crate) inward: bool,
    /// Every how many datagrams the direct path loses one; 0: none.
    pub(crate) loss: u32,
    dice: u32,
    /// Whether the peer answers and sends on either path.
    pub(crate) peer_is_there: bool,
    /// Whether the application sends.
    pub(crate) application_is_there: bool,
    mapping: Option<MappingId>,
    pub(crate) in_flight: Vec<InFlight>,
    /// The path on which the peer answers.
    check_egress: Egress,
    pub(crate) start: Instant,
    next_check: Instant,
    checks: u8,
    last_in: Instant,
    pub(crate) longest_gap: Duration,
    pub(crate) failovers: Vec<(Duration, FailoverCause)>,
    pub(crate) failbacks: Vec<(Duration, FailbackCause)>,
}

impl Call {
    /// Returns a call that has lasted 20 s.
    pub(crate) fn new(family: [&str; 5], habits: Habits) -> Self {
        let mut call = Self::start(family, habits);
        call.run(Duration::from_secs(20));
        call.longest_gap = Duration::ZERO;
        call
    }

    /// Returns a call before its first packet.
    pub(crate) fn start(family: [&str; 5], habits: Habits) -> Self {
        let [inside, peer, ..] = family.map(endpoint);
        let world = World::with_failover();
        let now = world.now;
        Self {
            world,
            inside,
            peer,
            habits,
            outward: true,
            inward: true,
            loss: 0,
            dice: 1,
            peer_is_there: true,
            application_is_there: true,
            mapping: None,
            in_flight: Vec::new(),
            check_egress: Egress::Direct,
            start: now,
            next_check: now,
            checks: 0,
            last_in: now,
            longest_gap: Duration::ZERO,
            failovers: Vec::new(),
            failbacks: Vec::new(),
        }
    }

    pub(crate) fn mapping(&self) -> MappingId {
        self.mapping.expect("the call has a mapping")
    }

    pub(crate) const fn peer(&self) -> Endpoint {
        self.peer
    }

    pub(crate) fn for_both_families(habits: Habits) -> [Self; 2] {
        FAMILIES.map(|family| Self::new(family, habits))
    }

    pub(crate) fn break_path(&mut self) {
        (self.outward, self.inward) = (false, false);
    }

    pub(crate) fn repair_path(&mut self) {
        (self.outward, self.inward) = (true, true);
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.world.now + duration;
        while self.world.now < end {
            self.tick();
        }
    }

    pub(crate) fn tick(&mut self) {
        self.world.now += TICK;
        let now = self.world.now;
        self.world.outbox.clear();
        if self
            .world
            .engine
            .poll_timeout()
            .is_some_and(|due| due <= now)
        {
            self.world.wait(Duration::ZERO);
            self.collect();
        }
        let talks = self.habits.talks && self.application_is_there;
        let checks = self.habits.checks.is_some() && self.application_is_there;
        if checks && self.next_check <= now {
            self.next_check += self.habits.checks.unwrap_or_default();
            self.checks = self.checks.wrapping_add(1);
            self.send(&binding_request(TransactionId([self.checks; 12])));
        }
        let elapsed = now.duration_since(self.start).as_millis();
        if talks && elapsed.is_multiple_of(20) {
            self.send(&[0x80, 0, 1, 2]);
        }
        let plays = self.habits.plays && self.peer_is_there;
        if plays && elapsed % 20 == 10 && self.mapping.is_some() {
            self.answer(self.check_egress, vec![0x80, 0, 3, 4]);
        }
        self.deliver();
        self.longest_gap = self.longest_gap.max(now - self.last_in);
    }

    fn send(&mut self, payload: &[u8]) {
        let packet = datagram(self.inside, self.peer, payload);
        self.world.send_bytes(&packet);
        self.collect();
    }

    /// Moves the transmits of the engine onto the paths and records its events.
    pub(crate) fn collect(&mut self) {
        self.world.open_all();
        let now = self.world.now;
        for (transmit, payload) in self.world.outbox.transmits() {
            self.mapping = Some(transmit.mapping);
            self.in_flight.push(InFlight {
                at: now + DELAY,
                by: transmit.egress,
                is_outward: true,
                payload: payload.to_vec(),
            });
        }
        for event in self.world.outbox.events() {
            let since = now - self.start;
            match *event {
                EngineEvent::FailedOver { cause, .. } => self.failovers.push((since, cause)),
                EngineEvent::FailedBack { cause, .. } => self.failbacks.push((since, cause)),
                _ => {}
            }
        }
        self.world.outbox.clear();
    }

    /// Delivers a datagram with the forged address of the peer on the direct path.
    pub(crate) fn forge(&mut self, payload: &[u8]) {
        let mapping = self.mapping.expect("the call has a mapping");
        let (peer, class) = (self.peer, TrafficClass::default());
        self.world.arrive(mapping, peer, class, payload);
        self.collect();
    }

    /// Delivers an ICMP error of `reporter` about the call's media on the direct path.
    pub(crate) fn report(&mut self, reporter: Endpoint, error: IcmpError) {
        let returned = ReturnedError {
            to: self.peer,
            reporter: Some(reporter.addr),
            error,
            payload: b"media",
        };
        let (mapping, now) = (self.mapping(), self.world.now);
        let World { engine, outbox, .. } = &mut self.world;
        engine.handle_error(mapping, Egress::Direct, &returned, now, outbox);
        self.collect();
    }

    fn answer(&mut self, by: Egress, payload: Vec<u8>) {
        self.in_flight.push(InFlight {
            at: self.world.now + DELAY,
            by,
            is_outward: false,
            payload,
        });
    }

    fn is_lost(&mut self, in_flight: &InFlight) -> bool {
        if in_flight.by == Egress::Tunnel {
            return false;
        }
        self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let is_unlucky = self.loss > 0 && (self.dice >> 16).is_multiple_of(self.loss);
        let carries = if in_flight.is_outward {
            self.outward
        } else {
            self.inward
        };
        !carries || is_unlucky
    }

    fn deliver(&mut self) {
        let now = self.world.now;
        let landing: Vec<_> = self.in_flight.extract_if(.., |it| it.at <= now).collect();
        for in_flight in landing {
            if self.is_lost(&in_flight) {
                continue;
            }
            let message = StunMessage::parse(&in_flight.payload);
            if in_flight.is_outward && !self.peer_is_there {
                continue;
            }
            if in_flight.is_outward {
                if let Some(check) = message.filter(|it| it.class == StunClass::Request) {
                    self.check_egress = in_flight.by;
                    self.answer(
                        in_flight.by,
                        binding_success(check.transaction, self.inside),
                    );
                }
                continue;
            }
            let mapping = self.mapping.expect("the peer answers the mapping");
            let mut buffer = [&[0; HEADROOM], &in_flight.payload[..]].concat();
            let payload = HEADROOM..buffer.len();
            let arrival = ReceivedDatagram {
                from: self.peer,
                traffic_class: TrafficClass::default(),
                queue_delay: Duration::ZERO,
                buffer: &mut buffer,
                payload,
            };
            self.world.engine.handle_datagram(
                mapping,
                in_flight.by,
                arrival,
                now,
                &mut self.world.outbox,
            );
            assert_eq!(
                self.world.outbox.packets().count(),
                1,
                "the datagram is delivered"
            );
            self.last_in = now;
            self.collect();
        }
    }
}
