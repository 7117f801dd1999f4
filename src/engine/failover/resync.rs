//! Resynchronisation of mappings with the state of their uplink, in batches.
//!
//! # Theory of operation
//!
//! Three changes concern every mapping of a family: another uplink, a restored uplink, a failed uplink. Each change costs
//! the kernel a socket, a datagram or both per mapping: 10 to 40 us. All mappings at once would delay packets by a third
//! of a second.
//!
//! So a change only increments the family's [`UplinkGeneration`]. A mapping of an older generation is *stale*. It is
//! resynchronised
//!
//! - with the next packet that its application sends, before that packet is handled;
//! - otherwise in a batch: all slots are visited in order, a few at a time, with a pause in between.
//!
//! A stale mapping sends nothing and no decision is made about it. Its socket on the former uplink still delivers, because
//! the peer knows no other address yet. What that socket delivers is no evidence about the new uplink; nor are its errors.
//!
//! A mapping on another or a restored uplink repeats its check at once. The peer accepts a new source address only at a
//! check, and the application's next one may be 2.5 s away. Without a response, the comparison with the tunnel begins.
//!
//! A further change restarts the visit at the first slot. A mapping takes only the latest state, once.

use std::mem;
use std::ops::Range;
use std::time::Instant;

use super::MappingPaths;
use super::cause::{FailbackCause, FailoverCause};
use super::path::SocketState;
use crate::engine::{BATCH_INTERVAL, Engine, Outbox};
use crate::net::{Egress, Family, MappingId};

/// Mappings resynchronised in one batch: a third of a millisecond at most.
const MAPPINGS_IN_BATCH: usize = 8;

/// Slots visited in one batch.
const SLOTS_IN_BATCH: usize = 256;

/// Counts the changes of a family's uplink.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct UplinkGeneration {
    /// The number of the latest change of any kind.
    pub(in crate::engine) latest: u32,
    /// The number of the latest change to another uplink.
    changed: u32,
    /// The number of the latest restoration.
    restored: u32,
}

impl UplinkGeneration {
    /// Records that there is another uplink.
    pub(in crate::engine) const fn change(&mut self) {
        self.latest += 1;
        self.changed = self.latest;
    }

    /// Records that the uplink is restored.
    pub(in crate::engine) const fn restore(&mut self) {
        self.latest += 1;
        self.restored = self.latest;
    }

    /// Records that the uplink failed.
    pub(in crate::engine) const fn fail(&mut self) {
        self.latest += 1;
    }
}

/// A visit of all slots.
#[derive(Debug)]
pub(in crate::engine) struct Resync {
    slots_left: Range<usize>,
    /// When the next batch is due.
    pub(in crate::engine) due: Instant,
}

impl MappingPaths {
    /// Whether a mapping is of an older generation than its uplink.
    pub(in crate::engine) fn is_stale(&self, id: MappingId) -> bool {
        let path = self.get(id);
        path.is_some_and(|path| path.uplink_generation < self.generation(path.family()).latest)
    }

    /// Whether a mapping's direct socket still belongs to a former uplink.
    pub(in crate::engine) fn is_on_former_uplink(&self, id: MappingId) -> bool {
        self.get(id).is_some_and(|path| {
            let is_to_be_replaced = path.uplink_generation < self.generation(path.family()).changed;
            is_to_be_replaced || path.socket(Egress::Direct) == SocketState::Opening
        })
    }
}

impl Engine {
    /// Starts a resynchronisation of all mappings with a first batch.
    pub(in crate::engine) fn start_resync(&mut self, now: Instant, outbox: &mut Outbox) {
        self.paths.resync = Some(Resync {
            slots_left: 0..self.paths.slots(),
            due: now,
        });
        self.resync_batch(now, outbox);
    }

    /// Resynchronises the next batch, if it is due.
    pub(in crate::engine) fn resync_batch(&mut self, now: Instant, outbox: &mut Outbox) {
        let Some(mut resync) = self.paths.resync.take_if(|resync| resync.due <= now) else {
            return;
        };
        let (mut visited, mut resynced) = (0, 0);
        while visited < SLOTS_IN_BATCH && resynced < MAPPINGS_IN_BATCH {
            let Some(slot) = resync.slots_left.next() else {
                return;
            };
            visited += 1;
            let mapping = self.paths.in_slot(slot);
            if let Some(mapping) = mapping.filter(|it| self.paths.is_stale(*it)) {
                self.resync(mapping, now, outbox);
                resynced += 1;
            }
        }
        resync.due = now + BATCH_INTERVAL;
        self.paths.resync = Some(resync);
    }

    /// Resynchronises a mapping with its uplink, if it is stale.
    pub(in crate::engine) fn resync(
        &mut self,
        mapping: MappingId,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(path) = self.paths.get(mapping) else {
            return;
        };
        let family = path.family();
        let generation = self.paths.generation(family);
        let path = self.paths.get_mut(mapping).expect("the path exists");
        let seen = mem::replace(&mut path.uplink_generation, generation.latest);
        if seen == generation.latest {
            return;
        }
        let had_socket = path.socket(Egress::Direct) != SocketState::Closed;
        let was_direct = path.egress() == Egress::Direct;
        if seen < generation.changed {
            path.set_socket(Egress::Direct, SocketState::Closed);
            self.reset_path(mapping, FailbackCause::UplinkChanged, now, outbox);
            if had_socket {
                self.ensure_socket(mapping, Egress::Direct, outbox);
            }
        } else if seen < generation.restored {
            self.reset_path(mapping, FailbackCause::UplinkRestored, now, outbox);
        }
        // A failback has announced the direct path already.
        if had_socket && was_direct && seen < generation.changed.max(generation.restored) {
            let path = self.paths.get_mut(mapping).expect("the path exists");
            if path.is_established() {
                path.on_check_repeated(now);
            }
            self.repeat_check(mapping, Egress::Direct, outbox);
        }
        if self.paths.is_down(family) {
            self.fail_over(mapping, FailoverCause::UplinkFailed, now, outbox);
        }
        self.paths.queue(mapping);
    }

    /// Resets the state of the uplinks of the families that `moves` selects, and resynchronises.
    pub(in crate::engine) fn reset_families(
        &mut self,
        moves: &impl Fn(Family) -> bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        for family in Family::BOTH.into_iter().filter(|family| moves(*family)) {
            self.clear_health(family, UplinkGeneration::change, outbox);
        }
        self.start_resync(now, outbox);
    }

    /// Records that a family's uplink, which was gone, is there again unchanged. Calls in the VPN fail back at once instead
    /// of waiting for the next probe.
    pub fn handle_uplink_restored(&mut self, family: Family, now: Instant, outbox: &mut Outbox) {
        self.clear_health(family, UplinkGeneration::restore, outbox);
        self.start_resync(now, outbox);
    }
}
