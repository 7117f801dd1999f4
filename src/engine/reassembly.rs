//! Reassembly of the fragments that come out of the TUN (RFC 4787 REQ-14, RFC 815, RFC 8200 section 4.5).
//!
//! # Theory of operation
//!
//! A local socket routes before it fragments, so the fragments of a captured datagram enter the TUN. Only the first one has
//! the ports that the policy needs. Fragments in any order are kept until the datagram is complete; then it is handled as
//! any other packet.
//!
//! Fragments are not trusted:
//!
//! - Memory is bounded in all and per source, overhead included. A fragment beyond the bound is dropped; earlier ones stay.
//! - A datagram incomplete [`ReassemblyLimits::lifetime`] after its first fragment expires. Its sender gets an error if the
//!   first fragment is there to be quoted (RFC 1122 section 3.3.2).
//! - Fragments that overlap, or disagree about the datagram's length, invalidate it. Its fragments are dropped until its
//!   lifetime is over (RFC 5722 for IPv6, RFC 1858 for IPv4). An exact duplicate is ignored.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::net::{Ecn, Family};
use crate::wire::fragment::{self, DatagramHeader, Fragment};
use crate::wire::{Packet, reply};

/// The overhead in bytes of an incomplete datagram, and of each of its fragments: table entries and allocations.
const OVERHEAD: usize = 256;

/// The bounds of the reassembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Bytes in all, overhead included.
    pub held: usize,
    /// Bytes of one source, overhead included.
    pub held_of_source: usize,
    /// How long the fragments of a datagram are kept.
    pub lifetime: Duration,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self {
            held: 4 << 20,
            held_of_source: 1 << 20,
            lifetime: Duration::from_secs(15),
        }
    }
}

/// Why a fragment was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// It is empty, exceeds the largest datagram, or is not the last and its length is no multiple of 8.
    #[error("the fragment's length is wrong")]
    Length,
    /// Fragments of the datagram overlap, or disagree about its length.
    #[error("the fragments overlap")]
    Overlap,
    /// The memory bound is reached.
    #[error("too many fragments are waiting")]
    NoRoom,
}

/// A datagram whose lifetime is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredDatagram {
    /// Its first fragment, if an error may quote it.
    pub first_fragment: Option<FirstFragment>,
}

/// The first fragment of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstFragment {
    /// The sender.
    pub from: IpAddr,
    /// The destination.
    pub to: IpAddr,
    /// The fragment as a packet.
    pub packet: Vec<u8>,
}

/// Identifies the datagram of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct DatagramKey {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// `None` over IPv6, where only the first fragment has it.
    protocol: Option<u8>,
}

/// The end of a datagram's lifetime; the number distinguishes datagrams of the same instant.
type Due = (Instant, u64);

/// An incomplete or invalid datagram.
#[derive(Debug)]
struct PartialDatagram {
    due: Due,
    /// Payloads by offset in bytes.
    parts: BTreeMap<usize, Box<[u8]>>,
    /// Payload bytes received.
    received: usize,
    /// The payload's length, once the last fragment is received.
    end: Option<usize>,
    /// The header of the first fragment, and whether an error may answer it.
    head: Option<(DatagramHeader, bool)>,
    /// Whether a router marked any fragment: then the whole datagram is marked (RFC 3168 section 5.3).
    is_congested: bool,
    is_invalid: bool,
    cost: usize,
}

/// The fragments of all incomplete datagrams.
#[derive(Debug, Default)]
pub struct Reassembly {
    limits: ReassemblyLimits,
    /// Local programs choose addresses and identifications: the hash is keyed with a random secret.
    partials: HashMap<DatagramKey, PartialDatagram, RandomState>,
    by_due: BTreeMap<Due, DatagramKey>,
    by_source: HashMap<IpAddr, usize, RandomState>,
    held: usize,
    serial: u64,
}

impl Reassembly {
    /// Creates an empty reassembly with these limits.
    #[must_use]
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Adds a fragment. Returns the whole packet if it is complete now.
    ///
    /// # Errors
    /// [`FragmentError`] if the fragment is dropped.
    pub fn insert(
        &mut self,
        packet: &Packet<'_>,
        part: Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, FragmentError> {
        let range = part.range();
        // Over IPv4 the packet's length includes its header.
        let most = match packet.family() {
            Family::V4 => 65_515,
            Family::V6 => 65_535,
        };
        if range.is_empty() || range.end > most || (part.more && !range.end.is_multiple_of(8)) {
            return Err(FragmentError::Length);
        }
        let key = DatagramKey {
            source: packet.source(),
            destination: packet.destination(),
            identification: part.identification,
            protocol: (packet.family() == Family::V4).then_some(part.protocol),
        };
        let known = self.partials.get(&key);
        if known.is_some_and(|partial| partial.is_invalid) {
            return Err(FragmentError::Overlap);
        }
        if known.is_some_and(|partial| partial.has(&part)) {
            return Ok(None);
        }
        if known.is_some_and(|partial| partial.contradicts(&part)) {
            self.invalidate(&key);
            return Err(FragmentError::Overlap);
        }
        let cost = OVERHEAD + part.payload.len() + if known.is_none() { OVERHEAD } else { 0 };
        let of_source = self.by_source.get(&key.source).copied().unwrap_or(0);
        let ReassemblyLimits {
            held,
            held_of_source,
            lifetime,
        } = self.limits;
        if self.held + cost > held || of_source + cost > held_of_source {
            return Err(FragmentError::NoRoom);
        }
        let due = (now + lifetime, self.serial);
        let partial = self.partials.entry(key).or_insert_with(|| {
            self.by_due.insert(due, key);
            self.serial += 1;
            PartialDatagram::new(due)
        });
        partial.insert(packet, &part);
        partial.cost += cost;
        self.held += cost;
        *self.by_source.entry(key.source).or_default() += cost;
        if partial.end != Some(partial.received) {
            return Ok(None);
        }
        // The parts do not overlap and are before the end, so the sum of their lengths is enough.
        let partial = self.remove(&key).expect("it was just completed");
        Ok(partial.join())
    }

    /// Removes a datagram whose lifetime is over, if there is one. To be called until it returns `None`.
    pub fn expire(&mut self, now: Instant) -> Option<ExpiredDatagram> {
        let (&due, &key) = self.by_due.first_key_value()?;
        if due.0 > now {
            return None;
        }
        let first_fragment = self.remove(&key)?.first_fragment();
        Some(ExpiredDatagram { first_fragment })
    }

    /// Returns when [`Reassembly::expire`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_due.first_key_value().map(|((due, _), _)| *due)
    }

    /// Returns the bytes held, overhead included.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Returns the number of incomplete datagrams, invalid ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    /// Whether no datagram is incomplete.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Drops the fragments of a datagram, and marks it as invalid.
    fn invalidate(&mut self, key: &DatagramKey) {
        let partial = self.partials.get_mut(key).expect("it was just found");
        let freed = partial.cost - OVERHEAD;
        partial.parts.clear();
        (partial.head, partial.is_invalid, partial.cost) = (None, true, OVERHEAD);
        self.release(key.source, freed);
    }

    fn remove(&mut self, key: &DatagramKey) -> Option<PartialDatagram> {
        let partial = self.partials.remove(key)?;
        self.by_due.remove(&partial.due);
        self.release(key.source, partial.cost);
        Some(partial)
    }

    fn release(&mut self, source: IpAddr, cost: usize) {
        self.held -= cost;
        if let Some(held) = self.by_source.get_mut(&source) {
            *held -= cost;
            if *held == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

impl PartialDatagram {
    fn new(due: Due) -> Self {
        Self {
            due,
            parts: BTreeMap::new(),
            received: 0,
            end: None,
            head: None,
            is_congested: false,
            is_invalid: false,
            cost: 0,
        }
    }

    /// Whether the same fragment was received before.
    fn has(&self, part: &Fragment<'_>) -> bool {
        let range = part.range();
        let same_end = part.more == (self.end != Some(range.end));
        let held = self.parts.get(&range.start);
        same_end && held.is_some_and(|held| **held == *part.payload)
    }

    fn contradicts(&self, part: &Fragment<'_>) -> bool {
        let range = part.range();
        let last = self.parts.last_key_value();
        let farthest = last.map_or(0, |(start, part)| start + part.len());
        let before = self.parts.range(..range.end).next_back();
        let overlaps = before.is_some_and(|(start, part)| start + part.len() > range.start);
        let beyond_the_end = self.end.is_some_and(|end| range.end > end);
        let is_another_end = !part.more && (self.end.is_some() || farthest > range.end);
        overlaps || beyond_the_end || is_another_end
    }

    fn insert(&mut self, packet: &Packet<'_>, part: &Fragment<'_>) {
        let range = part.range();
        if part.is_first() {
            let whole = DatagramHeader {
                source: packet.source(),
                destination: packet.destination(),
                traffic_class: packet.traffic_class(),
                hop_limit: packet.hop_limit(),
                protocol: part.protocol,
            };
            self.head = Some((whole, reply::may_answer(packet)));
        }
        if !part.more {
            self.end = Some(range.end);
        }
        self.is_congested |= packet.traffic_class().ecn == Ecn::Ce;
        self.received += range.len();
        if let Entry::Vacant(entry) = self.parts.entry(range.start) {
            entry.insert(part.payload.into());
        }
    }

    fn join(&self) -> Option<Vec<u8>> {
        let (mut whole, _) = self.head?;
        if self.is_congested {
            whole.traffic_class.ecn = Ecn::Ce;
        }
        let mut packet = Vec::with_capacity(self.received + 40);
        let parts = self.parts.values().map(|part| &**part);
        fragment::join(&mut packet, &whole, parts).ok()?;
        Some(packet)
    }

    /// Returns the first fragment as a packet, if an error may quote it.
    fn first_fragment(&self) -> Option<FirstFragment> {
        let (whole, _) = self.head.filter(|(_, may_answer)| *may_answer)?;
        let first = self.parts.get(&0)?;
        let mut packet = Vec::new();
        fragment::join(&mut packet, &whole, [&**first].into_iter()).ok()?;
        Some(FirstFragment {
            from: whole.source,
            to: whole.destination,
            packet,
        })
    }
}
