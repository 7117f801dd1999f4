//! Fallback: mappings, and whole uplinks, that leave the direct way and come back.
//!
//! # Theory of operation
//!
//! Each mapping has a [`MappingPath`] that judges its direct way. What falls is first the mapping alone; when a second one of
//! the same family falls and none heard anything in between, the whole uplink is given up for that family: all its
//! mappings move, part by part (see [`super::sweep`]), and new ones begin in the tunnel. The first mapping that comes back
//! takes the verdict on the uplink back; the others follow by trials of their own.
//!
//! A switch repeats the mapping's own latest check on the new way, so that the peer learns the new address at once. No
//! datagram is ever invented: what is repeated is word for word what the application sent, to whom it sent it.
//!
//! Falling only moves datagrams into the VPN. What goes out directly has been judged by the policy, datagram by datagram,
//! and so have the repeated ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::path::{
    FailbackCause, FailoverCause, FailoverSettings, LONGEST_RETRY, MappingPath, PathAction,
    SocketState,
};
use super::question::{StunCheck, StunKind};
use super::sweep::{Resync, UplinkGeneration};
use super::{Engine, EngineEvent, Outbox, SocketCommand};
use crate::net::{
    Egress, Endpoint, Family, Inside, MappingId, Outside, PerFamily, Protocol, Treatment,
};
use crate::policy::Action;

/// Mappings in a row whose fall condemns the uplink.
const FALLEN: u32 = 2;

/// MappingPaths that are looked at in one go; the others are due again at once, after whatever packets have come meanwhile.
const STEPS: usize = 256;

/// What is known of an uplink in one family.
#[derive(Clone, Copy, Debug, Default)]
struct UplinkHealth {
    /// Mappings that fell since one heard something.
    fallen: u32,
    /// When the uplink was given up.
    down: Option<Instant>,
    news: UplinkGeneration,
}

/// The paths of all mappings, in their slots.
#[derive(Debug, Default)]
pub(super) struct MappingPaths {
    settings: Option<FailoverSettings>,
    slots: Vec<Option<MappingPath>>,
    /// An entry counts if its path is queued for just that time: one that is due sooner has another entry, and the
    /// former is dropped when its time comes. A heap keeps its room, where a tree would allocate.
    due: BinaryHeap<Reverse<(Instant, MappingId)>>,
    health: PerFamily<UplinkHealth>,
    /// While mappings may be behind the news.
    pub(super) sweep: Option<Resync>,
}

impl MappingPaths {
    pub(super) fn settings(&self) -> Option<FailoverSettings> {
        self.settings
    }

    pub(super) fn get(&self, id: MappingId) -> Option<&MappingPath> {
        let slot = self.slots.get(id.slot as usize)?.as_ref();
        slot.filter(|path| path.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: MappingId) -> Option<&mut MappingPath> {
        let slot = self.slots.get_mut(id.slot as usize)?.as_mut();
        slot.filter(|path| path.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: MappingId) {
        if self.get(id).is_some() {
            self.slots[id.slot as usize] = None;
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.due.peek().map(|Reverse((due, _))| *due);
        let sweep = self.sweep.as_ref().map(|sweep| sweep.due);
        due.into_iter().chain(sweep).min()
    }

    /// Whether the uplink of a family is given up.
    pub(super) fn is_down(&self, family: Family) -> bool {
        self.health[family].down.is_some()
    }

    /// The latest news of a family's uplink.
    pub(super) fn news(&self, family: Family) -> UplinkGeneration {
        self.health[family].news
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The mapping in a slot.
    pub(super) fn in_slot(&self, slot: usize) -> Option<MappingId> {
        let generation = self.slots.get(slot)?.as_ref()?.generation;
        let slot = u32::try_from(slot).ok()?;
        Some(MappingId { slot, generation })
    }

    /// Queues a path anew when it is due sooner than it was; later is found out when its time comes.
    pub(super) fn queue(&mut self, id: MappingId) {
        let Some(settings) = self.settings else {
            return;
        };
        let Some(path) = self.get_mut(id) else { return };
        let Some(due) = path.due(settings) else {
            return;
        };
        if path.queued.is_none_or(|queued| due < queued) {
            path.queued = Some(due);
            self.due.push(Reverse((due, id)));
        }
    }

    /// Queues a path anew after media, which puts off what is due and never brings it forward.
    fn queue_after_media(&mut self, id: MappingId) {
        if self.get(id).is_some_and(|path| path.queued.is_none()) {
            self.queue(id);
        }
    }

    /// Takes the first path whose time may have come.
    fn pop(&mut self, now: Instant) -> Option<MappingId> {
        loop {
            let &Reverse((due, id)) = self.due.peek().filter(|it| it.0.0 <= now)?;
            self.due.pop();
            if let Some(path) = self.get_mut(id)
                && path.queued == Some(due)
            {
                path.queued = None;
                return Some(id);
            }
        }
    }
}

impl Engine {
    /// Has calls whose direct way fails go on in the VPN. To be called before the first packet.
    #[must_use]
    pub fn with_fallback(mut self, settings: FailoverSettings) -> Self {
        self.paths.settings = Some(settings);
        self
    }

    /// Gives a new mapping its path.
    pub(super) fn lay_path(
        &mut self,
        mapping: MappingId,
        inside: Inside<Endpoint>,
        treatment: Treatment,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let mut path = MappingPath::new(mapping, inside, treatment);
        let family = path.family();
        let health = &mut self.paths.health[family];
        path.news = health.news.latest;
        if let Some(since) = health.down {
            if now.saturating_duration_since(since) < LONGEST_RETRY {
                let cause = FailoverCause::UplinkFailed;
                path.start_in_tunnel(cause, since);
                self.note_fall(mapping, inside, cause, outbox);
            } else {
                // So long without anybody who could try: this one shall.
                health.down = None;
                outbox.event(EngineEvent::UplinkRecovered { family });
            }
        }
        let slot = mapping.slot as usize;
        if self.paths.slots.len() <= slot {
            self.paths.slots.resize_with(slot + 1, || None);
        }
        self.paths.slots[slot] = Some(path);
        self.paths.queue(mapping);
    }

    /// Has a mapping's socket opened, unless it is.
    pub(super) fn need_socket(&mut self, mapping: MappingId, way: Egress, outbox: &mut Outbox) {
        let Some(path) = self.paths.get_mut(mapping) else {
            return;
        };
        if path.socket(way) == SocketState::Closed {
            path.set_socket(way, SocketState::Opening);
            outbox.command(SocketCommand::Open {
                mapping,
                way,
                inside: path.inside,
                treatment: path.treatment,
            });
        }
    }

    /// Chooses the way of a datagram that the policy relays, and takes note of what it asks. What is to try the direct
    /// way goes there first, so that the copy in the tunnel is what the peer sees last.
    pub(super) fn route(
        &mut self,
        mapping: MappingId,
        to: Endpoint,
        treatment: Treatment,
        payload: &[u8],
        now: Instant,
        outbox: &mut Outbox,
    ) -> Egress {
        let Some(settings) = self.paths.settings else {
            return Egress::Direct;
        };
        let sign = StunKind::of(payload);
        let Some(path) = self.paths.get_mut(mapping) else {
            return Egress::Direct;
        };
        path.treatment = treatment;
        let way = path.way();
        let StunKind::Check {
            transaction,
            repeatable,
        } = sign
        else {
            if way == Egress::Direct {
                path.sent();
            }
            self.paths.queue_after_media(mapping);
            return way;
        };
        if way == Egress::Direct {
            path.asked(now);
        }
        if repeatable {
            path.questions.keep(to, transaction, payload);
        }
        if way == Egress::Tunnel && repeatable && path.tries(settings, now) {
            self.need_socket(mapping, Egress::Direct, outbox);
            self.counters.trials += 1;
            outbox.copy(mapping, Egress::Direct, to, treatment, payload);
        }
        self.paths.queue(mapping);
        way
    }

    /// Takes note of a datagram that was let in.
    pub(super) fn hear(
        &mut self,
        mapping: MappingId,
        way: Egress,
        payload: &[u8],
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if self.paths.settings.is_none() {
            return;
        }
        if way == Egress::Direct && self.paths.is_on_former_uplink(mapping) {
            return;
        }
        let sign = StunKind::of(payload);
        let Some(path) = self.paths.get_mut(mapping) else {
            return;
        };
        let family = path.family();
        if let StunKind::Answer(transaction) = sign {
            path.questions.answer(transaction);
        }
        if way == Egress::Direct {
            let is_answer = matches!(sign, StunKind::Answer(_));
            let comes_back = path.heard(is_answer, now);
            self.paths.health[family].fallen = 0;
            if comes_back {
                self.come_back(mapping, FailbackCause::ProbesAnswered, now, outbox);
            }
            if sign == StunKind::Other {
                self.paths.queue_after_media(mapping);
            } else {
                self.paths.queue(mapping);
            }
        }
    }

    /// Does what is due for paths at `now`.
    pub(super) fn handle_paths_due(&mut self, now: Instant, outbox: &mut Outbox) {
        let Some(settings) = self.paths.settings else {
            return;
        };
        for _ in 0..STEPS {
            let Some(id) = self.paths.pop(now) else {
                return;
            };
            if self.paths.is_behind(id) {
                continue;
            }
            let Some(path) = self.paths.get_mut(id) else {
                continue;
            };
            match path.step(settings, now) {
                PathAction::Wait => {}
                PathAction::Ask => {
                    path.asked(now);
                    let question = path.questions.answered().cloned();
                    self.repeat(id, question, outbox);
                }
                PathAction::Fall(cause) => {
                    self.fall(id, cause, now, outbox);
                }
                PathAction::Return => {
                    let family = path.family();
                    if self.paths.is_down(family) {
                        // It cannot tell; others may.
                        let path = self.paths.get_mut(id).expect("it was there a moment ago");
                        path.start_in_tunnel(FailoverCause::UplinkFailed, now);
                    } else {
                        self.come_back(id, FailbackCause::Untested, now, outbox);
                    }
                }
            }
            self.paths.queue(id);
        }
    }

    /// Moves a mapping into the tunnel. Answers whether it is there now.
    pub(super) fn fall(
        &mut self,
        mapping: MappingId,
        cause: FailoverCause,
        now: Instant,
        outbox: &mut Outbox,
    ) -> bool {
        if self.paths.settings.is_none() {
            return false;
        }
        let Some(path) = self.paths.get_mut(mapping) else {
            return false;
        };
        if path.fallen().is_some() {
            return true;
        }
        path.fall(cause, now);
        let (inside, family) = (path.inside, path.family());
        self.note_fall(mapping, inside, cause, outbox);
        self.take_way(mapping, Egress::Tunnel, outbox);
        if cause != FailoverCause::UplinkFailed {
            let health = &mut self.paths.health[family];
            health.fallen = health.fallen.saturating_add(1);
            if health.fallen >= FALLEN && health.down.is_none() {
                health.down = Some(now);
                health.news.fall();
                outbox.event(EngineEvent::UplinkFailed { family, cause });
                self.sweep(now, outbox);
            }
        }
        self.paths.queue(mapping);
        true
    }

    fn note_fall(
        &mut self,
        mapping: MappingId,
        inside: Inside<Endpoint>,
        cause: FailoverCause,
        outbox: &mut Outbox,
    ) {
        *self.counters.falls.entry(cause.label()).or_default() += 1;
        outbox.event(EngineEvent::FailedOver {
            mapping,
            inside,
            cause,
        });
    }

    /// Moves a mapping back to the direct way, and takes the verdict on the uplink back.
    pub(super) fn come_back(
        &mut self,
        mapping: MappingId,
        cause: FailbackCause,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(path) = self.paths.get_mut(mapping) else {
            return;
        };
        if path.fallen().is_none() {
            return;
        }
        path.come_back(now);
        let (inside, family) = (path.inside, path.family());
        *self.counters.returns.entry(cause.label()).or_default() += 1;
        outbox.event(EngineEvent::FailedBack {
            mapping,
            inside,
            cause,
        });
        if cause == FailbackCause::ProbesAnswered && self.paths.health[family].down.take().is_some()
        {
            outbox.event(EngineEvent::UplinkRecovered { family });
        }
        self.take_way(mapping, Egress::Direct, outbox);
    }

    /// Forgets what was found out about a family's uplink.
    pub(super) fn clear(
        &mut self,
        family: Family,
        news: impl FnOnce(&mut UplinkGeneration),
        outbox: &mut Outbox,
    ) {
        let health = &mut self.paths.health[family];
        news(&mut health.news);
        health.fallen = 0;
        if health.down.take().is_some() {
            outbox.event(EngineEvent::UplinkRecovered { family });
        }
    }

    /// Gives a mapping's direct way a fresh chance.
    pub(super) fn trust(
        &mut self,
        mapping: MappingId,
        cause: FailbackCause,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        self.come_back(mapping, cause, now, outbox);
        if let Some(path) = self.paths.get_mut(mapping) {
            path.start_over(now);
        }
    }

    /// Has a mapping's datagrams go this way, and lets the peer know by a check.
    fn take_way(&mut self, mapping: MappingId, way: Egress, outbox: &mut Outbox) {
        self.need_socket(mapping, way, outbox);
        let Some(path) = self.paths.get(mapping) else {
            return;
        };
        if let SocketState::Open(outside) = path.socket(way) {
            self.nat.opened(mapping, outside);
        }
        let introduction = path.questions.introduction().cloned();
        self.repeat(mapping, introduction, outbox);
    }

    /// Sends a check again, word for word, the way that the mapping goes now; unless the policy has changed its mind.
    fn repeat(&mut self, mapping: MappingId, question: Option<StunCheck>, outbox: &mut Outbox) {
        let Some((question, path)) = question.zip(self.paths.get(mapping)) else {
            return;
        };
        let verdict = self.policy.evaluate(Protocol::Udp, question.to);
        if verdict.action != Action::Relay {
            return;
        }
        let (way, treatment) = (path.way(), verdict.treatment);
        self.counters.checks_repeated += 1;
        self.need_socket(mapping, way, outbox);
        outbox.copy(mapping, way, question.to, treatment, &question.payload);
    }

    /// Notes what became of a socket. Answers whether its endpoint is the one that stands for the mapping.
    pub(super) fn note_opened(
        &mut self,
        mapping: MappingId,
        way: Egress,
        outside: Outside<Endpoint>,
    ) -> bool {
        let Some(path) = self.paths.get_mut(mapping) else {
            return false;
        };
        path.set_socket(way, SocketState::Open(outside));
        path.way() == way
    }
}
