//! A call in simulated time: an application and a peer that answers checks and sends its media to whom it heard last,
//! over a direct way that dies and heals, and a tunnel that works.

use std::time::{Duration, Instant};

use voicelane::call::stun::{
    StunClass, StunMessage, TransactionId, binding_request, binding_success,
};
use voicelane::engine::{EngineEvent, FailbackCause, FailoverCause, HEADROOM, ReceivedDatagram};
use voicelane::net::{Egress, Endpoint, MappingId, TrafficClass};

use super::world::{FAMILIES, World, datagram, endpoint};

const TICK: Duration = Duration::from_millis(10);
const DELAY: Duration = Duration::from_millis(40);

/// What the application and its peer do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// The application's media, every 20 ms.
    pub(crate) talks: bool,
    /// The peer's.
    pub(crate) plays: bool,
    /// Time between two checks of the application; none: it knows no STUN.
    pub(crate) checks: Option<Duration>,
}

pub(crate) const TALK: Habits = Habits {
    talks: true,
    plays: true,
    checks: Some(Duration::from_secs(5)),
};

/// A datagram under way.
#[derive(Debug)]
pub(crate) struct Flying {
    at: Instant,
    by: Egress,
    pub(crate) is_outward: bool,
    payload: Vec<u8>,
}

/// A call with its peer, and the ways between them.
pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) inside: Endpoint,
    peer: Endpoint,
    habits: Habits,
    /// Whether the direct way carries outward, and inward.
    pub(crate) outward: bool,
    pub(crate) inward: bool,
    /// One in so many is lost on the direct way; 0: none.
    pub(crate) loss: u32,
    dice: u32,
    /// Whether the peer answers and plays; a gone one does nothing on either path.
    pub(crate) peer_is_there: bool,
    /// Whether the application sends.
    pub(crate) application_is_there: bool,
    mapping: Option<MappingId>,
    pub(crate) flying: Vec<Flying>,
    /// By which way the peer answers.
    heard_by: Egress,
    pub(crate) start: Instant,
    next_check: Instant,
    checks: u8,
    last_in: Instant,
    pub(crate) longest_gap: Duration,
    pub(crate) failovers: Vec<(Duration, FailoverCause)>,
    pub(crate) returns: Vec<(Duration, FailbackCause)>,
}

impl Call {
    /// A call that has stood for 20 s.
    pub(crate) fn new(family: [&str; 5], habits: Habits) -> Self {
        let mut call = Self::start(family, habits);
        call.run(Duration::from_secs(20));
        call.longest_gap = Duration::ZERO;
        call
    }

    /// A call whose first packet is still to come.
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
            flying: Vec::new(),
            heard_by: Egress::Direct,
            start: now,
            next_check: now,
            checks: 0,
            last_in: now,
            longest_gap: Duration::ZERO,
            failovers: Vec::new(),
            returns: Vec::new(),
        }
    }

    pub(crate) fn mapping(&self) -> MappingId {
        self.mapping.expect("the call stands")
    }

    pub(crate) fn of_both(habits: Habits) -> [Self; 2] {
        FAMILIES.map(|family| Self::new(family, habits))
    }

    pub(crate) fn kill(&mut self) {
        (self.outward, self.inward) = (false, false);
    }

    pub(crate) fn heal(&mut self) {
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
            self.carry();
        }
        let talks = self.habits.talks && self.application_is_there;
        let checks = self.habits.checks.is_some() && self.application_is_there;
        if checks && self.next_check <= now {
            self.next_check += self.habits.checks.unwrap_or_default();
            self.checks = self.checks.wrapping_add(1);
            self.put(&binding_request(TransactionId([self.checks; 12])));
        }
        let elapsed = now.duration_since(self.start).as_millis();
        if talks && elapsed.is_multiple_of(20) {
            self.put(&[0x80, 0, 1, 2]);
        }
        let plays = self.habits.plays && self.peer_is_there;
        if plays && elapsed % 20 == 10 && self.mapping.is_some() {
            self.answer(self.heard_by, vec![0x80, 0, 3, 4]);
        }
        self.land();
        self.longest_gap = self.longest_gap.max(now - self.last_in);
    }

    fn put(&mut self, payload: &[u8]) {
        let packet = datagram(self.inside, self.peer, payload);
        self.world.send_bytes(&packet);
        self.carry();
    }

    /// Takes what the engine sends on its way, and notes what it tells.
    pub(crate) fn carry(&mut self) {
        self.world.open_all();
        let now = self.world.now;
        for (transmit, payload) in self.world.outbox.transmits() {
            self.mapping = Some(transmit.mapping);
            self.flying.push(Flying {
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
                EngineEvent::FailedBack { cause, .. } => self.returns.push((since, cause)),
                _ => {}
            }
        }
        self.world.outbox.clear();
    }

    /// Has somebody send a datagram with the peer's address, by the direct path.
    pub(crate) fn forge(&mut self, payload: &[u8]) {
        let mapping = self.mapping.expect("the call stands");
        let (peer, class) = (self.peer, TrafficClass::default());
        self.world.arrive(mapping, peer, class, payload);
        self.carry();
    }

    fn answer(&mut self, by: Egress, payload: Vec<u8>) {
        self.flying.push(Flying {
            at: self.world.now + DELAY,
            by,
            is_outward: false,
            payload,
        });
    }

    fn is_lost(&mut self, flying: &Flying) -> bool {
        if flying.by == Egress::Tunnel {
            return false;
        }
        self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let is_unlucky = self.loss > 0 && (self.dice >> 16).is_multiple_of(self.loss);
        let carries = if flying.is_outward {
            self.outward
        } else {
            self.inward
        };
        !carries || is_unlucky
    }

    fn land(&mut self) {
        let now = self.world.now;
        let landing: Vec<_> = self.flying.extract_if(.., |it| it.at <= now).collect();
        for flying in landing {
            if self.is_lost(&flying) {
                continue;
            }
            let message = StunMessage::parse(&flying.payload);
            if flying.is_outward && !self.peer_is_there {
                continue;
            }
            if flying.is_outward {
                if let Some(check) = message.filter(|it| it.class == StunClass::Request) {
                    self.heard_by = flying.by;
                    self.answer(flying.by, binding_success(check.transaction, self.inside));
                }
                continue;
            }
            let mapping = self.mapping.expect("nobody answers before");
            let mut buffer = [&[0; HEADROOM], &flying.payload[..]].concat();
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
                flying.by,
                arrival,
                now,
                &mut self.world.outbox,
            );
            assert_eq!(self.world.outbox.packets().count(), 1, "all is delivered");
            self.last_in = now;
            self.carry();
        }
    }
}
