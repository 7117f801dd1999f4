//! UplinkGeneration of an uplink, and how thousands of mappings take them in without holding a packet up.
//!
//! # Theory of operation
//!
//! Three things concern every mapping of a family at once: there is another uplink, so that each needs another socket;
//! the uplink was gone and is back; the uplink is given up. For a mapping each of them costs the kernel a socket, or a
//! datagram, or both, 10 to 40 us; for all of them in one go nobody would hear anything for a third of a second.
//!
//! So the news get a number, which is all that happens at once. A mapping that has not taken in the latest is *behind*. It
//! catches up
//!
//! - with the next packet that its application sends, before anything else is done with that packet: who speaks waits for
//!   its own socket and for nobody else's;
//! - else when the sweep comes by, which looks at all slots in order, a few at a time, and rests in between.
//!
//! Nothing is decided about a mapping that is behind, and it sends nothing: what is due for it waits until it has caught
//! up. What its socket on the former uplink still brings is let in, as it was until then (the link may be there for
//! another moment, and the peer knows no other address until it hears of one), but it says nothing about the uplink that
//! there is now, nor do errors.
//!
//! More news while a sweep is under way send it back to the first slot. Only the latest state is taken in, once.

use std::mem;
use std::ops::Range;
use std::time::Instant;

use super::fallback::MappingPaths;
use super::path::{FailbackCause, FailoverCause, SocketState};
use super::{Engine, Outbox, REST};
use crate::net::{Egress, Family, MappingId};

/// Mappings that catch up in one go: a third of a millisecond at most.
const STEPS: usize = 8;

/// Slots that are looked at in one go: most have caught up by themselves, if many speak.
const LOOKS: usize = 256;

/// The numbers of the latest news of a family's uplink.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UplinkGeneration {
    /// Of whatever kind.
    pub(super) latest: u32,
    /// That there is another uplink.
    changed: u32,
    /// That it is back.
    back: u32,
}

impl UplinkGeneration {
    /// There is another uplink.
    pub(super) const fn change(&mut self) {
        self.latest += 1;
        self.changed = self.latest;
    }

    /// The uplink is back.
    pub(super) const fn come_back(&mut self) {
        self.latest += 1;
        self.back = self.latest;
    }

    /// The uplink is given up.
    pub(super) const fn fall(&mut self) {
        self.latest += 1;
    }
}

/// A look at all slots.
#[derive(Debug)]
pub(super) struct Resync {
    left: Range<usize>,
    /// When it goes on.
    pub(super) due: Instant,
}

impl MappingPaths {
    /// Whether a mapping has not taken in the latest news.
    pub(super) fn is_behind(&self, id: MappingId) -> bool {
        let path = self.get(id);
        path.is_some_and(|path| path.news < self.news(path.family()).latest)
    }

    /// Whether a mapping's direct socket is still one of a former uplink.
    pub(super) fn is_on_former_uplink(&self, id: MappingId) -> bool {
        self.get(id).is_some_and(|path| {
            let is_to_be_replaced = path.news < self.news(path.family()).changed;
            is_to_be_replaced || path.socket(Egress::Direct) == SocketState::Opening
        })
    }
}

impl Engine {
    /// Has every mapping catch up with the news: some at once, the others with what they send, or part by part.
    pub(super) fn sweep(&mut self, now: Instant, outbox: &mut Outbox) {
        self.paths.sweep = Some(Resync {
            left: 0..self.paths.slots(),
            due: now,
        });
        self.sweep_some(now, outbox);
    }

    /// Has the next mappings catch up, if it is time.
    pub(super) fn sweep_some(&mut self, now: Instant, outbox: &mut Outbox) {
        let Some(mut sweep) = self.paths.sweep.take_if(|sweep| sweep.due <= now) else {
            return;
        };
        let (mut looks, mut steps) = (0, 0);
        while looks < LOOKS && steps < STEPS {
            let Some(slot) = sweep.left.next() else {
                return;
            };
            looks += 1;
            let mapping = self.paths.in_slot(slot);
            if let Some(mapping) = mapping.filter(|it| self.paths.is_behind(*it)) {
                self.catch_up(mapping, now, outbox);
                steps += 1;
            }
        }
        sweep.due = now + REST;
        self.paths.sweep = Some(sweep);
    }

    /// Has a mapping take in the news, if it is behind.
    pub(super) fn catch_up(&mut self, mapping: MappingId, now: Instant, outbox: &mut Outbox) {
        let Some(path) = self.paths.get(mapping) else {
            return;
        };
        let family = path.family();
        let news = self.paths.news(family);
        let path = self.paths.get_mut(mapping).expect("it was just there");
        let seen = mem::replace(&mut path.news, news.latest);
        if seen == news.latest {
            return;
        }
        if seen < news.changed {
            let had_one = path.socket(Egress::Direct) != SocketState::Closed;
            path.set_socket(Egress::Direct, SocketState::Closed);
            self.trust(mapping, FailbackCause::UplinkChanged, now, outbox);
            if had_one {
                self.need_socket(mapping, Egress::Direct, outbox);
            }
        } else if seen < news.back {
            self.trust(mapping, FailbackCause::UplinkRestored, now, outbox);
        }
        if self.paths.is_down(family) {
            self.fall(mapping, FailoverCause::UplinkFailed, now, outbox);
        }
        self.paths.queue(mapping);
    }

    /// Begins anew on another uplink, for the families that `moves` says: whatever was found out was about the former one.
    pub(super) fn start_over(
        &mut self,
        moves: &impl Fn(Family) -> bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        for family in Family::BOTH.into_iter().filter(|family| moves(*family)) {
            self.clear(family, UplinkGeneration::change, outbox);
        }
        self.sweep(now, outbox);
    }

    /// Takes the news that a family's uplink, which was gone, is there again, the same as before: what was found out while it
    /// went is of no account, and calls need not wait in the VPN until the direct way is tried again.
    pub fn handle_uplink_is_back(&mut self, family: Family, now: Instant, outbox: &mut Outbox) {
        self.clear(family, UplinkGeneration::come_back, outbox);
        self.sweep(now, outbox);
    }
}
