//! The table of mappings.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::net::{Endpoint, Filtering, Inside, MappingId, Outside};
use crate::timer::Timers;

use super::PermittedRemotes;

/// Settings of a mapping table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatSettings {
    /// The lifetime of a mapping after its last outbound packet. RFC 4787 REQ-5: at least 2 minutes, 5 recommended.
    pub lifetime: Duration,
    /// The filtering of inbound datagrams.
    pub filtering: Filtering,
    /// Whether datagrams from permitted remotes refresh the mapping too (allowed by REQ-6); those from others never do.
    pub inbound_refresh: bool,
    /// The limits.
    pub limits: NatLimits,
}

impl Default for NatSettings {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_mins(5),
            filtering: Filtering::default(),
            inbound_refresh: false,
            limits: NatLimits::default(),
        }
    }
}

/// The limits of a mapping table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatLimits {
    /// Mappings in all.
    pub mappings: usize,
    /// Mappings of one inside address.
    pub mappings_of_address: usize,
    /// Permitted remotes of one mapping.
    pub permitted_remotes: usize,
}

impl Default for NatLimits {
    fn default() -> Self {
        Self {
            mappings: 32_768,
            mappings_of_address: 8_192,
            permitted_remotes: 1_024,
        }
    }
}

/// The lifetime of a mapping before its first answer. Shorter than RFC 4787 REQ-5 requires: an unanswered mapping carries
/// no session yet, and costs a socket.
pub const UNANSWERED_LIFETIME: Duration = Duration::from_secs(30);

/// A mapping of an inside endpoint to an outside endpoint.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The application's endpoint.
    pub inside: Inside<Endpoint>,
    /// The socket's endpoint, once it is open.
    pub outside: Option<Outside<Endpoint>>,
    /// The time of the first packet.
    pub created: Instant,
    /// The time of the last outbound packet.
    pub refreshed: Instant,
    /// Whether a permitted remote has ever answered.
    pub is_answered: bool,
    permitted_remotes: PermittedRemotes,
}

impl Mapping {
    /// Returns the number of permitted remotes, as far as the filtering distinguishes them.
    #[must_use]
    pub fn permitted_remotes(&self) -> usize {
        self.permitted_remotes.len()
    }

    /// Returns the remote that the inside endpoint sent to last.
    #[must_use]
    pub fn latest_remote(&self) -> Option<Endpoint> {
        self.permitted_remotes.latest()
    }

    /// Returns when the mapping ends, unless it is refreshed. An answer only extends that time.
    fn deadline(&self, settings: &NatSettings) -> Instant {
        self.refreshed
            + if self.is_answered {
                settings.lifetime
            } else {
                settings.lifetime.min(UNANSWERED_LIFETIME)
            }
    }
}

/// The mappings of one inside address.
#[derive(Debug, Default)]
struct AddressMappings {
    count: usize,
    /// Mappings without an answer, the oldest first; some have been answered or have ended since.
    unanswered: VecDeque<MappingId>,
}

/// The mapping of an outbound packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// An existing mapping.
    Known(MappingId),
    /// A new mapping, whose socket is to be opened.
    New(MappingId),
}

/// Why an outbound packet got no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The table is full.
    #[error("the limit of mappings is reached")]
    Mappings,
    /// The inside address has as many mappings as it may.
    #[error("the limit of mappings of one inside address is reached")]
    MappingsOfAddress,
    /// The mapping has as many permitted remotes as it may.
    #[error("the limit of remotes of one mapping is reached")]
    PermittedRemotes,
}

/// Why an inbound datagram was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The mapping has ended.
    #[error("the mapping has ended")]
    NoMapping,
    /// The remote is not permitted.
    #[error("the inside endpoint has not sent to this remote")]
    Unsolicited,
}

/// Two cache lines: with many mappings, fetching them is most of a packet's cost.
#[derive(Debug, Default)]
#[repr(align(64))]
struct MappingSlot {
    generation: u32,
    mapping: Option<Mapping>,
}

impl MappingSlot {
    fn holds(&self, inside: Inside<Endpoint>) -> bool {
        let mapping = self.mapping.as_ref();
        mapping.is_some_and(|mapping| mapping.inside == inside)
    }

    /// Returns the hash of the indexed inside endpoint.
    fn hash(&self, hasher: &RandomState) -> u64 {
        let mapping = self.mapping.as_ref();
        hasher.hash_one(mapping.expect("an indexed mapping exists").inside)
    }
}

/// All mappings. A new mapping must be [opened](MappingTable::opened) or [removed](MappingTable::remove).
#[derive(Debug)]
pub struct MappingTable {
    settings: NatSettings,
    /// Local programs choose the inside endpoint: the hash is keyed with a random secret.
    hasher: RandomState,
    /// Slots by inside endpoint. An index without keys stays in the cache.
    by_inside: HashTable<u32>,
    by_outside: HashMap<Outside<Endpoint>, MappingId, RandomState>,
    per_address: HashMap<IpAddr, AddressMappings, RandomState>,
    slots: Vec<MappingSlot>,
    free: Vec<u32>,
    timers: Timers<MappingId>,
}

impl MappingTable {
    /// Creates an empty table.
    #[must_use]
    pub fn new(settings: NatSettings) -> Self {
        Self {
            settings,
            hasher: RandomState::default(),
            by_inside: HashTable::new(),
            by_outside: HashMap::default(),
            per_address: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            timers: Timers::default(),
        }
    }

    /// Finds or creates the mapping of an outbound packet, permits `remote`, and refreshes the lifetime.
    ///
    /// # Errors
    /// [`MapError`] if a limit is reached; nothing changes then.
    pub fn map(
        &mut self,
        inside: Inside<Endpoint>,
        remote: Endpoint,
        now: Instant,
    ) -> Result<Mapped, MapError> {
        let NatSettings {
            filtering, limits, ..
        } = self.settings;
        let hash = self.hasher.hash_one(inside);
        let matches = |slot: &u32| self.slots[*slot as usize].holds(inside);
        if let Some(&slot) = self.by_inside.find(hash, matches) {
            let entry = &mut self.slots[slot as usize];
            let generation = entry.generation;
            let mapping = entry.mapping.as_mut().expect("an indexed mapping exists");
            if !mapping
                .permitted_remotes
                .insert(filtering, remote, limits.permitted_remotes)
            {
                return Err(MapError::PermittedRemotes);
            }
            mapping.refreshed = now;
            return Ok(Mapped::Known(MappingId { slot, generation }));
        }
        if self.by_inside.len() >= limits.mappings {
            return Err(MapError::Mappings);
        }
        let of_address = self.per_address.get(&inside.0.addr);
        if of_address.map_or(0, |it| it.count) >= limits.mappings_of_address {
            return Err(MapError::MappingsOfAddress);
        }
        let mut permitted_remotes = PermittedRemotes::default();
        if !permitted_remotes.insert(filtering, remote, limits.permitted_remotes) {
            return Err(MapError::PermittedRemotes);
        }
        let id = self.occupy(Mapping {
            inside,
            outside: None,
            created: now,
            refreshed: now,
            is_answered: false,
            permitted_remotes,
        });
        let Self {
            hasher,
            by_inside,
            slots,
            ..
        } = self;
        by_inside.insert_unique(hash, id.slot, |slot| slots[*slot as usize].hash(hasher));
        let of_address = self.per_address.entry(inside.0.addr).or_default();
        of_address.count += 1;
        of_address.unanswered.push_back(id);
        if of_address.unanswered.len() > 2 * of_address.count {
            // Half of them or more have been answered or have ended.
            let slots = &self.slots;
            let is_unanswered = |id: &MappingId| unanswered(slots, *id).is_some();
            of_address.unanswered.retain(is_unanswered);
        }
        Ok(Mapped::New(id))
    }

    /// Removes the oldest mapping of an inside address that was never answered, if there is one: a new mapping
    /// may replace it at a limit.
    pub fn evict(&mut self, address: IpAddr) -> Option<(MappingId, Mapping)> {
        let queue = &mut self.per_address.get_mut(&address)?.unanswered;
        let id = loop {
            let id = queue.pop_front()?;
            if unanswered(&self.slots, id).is_some() {
                break id;
            }
        };
        self.remove(id).map(|mapping| (id, mapping))
    }

    /// Filters an inbound datagram from `from`. Returns its inside endpoint.
    ///
    /// # Errors
    /// [`AdmitError`] if the mapping has ended or the remote is not permitted.
    pub fn admit(
        &mut self,
        id: MappingId,
        from: Endpoint,
        now: Instant,
    ) -> Result<Inside<Endpoint>, AdmitError> {
        let NatSettings {
            filtering,
            inbound_refresh,
            ..
        } = self.settings;
        let mapping = self.get_mut(id).ok_or(AdmitError::NoMapping)?;
        if !mapping.permitted_remotes.admits(filtering, from) {
            return Err(AdmitError::Unsolicited);
        }
        mapping.is_answered = true;
        if inbound_refresh && mapping.permitted_remotes.contains(filtering, from) {
            mapping.refreshed = now;
        }
        Ok(mapping.inside)
    }

    /// Filters an error about a datagram to `to`. Returns its inside endpoint. Under every filtering the mapping must have
    /// sent to that remote.
    ///
    /// # Errors
    /// [`AdmitError`] if the mapping has ended or has not sent to this remote.
    pub fn admit_error(&self, id: MappingId, to: Endpoint) -> Result<Inside<Endpoint>, AdmitError> {
        let mapping = self.get(id).ok_or(AdmitError::NoMapping)?;
        if mapping
            .permitted_remotes
            .contains(self.settings.filtering, to)
        {
            Ok(mapping.inside)
        } else {
            Err(AdmitError::Unsolicited)
        }
    }

    /// Returns the mapping with this outside endpoint. A socket that is bound to every address is not found.
    #[must_use]
    pub fn at_outside(&self, outside: Outside<Endpoint>) -> Option<MappingId> {
        self.by_outside.get(&outside).copied()
    }

    /// Records the outside endpoint of a mapping's socket, and starts its lifetime. Does nothing if the mapping has ended.
    pub fn opened(&mut self, id: MappingId, outside: Outside<Endpoint>) {
        let settings = self.settings;
        let Some(mapping) = self.get_mut(id) else {
            return;
        };
        let deadline = mapping.deadline(&settings);
        match mapping.outside.replace(outside) {
            None => self.timers.schedule(id, deadline),
            Some(before) => self.unindex_outside(id, before),
        }
        if !outside.0.addr.is_unspecified() {
            self.by_outside.insert(outside, id);
        }
    }

    /// Removes a mapping; its id becomes invalid.
    pub fn remove(&mut self, id: MappingId) -> Option<Mapping> {
        let slot = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let mapping = slot.mapping.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        let hash = self.hasher.hash_one(mapping.inside);
        if let Ok(indexed) = self.by_inside.find_entry(hash, |slot| *slot == id.slot) {
            indexed.remove();
        }
        if let Some(of_address) = self.per_address.get_mut(&mapping.inside.0.addr) {
            of_address.count -= 1;
            if of_address.count == 0 {
                self.per_address.remove(&mapping.inside.0.addr);
            }
        }
        if let Some(outside) = mapping.outside {
            self.unindex_outside(id, outside);
        }
        Some(mapping)
    }

    /// Removes an outside endpoint from the index, unless it belongs to another mapping by now.
    fn unindex_outside(&mut self, id: MappingId, outside: Outside<Endpoint>) {
        if self.by_outside.get(&outside) == Some(&id) {
            self.by_outside.remove(&outside);
        }
    }

    fn get_mut(&mut self, id: MappingId) -> Option<&mut Mapping> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        slot.mapping
            .as_mut()
            .filter(|_| slot.generation == id.generation)
    }

    /// Removes a mapping whose lifetime is over, if there is one. To be called until it returns `None`.
    pub fn expire(&mut self, now: Instant) -> Option<(MappingId, Mapping)> {
        let Self {
            slots,
            timers,
            settings,
            ..
        } = self;
        let id = timers.pop_expired(now, |id| {
            let slot = slots
                .get(id.slot as usize)
                .filter(|slot| slot.generation == id.generation)?;
            slot.mapping
                .as_ref()
                .map(|mapping| mapping.deadline(settings))
        })?;
        self.remove(id).map(|mapping| (id, mapping))
    }

    /// Returns when [`MappingTable::expire`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }

    /// Returns the mapping of an id, unless it has ended.
    #[must_use]
    pub fn get(&self, id: MappingId) -> Option<&Mapping> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.mapping
            .as_ref()
            .filter(|_| slot.generation == id.generation)
    }

    /// Returns the mappings in a range of slots with their ids, in order. Slots beyond [`MappingTable::slots`] are empty.
    pub fn within(&self, slots: Range<usize>) -> impl Iterator<Item = (MappingId, &Mapping)> {
        let numbered = (0..).zip(&self.slots).skip(slots.start);
        numbered.take(slots.len()).filter_map(|(slot, entry)| {
            let id = MappingId {
                slot,
                generation: entry.generation,
            };
            entry.mapping.as_ref().map(|mapping| (id, mapping))
        })
    }

    /// Returns the number of slots: the largest number of mappings at a time so far.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of mappings.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.by_inside.len()
    }

    fn occupy(&mut self, mapping: Mapping) -> MappingId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(MappingSlot::default());
            u32::try_from(self.slots.len() - 1).expect("the limit of mappings is far below 2^32")
        });
        let entry = &mut self.slots[slot as usize];
        entry.mapping = Some(mapping);
        MappingId {
            slot,
            generation: entry.generation,
        }
    }
}

/// Returns the mapping of an id, if it exists and was never answered.
fn unanswered(slots: &[MappingSlot], id: MappingId) -> Option<&Mapping> {
    let slot = slots.get(id.slot as usize)?;
    let mapping = slot.mapping.as_ref();
    mapping.filter(|mapping| slot.generation == id.generation && !mapping.is_answered)
}

#[cfg(test)]
mod tests;
