//! The table of connections: by id, by endpoints, and by due time.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use foldhash::quality::RandomState;

use super::session::Session;
use crate::net::{ConnectionId, Egress, Endpoint, Inside};
use crate::policy::Action;

/// A connection from the first SYN to the end.
#[derive(Debug)]
pub(super) struct TcpConnection {
    pub(super) inside: Inside<Endpoint>,
    pub(super) remote: Endpoint,
    /// The policy's action when it was opened. A new policy with another action ends the connection.
    pub(super) action: Action,
    pub(super) egress: Egress,
    pub(super) phase: Phase,
    pub(super) created: Instant,
    /// When bytes or segments were last transferred.
    pub(super) refreshed: Instant,
    /// Bytes sent to the remote.
    pub(super) bytes_out: u64,
    /// Bytes received from the remote.
    pub(super) bytes_in: u64,
    /// Whether a `Pump` was requested and not carried out yet.
    pub(super) pump_requested: bool,
    due: Instant,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The remote has not accepted yet; the SYN is held.
    Connecting { syn: Box<[u8]>, sequence: u32 },
    /// Both sides have accepted.
    Open(Box<Session>),
}

#[derive(Debug, Default)]
struct ConnectionSlot {
    generation: u32,
    connection: Option<TcpConnection>,
}

#[derive(Debug, Default)]
pub(super) struct ConnectionTable {
    /// Local programs choose the endpoints: the hash is keyed with a random secret.
    by_endpoints: HashMap<(Inside<Endpoint>, Endpoint), ConnectionId, RandomState>,
    /// The number of connections of each inside address.
    per_address: HashMap<IpAddr, usize, RandomState>,
    slots: Vec<ConnectionSlot>,
    free: Vec<u32>,
    /// Each connection once. Every segment moves its deadline, forward or back, so the queue is exact, unlike
    /// [`Timers`](crate::timer::Timers).
    due: BTreeSet<(Instant, ConnectionId)>,
}

impl ConnectionTable {
    pub(super) fn find(&self, inside: Inside<Endpoint>, remote: Endpoint) -> Option<ConnectionId> {
        self.by_endpoints.get(&(inside, remote)).copied()
    }

    /// Adds a connection with endpoints that no other has.
    pub(super) fn insert(
        &mut self,
        inside: Inside<Endpoint>,
        remote: Endpoint,
        (action, egress): (Action, Egress),
        phase: Phase,
        now: Instant,
        due: Instant,
    ) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(ConnectionSlot::default());
            u32::try_from(self.slots.len() - 1).expect("the limit of connections is far below 2^32")
        });
        let entry = &mut self.slots[slot as usize];
        entry.connection = Some(TcpConnection {
            inside,
            remote,
            action,
            egress,
            phase,
            created: now,
            refreshed: now,
            bytes_out: 0,
            bytes_in: 0,
            pump_requested: false,
            due,
        });
        let id = ConnectionId {
            slot,
            generation: entry.generation,
        };
        self.by_endpoints.insert((inside, remote), id);
        *self.per_address.entry(inside.0.addr).or_default() += 1;
        self.due.insert((due, id));
        id
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut TcpConnection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        slot.connection
            .as_mut()
            .filter(|_| slot.generation == id.generation)
    }

    /// Removes a connection; its id becomes invalid.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<TcpConnection> {
        let slot = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let connection = slot.connection.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.by_endpoints
            .remove(&(connection.inside, connection.remote));
        if let Entry::Occupied(mut of_address) = self.per_address.entry(connection.inside.0.addr) {
            *of_address.get_mut() -= 1;
            if *of_address.get() == 0 {
                of_address.remove();
            }
        }
        self.due.remove(&(connection.due, id));
        Some(connection)
    }

    /// Sets when a connection is due.
    pub(super) fn schedule(&mut self, id: ConnectionId, due: Instant) {
        if let Some(connection) = self.get_mut(id) {
            let before = std::mem::replace(&mut connection.due, due);
            if before != due {
                self.due.remove(&(before, id));
                self.due.insert((due, id));
            }
        }
    }

    /// Returns when the first connection is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Returns the first connection that is due at `now`.
    pub(super) fn first_due(&self, now: Instant) -> Option<ConnectionId> {
        self.due
            .first()
            .filter(|(due, _)| *due <= now)
            .map(|(_, id)| *id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &TcpConnection)> {
        self.within(0..self.slots())
    }

    /// Returns the connections in a range of slots with their ids, in order. Slots beyond [`ConnectionTable::slots`] are empty.
    pub(super) fn within(
        &self,
        slots: Range<usize>,
    ) -> impl Iterator<Item = (ConnectionId, &TcpConnection)> {
        let numbered = (0..).zip(&self.slots).skip(slots.start);
        numbered.take(slots.len()).filter_map(|(slot, entry)| {
            let id = ConnectionId {
                slot,
                generation: entry.generation,
            };
            entry.connection.as_ref().map(|connection| (id, connection))
        })
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn len(&self) -> usize {
        self.by_endpoints.len()
    }

    /// Returns the number of connections of an inside address.
    pub(super) fn of_address(&self, addr: IpAddr) -> usize {
        self.per_address.get(&addr).copied().unwrap_or(0)
    }
}
