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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// RFC 4787 without slots, generations and timers.
    #[derive(Default)]
    struct Model {
        mappings: BTreeMap<Inside<Endpoint>, (MappingId, Instant, BTreeSet<Endpoint>)>,
        answered: BTreeSet<MappingId>,
    }

    impl Model {
        fn admits(
            &self,
            filtering: Filtering,
            id: MappingId,
            from: Endpoint,
        ) -> Option<Inside<Endpoint>> {
            let (inside, (_, _, sent)) =
                self.mappings.iter().find(|(_, (known, ..))| *known == id)?;
            let admitted = match filtering {
                Filtering::EndpointIndependent => true,
                Filtering::AddressDependent => sent.iter().any(|to| to.addr == from.addr),
                Filtering::AddressAndPortDependent => sent.contains(&from),
            };
            admitted.then_some(*inside)
        }
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Outbound { inside: Endpoint, remote: Endpoint },
        Inbound { which: usize, from: Endpoint },
        Wait { seconds: u64 },
        Fail { which: usize },
    }

    /// Each table has its own secret, so a program cannot choose colliding endpoints.
    #[test]
    fn each_table_has_its_own_hash_key() {
        let [one, other] = [(); 2].map(|()| MappingTable::new(NatSettings::default()));
        let key = Inside(Endpoint::new([10, 8, 0, 2].into(), 50_000));
        let hash = |table: &MappingTable| table.hasher.hash_one(key);
        assert_eq!(hash(&one), hash(&one));
        assert_ne!(hash(&one), hash(&other));
    }

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let addr = prop_oneof![
            Just("10.8.0.2"),
            Just("192.168.1.10"),
            Just("2001:db8::2"),
            Just("2001:db8::3")
        ];
        (addr, 1u16..4)
            .prop_map(|(addr, port)| Endpoint::new(addr.parse().expect("an address"), port))
    }

    fn step() -> impl Strategy<Value = Operation> {
        prop_oneof![
            4 => (endpoint(), endpoint()).prop_map(|(inside, remote)| Operation::Outbound { inside, remote }),
            4 => (any::<usize>(), endpoint()).prop_map(|(which, from)| Operation::Inbound { which, from }),
            2 => (0u64..200).prop_map(|seconds| Operation::Wait { seconds }),
            1 => any::<usize>().prop_map(|which| Operation::Fail { which }),
        ]
    }

    fn filtering() -> impl Strategy<Value = Filtering> {
        prop_oneof![
            Just(Filtering::EndpointIndependent),
            Just(Filtering::AddressDependent),
            Just(Filtering::AddressAndPortDependent),
        ]
    }

    proptest! {
        #[test]
        fn the_table_does_what_the_model_does(filtering in filtering(), steps in prop::collection::vec(step(), 0..80)) {
            let settings = NatSettings { filtering, ..NatSettings::default() };
            let (mut table, mut model) = (MappingTable::new(settings), Model::default());
            let mut now = Instant::now();
            let mut ids = Vec::new();
            for step in steps {
                match step {
                    Operation::Outbound { inside, remote } => {
                        let inside = Inside(inside);
                        let mapped = table.map(inside, remote, now).expect("the limits are far");
                        let known = model.mappings.get_mut(&inside);
                        match (mapped, known) {
                            (Mapped::Known(id), Some((same, refreshed, sent))) => {
                                prop_assert_eq!(id, *same, "endpoint-independent mapping");
                                *refreshed = now;
                                sent.insert(remote);
                            }
                            (Mapped::New(id), None) => {
                                prop_assert!(!ids.contains(&id), "an id is never used twice");
                                table.opened(id, Outside(remote));
                                model.mappings.insert(inside, (id, now, BTreeSet::from([remote])));
                                ids.push(id);
                            }
                            (mapped, known) => prop_assert!(false, "{mapped:?} but {known:?}"),
                        }
                    }
                    Operation::Inbound { which, from } => {
                        let Some(&id) = ids.get(which % ids.len().max(1)) else { continue };
                        let admitted = table.admit(id, from, now).ok();
                        prop_assert_eq!(admitted, model.admits(filtering, id, from));
                        if admitted.is_some() {
                            model.answered.insert(id);
                        }
                    }
                    Operation::Wait { seconds } => {
                        now += Duration::from_secs(seconds);
                        let due = table.poll_timeout();
                        let mut ended = BTreeSet::new();
                        while let Some((id, mapping)) = table.expire(now) {
                            prop_assert!(due.is_some_and(|due| due <= now), "nothing ends before it is due");
                            ended.insert((id, mapping.inside));
                        }
                        let mut expected = BTreeSet::new();
                        model.mappings.retain(|inside, (id, refreshed, _)| {
                            let lifetime = if model.answered.contains(id) { settings.lifetime } else { UNANSWERED_LIFETIME };
                            let over = *refreshed + lifetime <= now;
                            if over {
                                expected.insert((*id, *inside));
                            }
                            !over
                        });
                        prop_assert_eq!(ended, expected);
                    }
                    Operation::Fail { which } => {
                        let Some(&id) = ids.get(which % ids.len().max(1)) else { continue };
                        let removed = table.remove(id).map(|mapping| mapping.inside);
                        let known = model.mappings.iter().find(|(_, (known, ..))| *known == id);
                        let known = known.map(|(inside, _)| *inside);
                        prop_assert_eq!(removed, known);
                        model.mappings.retain(|_, (known, ..)| *known != id);
                    }
                }
                prop_assert_eq!(table.len(), model.mappings.len());
                let all = table.within(0..table.slots());
                let listed: BTreeSet<_> = all.map(|(id, mapping)| (mapping.inside, id)).collect();
                let expected: BTreeSet<_> = model.mappings.iter().map(|(inside, (id, ..))| (*inside, *id)).collect();
                prop_assert_eq!(listed, expected);
            }
        }
    }

    #[test]
    fn only_the_oldest_unanswered_mapping_is_evicted() {
        let mut table = MappingTable::new(NatSettings::default());
        let (now, remote) = (Instant::now(), endpoint_at("192.0.2.9", 1));
        let create = |table: &mut MappingTable, inside: Endpoint| {
            let mapped = table.map(Inside(inside), remote, now);
            let Ok(Mapped::New(id)) = mapped else {
                panic!("{mapped:?}")
            };
            table.opened(id, Outside(inside));
            id
        };
        let [first, second, third] =
            [1, 2, 3].map(|port| create(&mut table, endpoint_at("10.8.0.2", port)));
        let other = create(&mut table, endpoint_at("10.8.0.3", 1));
        table.admit(first, remote, now).expect("it has sent there");
        let address = "10.8.0.2".parse().expect("an address");
        let evicted = |table: &mut MappingTable| table.evict(address).map(|(id, _)| id);
        assert_eq!(evicted(&mut table), Some(second));
        assert_eq!(evicted(&mut table), Some(third));
        assert_eq!(evicted(&mut table), None);
        assert!(table.get(first).is_some() && table.get(other).is_some());
        // Answered and ended mappings do not accumulate.
        for port in 10..10_000 {
            let id = create(&mut table, endpoint_at("10.8.0.2", port));
            table.admit(id, remote, now).expect("it has sent there");
            table.remove(id);
        }
        assert!(table.per_address[&address].unanswered.len() <= 4);
    }

    fn endpoint_at(address: &str, port: u16) -> Endpoint {
        Endpoint::new(address.parse().expect("an address"), port)
    }

    #[test]
    fn a_full_table_rejects_without_a_change() {
        let limits = NatLimits {
            mappings: 1,
            permitted_remotes: 1,
            ..NatLimits::default()
        };
        let mut table = MappingTable::new(NatSettings {
            limits,
            ..NatSettings::default()
        });
        let now = Instant::now();
        let endpoint = |port| Endpoint::new("192.0.2.1".parse().expect("an address"), port);
        let other = Endpoint::new("192.0.2.2".parse().expect("an address"), 1);
        assert!(matches!(
            table.map(Inside(endpoint(1)), endpoint(9), now),
            Ok(Mapped::New(_))
        ));
        assert_eq!(
            table.map(Inside(endpoint(2)), endpoint(9), now),
            Err(MapError::Mappings)
        );
        assert_eq!(
            table.map(Inside(endpoint(1)), other, now),
            Err(MapError::PermittedRemotes)
        );
        assert!(matches!(
            table.map(Inside(endpoint(1)), endpoint(9), now),
            Ok(Mapped::Known(_))
        ));
        assert_eq!(table.len(), 1);
    }
}
