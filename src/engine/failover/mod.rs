//! Failover: mappings and whole uplinks that leave the direct path and return to it.
//!
//! # Theory of operation
//!
//! Each mapping has a [`MappingPath`] that judges its direct path by comparison with the tunnel. A mapping fails over
//! alone. Independent failovers show that the whole uplink failed (see [`health`]): all mappings of that family then move
//! in batches (see [`resync`]), and new ones start in the tunnel. The first mapping that fails back restores the uplink;
//! the others follow by their own probes.
//!
//! A switch repeats the mapping's own check on the new path, so that the peer learns the new address at once. No datagram
//! is invented: a repeated check equals the application's byte for byte, and has the same remote.
//!
//! A failover only moves datagrams into the VPN. The policy judges every datagram that is sent directly, repeated checks
//! included.

mod cause;
mod checks;
mod comparison;
mod end;
mod health;
mod path;
mod resync;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::udp::is_media;
use super::{Engine, EngineEvent, Outbox, SocketCommand};
use crate::nat::Mapping;
use crate::net::{
    Egress, Endpoint, Family, Inside, MappingId, Outside, PerFamily, Protocol, Treatment,
};
use crate::policy::Action;
use checks::StunKind;
use health::{ConfirmedFailover, UplinkHealth};
use path::{LONGEST_RETRY, PathAction};
use resync::{Resync, UplinkGeneration};

pub use cause::{EndCause, FailbackCause, FailoverCause};
pub use end::SILENT;
pub use path::FailoverSettings;
pub(super) use path::{MappingPath, SocketState};

/// Paths handled in one call. The others stay due, so that packets that came meanwhile are handled first.
const PATHS_IN_BATCH: usize = 256;

/// The paths of all mappings, in the slots of their ids.
#[derive(Debug, Default)]
pub(in crate::engine) struct MappingPaths {
    settings: Option<FailoverSettings>,
    slots: Vec<Option<MappingPath>>,
    /// An entry is valid if its path is queued for exactly that time; other entries are dropped when they come up.
    /// A heap keeps its capacity, where a tree would allocate.
    due: BinaryHeap<Reverse<(Instant, MappingId)>>,
    health: PerFamily<UplinkHealth>,
    /// Present while mappings may be stale.
    pub(in crate::engine) resync: Option<Resync>,
}

impl MappingPaths {
    pub(in crate::engine) fn settings(&self) -> Option<FailoverSettings> {
        self.settings
    }

    pub(in crate::engine) fn get(&self, id: MappingId) -> Option<&MappingPath> {
        let slot = self.slots.get(id.slot as usize)?.as_ref();
        slot.filter(|path| path.generation == id.generation)
    }

    pub(in crate::engine) fn get_mut(&mut self, id: MappingId) -> Option<&mut MappingPath> {
        let slot = self.slots.get_mut(id.slot as usize)?.as_mut();
        slot.filter(|path| path.generation == id.generation)
    }

    pub(in crate::engine) fn remove(&mut self, id: MappingId) {
        if self.get(id).is_some() {
            self.slots[id.slot as usize] = None;
        }
    }

    pub(in crate::engine) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.due.peek().map(|Reverse((due, _))| *due);
        let resync = self.resync.as_ref().map(|resync| resync.due);
        due.into_iter().chain(resync).min()
    }

    /// Whether the uplink of a family has failed.
    pub(in crate::engine) fn is_down(&self, family: Family) -> bool {
        self.health[family].failed.is_some()
    }

    /// Returns the generation of a family's uplink.
    pub(in crate::engine) fn generation(&self, family: Family) -> UplinkGeneration {
        self.health[family].generation
    }

    pub(in crate::engine) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the mapping in a slot.
    pub(in crate::engine) fn in_slot(&self, slot: usize) -> Option<MappingId> {
        let generation = self.slots.get(slot)?.as_ref()?.generation;
        let slot = u32::try_from(slot).ok()?;
        Some(MappingId { slot, generation })
    }

    /// Queues a path if it is due sooner than it was. A later time takes effect when the queued one comes up.
    pub(in crate::engine) fn queue(&mut self, id: MappingId) {
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

    /// Queues a path after media, which only ever delays what is due.
    fn queue_after_media(&mut self, id: MappingId) {
        if self.get(id).is_some_and(|path| path.queued.is_none()) {
            self.queue(id);
        }
    }

    /// Removes the first path from the queue that may be due.
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
    /// Enables failover into the VPN for calls whose direct path fails. To be called before the first packet.
    #[must_use]
    pub fn with_failover(mut self, settings: FailoverSettings) -> Self {
        self.paths.settings = Some(settings);
        self
    }

    /// Initialises the path of a new mapping.
    pub(in crate::engine) fn init_path(
        &mut self,
        mapping: MappingId,
        inside: Inside<Endpoint>,
        treatment: Treatment,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let mut path = MappingPath::new(mapping, inside, treatment, now);
        let family = path.family();
        let health = &mut self.paths.health[family];
        path.uplink_generation = health.generation.latest;
        if let Some(since) = health.failed {
            if now.saturating_duration_since(since) < LONGEST_RETRY {
                let cause = FailoverCause::UplinkFailed;
                path.start_in_tunnel(cause, since);
                self.record_failover(mapping, inside, cause, outbox);
            } else {
                // No mapping could probe the uplink for so long, so this one does.
                health.failed = None;
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

    /// Requests a mapping's socket, unless it is open or requested.
    pub(in crate::engine) fn ensure_socket(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        outbox: &mut Outbox,
    ) {
        let entry = self.nat.get(mapping);
        let Some(to) = entry.and_then(Mapping::latest_remote) else {
            return;
        };
        let Some(path) = self.paths.get_mut(mapping) else {
            return;
        };
        if path.socket(egress) == SocketState::Closed {
            path.set_socket(egress, SocketState::Opening);
            outbox.command(SocketCommand::Open {
                mapping,
                egress,
                inside: path.inside,
                to,
                treatment: path.treatment,
            });
        }
    }

    /// Selects the egress of a datagram that the policy relays, and records its STUN request. A probe is sent before the
    /// copy in the tunnel, so that the peer sees the tunnel's address last.
    pub(in crate::engine) fn select_egress(
        &mut self,
        mapping: MappingId,
        to: Endpoint,
        treatment: Treatment,
        payload: &[u8],
        now: Instant,
        outbox: &mut Outbox,
    ) -> Egress {
        let Some(path) = self.paths.get_mut(mapping) else {
            return Egress::Direct;
        };
        if path.media_remote != Some(to) && is_media(payload) {
            path.media_remote = Some(to);
        }
        let Some(settings) = self.paths.settings else {
            return Egress::Direct;
        };
        let kind = StunKind::of(payload);
        let path = self.paths.get_mut(mapping).expect("the path exists");
        let family = path.family();
        path.treatment = treatment;
        let StunKind::Request {
            transaction,
            is_check,
        } = kind
        else {
            if path.egress() == Egress::Direct {
                path.on_sent(now);
            }
            let egress = path.egress();
            self.paths.queue_after_media(mapping);
            return egress;
        };
        path.checks.on_request(transaction);
        if is_check {
            path.checks.record(to, transaction, payload);
        }
        let is_suspect = self.paths.health[family].is_suspect(now);
        let path = self.paths.get_mut(mapping).expect("the path exists");
        if path.egress() == Egress::Direct && !is_check && is_suspect && path.is_new() {
            // Only its first path can be chosen for an allocation (RFC 8656 section 7): it cannot move later.
            let (inside, cause) = (path.inside, FailoverCause::NoResponses);
            path.fail_over(cause, now);
            self.record_failover(mapping, inside, cause, outbox);
        }
        let path = self.paths.get_mut(mapping).expect("the path exists");
        let egress = path.egress();
        if egress == Egress::Direct && is_check {
            path.on_check_sent(to, now);
            if path.wants_copy(is_suspect, now) {
                path.on_copied(now);
                self.ensure_socket(mapping, Egress::Tunnel, outbox);
                self.counters.checks_repeated += 1;
                outbox.copy(mapping, Egress::Tunnel, to, treatment, payload);
            }
        } else if egress == Egress::Direct {
            path.on_sent(now);
        } else if is_check && path.take_probe(settings, now) {
            self.ensure_socket(mapping, Egress::Direct, outbox);
            self.counters.probes += 1;
            outbox.copy(mapping, Egress::Direct, to, treatment, payload);
        }
        self.paths.queue(mapping);
        egress
    }

    /// Records a datagram that the filter admitted.
    pub(in crate::engine) fn on_received(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        payload: &[u8],
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if egress == Egress::Direct && self.paths.is_on_former_uplink(mapping) {
            return;
        }
        let has_failover = self.paths.settings.is_some();
        let Some(path) = self.paths.get_mut(mapping) else {
            return;
        };
        path.on_received(egress, now);
        if !has_failover {
            return;
        }
        let kind = StunKind::of(payload);
        let family = path.family();
        let is_response = match kind {
            StunKind::Response(transaction) => path.checks.on_response(transaction),
            _ => false,
        };
        if egress == Egress::Tunnel {
            if is_response {
                path.on_tunnel_response(now);
                self.paths.queue(mapping);
            }
            return;
        }
        if !is_response {
            return self.paths.queue_after_media(mapping);
        }
        let fails_back = path.on_response(now);
        self.paths.health[family].on_response(now);
        if fails_back {
            self.fail_back(mapping, FailbackCause::ProbesAnswered, now, outbox);
        }
        self.paths.queue(mapping);
    }

    /// Does what is due for paths at `now`.
    pub(in crate::engine) fn handle_paths_due(&mut self, now: Instant, outbox: &mut Outbox) {
        let Some(settings) = self.paths.settings else {
            return;
        };
        for _ in 0..PATHS_IN_BATCH {
            let Some(id) = self.paths.pop(now) else {
                return;
            };
            if self.paths.is_stale(id) {
                continue;
            }
            let Some(path) = self.paths.get_mut(id) else {
                continue;
            };
            match path.action(settings, now) {
                PathAction::Wait => {}
                PathAction::RepeatCheck => {
                    path.on_check_repeated(now);
                    self.repeat_check(id, Egress::Direct, outbox);
                }
                PathAction::Compare => {
                    let (family, is_suspect) = (path.family(), path.is_suspect());
                    let is_copied = path.wants_comparison_copy(now);
                    if is_copied {
                        path.on_copied(now);
                    }
                    path.on_check_repeated(now);
                    if is_suspect {
                        self.paths.health[family].on_suspected_path(now);
                    }
                    // The direct one comes last: if it arrives, the peer answers to the direct address.
                    if is_copied {
                        self.repeat_check(id, Egress::Tunnel, outbox);
                    }
                    self.repeat_check(id, Egress::Direct, outbox);
                }
                PathAction::EndComparison => path.end_comparison(),
                PathAction::FailOver(cause) => {
                    self.fail_over(id, cause, now, outbox);
                }
                PathAction::FailBack => {
                    let family = path.family();
                    if self.paths.is_down(family) {
                        // This mapping has no check to probe with; others may have one.
                        let path = self.paths.get_mut(id).expect("the path exists");
                        path.start_in_tunnel(FailoverCause::UplinkFailed, now);
                    } else {
                        self.fail_back(id, FailbackCause::Untested, now, outbox);
                    }
                }
            }
            self.paths.queue(id);
        }
    }

    /// Moves a mapping into the tunnel. Returns whether it is there now.
    pub(in crate::engine) fn fail_over(
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
        if path.failover_cause().is_some() {
            return true;
        }
        let check = path.checks.answered().filter(|_| path.is_established());
        let failover = check.map(|check| ConfirmedFailover {
            remote: check.to,
            inside: path.inside.0.addr,
            created: path.created,
            failed: now,
        });
        path.fail_over(cause, now);
        let (inside, family) = (path.inside, path.family());
        self.record_failover(mapping, inside, cause, outbox);
        self.switch_egress(mapping, Egress::Tunnel, outbox);
        if cause != FailoverCause::UplinkFailed
            && let Some(failover) = failover
            && self.paths.health[family].on_failover(failover)
        {
            outbox.event(EngineEvent::UplinkFailed { family, cause });
            self.start_resync(now, outbox);
        }
        self.paths.queue(mapping);
        true
    }

    /// Returns the remote of a mapping's media, otherwise the one that it sent to last.
    pub(in crate::engine) fn remote_of(&self, mapping: MappingId) -> Option<Endpoint> {
        let media = self.paths.get(mapping).and_then(|path| path.media_remote);
        media.or_else(|| self.nat.get(mapping).and_then(Mapping::latest_remote))
    }

    fn record_failover(
        &mut self,
        mapping: MappingId,
        inside: Inside<Endpoint>,
        cause: FailoverCause,
        outbox: &mut Outbox,
    ) {
        *self.counters.failovers.entry(cause.label()).or_default() += 1;
        outbox.event(EngineEvent::FailedOver {
            mapping,
            remote: self.remote_of(mapping),
            inside,
            cause,
        });
    }

    /// Moves a mapping back to the direct path. Answered probes also restore the uplink.
    pub(in crate::engine) fn fail_back(
        &mut self,
        mapping: MappingId,
        cause: FailbackCause,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(path) = self.paths.get_mut(mapping) else {
            return;
        };
        if path.failover_cause().is_none() {
            return;
        }
        path.fail_back(now);
        let (inside, family) = (path.inside, path.family());
        *self.counters.failbacks.entry(cause.label()).or_default() += 1;
        outbox.event(EngineEvent::FailedBack {
            mapping,
            remote: self.remote_of(mapping),
            inside,
            cause,
        });
        if cause == FailbackCause::ProbesAnswered
            && self.paths.health[family].failed.take().is_some()
        {
            outbox.event(EngineEvent::UplinkRecovered { family });
        }
        self.switch_egress(mapping, Egress::Direct, outbox);
    }

    /// Resets the state of a family's uplink, and records the change.
    pub(in crate::engine) fn clear_health(
        &mut self,
        family: Family,
        record: impl FnOnce(&mut UplinkGeneration),
        outbox: &mut Outbox,
    ) {
        let health = &mut self.paths.health[family];
        record(&mut health.generation);
        if health.clear() {
            outbox.event(EngineEvent::UplinkRecovered { family });
        }
    }

    /// Moves a mapping back to the direct path and resets the state of the path.
    pub(in crate::engine) fn reset_path(
        &mut self,
        mapping: MappingId,
        cause: FailbackCause,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        self.fail_back(mapping, cause, now, outbox);
        if let Some(path) = self.paths.get_mut(mapping) {
            path.reset(now);
        }
    }

    /// Makes a socket the mapping's outside endpoint, and announces it to the peer by a check.
    fn switch_egress(&mut self, mapping: MappingId, egress: Egress, outbox: &mut Outbox) {
        self.ensure_socket(mapping, egress, outbox);
        let Some(path) = self.paths.get(mapping) else {
            return;
        };
        if let SocketState::Open(outside) = path.socket(egress) {
            self.nat.opened(mapping, outside);
        }
        self.repeat_check(mapping, egress, outbox);
    }

    /// Sends the mapping's check again on a path, if the policy still relays it: the answered one, otherwise the latest.
    fn repeat_check(&mut self, mapping: MappingId, egress: Egress, outbox: &mut Outbox) {
        let path = self.paths.get(mapping);
        let Some(check) = path.and_then(|path| path.checks.announcement().cloned()) else {
            return;
        };
        let verdict = self.policy.evaluate(Protocol::Udp, check.to);
        if verdict.action != Action::Relay {
            return;
        }
        self.counters.checks_repeated += 1;
        self.ensure_socket(mapping, egress, outbox);
        outbox.copy(mapping, egress, check.to, verdict.treatment, &check.payload);
    }

    /// Records an open socket. Returns whether its endpoint is the mapping's outside endpoint.
    pub(in crate::engine) fn record_opened(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        outside: Outside<Endpoint>,
    ) -> bool {
        let Some(path) = self.paths.get_mut(mapping) else {
            return false;
        };
        path.set_socket(egress, SocketState::Open(outside));
        path.egress() == egress
    }
}
