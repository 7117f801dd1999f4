//! Reassembly of the fragments that come out of the TUN (RFC 4787 REQ-14, RFC 815, RFC 8200 section 4.5).
//!
//! # Theory of operation
//!
//! A local socket routes before it fragments, so the fragments of a captured datagram enter the TUN, and only the first
//! one has the ports that the policy judges. Each is kept until the datagram is whole, whatever their order; then it is
//! judged as any other packet.
//!
//! Everything a fragment says may be a lie, so:
//!
//! - what is held is bounded in bytes, in all and for each source, with an allowance for what each piece costs besides
//!   its bytes; a fragment that finds no room is dropped, and none that came before it;
//! - a datagram that is not whole [`ReassemblyLimits::lifetime`] after its first fragment came is forgotten, and its sender is told
//!   if the first part is there to be quoted (RFC 1122 section 3.3.2);
//! - pieces that overlap, or contradict each other about where the datagram ends, spoil it: nothing of it is held, and
//!   the rest is dropped as it comes until its time is over (RFC 5722 for IPv6; no honest sender does it over IPv4
//!   either, RFC 1858). An exact copy of a piece is ignored.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::net::Family;
use crate::wire::fragment::{self, DatagramHeader, Fragment};
use crate::wire::{Packet, icmp};

/// What a datagram that is not whole yet costs besides its pieces, in bytes, and what a piece costs besides its payload:
/// the tables' entries and the allocations, rounded up.
const COST: usize = 256;

/// The bounds of what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Bytes in all.
    pub held: usize,
    /// Bytes of one source.
    pub held_of_source: usize,
    /// How long the parts of a datagram wait for the others.
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
    /// It carries nothing, ends beyond the largest datagram, or is not the last and its length is no multiple of 8.
    #[error("the fragment's length is wrong")]
    Length,
    /// It overlaps another, or contradicts it about where the datagram ends; or another one did.
    #[error("the fragments overlap")]
    Overlap,
    /// There is no room for it.
    #[error("too many fragments are waiting")]
    NoRoom,
}

/// A datagram whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredDatagram {
    /// Its first part, when its sender is to be told by an error that quotes it.
    pub beginning: Option<FirstFragment>,
}

/// The first part of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstFragment {
    /// Who sent it.
    pub from: IpAddr,
    /// Whom it was for.
    pub to: IpAddr,
    /// The part as a packet.
    pub packet: Vec<u8>,
}

/// What tells one datagram's fragments from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct DatagramKey {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// Over IPv6 always `None`: only the first fragment knows it.
    protocol: Option<u8>,
}

/// When a datagram's time is over; the number tells apart those that came at one instant.
type Due = (Instant, u64);

/// A datagram of which parts are missing, or that is spoilt.
#[derive(Debug)]
struct PartialDatagram {
    due: Due,
    pieces: BTreeMap<usize, Box<[u8]>>,
    /// Bytes of the payload that are there.
    present: usize,
    /// Where the payload ends, once the last fragment has come.
    end: Option<usize>,
    /// What the first fragment says, and whether an error may answer it.
    head: Option<(DatagramHeader, bool)>,
    is_spoilt: bool,
    cost: usize,
}

/// The fragments of all datagrams that are not whole yet.
#[derive(Debug, Default)]
pub struct Reassembly {
    limits: ReassemblyLimits,
    /// Addresses and identifications are chosen by local programs: the hash is keyed with a secret of the process.
    partials: HashMap<DatagramKey, PartialDatagram, RandomState>,
    by_due: BTreeMap<Due, DatagramKey>,
    by_source: HashMap<IpAddr, usize, RandomState>,
    held: usize,
    serial: u64,
}

impl Reassembly {
    /// Holds nothing, and at most what `limits` say.
    #[must_use]
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes a fragment, and answers the whole packet when it was the last that was missing.
    ///
    /// # Errors
    /// [`FragmentError`] when the fragment was dropped.
    pub fn take(
        &mut self,
        packet: &Packet<'_>,
        part: Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, FragmentError> {
        let range = part.range();
        // The header that the whole packet will have counts over IPv4.
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
        if known.is_some_and(|partial| partial.is_spoilt) {
            return Err(FragmentError::Overlap);
        }
        if known.is_some_and(|partial| partial.has(&part)) {
            return Ok(None);
        }
        if known.is_some_and(|partial| partial.contradicts(&part)) {
            self.spoil(&key);
            return Err(FragmentError::Overlap);
        }
        let cost = COST + part.payload.len() + if known.is_none() { COST } else { 0 };
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
        partial.put(packet, &part);
        partial.cost += cost;
        self.held += cost;
        *self.by_source.entry(key.source).or_default() += cost;
        if partial.end != Some(partial.present) {
            return Ok(None);
        }
        // The pieces do not overlap and all lie before the end: as many bytes as that are all of them.
        let partial = self.forget(&key).expect("it was there a moment ago");
        Ok(partial.join())
    }

    /// Forgets a datagram that waited in vain, if there is one; to be called until it answers `None`.
    pub fn expire(&mut self, now: Instant) -> Option<ExpiredDatagram> {
        let (&due, &key) = self.by_due.first_key_value()?;
        if due.0 > now {
            return None;
        }
        let beginning = self.forget(&key)?.beginning();
        Some(ExpiredDatagram { beginning })
    }

    /// When [`Reassembly::expire`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_due.first_key_value().map(|((due, _), _)| *due)
    }

    /// The bytes that are held, with what they cost besides.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// The number of datagrams that are not whole, the spoilt ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Drops the pieces of a datagram and remembers that it is spoilt.
    fn spoil(&mut self, key: &DatagramKey) {
        let partial = self.partials.get_mut(key).expect("it was just found");
        let freed = partial.cost - COST;
        partial.pieces.clear();
        (partial.head, partial.is_spoilt, partial.cost) = (None, true, COST);
        self.release(key.source, freed);
    }

    fn forget(&mut self, key: &DatagramKey) -> Option<PartialDatagram> {
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
            pieces: BTreeMap::new(),
            present: 0,
            end: None,
            head: None,
            is_spoilt: false,
            cost: 0,
        }
    }

    /// Whether this very piece is there already.
    fn has(&self, part: &Fragment<'_>) -> bool {
        let range = part.range();
        let says_the_same = part.more == (self.end != Some(range.end));
        let held = self.pieces.get(&range.start);
        says_the_same && held.is_some_and(|held| **held == *part.payload)
    }

    fn contradicts(&self, part: &Fragment<'_>) -> bool {
        let range = part.range();
        let last = self.pieces.last_key_value();
        let farthest = last.map_or(0, |(start, piece)| start + piece.len());
        let before = self.pieces.range(..range.end).next_back();
        let overlaps = before.is_some_and(|(start, piece)| start + piece.len() > range.start);
        let beyond_the_end = self.end.is_some_and(|end| range.end > end);
        let is_another_end = !part.more && (self.end.is_some() || farthest > range.end);
        overlaps || beyond_the_end || is_another_end
    }

    fn put(&mut self, packet: &Packet<'_>, part: &Fragment<'_>) {
        let range = part.range();
        if part.is_first() {
            let whole = DatagramHeader {
                source: packet.source(),
                destination: packet.destination(),
                traffic_class: packet.traffic_class(),
                hop_limit: packet.hop_limit(),
                protocol: part.protocol,
            };
            self.head = Some((whole, icmp::may_answer(packet)));
        }
        if !part.more {
            self.end = Some(range.end);
        }
        self.present += range.len();
        if let Entry::Vacant(room) = self.pieces.entry(range.start) {
            room.insert(part.payload.into());
        }
    }

    fn join(&self) -> Option<Vec<u8>> {
        let (whole, _) = self.head?;
        let mut packet = Vec::with_capacity(self.present + 40);
        let pieces = self.pieces.values().map(|piece| &**piece);
        fragment::join(&mut packet, &whole, pieces).ok()?;
        Some(packet)
    }

    /// The first piece as a packet, when an error about it is allowed.
    fn beginning(&self) -> Option<FirstFragment> {
        let (whole, _) = self.head.filter(|(_, may_be_answered)| *may_be_answered)?;
        let first = self.pieces.get(&0)?;
        let mut packet = Vec::new();
        fragment::join(&mut packet, &whole, [&**first].into_iter()).ok()?;
        Some(FirstFragment {
            from: whole.source,
            to: whole.destination,
            packet,
        })
    }
}
